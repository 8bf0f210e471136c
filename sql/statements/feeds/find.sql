-- $1 a table's name as SQL takes it, looked up in the role's own search_path: all else is written with its schema. The channel of its
-- feed; no row when it is not watched.
select 'table:' operator(pg_catalog.||) n.nspname operator(pg_catalog.||) '.' operator(pg_catalog.||) c.relname
from postbus.watched_tables w join pg_catalog.pg_class c on c.oid operator(pg_catalog.=) w.tbl
  join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
where w.tbl operator(pg_catalog.=) pg_catalog.to_regclass($1)::pg_catalog.oid
