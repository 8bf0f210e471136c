-- Watched tables, what is wrong with each (the first fault), and the columns that its identity carries unless that is FULL; of a
-- partitioned one those that each of its partitions carries, the first partition that is not FULL and how many there are. Then
-- tables of our publication that nobody watches.
with leaves as materialized (
  select w.tbl, l.oid::regclass::text as shown,
         array(select a.attname from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])
               where i.indrelid = l.oid and case l.relreplident when 'i' then i.indisreplident when 'd' then i.indisprimary else false end) as carried
  from postbus.watched w, pg_partition_tree(w.tbl) p join pg_class l on l.oid = p.relid where l.relkind <> 'p' and l.oid <> w.tbl and l.relreplident <> 'f'
)
select w.tbl::text as table_name, coalesce(w.fault, '') as fault,
       coalesce((select f.fix from postbus.watch_faults(w.tbl, w.rls) f limit 1), '') as fix, w.published, true as watched,
       case when n.partitions > 0 or (c.relkind <> 'p' and c.relreplident <> 'f') then coalesce(k.names, '') else '' end as identity, k.columns as identity_columns,
       quote_ident(c.relname) as bare, coalesce(n.first, '') as narrow_partition, n.partitions as narrow_partitions
from postbus.watched w join pg_class c on c.oid = w.tbl
cross join lateral (select min(l.shown) as first, count(*) as partitions from leaves l where l.tbl = w.tbl) n
cross join lateral (
  select string_agg(quote_ident(a.attname), ', ' order by a.attnum) as names, count(*) as columns
  from pg_attribute a
  where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    and case c.relkind when 'p' then not exists (select from leaves l where l.tbl = w.tbl and a.attname <> all (l.carried))
        else exists (select from pg_index i where i.indrelid = c.oid and a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                       and case c.relreplident when 'i' then i.indisreplident when 'd' then i.indisprimary else false end) end) k
union all
select r.prrelid::regclass::text, '', '', true, false, '', 0, '', '', 0
from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
where p.pubname = 'postbus' and r.prrelid <> 'postbus.messages'::regclass and not exists (select from postbus.watched w where w.tbl = r.prrelid)
order by 5 desc, 1
