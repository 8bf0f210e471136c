#!/bin/sh
# B on a stream: does the jobs it has not acknowledged yet, in order, and goes on where it was after a stop.
# Usage: stream_b.sh [GATEWAY [JOBS]]   ends after so many jobs; without, never
gateway=${1:-http://127.0.0.1:7432}
jobs=${2:--1}
while [ "$jobs" -ne 0 ]; do
  next=$(curl -sS "$gateway/v1/channels/workerB?consumer=b&wait=30s") || exit 1
  # The first of the events; nothing has come when there is none.
  position=$(printf '%s' "$next" | sed -n 's/^{"events":\[{"id":"\([^"]*\)".*/\1/p')
  [ -n "$position" ] || continue
  number=$(printf '%s' "$next" | sed -n 's/^{"events":\[{"id":"[^"]*","channel":"workerB","kind":"message","at":"[^"]*","payload":"do job \([0-9]*\)".*/\1/p')
  if [ -n "$number" ]; then  # else it is no job: a gap, say, or another message
    echo "doing job $number"
    curl -sS -o /dev/null -d "job $number done" "$gateway/v1/channels/workA" || exit 1
    jobs=$((jobs - 1))
  fi
  curl -sS -o /dev/null -X POST "$gateway/v1/channels/workerB/ack?consumer=b&position=$position" || exit 1
done
