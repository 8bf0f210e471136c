-- The slot that a permanent reader of this database uses: one per database, since slots belong to the whole server. Last, the epoch and
-- where its positions begin.
select 'postbus_' || d.oid,
       (select setting <> '-1' from pg_settings where name = 'max_slot_wal_keep_size'),
       p.oid is not null,
       coalesce(p.oid, 0),
       coalesce(m.publication, p.oid, 0),
       m.slot is not null,
       s.slot_name is not null,
       coalesce(s.slot_type = 'logical' and s.plugin = 'pgoutput' and s.database = d.datname and not s.temporary, false),
       coalesce(s.wal_status in ('lost', 'unreserved') and s.restart_lsn is null or s.wal_status = 'lost', false),
       coalesce(s.active_pid, 0),
       coalesce(s.confirmed_flush_lsn - '0/0'::pg_lsn, 0)::bigint,
       pg_current_wal_flush_lsn() - '0/0'::pg_lsn,
       m.epoch,
       m.epoch_from
from pg_database d cross join postbus.meta m
left join pg_publication p on p.pubname = 'postbus'
left join pg_replication_slots s on s.slot_name = 'postbus_' || d.oid
where d.datname = current_database()
