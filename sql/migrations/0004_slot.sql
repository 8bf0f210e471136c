-- The permanent replication slot: that it was made once is written down, so that its loss is noticed.

alter table postbus.meta add column slot text, add column publication oid;
comment on column postbus.meta.slot is 'The replication slot a gateway made; null until there was one.';
comment on column postbus.meta.publication is 'The publication that was there before that slot: under another of that name it has not brought everything.';

create function postbus.record_slot(slot text, publication oid) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  update postbus.meta m set slot = record_slot.slot, publication = record_slot.publication
  where (m.slot, m.publication) is distinct from (record_slot.slot, record_slot.publication)
$$;
comment on function postbus.record_slot is 'Called by a gateway that has made its permanent replication slot.';
