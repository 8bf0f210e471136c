-- Watching tables. The publication carries whole tables: columns and mirrors are options that gateways apply, read from
-- watched_tables. Each change of it writes the logical message `postbus:watched`, so that every gateway learns of it in
-- its right place in the stream.

create table postbus.watched_tables (
  tbl        oid primary key,
  columns    text[],
  notify     text,
  rls        text not null check (rls in ('refuse', 'ignore')),
  watched_by name not null,
  watched_at timestamptz not null default now()
);
comment on table postbus.watched_tables is 'Tables whose changes are feeds, and how. Written by postbus.watch and postbus.unwatch only.';

-- The user who called, also inside a SECURITY DEFINER function: there current_user is the function's owner.
create function postbus.caller() returns name
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(nullif(current_setting('role'), 'none'), session_user)::name
$$;

-- Why an UPDATE or DELETE on this table (not its partitions) would fail once it is published; null when it would not.
-- PostgreSQL: RelationGetIndexList, a deferrable or partial index is no identity.
create function postbus.identity_fault(tbl oid) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case c.relreplident
    when 'f' then null
    when 'n' then 'its replica identity is NOTHING'
    when 'i' then
      case when not exists (select from pg_index i where i.indrelid = c.oid and i.indisreplident and i.indisvalid and i.indisready)
        then 'the index of its replica identity is gone' end
    else
      case
        when not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary) then 'it has no primary key'
        when not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary and i.indimmediate and i.indisvalid)
          then 'its primary key is deferrable'
      end
    end
  from pg_class c where c.oid = tbl
$$;

-- The command that gives this table an identity.
create function postbus.identity_fix(tbl oid) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case when c.relreplident in ('n', 'i')
                   and exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary and i.indimmediate and i.indisvalid)
    then format('alter table %s replica identity default', c.oid::regclass)
    else format('alter table %1$s add primary key (…), or where no column can be one: alter table %1$s replica identity full', c.oid::regclass)
  end
  from pg_class c where c.oid = tbl
$$;

-- What makes `tbl` unfit to be watched and what to do about it; no row when it is fit. Asked by watch() before, and by
-- postbus doctor ever after.
create function postbus.watch_faults(tbl oid, rls text default 'refuse') returns table (fault text, fix text)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  with me as (select c.*, c.oid::regclass::text as shown from pg_class c where c.oid = tbl),
  leaves as (
    select l.*, l.oid::regclass::text as shown from me, pg_partition_tree(me.oid) p join pg_class l on l.oid = p.relid
    where me.relkind = 'p' and p.isleaf)
  select format('%s is a %s', shown, case relkind when 'v' then 'view' when 'm' then 'materialized view' when 'f' then 'foreign table'
           when 'S' then 'sequence' when 'c' then 'composite type' else 'index' end),
         'watch the tables it is made of: only what a table''s own rows do is in the WAL'
    from me where relkind not in ('r', 'p')
  union all
  select shown || ' is a system table', 'watch a table of your own'
    from me where oid < 16384 or relnamespace in ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace)
  union all
  select shown || ' stands in the schema postbus, which is Postbus''s own', format('alter table %s set schema public', shown)
    from me where relnamespace = 'postbus'::regnamespace
  union all
  select format('%s is %s, its changes are not in the WAL', shown, case relpersistence when 't' then 'temporary' else 'unlogged' end),
         case relpersistence when 't' then 'watch a permanent table' else format('alter table %s set logged', shown) end
    from me where relkind in ('r', 'p') and relpersistence <> 'p'
  union all
  select shown || ' has row-level security, which the WAL knows nothing of: every reader of the feed would see every row',
         format('select postbus.watch(%L, rls => ''ignore'') if that is meant', shown)
    from me where (relrowsecurity or exists (select from leaves l where l.relrowsecurity)) and rls <> 'ignore'
  union all
  select format('UPDATE and DELETE on %s would fail: %s', shown, postbus.identity_fault(oid)), postbus.identity_fix(oid)
    from me where relkind = 'r' and relpersistence = 'p' and postbus.identity_fault(oid) is not null
  union all
  select * from (
    select format('UPDATE and DELETE on partition %s would fail: %s', shown, postbus.identity_fault(oid)), postbus.identity_fix(oid)
      from leaves where relkind = 'r' and relpersistence = 'p' and postbus.identity_fault(oid) is not null order by shown) broken
  union all
  select format('partition %s is %s, its changes are not in the WAL', shown, case when relkind = 'f' then 'a foreign table' else 'unlogged' end),
         case when relkind = 'f' then 'detach it, or watch the other partitions one by one' else format('alter table %s set logged', shown) end
    from leaves where relkind = 'f' or relpersistence <> 'p'
  union all
  select format('%s is a partition of %s, which is watched: its rows come through that feed', me.shown, w.tbl::regclass),
         format('select postbus.unwatch(%L) first if you want the partition alone', w.tbl::regclass)
    from me, pg_partition_ancestors(me.oid) a join postbus.watched_tables w on w.tbl = a.relid
    where me.relispartition and a.relid <> me.oid
  union all
  select format('%s has a partition that is watched by itself: %s', me.shown, w.tbl::regclass),
         format('select postbus.unwatch(%L) first: its rows will come through this feed', w.tbl::regclass)
    from me, pg_partition_tree(me.oid) p join postbus.watched_tables w on w.tbl = p.relid
    where me.relkind = 'p' and p.relid <> me.oid
