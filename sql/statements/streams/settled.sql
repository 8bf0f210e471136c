-- All up to $2 of epoch $1 is written down. No row: that epoch has ended.
update postbus.stream_recorder set lsn = case epoch when $1 then greatest(lsn, $2) else $2 end, epoch = $1, settled = true
where postbus.hold_epoch($1) returning 1
