select postbus.ack($1, $2, $3)
