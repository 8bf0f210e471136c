-- The table's lock and the snapshot are given back.
commit
