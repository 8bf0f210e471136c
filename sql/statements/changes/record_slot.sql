-- $1: the slot that was made. A later start that does not find it knows that something was lost.
select postbus.record_slot($1)
