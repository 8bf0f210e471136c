-- $1 wal or notify: how post() travels from now on.
select postbus.use_transport($1)
