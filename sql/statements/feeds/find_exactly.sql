-- $1 a table's name as its feed's channel has it, SCHEMA.TABLE without quotes. That channel; no row when it is not watched.
select 'table:' || n.nspname || '.' || c.relname
from postbus.watched_tables w join pg_class c on c.oid = w.tbl join pg_namespace n on n.oid = c.relnamespace
where n.nspname || '.' || c.relname = $1
