-- For a table on the terminal; the last column is the row as JSON, for --json.
select schema_name || '.' || table_name, 'table:' || schema_name || '.' || table_name, coalesce(array_to_string(columns, ', '), 'all'), notify,
       coalesce(fault, case when published then 'live' else 'not in the publication' end),
       json_build_object('table', schema_name || '.' || table_name, 'channel', 'table:' || schema_name || '.' || table_name, 'columns', columns,
                         'notify', notify, 'rls', rls, 'watched_by', watched_by, 'watched_at', watched_at, 'published', published, 'fault', fault)
from postbus.watched order by 1
