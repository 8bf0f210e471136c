-- $1 a table's name as SQL takes it. The channel of its feed; no row when it is not watched.
select 'table:' || n.nspname || '.' || c.relname
from postbus.watched_tables w join pg_class c on c.oid = w.tbl join pg_namespace n on n.oid = c.relnamespace
where w.tbl = to_regclass($1)
