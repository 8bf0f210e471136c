-- $1: a process of the server that served a replication session of ours which has broken: it may not have noticed.
select pg_terminate_backend(r.pid) from pg_stat_replication r where r.pid = $1::int and r.application_name = 'postbus reader'
