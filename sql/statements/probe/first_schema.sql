-- Where an unqualified CREATE TABLE goes, in the role's own search_path.
select pg_catalog.current_schema()
