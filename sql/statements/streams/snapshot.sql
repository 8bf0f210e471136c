-- What everybody sees by now, and how far the WAL is written and flushed: what committed before may be forgotten once the
-- second has passed the first.
select pg_current_snapshot(), (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint, (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint
