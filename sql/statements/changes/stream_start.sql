-- $1 system identifier, $2 timeline, as IDENTIFY_SYSTEM says them. The epoch of the positions of this stream, and a recent
-- wide transaction id, from which the stream's 32-bit ones are widened.
select postbus.claim_epoch($1, $2::bigint), pg_snapshot_xmax(pg_current_snapshot())::text, set_config('synchronous_commit', 'local', true)
