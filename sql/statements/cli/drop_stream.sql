select postbus.drop_stream($1)
