-- One table's feed: name (in the caller's own search_path: all else is written with its schema), columns or null, plain channel or null,
-- what to do about row-level security.
select postbus.watch($1::pg_catalog.regclass, $2::pg_catalog.text[], $3, $4)
