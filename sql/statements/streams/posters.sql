-- Whose messages may be committed in the WAL without being visible yet: who has posted to a stream and has not ended. A session
-- that idles within its transaction has not begun to commit. Locks go after visibility comes.
with held as materialized (select * from pg_locks where granted),
     now as materialized (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as near)
select -- the lock shows 32 bits of the id; live ids lie within 2^31 of each other
       now.near + ((((l.transactionid::text::bigint - now.near) % 4294967296) + 4294967296 + 2147483648) % 4294967296) - 2147483648 as xid
from now, held l left join pg_stat_activity a on a.pid = l.pid
where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock'
  and coalesce(a.state, '') not in ('idle in transaction', 'idle in transaction (aborted)')
  and exists (select from held r where r.virtualtransaction = l.virtualtransaction and r.locktype = 'relation' and r.mode = 'RowExclusiveLock'
              and r.relation = 'postbus.messages'::regclass
              and r.database = (select d.oid from pg_database d where d.datname = current_database()))
