#!/usr/bin/env bash
# `make bench`: the benchmark of tests/bench, with real guests where this is root. It goes on after a goal that was missed,
# and ends with 1 then.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT"

cache=${KILONOVA_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/kilonova}
target=${CARGO_TARGET_DIR:-$ROOT/target}
scripts/install-packages.sh bench test
mkdir -p "$cache"
make_venv "$cache/venv-test" scripts/requirements-test.txt "$cache/venv-test.log"
# The figures are those of an optimized binary, as one would install it; `make build` makes a quicker built one.
cargo build --locked --release --package kilonova
more=()
kills=
case " $* " in *" --kills "*) kills=1 ;; esac
if [ "$(id -u)" = 0 ] && [ -z "$kills" ]; then
    scripts/guest-image/build.sh "$target/guest.qcow2"
    more=(--real --guest-image "$target/guest.qcow2")
fi
export KILONOVA_BINARY=$target/release/kilonova
missed=0
# Beside a PostgreSQL of its own, for creates on it. (It does not wait for the disk.)
scripts/test-databases.sh "$cache/venv-test/bin/python" tests/bench/bench.py --json "$target/bench.json" "${more[@]}" "$@" || missed=1
if [ -n "$kills" ]; then exit "$missed"; fi
scripts/test-databases.sh cargo bench --locked --package kilonova-journal --bench steps
if [ "$(id -u)" = 0 ]; then
    # Guests that move between hosts: one suite of those at a time on a machine.
    touch /run/lock/kilonova-e2e
    flock /run/lock/kilonova-e2e "$cache/venv-test/bin/python" tests/bench/blackout.py --guest-image "$target/guest.qcow2" || missed=1
fi
exit "$missed"
