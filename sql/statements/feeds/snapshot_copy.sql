-- {table} {columns}
copy {table} ({columns}) to stdout
