-- $1 a wide transaction id or null. Every watched table with its options, and whether that transaction is visible to this
-- statement: the WAL may tell of one that cannot be seen yet. One row with a null table when nothing is watched.
select w.tbl::bigint, n.nspname, c.relname, to_json(w.columns), w.notify,
       (select json_agg(a.attname order by a.attnum)
        from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
        where i.indrelid = w.tbl and i.indisprimary) as primary_key,
       coalesce(pg_visible_in_snapshot($1::xid8, pg_current_snapshot()), true) as visible,
       c.relkind = 'p' as partitioned
from (select) one
left join (postbus.watched_tables w join pg_class c on c.oid = w.tbl join pg_namespace n on n.oid = c.relnamespace) on true
