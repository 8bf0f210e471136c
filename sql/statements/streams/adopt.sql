-- $1 epoch, $2 the stream's start, $3 segment, $4 ids of its that will be written down in their own place.
select postbus.adopt_messages($1, $2, $3, $4)
