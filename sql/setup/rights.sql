-- Runs last in the migrations' transaction, and at every `postbus setup`: nothing for PUBLIC, then what each role needs.
revoke all on schema postbus from public;
revoke all on all tables in schema postbus from public;
revoke all on all functions in schema postbus from public;

do $$
declare
  wanted record;
begin
  for wanted in
    select * from (values
      ('postbus_poster',   'usage on schema postbus'),
      ('postbus_listener', 'usage on schema postbus'),
      ('postbus_worker',   'usage on schema postbus'),
      ('postbus_admin',    'usage on schema postbus'),
      ('postbus_poster',   'select on postbus.meta'),
      ('postbus_listener', 'select on postbus.meta, postbus.watched, postbus.streams, postbus.consumers'),
      ('postbus_worker',   'select on postbus.meta'),
      ('postbus_admin',    'select on postbus.meta, postbus.migrations, postbus.watched, postbus.watched_tables, postbus.streams, postbus.consumers'),
      ('postbus_admin',    'select on postbus.messages, postbus.messages_default, postbus.stream_channels, postbus.stream_segments, postbus.stream_positions, postbus.stream_recorder, postbus.stream_consumers'),
      ('postbus_admin',    'update on postbus.stream_recorder'),
      ('postbus_poster',   'execute on function postbus.post(text, text), postbus.post(text, jsonb), postbus.position()'),
      ('postbus_listener', 'execute on function postbus.position(), postbus.watch_faults(oid, text), postbus.identity_fault(oid), postbus.identity_fix(oid)'),
      ('postbus_admin',    'execute on function postbus.watch(regclass, text[], text, text), postbus.unwatch(regclass), postbus.repair_publication(), postbus.feeds_fault(), postbus.mend_feeds()'),
      ('postbus_admin',    'execute on function postbus.claim_epoch(text, bigint), postbus.new_epoch(bigint), postbus.record_slot(text, oid)'),
      ('postbus_admin',    'execute on function postbus.use_transport(text), postbus.set_payload_limit(integer)'),
      ('postbus_listener', 'execute on function postbus.ack(text, text, text), postbus.segment_bytes(integer), postbus.messages_after(integer, bigint, bytea, boolean)'),
      ('postbus_admin',    'execute on function postbus.create_stream(text, interval, bigint, bigint), postbus.drop_stream(text), postbus.maintain_streams()'),
      ('postbus_admin',    'execute on function postbus.record_positions(bigint, bigint, integer[], bigint[], integer[], bytea[]), postbus.adopt_messages(bigint, bigint, integer, bigint[]), postbus.renumber_streams(bigint, integer), postbus.hold_epoch(bigint)')
    ) as given (role, rights)
  loop
    if exists (select from pg_catalog.pg_roles where rolname = wanted.role) then
      execute pg_catalog.format('grant %s to %I', wanted.rights, wanted.role);
    end if;
  end loop;
  -- An administrator, and so a gateway's role, may do what the others may.
  for wanted in
    select r.rolname as role from pg_catalog.pg_roles r, pg_catalog.pg_roles admin
    where r.rolname in ('postbus_poster', 'postbus_listener', 'postbus_worker') and admin.rolname = 'postbus_admin'
      and not exists (select from pg_catalog.pg_auth_members m where m.roleid = r.oid and m.member = admin.oid)
  loop
    begin
      execute pg_catalog.format('grant %I to postbus_admin', wanted.role);
    exception
      when insufficient_privilege then
        raise warning 'the role postbus_admin does not include %', wanted.role
          using hint = pg_catalog.format('as a superuser: grant %I to postbus_admin', wanted.role);
      when unique_violation then null;  -- another database's setup was faster
    end;
  end loop;
end $$;
