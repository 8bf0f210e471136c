-- $1 schema.name of a watched table. What a snapshot of it needs to know beforehand; no row when it is not watched.
select c.oid::bigint, n.nspname, c.relname, format('%I.%I', n.nspname, c.relname) as quoted, c.relkind = 'p' as partitioned,
       has_table_privilege(c.oid, 'select') as readable, quote_ident(current_user) as role, w.xmin::text as watched_by_xid
from postbus.watched_tables w join pg_class c on c.oid = w.tbl join pg_namespace n on n.oid = c.relnamespace
where n.nspname || '.' || c.relname = $1
