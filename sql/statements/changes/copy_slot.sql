-- {from} {to}: literals. A replication session of ours reads what another one's slot still holds, from the same place, by a slot of its own
-- that goes with it. It waits for nobody's transaction, as making a slot would.
select lsn from pg_copy_logical_replication_slot({from}, {to}, true)
