-- Which version of the schema the database has.
select schema_version from postbus.meta
