#!/usr/bin/env bash
# Run Azurite's blob service on the loopback, in memory, until interrupted.
#
#   scripts/azurite.sh [PORT]                  default 10000
#   scripts/azurite.sh PORT --with-stdin       also ends when its standard input does: with whoever started it
#
# Installed once under .cache/azurite. Telemetry is off: Azurite would otherwise report to a public address.
set -euo pipefail

version=3.35.0
port=${1:-10000}
with_stdin=${2:-}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=$root/.cache/azurite
program=$home/node_modules/azurite/dist/src/blob/main.js

command -v node >/dev/null || { echo "azurite.sh: node is needed (20 or newer)" >&2; exit 1; }

mkdir -p "$home"
exec 9>"$home/.lock"
flock 9
if ! grep -qs "\"version\": \"$version\"" "$home/node_modules/azurite/package.json"; then
    echo "azurite.sh: installing azurite@$version into $home" >&2
    npm install --prefix "$home" --no-audit --no-fund --no-save --loglevel=error "azurite@$version" >&2
fi
flock -u 9
exec 9>&-

arguments=(--blobHost 127.0.0.1 --blobPort "$port" --skipApiVersionCheck --disableTelemetry --inMemoryPersistence --silent)
if [ "$with_stdin" != --with-stdin ]; then
    exec node "$program" "${arguments[@]}"
fi

node "$program" "${arguments[@]}" </dev/null &
child=$!
trap 'kill "$child" 2>/dev/null || true' EXIT
# Nobody writes here: reading ends when the other side is gone.
cat >/dev/null || true
