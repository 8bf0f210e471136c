-- Of several gateways one mirrors feeds to plain channels: the one whose session holds this lock ("post", "mirr").
select pg_try_advisory_lock(1886352244, 1835627122)
