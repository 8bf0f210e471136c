-- For this transaction the path that the role has without us.
select set_config('search_path', reset_val, true) from pg_settings where name = 'search_path'
