-- Streams: channels that keep their messages. A stream's messages stand in segments, and a segment is a partition of
-- postbus.messages: one level, LIST (segment). The open segment of each stream is compiled into post(), which
-- inserts there; when a segment has had its share of the stream's age, bytes or count, the stream goes on in a new
-- one, and what is past a bound goes by whole segments. An absent gateway costs nothing but segments that grow, and a
-- segment without its partition fails no post: its rows stand in the default one.
--
-- A partition must not be posted to before every session knows of it: one that has posted, and posts again in the same
-- transaction, routes by what it knew, and PostgreSQL then refuses the row as none of the default partition's. So segments
-- are made as spares, and taken when all transactions have ended that ran when the partition had been attached.
--
-- Which locks: a new segment is attached under SHARE UPDATE EXCLUSIVE, which no poster waits for. An old one is emptied
-- by TRUNCATE, which locks only it, and dropped by itself later, because that locks postbus.messages for a moment: both
-- give up after 50 ms and are tried again.
--
-- Commit order is known to nobody in here: a gateway reads it from the WAL and writes it down in stream_positions.

create table postbus.stream_channels (
  id           integer generated always as identity primary key,
  channel      text not null unique,
  segment      integer not null,
  keep         interval not null,
  max_bytes    bigint not null,
  max_count    bigint,
  made_by      name not null,
  made_at      timestamptz not null default now(),
  dropped_to   bytea   -- LSN and index of the last message that is no longer kept
);
comment on table postbus.stream_channels is 'The channels that keep their messages. Written by postbus.create_stream, drop_stream and maintain_streams only.';

create table postbus.stream_segments (
  segment    integer generated always as identity primary key,
  stream     integer,       -- null: a spare
  spare_from xid8,          -- a spare may be taken when no earlier transaction runs; null: not known yet
  made_at    timestamptz not null default clock_timestamp(),  -- of a stream's: when it was taken
  closed_at  timestamptz,   -- posts go to a later one since
  emptied_at timestamptz    -- its messages are gone; its partitions go as soon as nobody is in the way
);
create index on postbus.stream_segments (stream, segment);

create sequence postbus.message_id;

-- The channel stands in each row, so that a row says all that its event needs, wherever its stream is by then.
create table postbus.messages (
  id        bigint not null default nextval('postbus.message_id'),
  posted_at timestamptz not null default now(),
  segment   integer not null,
  is_json   boolean not null,
  channel   text not null,
  payload   text not null
) partition by list (segment);
create table postbus.messages_default partition of postbus.messages (primary key (id)) default;
comment on table postbus.messages is 'What streams keep. Inserted into by postbus.post only; read by gateways.';

-- One row for each run of messages of one segment that a gateway has written down, in commit order by `id`. `entries`
-- holds 32 bytes a message: end LSN of its commit (8), index (4), bytes of the payload (4), commit time in microseconds
-- since 1970 (8), the message's id (8), big-endian, so that the order of the bytes is the order of the events. Where `base`
-- is not null those positions mean nothing any more, or never did: the k-th message's position is (lsn, base + k).
create table postbus.stream_positions (
  stream  integer not null,
  lsn     bigint not null,     -- of the last message
  id      bigint not null,
  segment integer not null,
  epoch   bigint not null,
  base    bigint,
  count   integer not null,
  entries bytea not null,
  primary key (stream, lsn, id)
);
create index on postbus.stream_positions (segment, id);
create sequence postbus.stream_position_id;

-- How far the holder of the streams' lock has written down: all messages committed up to `lsn` of `epoch`.
create table postbus.stream_recorder (
  only_row boolean primary key default true check (only_row),
  epoch    bigint not null,
  lsn      bigint not null,
  settled  boolean not null default true   -- false while messages that no gateway saw are being given positions
);
insert into postbus.stream_recorder (epoch, lsn) values (0, 0);

-- While what is kept is given positions of a new epoch: how far that is. Each stream's runs are moved in their order, so that
-- the k-th message's place is (lsn, k) however often the epoch changes meanwhile.
create table postbus.stream_renumbering (
  only_row boolean primary key default true check (only_row),
  epoch    bigint not null,
  lsn      bigint not null,    -- where that epoch begins
  stream   integer not null,   -- those before it are done
  stale    boolean not null    -- an earlier renumbering broke off: some runs stand where it put them
);

