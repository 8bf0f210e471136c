-- Of several gateways one mirrors feeds to plain channels: the one whose session holds this lock ("post", "mirr"). And an LSN that
-- whatever the last holder may have sent lies before.
select pg_try_advisory_lock(1886352244, 1835627122), (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint
