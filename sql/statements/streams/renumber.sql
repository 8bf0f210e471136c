-- True: all that is kept has positions of epoch $1. Else again.
select postbus.renumber_streams($1)
