-- $1 a table's oid, $2 virtual transactions as an array, or null for any. Who of them holds the lock of a writer on the table or
-- a partition of it, with a name for people.
select l.virtualtransaction,
       case when l.pid is null then 'a prepared transaction'
            else format('pid %s (%s%s)', l.pid, nullif(a.application_name, '') || ', ', coalesce(a.state, 'of another role')) end as who
from pg_locks l left join pg_stat_activity a on a.pid = l.pid
where l.locktype = 'relation' and l.granted and l.database = (select oid from pg_database where datname = current_database())
  and l.mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  and (l.relation = $1::oid or l.relation in (select relid from pg_partition_tree($1::oid::regclass)))
  and ($2::text[] is null or l.virtualtransaction = any ($2::text[]))