create table postbus.stream_consumers (
  stream    integer not null,
  consumer  text not null,
  epoch     bigint not null,
  place     bytea not null,   -- LSN (8) and index (4), as in entries
  acked_at  timestamptz not null default now(),
  primary key (stream, consumer)
);

alter publication postbus add table postbus.messages;

create function postbus.make_spare() returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  made integer;
begin
  insert into postbus.stream_segments default values returning segment into made;
  execute format('create table postbus.messages_%1$s (like postbus.messages including defaults, primary key (id));'
                 'alter table postbus.messages attach partition postbus.messages_%1$s for values in (%1$s)', made);
  return made;
end $$;

-- Nobody has posted to a stream yet, so that these may be taken at once.
select postbus.make_spare() from generate_series(1, 8);
update postbus.stream_segments set spare_from = '0';

-- A segment for the stream; where no spare may be taken yet, and `even_without`, one that has no partition.
create function postbus.take_segment(for_stream integer, even_without boolean) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  taken integer := (select g.segment from postbus.stream_segments g
                    where g.stream is null and g.emptied_at is null and g.spare_from <= pg_snapshot_xmin(pg_current_snapshot())
                    order by g.segment limit 1 for update skip locked);
begin
  if taken is not null then
    update postbus.stream_segments g set stream = for_stream, made_at = clock_timestamp() where g.segment = taken;
  elsif even_without then
    insert into postbus.stream_segments (stream) values (for_stream) returning segment into taken;
  end if;
  return taken;
end $$;

create or replace function postbus.open_segments() returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as 'select jsonb_object_agg(s.channel, s.segment) from postbus.stream_channels s';

create function postbus.stream_named(channel text) returns postbus.stream_channels
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  found_ postbus.stream_channels;
begin
  select * into found_ from postbus.stream_channels s where s.channel = stream_named.channel;
  if not found then
    raise exception 'the channel % is not a stream', coalesce(quote_literal(channel), 'null')
      using errcode = 'PB030', hint = case
        when channel like any (array['table:%', 'task:%', 'cache:%', 'postbus:%']) then
          'consumers and acknowledgements are for streams; on this channel a listener remembers the position of its last event and resumes after it'
        else format('select postbus.create_stream(%L)', channel) end;
  end if;
  return found_;
end $$;

create function postbus.create_stream(channel text, keep interval default '7 days', max_bytes bigint default 1073741824, max_count bigint default null)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  fault text := postbus.channel_fault(channel);
  known postbus.meta;
  made  integer;
begin
  if fault is not null then
    raise exception '%', fault using errcode = 'PB001', hint = 'choose another name';
  elsif keep is null or keep < interval '1 second' then
    raise exception 'keep is an interval of a second or more' using errcode = '22023', hint = 'keep => ''7 days''';
  elsif max_bytes is null or max_bytes < 1048576 then
    raise exception 'max_bytes is 1048576 or more' using errcode = '22023', hint = 'max_bytes => 1073741824 keeps about one gigabyte';
  elsif max_count < 1 then
    raise exception 'max_count is 1 or more, or null for any number' using errcode = '22023';
  end if;
  known := postbus.hold_post();
  if postbus.wal_level() <> 'logical' or known.transport <> 'wal' then
    raise exception 'streams need the database''s logical WAL: a stream''s order is that of its commits, which nothing else tells'
      using errcode = 'PB011', hint = 'postbus doctor prints the commands that make it readable';
  end if;
  if exists (select from postbus.stream_channels s where s.channel = create_stream.channel) then
    update postbus.stream_channels s set keep = create_stream.keep, max_bytes = create_stream.max_bytes, max_count = create_stream.max_count
      where s.channel = create_stream.channel;
    return;
  end if;
  insert into postbus.stream_channels (channel, segment, keep, max_bytes, max_count, made_by)
    values (create_stream.channel, 0, create_stream.keep, create_stream.max_bytes, create_stream.max_count, postbus.caller()) returning id into made;
  update postbus.stream_channels s set segment = postbus.take_segment(made, true) where s.id = made;
  perform postbus.compile_post(known.payload_limit);
