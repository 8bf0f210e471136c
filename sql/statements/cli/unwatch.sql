-- $1 a table's name in the caller's own search_path: all else is written with its schema.
select postbus.unwatch($1::pg_catalog.regclass)
