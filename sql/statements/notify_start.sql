-- Without the WAL: the epoch of positions and where they begin. What IDENTIFY_SYSTEM says on a replication session stands in
-- the control file too.
select postbus.claim_epoch((select s.system_identifier from pg_control_system() s)::text,
                           (select c.timeline_id from pg_control_checkpoint() c))  as epoch,
       (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint                       as lsn
