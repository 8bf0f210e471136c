-- One snapshot for what follows, and an LSN that every commit it sees lies before. What is adopted is on the disk before anybody is given it:
-- after a crash nobody could tell once more where it stood.
begin isolation level repeatable read;
set local synchronous_commit = local;
select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint from (select pg_current_snapshot() offset 0) seen
