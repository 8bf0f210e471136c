-- The process that runs statements; behind a pooler it is not the one the session was told of.
select pg_backend_pid() as backend_pid
