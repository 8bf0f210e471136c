-- $1 the table's oid. The first statement of a snapshot's transaction: what it sees, up to where the WAL was written then, the
-- table's shown columns as the stream tells them, and how many rows it has, about.
select pg_current_snapshot()::text as seen, (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::text as lsn,
       (extract(epoch from transaction_timestamp()) * 1000000)::bigint as micros,
       (select json_agg(json_build_array(a.attname, a.atttypid::bigint, quote_ident(a.attname)) order by a.attnum)
        from pg_attribute a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
          and (w.columns is null or a.attname = any (w.columns))) as columns,
       case when c.relkind = 'p'
         then (select coalesce(sum(greatest(p.reltuples, 0)), 0) from pg_partition_tree(c.oid) t join pg_class p on p.oid = t.relid and t.isleaf)
         else c.reltuples end::bigint as estimated,
       format('%I.%I', n.nspname, c.relname) as quoted
from postbus.watched_tables w join pg_class c on c.oid = w.tbl join pg_namespace n on n.oid = c.relnamespace
where w.tbl = $1::oid
