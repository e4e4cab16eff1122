#!/usr/bin/env bash
# `make chaos`: random actions of many tenants on a cloud of many processes that are killed and stopped at random.
#
#   usage: chaos.sh [--seconds N] [--seed N] ...    (tests/chaos/README.md)
#
# SEED=N repeats the disturbances of a run and the choices of its tenants. Needs PostgreSQL and RabbitMQ as programs
# (scripts/install-packages.sh test); what it starts is its own, on free ports and in a temporary folder.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT"

cache=${KILONOVA_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/kilonova}
mkdir -p "$cache"
exec 8> "$cache/venv-test.lock"
flock 8
make_venv "$cache/venv-test" scripts/requirements-test.txt "$cache/venv-test.log"
exec 8>&-
cargo build --quiet --locked --package kilonova
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$ROOT/tests/e2e KILONOVA_BINARY=$BINARY
exec "$cache/venv-test/bin/python" tests/chaos/chaos.py "$@"
