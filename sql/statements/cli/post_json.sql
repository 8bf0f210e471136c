-- Posts each element of $2 to channel $1 as JSON, in order, in one transaction.
select postbus.post($1, line::jsonb) from unnest($2::text[]) with ordinality as given(line, n) order by n
