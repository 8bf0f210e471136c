-- Makes the holder of the streams' lock say how far it is, and the stream of the WAL pass this commit.
select pg_logical_emit_message(true, 'postbus:recorded', '')
