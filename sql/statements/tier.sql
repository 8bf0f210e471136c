-- What decides how messages travel: the WAL needs all of the first three.
select current_setting('wal_level') = 'logical'                                          as logical_wal,
       r.rolreplication or r.rolsuper                                                    as may_replicate,
       not pg_is_in_recovery()                                                           as is_primary,
       current_user                                                                      as role,
       (select system_identifier from pg_control_system())::text                         as system_identifier,
       (select timeline_id from pg_control_checkpoint())                                 as timeline,
       (case when pg_is_in_recovery() then 0 else pg_current_wal_insert_lsn() - '0/0'::pg_lsn end)::bigint as lsn
from pg_roles r
where r.rolname = current_user
