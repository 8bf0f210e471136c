-- Logical slots, with the WAL each keeps.
select s.slot_name, s.plugin, coalesce(s.wal_status, 'lost') as wal_status, s.database = current_database() as ours, s.active, s.temporary,
       case when pg_is_in_recovery() then 0
         else coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn), 0)::bigint end as retained_bytes
from pg_replication_slots s where s.slot_type = 'logical' order by s.slot_name
