-- $1 a wide transaction id or null. Every watched table with its options, and whether that transaction is visible to this
-- statement: the WAL may tell of one that cannot be seen yet. One row with a null table when nothing is watched.
-- Of a partitioned one also the partitions that have rows, each with the columns of its replica identity, as this statement's
-- snapshot shows them (pg_partition_tree would show later ones), the first transaction that it may not see, and where the WAL
-- is, read behind the snapshot.
select w.tbl::bigint, n.nspname, c.relname, to_json(w.columns), w.notify,
       (select json_agg(a.attname order by a.attnum)
        from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
        where i.indrelid = w.tbl and i.indisprimary) as primary_key,
       coalesce(pg_visible_in_snapshot($1::xid8, pg_current_snapshot()), true) as visible,
       c.relkind = 'p' as partitioned,
       case when c.relkind = 'p' then
         (with recursive tree (part) as (
            select i.inhrelid from pg_inherits i where i.inhparent = w.tbl
            union all select i.inhrelid from tree t join pg_inherits i on i.inhparent = t.part)
          select json_agg(json_build_object('partition', l.oid::bigint, 'all', l.relreplident = 'f', 'names', coalesce(
                   (select json_agg(a.attname) from pg_index i
                    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                    where i.indrelid = l.oid and case l.relreplident when 'i' then i.indisreplident when 'd' then i.indisprimary else false end), '[]')))
          from tree t join pg_class l on l.oid = t.part where l.relkind <> 'p') end as partitions,
       pg_snapshot_xmin(pg_current_snapshot())::text as before_xid,
       (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint as as_of
from (select) one
left join (postbus.watched_tables w join pg_class c on c.oid = w.tbl join pg_namespace n on n.oid = c.relnamespace) on true
