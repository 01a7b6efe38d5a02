#!/usr/bin/env bash
# `make bench`: the performance table (docs/OPERATIONS.md, "Performance goals"), every row beside what the same machine can do at all, in the
# same run. Arguments go to the program: make bench ARGS="--rows P1,P11 --pairs 3".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=/dev/null
source .cache/services.env
release=${CARGO_TARGET_DIR:-target}/release

# Row P5 stands beside programs in Python; they have an environment of their own, so that the tests' does not grow with them. Without it the row says so.
rivals=.cache/rivals
if ! cmp -s scripts/rivals/requirements.txt "$rivals/requirements.txt"; then
    rm -rf "$rivals"
    if python3 -m venv "$rivals" && "$rivals/bin/python" -m pip install --quiet --disable-pip-version-check --requirement scripts/rivals/requirements.txt; then
        cp scripts/rivals/requirements.txt "$rivals/requirements.txt"
    else
        echo "bench: the Python programs of row P5 could not be installed from scripts/rivals/requirements.txt; the row is left out" >&2
        rm -rf "$rivals"
    fi
fi
export MUSTER_BENCH_PYTHON=$PWD/$rivals/bin/python

cargo build --release --workspace --locked --bins --examples

# Every connection is a file: 18,000 devices need as many descriptors as the system gives.
ulimit -n "$(ulimit -Hn)"
"$release/muster-bench" "$@"
