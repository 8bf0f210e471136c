-- $1 a feed's channel, $2 json: {column: [literal, …], …}. One row per column of the table, with what a filter must know of it
-- and, where the column's values can be compared, its literals as the type's own input function reads them (and refuses
-- them). Run canonical_text.sql before it in the same transaction. No row: the table is not watched.
with recursive target as (
  select c.oid, c.relkind, c.relreplident, c.oid::regclass::text as shown, n.nspname, c.relname, w.columns
  from postbus.watched_tables w join pg_class c on c.oid = w.tbl join pg_namespace n on n.oid = c.relnamespace
  where 'table:' || n.nspname || '.' || c.relname = $1
),
made_of(attnum, type) as (  -- a domain's column, down to what its values are
  select a.attnum, a.atttypid from target t join pg_attribute a on a.attrelid = t.oid where a.attnum > 0 and not a.attisdropped
  union all
  select m.attnum, y.typbasetype from made_of m join pg_type y on y.oid = m.type where y.typtype = 'd'
),
base as (
  select m.attnum, y.oid, y.typtype, quote_ident(n.nspname) || '.' || quote_ident(y.typname) as cast_name,
         y.typtype = 'e' or y.oid = any (array[16, 17, 20, 21, 23, 25, 26, 700, 701, 1042, 1043, 1082, 1083, 1114, 1184, 1700, 2950]::oid[]) as comparable
  from made_of m join pg_type y on y.oid = m.type join pg_namespace n on n.oid = y.typnamespace where y.typtype <> 'd'
),
-- Whether the database's own collation sorts by bytes; catalogs before 15 name no provider, and it is libc's then.
here as (
  select pg_encoding_to_char(d.encoding) = 'UTF8' as utf8,
         coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'b' or (coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' and d.datcollate in ('C', 'POSIX')) as by_bytes
  from pg_database d where d.datname = current_database()
),
-- The partitions that are not FULL, and what their identities carry: an old tuple is what its partition's identity says.
leaves as materialized (
  select l.oid::regclass::text as shown,
         array(select a.attname from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])
               where i.indrelid = l.oid and case l.relreplident when 'i' then i.indisreplident when 'd' then i.indisprimary else false end) as carried
  from target t, pg_partition_tree(t.oid) p join pg_class l on l.oid = p.relid where t.relkind = 'p' and l.relkind <> 'p' and l.relreplident <> 'f'
)
select a.attname, a.atttypid::bigint, b.oid::bigint as base, b.typtype = 'e' as is_enum, format_type(a.atttypid, null), b.cast_name,
       coalesce(l.collisdeterministic, true) as deterministic,
       h.utf8 and case when l.collprovider is null then true when l.collprovider = 'd' then h.by_bytes
                       else l.collprovider = 'b' or (l.collprovider = 'c' and l.collcollate in ('C', 'POSIX')) end as by_bytes,
       case when b.typtype = 'e' then (select json_agg(e.enumlabel order by e.enumsortorder) from pg_enum e where e.enumtypid = b.oid) end as labels,
       t.columns is not null and not a.attname = any (t.columns) or a.attgenerated <> '' as hidden,
       coalesce(k.indrelid is not null, false) as in_key,
       case when t.relkind = 'p' then not exists (select from leaves where a.attname <> all (carried))
            else coalesce(case t.relreplident when 'f' then true when 'i' then i.indrelid is not null when 'd' then k.indrelid is not null else false end, false)
       end as in_identity,
       a.attnotnull,
       case when b.comparable and ($2::json -> a.attname) is not null then
         (select to_json(textin(array_out(array_in(textout(array_agg(v.value order by v.ordinality)::text), b.oid, -1)))::text[])
          from json_array_elements_text($2::json -> a.attname) with ordinality v)
       end as literals,
       t.relkind = 'p' as partitioned, (select json_agg(shown order by shown) from leaves where a.attname <> all (carried)) as lacking, t.shown, quote_ident(a.attname) as quoted, quote_ident(t.relname) as bare
from target t cross join here h
join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
join base b on b.attnum = a.attnum
left join pg_collation l on l.oid = a.attcollation
left join pg_index k on k.indrelid = t.oid and k.indisprimary and a.attnum = any ((k.indkey::int2[])[0:k.indnkeyatts - 1])
left join pg_index i on i.indrelid = t.oid and i.indisreplident and a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])
order by a.attnum
