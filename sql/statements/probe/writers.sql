-- Transactions that hold a transaction id for more than ten seconds, in any database: a slot's creation waits for them.
select a.pid, extract(epoch from now() - a.xact_start)::bigint as age_seconds, coalesce(a.application_name, '') as application,
       coalesce(a.state like 'idle in transaction%', false) as idle
from pg_stat_activity a
where a.backend_xid is not null and a.pid <> pg_backend_pid() and a.xact_start < now() - interval '10 seconds'
order by a.xact_start limit 5