$$;

-- 'logical', 'replica' or 'minimal'; PostgreSQL 19 raises it by itself when the first logical slot is made.
create function postbus.wal_level() returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case when current_setting('server_version_num')::int >= 190000 and current_setting('wal_level') = 'replica'
    then 'logical' else current_setting('wal_level') end
$$;

create function postbus.announce_watched(tbl oid) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if postbus.wal_level() = 'logical' then
    perform pg_logical_emit_message(true, 'postbus:watched', tbl::text);
  end if;
end $$;

-- Refuses a caller who does not own the table, and explains what this schema's owner lacks to publish it.
create function postbus.check_owner(tbl oid) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  owner name := (select r.rolname from pg_class c join pg_roles r on r.oid = c.relowner where c.oid = tbl);
begin
  if not pg_has_role(postbus.caller(), owner, 'usage') then
    raise exception 'the table % belongs to %', tbl::regclass, owner
      using errcode = 'PB010', hint = format('run this as %I or as a member of it', owner);
  end if;
  -- current_user is this schema's owner here: only the functions below, which are SECURITY DEFINER, call this.
  if not pg_has_role(current_user, owner, 'usage') then
    raise exception 'the schema postbus belongs to %, which may not publish a table of %', current_user, owner
      using errcode = 'PB010', hint = format('grant %I to %I', owner, current_user);
  end if;
end $$;

create function postbus.publish(tbl oid) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  publication oid := (select p.oid from pg_publication p where p.pubname = 'postbus');
begin
  if publication is null then
    raise exception 'the publication postbus is missing' using errcode = 'PB012', hint = 'select postbus.repair_publication()';
  end if;
  if not exists (select from pg_publication_rel r where r.prpubid = publication and r.prrelid = tbl) then
    -- ONLY: tables that inherit from it are tables of their own, with identities of their own.
    execute format('alter publication postbus add table only %s', tbl::regclass);
  end if;
end $$;

create function postbus.watch(tbl regclass, columns text[] default null, notify text default null, rls text default 'refuse')
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  wrong  record;
  name   text;
  found_ record;
