-- Transactions that have written for over a second: a new slot waits for their end.
(select format('pid %s (%s%s)', a.pid, nullif(a.application_name, '') || ', ', coalesce(a.state, 'of another role')) as who,
        coalesce(extract(epoch from clock_timestamp() - a.xact_start), 0)::bigint as seconds
 from pg_stat_activity a
 where a.backend_xid is not null and a.pid <> pg_backend_pid() and coalesce(a.xact_start, '-infinity') < clock_timestamp() - interval '1 s')
union all
(select format('prepared transaction %L', p.gid), extract(epoch from clock_timestamp() - p.prepared)::bigint
 from pg_prepared_xacts p)
order by seconds desc limit 3
