-- For this transaction the settings of the stream's session (src/postgres/replication_stream.cpp): values then have one text form.
select set_config('datestyle', 'ISO', true), set_config('timezone', 'UTC', true), set_config('extra_float_digits', '3', true), set_config('bytea_output', 'hex', true)
