select coalesce(json_agg(json_build_object('channel', channel, 'bytes', bytes, 'max_bytes', max_bytes, 'count', count, 'past_bytes', past_bytes) order by bytes desc), '[]')
from (select * from postbus.streams order by bytes desc limit 200) s
