-- {0}: the process that the server named at the start of the session. Sets the path for the session, or, where another process runs
-- this, for this statement alone. And no statement of ours is compiled: that takes longer than any of them, half a second where the
-- planner overrates one.
select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', s.pooled), s.pooled, pg_catalog.set_config('jit', 'off', s.pooled)
from (select pg_catalog.pg_backend_pid() operator(pg_catalog.<>) {0} as pooled) s
