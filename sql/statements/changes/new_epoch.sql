-- $1 the epoch as it was. What positions of it stood for is lost: the slot that held it, or the WAL's own order, in a database that was
-- restored without a new timeline. Of several gateways that notice one draws. No standby is waited for: the row is locked meanwhile, and
-- epochs are drawn at random, so one that is promoted without it draws yet another.
select postbus.new_epoch($1::bigint), set_config('synchronous_commit', 'local', true)
