-- $1 channel, $2 keep, $3 max_bytes, $4 max_count; null: what create_stream takes by itself.
select postbus.create_stream($1, coalesce($2::interval, '7 days'), coalesce($3::bigint, 1073741824), $4::bigint)
