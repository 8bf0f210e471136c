-- The permanent replication slot: that it was made once is written down, so that its loss is noticed.

alter table postbus.meta add column slot text;
comment on column postbus.meta.slot is 'The replication slot a gateway made; null until there was one.';

create function postbus.record_slot(slot text) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  update postbus.meta m set slot = record_slot.slot where m.slot is distinct from record_slot.slot
$$;
comment on function postbus.record_slot is 'Called by a gateway that has made its permanent replication slot.';

-- A publication that was dropped and made again is told to those who read.
create or replace function postbus.repair_publication() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  tbl oid;
begin
  if not exists (select from pg_publication where pubname = 'postbus') then
    create publication postbus;
    -- What was committed while there was none is not in the stream: readers must begin anew. PostgreSQL up to 17 ends the
    -- stream by itself; 18 leaves such changes out and only warns.
    if postbus.wal_level() = 'logical' then
      perform pg_logical_emit_message(true, 'postbus:publication', 'made anew');
    end if;
  end if;
  alter publication postbus set (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);
  for tbl in select w.tbl from postbus.watched_tables w join pg_class c on c.oid = w.tbl order by 1 loop
    perform postbus.publish(tbl);
  end loop;
end $$;
