select epoch, lsn, settled from postbus.stream_recorder
