-- Where the WAL ends, in the form in which commits name their end: see postbus.position() in 0001_ground.sql.
select i.lsn - case
    when (i.lsn - '0/0') % pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')) = 40 then 40
    when (i.lsn - '0/0') % pg_catalog.current_setting('wal_block_size')::numeric = 24 then 24
    else 0 end
from pg_catalog.pg_current_wal_insert_lsn() as i(lsn);
