-- Watched tables and what is wrong with each (the first fault), then tables of our publication that nobody watches.
select w.tbl::text as table_name, coalesce(w.fault, '') as fault,
       coalesce((select f.fix from postbus.watch_faults(w.tbl, w.rls) f limit 1), '') as fix, w.published, true as watched
from postbus.watched w
union all
select r.prrelid::regclass::text, '', '', true, false
from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
where p.pubname = 'postbus' and r.prrelid <> 'postbus.messages'::regclass and not exists (select from postbus.watched w where w.tbl = r.prrelid)
order by 5 desc, 1
