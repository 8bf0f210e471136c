-- `postbus setup --revoke-emit`: pg_logical_emit_message is open to PUBLIC, so whoever can log in can write a message that
-- looks like one of postbus.post, on any channel. This leaves it to superusers, the schema's owner and postbus_admin.
-- Needs a superuser, in each database. Other programs that emit messages need a grant of their own afterwards.
do $$
declare
  emit record;
begin
  for emit in
    select p.oid::pg_catalog.regprocedure as signature from pg_catalog.pg_proc p
    where p.proname = 'pg_logical_emit_message' and p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace
  loop
    execute pg_catalog.format('revoke execute on function %s from public', emit.signature);
    execute pg_catalog.format('grant execute on function %s to postbus_admin, %I', emit.signature,
      (select r.rolname from pg_catalog.pg_namespace n join pg_catalog.pg_roles r on r.oid = n.nspowner where n.nspname = 'postbus'));
  end loop;
end $$;
