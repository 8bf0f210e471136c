-- For a table on the terminal; the last column is the row as JSON, for --json.
select channel, count, pg_size_pretty(bytes), keep || ', ' || pg_size_pretty(max_bytes) || coalesce(', ' || max_count || ' messages', ''),
       coalesce(to_char(oldest at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'), '-'),
       coalesce('past its bound in ' || nullif(concat_ws(', ', case when past_bytes then 'bytes' end, case when count > max_count then 'messages' end,
                                                        -- Kept is up to an eighth more, and looked after every ten seconds.
                                                        case when oldest < now() - keep * 1.125 - interval '30 s' then 'age' end), ''),
                'within its bounds'),
       json_build_object('channel', channel, 'count', count, 'bytes', bytes, 'segments', segments, 'keep', keep, 'max_bytes', max_bytes,
                         'max_count', max_count, 'past_bytes', past_bytes, 'oldest', oldest, 'newest', newest, 'made_by', made_by, 'made_at', made_at)
from postbus.streams order by 1
