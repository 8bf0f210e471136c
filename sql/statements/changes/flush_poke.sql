-- A small commit that waits for the disk, and with it for all WAL before it; only where there is WAL to wait for. One row when it was made.
select pg_logical_emit_message(true, 'postbus:flush', '') where pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()
