-- {table}. The lock comes before the snapshot: without it a TRUNCATE or a rewriting ALTER TABLE between the two would leave
-- the snapshot nothing to see (PostgreSQL manual, "Caveats" of MVCC).
begin transaction isolation level repeatable read read only;
set local row_security = off;
set local lock_timeout = '5s';
lock table {table} in access share mode
