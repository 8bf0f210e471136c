-- One row: what the server is and what this role is in it.
select current_setting('server_version_num')::int                        as server_version,
       current_setting('server_version')                                 as version_text,
       current_database()                                                as database,
       current_user                                                      as role,
       current_setting('server_encoding')                                as encoding,
       pg_is_in_recovery()                                               as in_recovery,
       case when current_setting('server_version_num')::int >= 190000 and current_setting('wal_level') = 'replica'
         then 'logical' else current_setting('wal_level') end            as wal_level,
       current_setting('synchronous_commit')                             as synchronous_commit,
       r.rolsuper                                                        as superuser,
       r.rolreplication                                                  as replication_attribute,
       current_setting('max_replication_slots')::int                     as max_replication_slots,
       (select count(*) from pg_replication_slots)                       as used_replication_slots,
       current_setting('max_wal_senders')::int                           as max_wal_senders,
       (select count(*) from pg_stat_replication)                        as used_wal_senders,
       (select case when s.setting = '-1' then -1 else s.setting::bigint * 1048576 end
        from pg_settings s where s.name = 'max_slot_wal_keep_size')      as max_slot_wal_keep_bytes,
       current_setting('max_connections')::int                           as max_connections,
       current_setting('max_locks_per_transaction')::int                 as max_locks_per_transaction,
       current_setting('max_prepared_transactions')::int                 as max_prepared_transactions,
       case when not pg_is_in_recovery() then pg_notification_queue_usage() end as notify_queue_usage,
       exists (select from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
               where p.proname = 'pg_logical_emit_message' and p.pronamespace = 'pg_catalog'::regnamespace
                 and a.grantee = 0)                                      as anyone_may_emit,
       -- Not whether the schema exists but whether this role can use it: without that nothing below can be asked.
       exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
               where n.nspname = 'postbus' and c.relname = 'meta' and has_schema_privilege(n.oid, 'usage')
                 and has_table_privilege(c.oid, 'select'))               as sees_schema,
       exists (select from pg_proc p join pg_namespace n on n.oid = p.pronamespace
               where n.nspname = 'postbus' and p.proname = 'claim_epoch'
                 and has_function_privilege(p.oid, 'execute'))           as may_administer
from pg_roles r where r.rolname = current_user
