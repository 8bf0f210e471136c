-- The publication that is there; 0: none.
select coalesce((select p.oid from pg_publication p where p.pubname = 'postbus'), 0)
