#!/bin/sh
# B: does each job it is given, and says so. It gets the jobs it did not get to yet one after the other.
# Usage: b.sh [GATEWAY]
gateway=${1:-http://127.0.0.1:7432}
curl -sSN "$gateway/wait?channel=workerB&loop=true" | while read -r _do _job number; do
  echo "doing job $number"
  curl -sS -o /dev/null -d "job $number done" "$gateway/v1/channels/workA"
done
