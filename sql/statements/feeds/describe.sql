-- $1 json: [[name, type, modifier], …]. The same columns with the names of their types, as one JSON array.
select coalesce(json_agg(json_build_object('name', c.value ->> 0, 'type', format_type((c.value ->> 1)::oid, (c.value ->> 2)::int)) order by c.ordinality), '[]')
from json_array_elements($1::json) with ordinality c
