-- $1 channels, $2 payloads, in order. Writes nothing, so that the commit waits for no disk while it holds NOTIFY's lock.
select count(pg_notify(n.channel, n.payload)) from unnest($1::text[], $2::text[]) n (channel, payload)
