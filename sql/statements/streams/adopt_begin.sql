-- One snapshot for what follows, and an LSN that every commit it sees lies before.
begin isolation level repeatable read;
select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint from (select pg_current_snapshot() offset 0) seen
