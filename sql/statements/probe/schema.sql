-- One row: the schema and the publication. Asked only where the role can see postbus.meta.
select m.schema_version, m.transport,
       p.oid is not null                                                                     as publication_exists,
       coalesce(p.puballtables, false)                                                       as publication_all_tables,
       coalesce(p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate and p.pubviaroot, false) as publication_intact
from postbus.meta m left join pg_publication p on p.pubname = 'postbus'
