-- Where the consumer $2 of the stream $1 is; nulls when it has acknowledged nothing. No row: no stream.
select c.epoch, encode(c.place, 'hex') from postbus.stream_channels s left join postbus.stream_consumers c on c.stream = s.id and c.consumer = $2
where s.channel = $1
