-- Whose messages are looked through, in this order.
select segment from postbus.stream_segments where emptied_at is null order by segment
