select postbus.unwatch($1::regclass)
