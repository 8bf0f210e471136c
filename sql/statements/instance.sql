select format('%s %s', (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint, d.oid) from pg_database d where d.datname = current_database()
-- When this server began, in microseconds since 1970, and which database it is: where either is another, positions may be too.
-- (The comment comes last: replication sessions of the first releases of 14 take no statement that begins with one.)