end $$;
comment on function postbus.create_stream is
  'Makes a channel keep its messages, by age, bytes and count; for a channel that does, replaces these bounds. What was posted before is not kept.';

create function postbus.drop_stream(channel text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  known postbus.meta := postbus.hold_post();
  gone  integer;
begin
  gone := (postbus.stream_named(channel)).id;
  delete from postbus.stream_channels s where s.id = gone;
  delete from postbus.stream_consumers c where c.stream = gone;
  -- maintain_streams() drops the segments of a stream that is no more.
  update postbus.stream_segments g set closed_at = coalesce(g.closed_at, clock_timestamp()) where g.stream = gone;
  perform postbus.compile_post(known.payload_limit);
end $$;
comment on function postbus.drop_stream is 'Makes a stream an ordinary channel again; its messages and its consumers'' places are dropped.';

create function postbus.segment_bytes(segment integer) returns bigint
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  select coalesce(pg_total_relation_size(to_regclass(format('postbus.messages_%s', segment))), 0)
$$;

-- Ends a segment's messages. False, and nothing done, when somebody uses them at this moment, or when some are not written
-- down yet, unless the stream has gone: their gap could not be told. Places of its messages that
-- lie among those of a later segment stay until that goes as well: a reader tells them as a gap.
create function postbus.empty_segment(gone integer) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '50ms'
as $$
declare
  of_stream integer := (select g.stream from postbus.stream_segments g where g.segment = gone);
  first     record;
  last      bytea;
  here      bigint;
begin
  if to_regclass(format('postbus.messages_%s', gone)) is not null then
    -- Who has posted to it has ended by then, and who still would waits, so that the count is of all. Readers go on.
    execute format('lock table only postbus.messages_%s in share mode', gone);
  end if;
  if exists (select from postbus.stream_channels c where c.id = of_stream) then
    execute format('select count(*) from postbus.messages m where m.segment = %s', gone) into here;
    if here > (select coalesce(sum(p.count), 0) from postbus.stream_positions p where p.segment = gone) then
      raise lock_not_available;  -- gives ours back
    end if;
  end if;
  if to_regclass(format('postbus.messages_%s', gone)) is not null then
    execute format('truncate only postbus.messages_%s', gone);
  end if;
  update postbus.stream_segments g set emptied_at = clock_timestamp() where g.segment = gone;
  select p.lsn, p.id into first from postbus.stream_positions p join postbus.stream_segments g on g.segment = p.segment and g.emptied_at is null
    where p.stream = of_stream order by p.lsn, p.id limit 1;
  with dropped as (
    delete from postbus.stream_positions p
    where p.stream = of_stream and (first.id is null or (p.lsn, p.id) < (first.lsn, first.id))
    returning p.epoch, p.lsn, p.base, p.count, p.entries)
  select case when d.base is null then substr(d.entries, length(d.entries) - 31, 12) else int8send(d.lsn) || int4send((d.base + d.count - 1)::int) end as place
    into last from dropped d order by place desc limit 1;
  update postbus.stream_channels s set dropped_to = greatest(s.dropped_to, last) where s.id = of_stream;
  return true;
exception
  when lock_not_available then return false;
end $$;

-- Drops the partitions of emptied segments. False when posters were in the way for longer than they may be kept waiting.
create function postbus.drop_segments() returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '50ms'
as $$
declare
  gone integer[] := array(select g.segment from postbus.stream_segments g where g.emptied_at is not null order by 1 limit 64);
  one  integer;
begin
  if cardinality(gone) = 0 then
    return true;
  end if;
  foreach one in array gone loop
    execute format('drop table if exists postbus.messages_%s', one);
  end loop;
  delete from postbus.stream_segments g where g.segment = any (gone);
  return true;
exception
  when lock_not_available then return false;
end $$;

-- The default partition has rows, all of segments that have gone.
create function postbus.default_is_stale() returns boolean
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  select exists (select from only postbus.messages_default)
     and not exists (select from only postbus.messages_default m join postbus.stream_segments x on x.segment = m.segment where x.emptied_at is null)
$$;

-- Makes one run of neighbouring ones, as long as pages take them: of a stream's runs there are then few, however small a
-- gateway wrote them. A run is merged into one of sixteen times its size, or into a whole one, so that a message is written
-- again some three times. Readers go by place and see the one or the other. Looks at the newest runs only, `at_most` a
-- stream, and says how many have gone: what is older has been merged, or comes to be as the newer ones become few.
-- The caller holds the maintenance lock, and all that is written down is settled: nothing will come between runs.
create function postbus.merge_positions(at_most integer default 20000) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  s       integer;
  cap     integer;
  p       postbus.stream_positions;
  first   postbus.stream_positions;  -- of the runs gathered
  last    postbus.stream_positions;
  runs    integer;
  total   integer;
  largest integer;
  merged  integer := 0;
begin
  for s in select c.id from postbus.stream_channels c order by c.id loop
    foreach cap in array array[15, 255, 2047] loop
      runs := 0;
      for p in
        (select o.stream, o.lsn, o.id, o.segment, o.epoch, o.base, o.count, null::bytea
         from (select * from postbus.stream_positions x where x.stream = s order by x.lsn desc, x.id desc limit at_most) o order by o.lsn, o.id)
        union all (select null, null, null, null, null, null, null, null)  -- ends the last of them
      loop
        if runs > 0 and p.count <= cap and total + p.count <= 4096 and p.segment = last.segment and p.epoch = last.epoch
           and (case when p.base is null then last.base is null else p.lsn = last.lsn and p.base = last.base + last.count end) then
          runs := runs + 1;
          total := total + p.count;
          largest := greatest(largest, p.count);
          last := p;
          continue;
        end if;
        if runs > 1 and (total >= 16 * largest or total >= 2048) then
          with gone as (
            delete from postbus.stream_positions x
            where x.stream = s and (x.lsn, x.id) >= (first.lsn, first.id) and (x.lsn, x.id) <= (last.lsn, last.id) returning *)
          insert into postbus.stream_positions (stream, lsn, id, segment, epoch, base, count, entries)
            select s, last.lsn, last.id, last.segment, last.epoch, first.base, sum(g.count), string_agg(g.entries, ''::bytea order by g.lsn, g.id) from gone g;
          merged := merged + runs - 1;
        end if;
        first := p;
        last := p;
        total := p.count;
        largest := p.count;
        runs := case when p.count <= cap then 1 else 0 end;
      end loop;
    end loop;
  end loop;
  return merged;
end $$;

create function postbus.maintain_streams() returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '50ms'
as $$
declare
  s        record;
  g        record;
  total    bigint;
  messages bigint;
  past     boolean;
  fresh    integer;
  known    postbus.meta;
  standing boolean;
  rolled   integer := 0;
  done     integer := 0;
begin
  if not pg_try_advisory_xact_lock(1886352244, 1835101285) then  -- "post", "maie": somebody is at it
    return 0;
  end if;
  -- Spares of earlier calls: those who attached them have told all sessions by now.
  update postbus.stream_segments x set spare_from = pg_snapshot_xmax(pg_current_snapshot()) where x.stream is null and x.spare_from is null;
  for s in
    select c.*, x.made_at as opened, postbus.segment_bytes(c.segment) as bytes,
           (select coalesce(sum(p.count), 0) from postbus.stream_positions p where p.segment = c.segment) as here,
           to_regclass(format('postbus.messages_%s', c.segment)) is null as missing
    from postbus.stream_channels c left join postbus.stream_segments x on x.segment = c.segment order by c.id
  loop
    -- An eighth of the age a segment, a sixteenth of bytes and count: as much again may come before the next call, and
    -- what is kept is still exact to an eighth.
    if s.missing or (s.here > 0 and (s.bytes >= s.max_bytes / 16 or s.here >= s.max_count / 16.0 or s.opened < clock_timestamp() - s.keep / 8)) then
      begin
        fresh := postbus.take_segment(s.id, false);
        if fresh is not null then
          known := postbus.hold_post();
          update postbus.stream_channels c set segment = fresh where c.id = s.id;
          update postbus.stream_segments x set closed_at = clock_timestamp() where x.segment = s.segment;
          rolled := rolled + 1;
        end if;
      exception
        when lock_not_available then null;  -- somebody makes or drops a stream: at the next call
      end;
    end if;
  end loop;
  if rolled > 0 then
    perform postbus.compile_post(known.payload_limit);
  end if;
  -- What is being given positions of a new epoch stays until it has them: consumers' places count on it.
  standing := (select r.epoch = m.epoch from postbus.stream_recorder r, postbus.meta m)
              and current_setting('transaction_isolation') = 'read committed';  -- else no row is counted that an older snapshot does not see
  if standing and (select r.settled from postbus.stream_recorder r) then
    perform postbus.merge_positions();
  end if;
  for s in select c.* from postbus.stream_channels c order by c.id loop
    total := 0;
    messages := 0;
    for g in
      select x.*, postbus.segment_bytes(x.segment) as bytes, (select coalesce(sum(p.count), 0) from postbus.stream_positions p where p.segment = x.segment) as count
      from postbus.stream_segments x where x.stream = s.id and x.emptied_at is null order by x.segment desc
    loop
      -- Past a bound, and what stays without it comes to seven eighths of that bound: a large segment may hold messages
      -- within the bound beside those past it. One that was closed just now may still be posted to until this commits.
      past := standing and g.closed_at < now()
              and (g.closed_at < clock_timestamp() - s.keep
                   or (total + g.bytes > s.max_bytes and total >= s.max_bytes - s.max_bytes / 8)
                   or (messages + g.count > s.max_count and messages >= s.max_count * 0.875));
      if past then
        past := postbus.empty_segment(g.segment);
      end if;
      if past then
        done := done + 1;
      else
        total := total + g.bytes;
        messages := messages + g.count;
      end if;
    end loop;
  end loop;
  for g in
    select x.segment from postbus.stream_segments x
    where x.stream is not null and x.emptied_at is null and not exists (select from postbus.stream_channels c where c.id = x.stream)
  loop
    if postbus.empty_segment(g.segment) then
      done := done + 1;
    end if;
  end loop;
  -- Rows of segments that have gone, posted by transactions that still saw them. One of a segment that has not may be
  -- committed while we wait for the lock: we look again with it, which takes a snapshot of its own.
  if postbus.default_is_stale() and current_setting('transaction_isolation') = 'read committed' then
    begin
      lock table only postbus.messages_default in access exclusive mode;
      if postbus.default_is_stale() then
        truncate only postbus.messages_default;
      end if;
    exception
      when lock_not_available then null;
    end;
  end if;
  begin
    for fresh in select * from generate_series(1, (select 8 + count(*) / 8 from postbus.stream_channels)
                                                  - (select count(*) from postbus.stream_segments x where x.stream is null)) loop
      perform postbus.make_spare();
    end loop;
  exception
    when lock_not_available then null;  -- at the next call
  end;
  perform postbus.drop_segments();
  return rolled + done;
end $$;
comment on function postbus.maintain_streams is
  'Opens new segments, empties and drops those past their stream''s bounds. A gateway calls it; anyone who administers may. Returns how many segments it changed.';

-- --- Positions and consumers

create function postbus.place(lsn bigint, index bigint) returns bytea
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select int8send(lsn) || int4send(index::int)
$$;

-- The place of a position text; raises where it is malformed, of another epoch, or ahead of the database.
create function postbus.place_of("position" text) returns bytea
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if position is null or position !~ '^[0-9a-f]{8}-[0-9a-f]{16}-[0-7][0-9a-f]{7}$' then
    raise exception 'this is no position of a stream''s message: %', coalesce(quote_literal(position), 'null')
      using errcode = 'PB031', hint = 'give the position that the message carried';
  elsif left(position, 8) <> (select lpad(to_hex(m.epoch), 8, '0') from postbus.meta m) then
    raise exception 'the position % is of another epoch', position
      using errcode = 'PB032', hint = 'positions began anew: listen as this consumer again and acknowledge what comes';
  elsif substr(position, 10, 16) > (select lpad(to_hex((pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint), 16, '0')) then
    raise exception 'the position % lies ahead of this database', position
      using errcode = 'PB031', hint = 'give the position that the message carried';
  end if;
  return decode(substr(position, 10, 16) || substr(position, 27, 8), 'hex');
end $$;

create function postbus.ack(channel text, consumer text, "position" text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  kept   integer := (postbus.stream_named(channel)).id;
  here   bytea;
  now_   bigint;
begin
  -- "post", "acks": before an epoch's consumers are moved to the next one, transactions that acknowledge in it end.
  perform pg_advisory_xact_lock_shared(1886352244, 1633905523);
  if current_setting('transaction_isolation') <> 'read committed' then
    perform from postbus.meta m for key share;  -- an older snapshot would not see that the epoch has changed: this fails then
  end if;
  now_ := (select m.epoch from postbus.meta m);
  here := postbus.place_of(position);
  if consumer is null or octet_length(consumer) not between 1 and 255 or consumer collate "C" ~ '[\x01-\x1f\x7f\u0080-\u009f]' then
    raise exception 'a consumer''s name has 1 to 255 bytes and no control characters' using errcode = '22023';
  end if;
  insert into postbus.stream_consumers as c (stream, consumer, epoch, place) values (kept, ack.consumer, now_, here)
    on conflict on constraint stream_consumers_pkey do update set epoch = excluded.epoch, place = excluded.place, acked_at = now()
      where c.epoch <> excluded.epoch or c.place < excluded.place;
  return found;
end $$;
comment on function postbus.ack is
  'Remembers that a consumer of a stream is done with all up to a position. Earlier positions change nothing (false): places only go forward.';

-- Messages of a stream after a place. Exact over what gateways have written down. With `gone`, those too that are no longer
-- kept and whose places still stand among others'.
create function postbus.messages_after(of integer, in_epoch bigint, place bytea, gone boolean default false) returns bigint
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(sum(case
           when place is null or p.epoch <> in_epoch then p.count
           when p.base is not null then greatest(0, least(p.count, p.base + p.count - 1 - case
             when substr(place, 1, 8) > int8send(p.lsn) then 2147483647
             when substr(place, 1, 8) < int8send(p.lsn) then -1
             else ('x' || encode(substr(place, 9, 4), 'hex'))::bit(32)::int end))
           when substr(p.entries, 1, 12) > place then p.count
           else (select count(*) from (select p.entries || ''::bytea as here offset 0) e,  -- read once, not for each message
                   generate_series(0, p.count - 1) k where substr(e.here, 1 + k * 32, 12) > place) end), 0)::bigint
  from postbus.stream_positions p
  where p.stream = of and (place is null or p.epoch <> in_epoch or int8send(p.lsn) >= substr(place, 1, 8))
    and (gone or exists (select from postbus.stream_segments x where x.segment = p.segment and x.emptied_at is null))
$$;

create view postbus.streams as
  select s.channel, s.keep, s.max_bytes, s.max_count, b.bytes, b.bytes > s.max_bytes as past_bytes, b.segments, n.count,
         (select to_timestamp(('x' || encode(substr(p.entries, 17, 8), 'hex'))::bit(64)::bigint / 1e6)
          from postbus.stream_positions p join postbus.stream_segments x on x.segment = p.segment
          where p.stream = s.id and x.emptied_at is null order by p.lsn, p.id limit 1) as oldest,
         (select to_timestamp(('x' || encode(substr(p.entries, length(p.entries) - 15, 8), 'hex'))::bit(64)::bigint / 1e6)
          from postbus.stream_positions p join postbus.stream_segments x on x.segment = p.segment
          where p.stream = s.id and x.emptied_at is null order by p.lsn desc, p.id desc limit 1) as newest,
         s.made_by, s.made_at
  from postbus.stream_channels s,
    lateral (select coalesce(sum(postbus.segment_bytes(x.segment)), 0)::bigint as bytes, count(*) as segments
             from postbus.stream_segments x where x.stream = s.id and x.emptied_at is null) b,
    lateral (select coalesce(sum(p.count), 0)::bigint as count
             from postbus.stream_positions p join postbus.stream_segments x on x.segment = p.segment
             where x.stream = s.id and x.emptied_at is null) n;
comment on view postbus.streams is 'The streams: their bounds, what they keep, and whether they are past their bound in bytes. Counted is what gateways have written down.';

create view postbus.consumers as
  select s.channel, c.consumer,
         case when c.epoch = m.epoch then lpad(to_hex(c.epoch), 8, '0') || '-' || encode(substr(c.place, 1, 8), 'hex') || '-' || encode(substr(c.place, 9, 4), 'hex') end as position,
         postbus.messages_after(c.stream, c.epoch, c.place) as lag, c.acked_at
  from postbus.stream_consumers c join postbus.stream_channels s on s.id = c.stream, postbus.meta m;
comment on view postbus.consumers is 'Consumers of streams: where each is, and how many kept messages it has still to come.';

-- Keeps an epoch from ending before the caller's transaction does. False: it has ended.
create function postbus.hold_epoch(in_epoch bigint) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform from postbus.meta m where m.epoch = in_epoch for key share;
  return found;
end $$;

-- For gateways, which hold the streams' lock: writes runs of positions down, in order, and how far that is. A segment
-- that has gone is left out. Nothing is written once the epoch has ended: what was committed since comes again in the next one.
create function postbus.record_positions(in_epoch bigint, up_to bigint, segments integer[], lsns bigint[], counts integer[], runs bytea[]) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if not postbus.hold_epoch(in_epoch) then
    raise exception 'the epoch % has ended', in_epoch using errcode = 'PB032';
  end if;
  insert into postbus.stream_positions (stream, lsn, id, segment, epoch, count, entries)
    select o.stream, o.lsn, nextval('postbus.stream_position_id'), o.segment, in_epoch, o.count, o.entries
    from (select g.stream, r.* from unnest(segments, lsns, counts, runs) with ordinality r(segment, lsn, count, entries, n)
          join postbus.stream_segments g on g.segment = r.segment and g.emptied_at is null order by r.n) o;
  update postbus.stream_recorder set epoch = in_epoch, lsn = up_to;
end $$;

-- Messages of a segment that no gateway saw in the WAL: all that the caller's snapshot sees and nobody has written down, but for those
-- in `known`, which the caller is about to write. They get positions at `from_lsn`, behind any commit that ended there.
create function postbus.adopt_messages(in_epoch bigint, from_lsn bigint, of_segment integer, known bigint[]) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  run     record;
  adopted bigint := 0;
begin
  for run in execute format($f$
    select g.stream, count(*)::int as count, string_agg(int8send($1) || int4send(0) || int4send(octet_length(m.payload)) ||
             int8send((extract(epoch from m.posted_at) * 1000000)::bigint) || int8send(m.id), ''::bytea order by m.id) as entries
    from postbus.stream_segments g, (select r.*, (row_number() over (order by r.id) - 1) / 4096 as batch from postbus.messages r
          where r.segment = %1$s and not exists (select from unnest($2) k (id) where k.id = r.id) and not exists (
            select from (
              select ('x' || encode(substr(p.here, 25 + k * 32, 8), 'hex'))::bit(64)::bigint as id
              from (select o.entries || ''::bytea as here, o.count from postbus.stream_positions o where o.segment = %1$s offset 0) p,  -- a run is read once, not for each message,
                generate_series(0, p.count - 1) k offset 0) written  -- and ids alone are sorted or hashed, not each with its run
            where written.id = r.id)) m
    where g.segment = %1$s
    group by g.stream, m.batch order by m.batch $f$, of_segment) using from_lsn, known
  loop
    insert into postbus.stream_positions (stream, lsn, id, segment, epoch, base, count, entries)
      values (run.stream, from_lsn, nextval('postbus.stream_position_id'), of_segment, in_epoch,
        coalesce((select p.base + p.count from postbus.stream_positions p
                  where p.stream = run.stream and p.lsn = from_lsn and p.base is not null order by p.id desc limit 1), 1073741824),
        run.count, run.entries);
    adopted := adopted + run.count;
  end loop;
  return adopted;
end $$;

-- What gateways call when positions start anew, until it says true: what is kept gets positions of the new epoch, before all
-- that will come, in the old order, and consumers stay where they were. Each call moves so many runs, and the next one goes on
-- from there, whichever gateway makes it. Where the epoch changes meanwhile, what has been moved is moved once more.
-- False without any being moved: transactions that have acknowledged are not over yet.
create function postbus.renumber_streams(now_epoch bigint, at_most integer default 20000) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  begins bigint;
  old    bigint;
  state  postbus.stream_renumbering;
  s      integer;
  behind bigint;
  moved  integer := 0;
  more   integer;
begin
  perform pg_advisory_xact_lock(1886352244, 1835101285);  -- "post", "maie": nobody merges or drops what is being moved
  begins := (select m.epoch_from from postbus.meta m where m.epoch = now_epoch);
  old := (select r.epoch from postbus.stream_recorder r);
  if begins is null then
    raise exception 'the epoch % has ended', now_epoch using errcode = 'PB032';
  elsif old = now_epoch then
    return true;
  end if;
  select * into state from postbus.stream_renumbering;
  if state.epoch is distinct from now_epoch then
    begin
      perform set_config('lock_timeout', '200ms', true);  -- who acknowledges waits as long for us
      perform pg_advisory_xact_lock(1886352244, 1633905523);  -- "post", "acks"
      -- Who had acknowledged live what nobody had written down stands behind all that was.
      update postbus.stream_consumers c set epoch = now_epoch, place = case
          when c.epoch = coalesce(state.epoch, old) and c.place < k.dropped_to then postbus.place(greatest(begins, 1) - 1, 2147483647)
          when c.epoch = state.epoch and substr(c.place, 1, 8) < int8send(state.lsn) then postbus.place(begins, 0)
          when c.epoch = state.epoch and substr(c.place, 1, 8) = int8send(state.lsn) then int8send(begins) || substr(c.place, 9, 4)
          else postbus.place(begins, (select coalesce(sum(p.count), 0) from postbus.stream_positions p where p.stream = c.stream) -
            case when state.epoch is null and c.epoch = old then postbus.messages_after(c.stream, c.epoch, c.place, true) else 0 end) end
        from postbus.stream_channels k where k.id = c.stream and c.epoch <> now_epoch;
    exception
      when lock_not_available then return false;
    end;
    if not exists (select from postbus.meta m where m.epoch = now_epoch) then
      raise exception 'the epoch % has ended', now_epoch using errcode = 'PB032';  -- meanwhile, and some have acknowledged in the next one
    end if;
    update postbus.stream_channels k set dropped_to = postbus.place(begins, 0) where k.dropped_to is not null;
    delete from postbus.stream_renumbering;
    insert into postbus.stream_renumbering (epoch, lsn, stream, stale) values (now_epoch, begins, 0, state.epoch is not null)
      returning * into state;
  end if;
  if state.stale then
    update postbus.stream_positions p set epoch = now_epoch, lsn = begins
      from (select o.ctid as at from postbus.stream_positions o where o.epoch <> now_epoch and o.epoch <> old
              and exists (select from postbus.stream_channels k where k.id = o.stream) limit at_most) n
      where p.ctid = n.at;
    get diagnostics moved = row_count;
    if moved < at_most then
      update postbus.stream_renumbering set stale = false;
    end if;
  end if;
  for s in select k.id from postbus.stream_channels k where k.id >= state.stream order by k.id loop
    exit when moved >= at_most;
    behind := coalesce((select p.base + p.count from postbus.stream_positions p
                        where p.stream = s and p.lsn = begins and p.epoch = now_epoch order by p.id desc limit 1), 1);
    with next as materialized (
      select o.ctid as at, o.lsn, o.id, o.count from postbus.stream_positions o where o.stream = s and o.epoch = old order by o.lsn, o.id limit at_most - moved),
    numbered as materialized (
      select o.at, o.before, nextval('postbus.stream_position_id') as fresh
      from (select x.at, behind + sum(x.count) over (order by x.lsn, x.id) - x.count as before from next x order by x.lsn, x.id) o)
    update postbus.stream_positions p set epoch = now_epoch, lsn = begins, id = n.fresh, base = n.before from numbered n where p.ctid = n.at;
    get diagnostics more = row_count;
    moved := moved + more;
    update postbus.stream_renumbering set stream = s;
  end loop;
  if moved >= at_most then
    return false;
  end if;
  delete from postbus.stream_renumbering;
  update postbus.stream_recorder set epoch = now_epoch, lsn = begins, settled = false;  -- so that this is done once
  return true;
end $$;
