-- What is visible now, and who may have committed in the WAL without being visible yet: whoever holds a transaction id. A
-- session that idles within its transaction has not begun to commit. One row with a null id when nobody holds one.
with now as materialized (select pg_current_snapshot() as seen, pg_snapshot_xmax(pg_current_snapshot())::text::bigint as near)
select now.seen::text,
       -- the lock shows 32 bits of the id; live ids lie within 2^31 of each other
       now.near + ((((l.transactionid::text::bigint - now.near) % 4294967296) + 4294967296 + 2147483648) % 4294967296) - 2147483648 as xid,
       case when l.pid is null then 'a prepared transaction'
            else format('pid %s (%s%s)', l.pid, nullif(a.application_name, '') || ', ', coalesce(a.state, 'of another role')) end as who
from now
left join (pg_locks l left join pg_stat_activity a on a.pid = l.pid)
  on l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.granted
  and coalesce(a.state, '') not in ('idle in transaction', 'idle in transaction (aborted)')
