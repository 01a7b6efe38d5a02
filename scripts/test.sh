#!/usr/bin/env bash
# The steps of `make test`, in the order that fails fastest. Stops at the first step that fails; the summary lines of the test runs come
# last on stdout either way, so that nobody has to scroll for them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mkdir -p .cache
log=.cache/test.log
: >"$log"
# shellcheck source=/dev/null
if [[ -f .cache/services.env ]]; then source .cache/services.env; fi

step_name=
step_start=0
finished=

step() {
    end_step
    step_name=$1
    step_start=$SECONDS
    echo
    echo "=== $step_name"
}

end_step() {
    if [[ -n $step_name ]]; then
        echo "$step_name: ok in $((SECONDS - step_start)) s" >>"$log.steps"
    fi
    step_name=
}

summary() {
    local code=$?
    echo
    echo "=== summary"
    cat "$log.steps"
    # nextest: "Summary [ 12.3s] 300 tests run: 300 passed, 0 skipped"; cargo test: "test result: ok. 12 passed; …". Empty doctest runs are left out.
    grep -hE '^ *(Summary \[|FAIL \[|SIGABRT \[|TIMEOUT \[|TERMINATING \[)|^test result: |^test .* FAILED$' "$log" | grep -vE '^test result: ok\. 0 passed; 0 failed; 0 ignored' | sort -u || true
    if [[ -n $finished ]]; then
        echo "make test: passed in $SECONDS s"
    else
        echo "make test: FAILED in step \"$step_name\" (exit $code); the whole log of the test runs is $log"
    fi
}
: >"$log.steps"
trap summary EXIT

profile=default
if [[ -n ${CI:-} ]]; then profile=ci; fi

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --workspace --all-targets --locked -- -D warnings

# The whole-system tests start the programs as a user would, so those have to be there first.
step "programs"
cargo build --workspace --locked --bins

step "tests"
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --locked --profile "$profile" 2>&1 | tee -a "$log"
    step "doctests"
    cargo test --workspace --locked --doc 2>&1 | tee -a "$log"
else
    echo "cargo-nextest is not installed: plain cargo test, in which the heavy whole-system tests share one process with the others"
    cargo test --workspace --locked --no-fail-fast 2>&1 | tee -a "$log"
fi

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet

step "dependencies"
if cargo deny --version >/dev/null 2>&1; then
    cargo deny --workspace --locked check
else
    echo "cargo-deny is not installed: advisories and licences were not checked here (the arrows test still holds the lock file)"
fi

end_step
finished=yes
