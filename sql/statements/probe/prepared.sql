-- Prepared transactions of this database, oldest first.
select gid, extract(epoch from now() - prepared)::bigint as age_seconds
from pg_prepared_xacts where database = current_database() order by prepared
