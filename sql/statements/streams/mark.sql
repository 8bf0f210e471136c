-- And how far the WAL is written and flushed, as in snapshot.sql.
select epoch, lsn, settled, (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint, (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint
from postbus.stream_recorder
