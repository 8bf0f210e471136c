-- The permanent replication slot: that it was made once is written down, so that its loss is noticed.

alter table postbus.meta add column slot text;
comment on column postbus.meta.slot is 'The replication slot a gateway made; null until there was one.';

create function postbus.record_slot(slot text) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  update postbus.meta m set slot = record_slot.slot where m.slot is distinct from record_slot.slot
$$;
comment on function postbus.record_slot is 'Called by a gateway that has made its permanent replication slot.';
