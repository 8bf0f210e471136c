-- $1 slot, $2 the permanent slot that another session held when $1 was made, or empty. What the slot costs the server, and from where on
-- the permanent one could be read now that nobody does; what is wrong with the feeds, and where the WAL ended after that was so; the epoch.
-- $3 a transaction, or null: whether it has ended.
select greatest(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), s.restart_lsn), 0)::bigint as retained_bytes,
       coalesce(age(s.catalog_xmin), 0) as xmin_age,
       (select case when setting = '-1' then 0 else setting::bigint * 1024 * 1024 end from pg_settings where name = 'max_slot_wal_keep_size'),
       coalesce(postbus.feeds_fault(), ''),
       (select h.confirmed_flush_lsn - '0/0'::pg_lsn from pg_replication_slots h where h.slot_name = $2 and not h.active and h.wal_status <> 'lost'),
       pg_current_wal_insert_lsn() - '0/0'::pg_lsn,
       (select epoch from postbus.meta),
       $3::xid8 is not null and coalesce(pg_xact_status($3::xid8) <> 'in progress', true)
from pg_replication_slots s
where s.slot_name = $1
