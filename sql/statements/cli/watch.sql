-- One table's feed: name, columns or null, plain channel or null, what to do about row-level security.
select postbus.watch($1::regclass, $2::text[], $3, $4)