begin
  if tbl is null then
    raise exception 'there is no table to watch' using errcode = '22023', hint = 'select postbus.watch(''schema.table'')';
  end if;
  if rls is null or rls not in ('refuse', 'ignore') then
    raise exception 'rls is ''refuse'' or ''ignore''' using errcode = '22023';
  end if;
  if postbus.wal_level() <> 'logical' then
    raise exception 'tables cannot be watched: wal_level is %', postbus.wal_level()
      using errcode = 'PB011', hint = 'alter system set wal_level = logical; then restart PostgreSQL';
  end if;
  if (select m.transport from postbus.meta m) <> 'wal' then
    raise exception 'tables cannot be watched: the gateway''s role may not read the WAL'
      using errcode = 'PB011', hint = 'alter role THE_GATEWAYS_ROLE replication; then restart the gateway (postbus doctor prints the command)';
  end if;
  for wrong in select f.fault, f.fix from postbus.watch_faults(tbl, rls) f limit 1 loop
    raise exception '%', wrong.fault using errcode = 'PB010', hint = wrong.fix;
  end loop;
  perform postbus.check_owner(tbl);
  if cardinality(columns) = 0 then
    raise exception 'the list of columns is empty' using errcode = '22023', hint = 'leave it out to watch all columns';
  end if;
  foreach name in array coalesce(columns, '{}') loop
    select a.attname, a.attgenerated into found_
      from pg_attribute a where a.attrelid = tbl and a.attname = name and a.attnum > 0 and not a.attisdropped;
    if not found then
      raise exception 'the table % has no column %', tbl, coalesce(quote_ident(name), 'null') using errcode = 'PB010',
        hint = 'its columns: ' || (select string_agg(quote_ident(a.attname), ', ' order by a.attnum) from pg_attribute a
                                   where a.attrelid = tbl and a.attnum > 0 and not a.attisdropped and a.attgenerated = '');
    elsif found_.attgenerated <> '' then
      raise exception 'the column % is generated, its values are not in the WAL', quote_ident(name)
        using errcode = 'PB010', hint = 'leave it out; readers can compute it from the columns it is made of';
    end if;
  end loop;
  if notify is not null and (postbus.channel_fault(notify) is not null or octet_length(notify) > 63) then
    raise exception 'notify => % is not a channel of plain NOTIFY: %', quote_literal(notify),
        coalesce(postbus.channel_fault(notify), 'it has more than 63 bytes')
      using errcode = 'PB001', hint = 'choose a name of 1 to 63 bytes, as in notify => ''events''';
  end if;
  delete from postbus.watched_tables w where not exists (select from pg_class c where c.oid = w.tbl);
  insert into postbus.watched_tables as w (tbl, columns, notify, rls, watched_by)
    values (watch.tbl, watch.columns, watch.notify, watch.rls, postbus.caller())
    on conflict on constraint watched_tables_pkey do update
      set columns = excluded.columns, notify = excluded.notify, rls = excluded.rls, watched_by = excluded.watched_by, watched_at = now();
  perform postbus.publish(tbl), postbus.announce_watched(tbl);
end $$;
comment on function postbus.watch is
  'Makes the changes of a table a feed (channel table:SCHEMA.TABLE). Watching again replaces the options. The caller owns the table.';

create function postbus.unwatch(tbl regclass) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform postbus.check_owner(tbl);
  delete from postbus.watched_tables w where w.tbl = unwatch.tbl;
  if not found then
    raise exception 'the table % is not watched', tbl using errcode = 'PB013', hint = 'select * from postbus.watched';
  end if;
  if exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
             where p.pubname = 'postbus' and r.prrelid = unwatch.tbl) then
    execute format('alter publication postbus drop table only %s', tbl);
  end if;
  perform postbus.announce_watched(tbl);
end $$;
comment on function postbus.unwatch is 'Ends a table''s feed.';

create function postbus.repair_publication() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  tbl oid;
begin
  if not exists (select from pg_publication where pubname = 'postbus') then
    create publication postbus;
  end if;
  alter publication postbus set (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);
  for tbl in select w.tbl from postbus.watched_tables w join pg_class c on c.oid = w.tbl order by 1 loop
    perform postbus.publish(tbl);
  end loop;
end $$;
comment on function postbus.repair_publication is
  'Makes the publication what watched_tables says, after somebody dropped or altered it. Gateways then start their streams anew.';

create view postbus.watched as
  select c.oid::regclass as tbl, n.nspname as schema_name, c.relname as table_name, w.columns, w.notify, w.rls, w.watched_by, w.watched_at,
         exists (select from pg_catalog.pg_publication_tables p
                 where p.pubname = 'postbus' and p.schemaname = n.nspname and p.tablename = c.relname) as published,
         (select f.fault from postbus.watch_faults(c.oid, w.rls) f limit 1) as fault
  from postbus.watched_tables w join pg_catalog.pg_class c on c.oid = w.tbl join pg_catalog.pg_namespace n on n.oid = c.relnamespace;
comment on view postbus.watched is 'The tables whose changes are feeds; fault tells what keeps one from working.';
