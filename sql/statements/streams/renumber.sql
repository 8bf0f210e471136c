select postbus.renumber_streams($1, $2)
