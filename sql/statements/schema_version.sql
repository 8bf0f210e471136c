select schema_version from postbus.meta
