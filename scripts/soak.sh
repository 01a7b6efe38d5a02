#!/usr/bin/env bash
# `make soak ARGS="controllers --seconds 120"`: long runs of the whole system, measured at the devices. Without arguments, it says which there are.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=/dev/null
source .cache/services.env
release=${CARGO_TARGET_DIR:-target}/release

cargo build --release --workspace --locked --bins

# Every connection is a file.
ulimit -n "$(ulimit -Hn)"
"$release/muster-soak" "${@:---help}"
