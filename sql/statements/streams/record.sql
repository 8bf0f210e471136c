select postbus.record_positions($1, $2, $3, $4, $5, $6)
