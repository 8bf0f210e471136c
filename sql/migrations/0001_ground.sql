-- The ground: what the database is, who may do what, and the publication that feeds come through.

do $$
begin
  if pg_catalog.current_setting('server_version_num')::int < 140000 then
    raise exception 'PostgreSQL % is too old for Postbus', pg_catalog.current_setting('server_version')
      using errcode = 'PB020', hint = 'Postbus needs PostgreSQL 14 or later';
  end if;
  if pg_catalog.current_setting('server_encoding') <> 'UTF8' then
    raise exception 'the database''s encoding is %, Postbus needs UTF8', pg_catalog.current_setting('server_encoding')
      using errcode = 'PB020', hint = 'make a database with: create database NAME encoding ''UTF8'' template template0';
  end if;
end $$;

-- Roles belong to the whole server: another database of it may have made them, even at this moment. Without the right
-- to make them the schema works for its owner alone.
do $$
declare
  name text;
begin
  foreach name in array array['postbus_poster', 'postbus_listener', 'postbus_worker', 'postbus_admin'] loop
    if not exists (select from pg_catalog.pg_roles where rolname = name) then
      begin
        execute pg_catalog.format('create role %I nologin', name);
      exception
        when duplicate_object or unique_violation then null;
        when insufficient_privilege then
          raise warning 'the role % is missing and % may not create it', name, current_user
            using hint = pg_catalog.format('as a superuser: create role %I nologin; then run postbus setup again', name);
      end;
    end if;
  end loop;
end $$;

create table postbus.meta (
  only_row          boolean primary key default true check (only_row),
  schema_version    integer not null,
  epoch             bigint not null check (epoch between 1 and 4294967295),
  epoch_from        bigint not null default 0,  -- LSN: what was committed before it has no position of this epoch
  system_identifier text,
  timeline          bigint,
  database_oid      oid,
  transport         text not null default 'wal' check (transport in ('wal', 'notify')),
  payload_limit     integer not null default 16777216 check (payload_limit between 1 and 268435456)
);
comment on table postbus.meta is 'One row: the schema''s version, and the generation (epoch) of the positions handed out here.';

create function postbus.random_epoch() returns bigint
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  -- 32 random bits of a version 4 UUID's first field; 0 stands for "no epoch" elsewhere.
  select greatest(1, ('x' || left(gen_random_uuid()::text, 8))::bit(32)::bigint)
$$;

insert into postbus.meta (schema_version, epoch) values (0, postbus.random_epoch());

create function postbus.claim_epoch(system_identifier text, timeline bigint) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  here   oid := (select d.oid from pg_database d where d.datname = current_database());
  known  postbus.meta;
  chosen bigint;
begin
  if claim_epoch.system_identifier is null or claim_epoch.timeline is null then
    raise exception 'claim_epoch needs what IDENTIFY_SYSTEM said' using errcode = '22023';
  end if;
  select * into strict known from postbus.meta;
  if (known.system_identifier, known.timeline, known.database_oid) is not distinct from
     (claim_epoch.system_identifier, claim_epoch.timeline, here) then
    return known.epoch;
  end if;
  select * into strict known from postbus.meta for update;
  chosen := known.epoch;
  -- The first claim keeps the epoch: nobody has been given another one.
  while chosen = known.epoch and known.system_identifier is not null and
        (known.system_identifier, known.timeline, known.database_oid) is distinct from
        (claim_epoch.system_identifier, claim_epoch.timeline, here) loop
    chosen := postbus.random_epoch();
  end loop;
  update postbus.meta m set epoch = chosen, system_identifier = claim_epoch.system_identifier, timeline = claim_epoch.timeline,
    database_oid = here, epoch_from = case when chosen = known.epoch then m.epoch_from else pg_current_wal_insert_lsn() - '0/0'::pg_lsn end;
  return chosen;
end $$;
comment on function postbus.claim_epoch is
  'Called by a gateway with what IDENTIFY_SYSTEM said: keeps the epoch while positions keep their meaning, else draws a new one.';

create function postbus.new_epoch(known bigint default null) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  before bigint := (select m.epoch from postbus.meta m for update);
  chosen bigint := before;
begin
  if known <> before then  -- somebody else was faster
    return before;
  end if;
  while chosen = before loop
    chosen := postbus.random_epoch();
  end loop;
  update postbus.meta set epoch = chosen, epoch_from = pg_current_wal_insert_lsn() - '0/0'::pg_lsn;
  return chosen;
end $$;
comment on function postbus.new_epoch is
  'Starts a new generation of positions: every listener that resumes is told to start over. Where known is not the epoch any more, it is left as it is.';

create function postbus.position() returns text
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  -- pg_current_wal_insert_lsn() names where the next record starts: past the header (24 bytes; 40 in a segment's first page)
  -- of a page that has nothing else yet. Commits name their end without it, and so must this, or the place is not reached
  -- before somebody writes more.
  select lpad(to_hex(m.epoch), 8, '0') || '-' ||
         lpad(to_hex(here.bytes - case
             when here.bytes % pg_size_bytes(current_setting('wal_segment_size')) = 40 then 40
             when here.bytes % current_setting('wal_block_size')::bigint = 24 then 24
             else 0 end), 16, '0') || '-7fffffff'
  from postbus.meta m, (select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint as bytes) here
$$;
comment on function postbus.position is
  'Read after a commit: an upper bound of what that transaction wrote, for reads with at_least=. Not a place to resume from.';

create publication postbus with (publish_via_partition_root = true);
