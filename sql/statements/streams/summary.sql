-- The largest streams, and what all of them take: number, bytes, segments, how many are past their bound in bytes.
with s as materialized (select channel, bytes, max_bytes, count, past_bytes, segments from postbus.streams)
select (select coalesce(json_agg(json_build_object('channel', channel, 'bytes', bytes, 'max_bytes', max_bytes, 'count', count, 'past_bytes', past_bytes) order by bytes desc), '[]')
        from (select * from s order by bytes desc limit 200) largest),
       count(*), coalesce(sum(bytes), 0), coalesce(sum(segments), 0), count(*) filter (where past_bytes)
from s
