-- $1 oid[]. What these types are made of, with everything they are made of themselves.
with recursive needed(oid) as (
  select unnest($1::oid[])
  union
  select part.oid
  from needed n join pg_type t on t.oid = n.oid
  cross join lateral (
    select t.typbasetype where t.typtype = 'd'
    union all
    select t.typelem where t.typelem <> 0 and t.typsubscript = 'array_subscript_handler'::regproc
    union all
    select a.atttypid from pg_attribute a where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
  ) part(oid)
)
select t.oid,
       case when t.typtype = 'd' then t.typbasetype else 0 end as base,
       case when t.typsubscript = 'array_subscript_handler'::regproc then t.typelem else 0 end as element,
       coalesce((select e.typdelim from pg_type e where e.oid = t.typelem), ',') as delimiter,
       case when t.typtype = 'c' then
         (select json_agg(json_build_array(a.attname, a.atttypid::bigint) order by a.attnum)
          from pg_attribute a where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped)
       end as attributes
from needed n join pg_type t on t.oid = n.oid
