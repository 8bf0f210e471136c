-- Watching tables. The publication carries whole tables: columns and mirrors are options that gateways apply, read from
-- watched_tables. Each change of it writes the logical message `postbus:watched`, so that every gateway learns of it in
-- its right place in the stream.

create table postbus.watched_tables (
  tbl         oid primary key,
  schema_name name not null,
  table_name  name not null,
  columns     text[],
  notify      text,
  rls         text not null check (rls in ('refuse', 'ignore')),
  watched_by  name not null,
  watched_at  timestamptz not null default now(),
  gone_at     timestamptz
);
comment on table postbus.watched_tables is 'Tables whose changes are feeds, and how. Written by postbus.watch, postbus.unwatch and postbus.mend_feeds only.';
comment on column postbus.watched_tables.gone_at is
  'When it was noticed that the table was dropped. One that is made under the name within a day is watched in its place.';

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
  select shown || ' stands in the schema postbus, which is Postbus''s own',
         'watch a table of your own, in another schema; a stream''s messages come to who listens on its channel'
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

-- Tables that the publication should carry as a whole and does not. (postbus.messages comes with the streams.)
create function postbus.unpublished() returns setof oid
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select c.oid
  from pg_class c left join pg_publication p on p.pubname = 'postbus'
  where c.oid in (select w.tbl from postbus.watched_tables w union all select to_regclass('postbus.messages')::oid)
    and not coalesce(p.puballtables, false)
    and not exists (select from pg_publication_rel r
                    where r.prpubid = p.oid and r.prrelid = c.oid and coalesce(to_jsonb(r) ->> 'prqual', to_jsonb(r) ->> 'prattrs') is null)
$$;

create function postbus.publish(tbl oid) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  publication oid := (select p.oid from pg_publication p where p.pubname = 'postbus');
begin
  if publication is null then
    raise exception 'the publication postbus is missing' using errcode = 'PB012', hint = 'select postbus.repair_publication()';
  end if;
  if tbl in (select postbus.unpublished()) then
    if exists (select from pg_publication_rel r where r.prpubid = publication and r.prrelid = tbl) then  -- with somebody's filter
      execute format('alter publication postbus drop table only %s', tbl::regclass);
    end if;
    -- ONLY: tables that inherit from it are tables of their own, with identities of their own.
    execute format('alter publication postbus add table only %s', tbl::regclass);
  end if;
end $$;

-- Keeps writers off a table until the transaction ends; false when some were in the way. What a transaction wrote before its table was
-- published is not in the stream, although it commits after: with no writer left, the loss ends where the caller commits.
create function postbus.quiesce(tbl oid) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '50ms'
as $$
begin
  execute format('lock table %s%s in share mode', case (select c.relkind from pg_class c where c.oid = tbl) when 'p' then '' else 'only ' end,
                 tbl::regclass);
  return true;
exception
  when lock_not_available then return false;
end $$;

-- For readers: changes that listeners were to hear of may be missing up to the end of this transaction.
create function postbus.announce_mended() returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if postbus.wal_level() = 'logical' then
    perform pg_logical_emit_message(true, 'postbus:mended', '');
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
  named  record;
  silent boolean;
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
  select c.relname, n.nspname into named from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = tbl;
  -- Whoever listens already has missed what was written while the table was not published, or was made anew and not yet watched.
  silent := tbl in (select postbus.unpublished());
  delete from postbus.watched_tables w
    where w.schema_name = named.nspname and w.table_name = named.relname and not exists (select from pg_class c where c.oid = w.tbl);
  silent := silent or found;
  insert into postbus.watched_tables as w (tbl, schema_name, table_name, columns, notify, rls, watched_by)
    values (watch.tbl, named.nspname, named.relname, watch.columns, watch.notify, watch.rls, postbus.caller())
    on conflict on constraint watched_tables_pkey do update
      set columns = excluded.columns, notify = excluded.notify, rls = excluded.rls, watched_by = excluded.watched_by, watched_at = now();
  if silent then
    if not postbus.quiesce(tbl) then
      raise exception 'the feed of % missed changes, and transactions that write the table are running', tbl
        using errcode = 'PB014', hint = 'watch it again when they have ended';
    end if;
    perform postbus.announce_mended();
  end if;
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

-- What keeps the feeds from being what watched_tables says, which mend_feeds() is to mend; null while there is nothing.
create function postbus.feeds_fault() returns text
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select case
    when p.oid is null then 'the publication postbus is missing'
    when not (p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate and p.pubviaroot) then 'the options of the publication postbus were altered'
    else coalesce(
      (select format('%s is not in the publication postbus as a whole', min(u.tbl::regclass::text)) from postbus.unpublished() u (tbl) having count(*) > 0),
      (select format('the watched table %I.%I was dropped', w.schema_name, w.table_name) from postbus.watched_tables w
       where not exists (select from pg_class c where c.oid = w.tbl)
         and (w.gone_at is null or exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                                           where n.nspname = w.schema_name and c.relname = w.table_name)) limit 1),
      (select format('the watched table %I.%I was renamed', w.schema_name, w.table_name)
       from postbus.watched_tables w join pg_class c on c.oid = w.tbl join pg_namespace n on n.oid = c.relnamespace
       where (w.schema_name, w.table_name) <> (n.nspname, c.relname) limit 1))
    end
  from (select) one left join pg_publication p on p.pubname = 'postbus'
$$;

