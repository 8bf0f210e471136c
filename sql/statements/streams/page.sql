-- $1 channel, $2 epoch, $3 and $4 the LSN and index after which to read, $5 how many messages. The runs of positions that
-- hold them (at most 4,000, and no more than $5 and a run of 4,096; each holds at least one), each row with the place up to which messages have been
-- dropped, with the epoch of this moment (in another one the runs may have been moved already), and how far places of epoch $2 are written down.
-- No row: no stream; no id: nothing to read.
select r.id, r.segment, r.lsn, r.base, r.entries, encode(s.dropped_to, 'hex'), (select epoch from postbus.meta), (select lsn from postbus.stream_recorder where epoch = $2)
from postbus.stream_channels s left join lateral (
  select p.* from (
    select o.*, sum(o.count) over (order by o.lsn, o.id) - o.count as before
    from postbus.stream_positions o
    where o.stream = s.id and o.epoch = $2 and o.lsn >= $3 and (o.lsn > $3 or case
      when o.base is null then substr(o.entries, length(o.entries) - 31, 12) > int8send($3) || int4send($4) else o.base + o.count > $4::bigint end)
    order by o.lsn, o.id limit 4000) p
  where p.before < $5::bigint + 4096) r on true
where s.channel = $1 order by r.lsn, r.id
