-- Watched tables, what is wrong with each (the first fault), and the columns of its identity unless that is FULL; then tables of our publication that nobody watches.
select w.tbl::text as table_name, coalesce(w.fault, '') as fault,
       coalesce((select f.fix from postbus.watch_faults(w.tbl, w.rls) f limit 1), '') as fix, w.published, true as watched,
       case when c.relreplident = 'f' or c.relkind = 'p' then '' else coalesce(k.names, '') end as identity, k.columns as identity_columns,
       quote_ident(c.relname) as bare
from postbus.watched w join pg_class c on c.oid = w.tbl
cross join lateral (
  select string_agg(quote_ident(a.attname), ', ' order by a.attnum) as names, count(*) as columns
  from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])
  where i.indrelid = c.oid and case c.relreplident when 'i' then i.indisreplident when 'd' then i.indisprimary else false end) k
union all
select r.prrelid::regclass::text, '', '', true, false, '', 0, ''
from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
where p.pubname = 'postbus' and r.prrelid <> 'postbus.messages'::regclass and not exists (select from postbus.watched w where w.tbl = r.prrelid)
order by 5 desc, 1
