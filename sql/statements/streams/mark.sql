-- And how far the WAL is written and flushed, as in snapshot.sql.
select epoch, lsn, settled, (w.at - case when w.at % pg_size_bytes(current_setting('wal_segment_size')) = 40 then 40 when w.at % current_setting('wal_block_size')::int = 24 then 24 else 0 end)::bigint, (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint
from postbus.stream_recorder, (select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint as at) w
