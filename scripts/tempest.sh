#!/usr/bin/env bash
# `make tempest`: Tempest from PyPI against a cloud of its own (tests/tempest/run.py, whose options these are).
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT"

cache=${KILONOVA_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/kilonova}
target=${CARGO_TARGET_DIR:-$ROOT/target}
mkdir -p "$cache"
(
    exec 8> "$cache/venv-tempest.lock"
    flock 8
    make_venv "$cache/venv-tempest" scripts/requirements-tempest.txt "$cache/venv-tempest.log"
)
cargo build --locked --package kilonova
export KILONOVA_BINARY=${KILONOVA_BINARY:-$BINARY} PYTHONDONTWRITEBYTECODE=1
python=$cache/venv-tempest/bin/python
case " $* " in
*" --hypervisor real "* | *" --hypervisor hosts "*)
    scripts/install-packages.sh run
    scripts/guest-image/build.sh "$target/guest.qcow2"
    # Bridges and namespaces are the machine's own: one suite at a time.
    as_root touch /run/lock/kilonova-e2e
    exec 7< /run/lock/kilonova-e2e
    flock 7
    as_root env "KILONOVA_BINARY=$KILONOVA_BINARY" "$python" tests/tempest/run.py --out "$target/tempest" \
        --guest-image "$target/guest.qcow2" "$@"
    ;;
*) "$python" tests/tempest/run.py --out "$target/tempest" "$@" ;;
esac
