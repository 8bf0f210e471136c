-- When this server's postmaster began, in microseconds since 1970: where it is another moment, so may be the database.
select (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint
