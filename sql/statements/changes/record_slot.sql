-- $1: the slot that was made. A later start that does not find it knows that something was lost. $2: the publication that it is read by.
select postbus.record_slot($1, $2::oid), set_config('synchronous_commit', 'local', true)
