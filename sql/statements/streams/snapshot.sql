-- What everybody sees by now, and how far the WAL is written and flushed: what committed before may be forgotten once the
-- second has passed the first. Where a record ends with its page the server tells the place behind the next page's header,
-- and flushed only up to the page's end: the header (40 bytes for a segment's first page, else 24) does not count.
select pg_current_snapshot(), (w.at - case when w.at % pg_size_bytes(current_setting('wal_segment_size')) = 40 then 40 when w.at % current_setting('wal_block_size')::int = 24 then 24 else 0 end)::bigint, (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint
from (select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint as at) w
