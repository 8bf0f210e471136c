-- {table} {columns} {where}: for what COPY does not read by name, and for filtered feeds.
copy (select {columns} from {table} where {where}) to stdout
