-- $1 epoch, $2 the stream's start, $3 ids that will be written down in their own place.
select postbus.adopt_messages($1, $2, $3)
