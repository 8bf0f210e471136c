select postbus.post($1, $2::text);
