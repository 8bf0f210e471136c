-- {table} {columns}: for what COPY does not read by name.
copy (select {columns} from {table}) to stdout