-- Why this table cannot take the place of a watched one that was dropped; null when it can. What watch() refuses is refused here.
create function postbus.succession_fault(tbl oid, gone postbus.watched_tables) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (select f.fault from postbus.watch_faults(tbl, gone.rls) f limit 1),
    (select format('it belongs to %I now', o.rolname) from pg_class c join pg_roles o on o.oid = c.relowner
     where c.oid = tbl and not (pg_has_role(current_user, o.oid, 'usage')
                                and exists (select from pg_roles r where r.rolname = gone.watched_by and pg_has_role(r.oid, o.oid, 'usage')))),
    (select format('it has no column %I to show', k.name) from unnest(gone.columns) k (name)
     where not exists (select from pg_attribute a where a.attrelid = tbl and a.attname = k.name and a.attnum > 0 and not a.attisdropped
                                                    and a.attgenerated = '') limit 1))
$$;

-- Makes publication and feeds what watched_tables says. Returns what it could not mend: it is to be called again.
create function postbus.mend_feeds() returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  made    boolean := false;
  altered boolean;
  missed  boolean := false;
  gone    postbus.watched_tables;
  one     oid;
  fault   text;
  left_   text;
begin
  perform pg_advisory_xact_lock(1886352244, 1717921124);  -- "post", "feed": two gateways would do the same
  if not exists (select from pg_publication where pubname = 'postbus') then
    create publication postbus;
    made := true;
    -- What was committed while there was none is not in the stream: readers must begin anew. PostgreSQL up to 17 ends the
    -- stream by itself; 18 leaves such changes out and only warns.
    if postbus.wal_level() = 'logical' then
      perform pg_logical_emit_message(true, 'postbus:publication', 'made anew');
    end if;
  end if;
  update postbus.watched_tables w set schema_name = n.nspname, table_name = c.relname
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid = w.tbl and (w.schema_name, w.table_name) <> (n.nspname, c.relname);
  for gone in select w.* from postbus.watched_tables w where not exists (select from pg_class c where c.oid = w.tbl) loop
    one := (select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = gone.schema_name and c.relname = gone.table_name);
    fault := case when one is not null and one not in (select w.tbl from postbus.watched_tables w) then postbus.succession_fault(one, gone) end;
    if fault is null and one is not null and not postbus.quiesce(one) then
      fault := 'transactions that write it are running';
    end if;
    if fault is not null then
      left_ := format('the watched table %I.%I was dropped, and the new one of that name is not watched: %s', gone.schema_name, gone.table_name, fault);
    end if;
    if exists (select from postbus.watched_tables w where w.tbl = one) then  -- it was renamed to that
      delete from postbus.watched_tables w where w.tbl = gone.tbl;
    elsif fault is null and one is not null then
      update postbus.watched_tables w set tbl = one, watched_at = now(), gone_at = null where w.tbl = gone.tbl;
      perform postbus.publish(one), postbus.announce_watched(one);
      missed := true;
    elsif gone.gone_at is null then
      update postbus.watched_tables w set gone_at = now() where w.tbl = gone.tbl;
      perform postbus.announce_watched(gone.tbl);
    elsif gone.gone_at < now() - interval '1 day' then
      delete from postbus.watched_tables w where w.tbl = gone.tbl;
    end if;
  end loop;
  select not (p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate and p.pubviaroot)
    into altered from pg_publication p where p.pubname = 'postbus';
  if not made then
    for one in
      select u.* from postbus.unpublished() u
      union select c.oid from pg_class c
        where altered and c.oid in (select w.tbl from postbus.watched_tables w union all select to_regclass('postbus.messages')::oid) order by 1
    loop
      if not postbus.quiesce(one) then
        left_ := format('the publication postbus was altered, and transactions that write %s are running', one::regclass);
        if missed then
          perform postbus.announce_mended();
        end if;
        return left_;
      end if;
      missed := true;
    end loop;
  end if;
  if altered or made then
    alter publication postbus set (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);
  end if;
  for one in select u.* from postbus.unpublished() u order by 1 loop
    perform postbus.publish(one);
  end loop;
  if missed then
    perform postbus.announce_mended();
  end if;
  return left_;
end $$;
comment on function postbus.mend_feeds is
  'Called by a gateway when feeds_fault() tells of something: makes publication and feeds what watched_tables says, and has the loss told.';

create function postbus.repair_publication() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  left_ text := postbus.mend_feeds();
begin
  if left_ is not null then
    raise exception '%', left_ using errcode = 'PB014', hint = 'a gateway tries again every ten seconds';
  end if;
end $$;
comment on function postbus.repair_publication is
  'Makes the publication what watched_tables says, after somebody dropped or altered it. Gateways do it by themselves, too.';

create view postbus.watched as
  select c.oid::regclass as tbl, n.nspname as schema_name, c.relname as table_name, w.columns, w.notify, w.rls, w.watched_by, w.watched_at,
         exists (select from pg_catalog.pg_publication_tables p
                 where p.pubname = 'postbus' and p.schemaname = n.nspname and p.tablename = c.relname) as published,
         (select f.fault from postbus.watch_faults(c.oid, w.rls) f limit 1) as fault
  from postbus.watched_tables w join pg_catalog.pg_class c on c.oid = w.tbl join pg_catalog.pg_namespace n on n.oid = c.relnamespace;
comment on view postbus.watched is 'The tables whose changes are feeds; fault tells what keeps one from working.';
