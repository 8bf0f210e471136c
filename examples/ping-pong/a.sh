#!/bin/sh
# A: gives B a job and waits until it is done. It takes its own position first, so the answer cannot be missed.
# Usage: a.sh NUMBER [GATEWAY]
gateway=${2:-http://127.0.0.1:7432}
at=$(curl -sS -d "do job $1" "$gateway/v1/channels/workerB" | sed 's/.*"at_least":"\([^"]*\)".*/\1/')
curl -sS "$gateway/wait?channel=workA&after=$at&timeout=1m"
echo
