#!/usr/bin/env bash
# The same in a shell: ledger.sh DATABASE [GATEWAY]. Each line of `listen --json` becomes one statement that books it.
set -euo pipefail
database=$1 gateway=${2:-http://127.0.0.1:7432}
events() { postbus --url "$gateway" listen payments --json --from "${position:-beginning}"; }
position=$(psql -XAt -v ON_ERROR_STOP=1 -c "select position from ledger_position where channel = 'payments'" "$database")
# Not a pipe: psql's end is the script's at once, not only when the next event finds it gone.
exec psql -XAt -v ON_ERROR_STOP=1 "$database" < <(events | LC_ALL=C sed -u "s/'/''/g; s/.*/select book('&');/")
