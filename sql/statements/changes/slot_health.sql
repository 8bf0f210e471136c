-- $1 slot. What the slot costs the server.
select greatest(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), s.restart_lsn), 0)::bigint as retained_bytes,
       coalesce(age(s.catalog_xmin), 0) as xmin_age,
       (select case when setting = '-1' then 0 else setting::bigint * 1024 * 1024 end from pg_settings where name = 'max_slot_wal_keep_size'),
       exists (select from pg_publication p where p.pubname = 'postbus')
from pg_replication_slots s
where s.slot_name = $1
