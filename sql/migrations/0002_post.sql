-- Posting. A post costs one WAL record, or one row of a stream, and no table read: limit, transport and streams are
-- compiled into the functions, and changing any of them compiles them anew.
--
-- post() is SECURITY DEFINER without a pinned search_path, because pinning it costs more (3 us) than all the rest of
-- the function (2 us). It is safe without: every function, operator, type and collation in it is written with its
-- schema, so that no search_path can make it call something else. A test runs it under a hostile one.

create function postbus.channel_fault(channel text) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case
    when channel is null then 'the channel is null'
    when octet_length(channel) not between 1 and 255 then
      format('a channel name has 1 to 255 bytes, this one has %s', octet_length(channel))
    when channel collate "C" ~ '[\x01-\x1f\x7f\u0080-\u009f]' then 'a channel name must not hold control characters'
    when channel ~~ 'table:%' or channel ~~ 'task:%' or channel ~~ 'cache:%' or channel ~~ 'postbus:%' then
      'names that begin with table:, task:, cache: or postbus: are Postbus''s own'
  end
$$;

create function postbus.refuse_post(channel text, bytes integer) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  fault   text := postbus.channel_fault(channel);
  allowed integer := (select m.payload_limit from postbus.meta m);
begin
  if fault is not null then
    raise exception '%', fault using errcode = 'PB001', hint = 'post to another name';
  elsif bytes is null then
    raise exception 'the payload is null' using errcode = 'PB003', hint = 'post an empty text, or null as JSON: ''null''::jsonb';
  end if;
  raise exception 'the payload has % bytes, the limit is %', bytes, allowed
    using errcode = 'PB002', hint = 'send less, or a reference to it; an administrator can raise the limit with select postbus.set_payload_limit(bytes)';
end $$;

-- emit(channel, is_json, payload) hands one message to the transport. For Postbus's own functions: it checks nothing.
create function postbus.compile_emit(transport text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $compile$
begin
  if transport = 'wal' then
    -- Simple enough for the planner to inline it into its caller.
    execute $f$
      create or replace function postbus.emit(channel text, is_json boolean, payload text) returns boolean
      language sql volatile as $body$
        select pg_catalog.pg_logical_emit_message(true,
          case when is_json then 'postbus:j:' else 'postbus:t:' end operator(pg_catalog.||) channel, payload) is not null
      $body$ $f$;
  else
    -- NOTIFY folds equal payloads of one transaction: a number makes each unique. Layout: kind, 8 hex digits of that
    -- number, 2 hex digits of the channel's length in bytes, channel, payload; 7,999 bytes in all.
    execute $f$
      create or replace function postbus.emit(channel text, is_json boolean, payload text) returns boolean
      language plpgsql volatile set search_path = pg_catalog, pg_temp as $body$
      declare
        n       bigint := coalesce(nullif(current_setting('postbus.posted', true), ''), '0')::bigint + 1;
        message text := case when is_json then 'j' else 't' end || lpad(to_hex(n & 4294967295), 8, '0') ||
                        lpad(to_hex(octet_length(channel)), 2, '0') || channel || payload;
      begin
        if octet_length(message) > 7999 then
          raise exception 'the payload has % bytes; on this channel at most % fit', octet_length(payload), 7988 - octet_length(channel)
            using errcode = 'PB002', hint = 'this database carries messages by NOTIFY, which ends at 7,999 bytes: with '
              'wal_level = logical and a gateway role that has REPLICATION the limit is ' ||
              (select m.payload_limit from postbus.meta m) || ' bytes (postbus doctor prints the commands)';
        end if;
        perform set_config('postbus.posted', n::text, true);
        perform pg_notify('postbus:post', message);
        return true;
      end $body$ $f$;
  end if;
end $compile$;

-- Where the messages of channels that keep them go: {"channel": segment, ...}. Null: there is no stream.
create function postbus.open_segments() returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as 'select null::jsonb';

-- Held by whoever compiles post() anew, to the end of the transaction. One at a time, and on what is committed: the update,
-- which changes nothing, fails a transaction whose snapshot is older than the last one.
create function postbus.hold_post() returns postbus.meta
language sql volatile set search_path = pg_catalog, pg_temp
as 'update postbus.meta m set payload_limit = m.payload_limit returning m.*';

create function postbus.compile_post(payload_limit integer) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $compile$
declare
  segments jsonb := postbus.open_segments();
  kind     text;
  is_json  boolean;
  text_    text;
  prelude  text;
begin
  -- Each expression costs a transaction half a microsecond: there are no more of them than there must be.
  foreach kind in array array['text', 'jsonb'] loop
    is_json := kind = 'jsonb';
    text_ := case when is_json then 'body' else 'payload' end;
    prelude := case when is_json then '
        body pg_catalog.text := payload;' else '' end || case when segments is null then '
      begin' else format($f$
        open pg_catalog.int4 := (%L::pg_catalog.jsonb operator(pg_catalog.->) channel)::pg_catalog.int4;
      begin
        if open is not null and pg_catalog.octet_length(%s) operator(pg_catalog.<=) %s then
          insert into postbus.messages (segment, is_json, channel, payload) values (open, %s, post.channel, %2$s);
          return;
        end if;$f$, segments, text_, payload_limit, is_json::text) end;
    execute format('create or replace function postbus.post(channel text, payload %s) returns void language plpgsql volatile security definer as %L',
      kind, 'declare' || prelude || format($f$
        if pg_catalog.octet_length(%1$s) operator(pg_catalog.<=) %2$s
           and pg_catalog.octet_length(channel) operator(pg_catalog.<=) 255
           and (channel collate pg_catalog."C") operator(pg_catalog.!~) '^$|^(table|task|cache|postbus):|[\x01-\x1f\x7f\u0080-\u009f]'
           and postbus.emit(channel, %3$s, %1$s) then
          return;
        end if;
        perform postbus.refuse_post(channel, pg_catalog.octet_length(%1$s));
      end $f$, text_, payload_limit, is_json::text));
  end loop;
end $compile$;

select postbus.compile_emit('wal'), postbus.compile_post(16777216);

comment on function postbus.post(text, text) is
  'Posts a message to a channel: listeners get it when the transaction commits, nobody when it rolls back.';
comment on function postbus.post(text, jsonb) is
  'As post(text, text), marked as JSON: listeners get it embedded and not quoted.';

create function postbus.use_transport(transport text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  before text;
begin
  if use_transport.transport is null or use_transport.transport not in ('wal', 'notify') then
    raise exception 'the transport is wal or notify' using errcode = '22023';
  end if;
  if use_transport.transport = (select m.transport from postbus.meta m) then
    return false;
  end if;
  before := (postbus.hold_post()).transport;
  if use_transport.transport = before then
    return false;
  end if;
  update postbus.meta m set transport = use_transport.transport;
  perform postbus.compile_emit(use_transport.transport);
  return true;
end $$;
comment on function postbus.use_transport is
  'Chooses how post() travels: wal (logical messages) or notify. A gateway calls it when it finds that the database has changed.';

create function postbus.set_payload_limit(bytes integer) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if bytes is null or bytes not between 1 and 268435456 then
    raise exception 'the payload limit is 1 to 268435456 bytes' using errcode = '22023';
  end if;
  perform postbus.hold_post();
  update postbus.meta set payload_limit = bytes;
  perform postbus.compile_post(bytes);
end $$;
comment on function postbus.set_payload_limit is 'The largest payload post() takes, in bytes; 16 MB when never set.';
