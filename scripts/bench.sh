#!/usr/bin/env bash
# `make bench`: the performance table (docs/OPERATIONS.md, "Performance goals"), every row beside what the same machine can do at all, in the
# same run. Arguments go to the first program, and then only that one runs: make bench ARGS="--rows P1,P11 --pairs 3".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=/dev/null
source .cache/services.env
release=${CARGO_TARGET_DIR:-target}/release

cargo build --release --workspace --locked --bins --examples

# Every connection is a file: 18,000 devices need as many descriptors as the system gives.
ulimit -n "$(ulimit -Hn)"
"$release/muster-bench" "$@"
if [[ $# -eq 0 ]]; then
    for program in bench_store bench_put; do
        if [[ -x $release/examples/$program ]]; then
            echo
            echo "=== $program"
            "$release/examples/$program"
        fi
    done
fi
