-- Of several gateways one writes positions down: the one whose session holds this lock ("post", "strm").
select pg_try_advisory_lock(1886352244, 1937011309)
