# What the scripts of `make` share. Sourced, not run.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PATH=$PATH:/usr/sbin:/sbin
# shellcheck disable=SC2034 # used by those who source this
BINARY=${CARGO_TARGET_DIR:-$ROOT/target}/debug/kilonova

# Where the cloud lives when KILONOVA_HOME does not say. A user without root can have a simulated cloud.
default_home() {
    if [ "${HYPERVISOR:-libvirt}" = sim ] && [ "$(id -u)" != 0 ]; then
        printf '%s\n' "${XDG_DATA_HOME:-$HOME/.local/share}/kilonova"
    else
        printf '%s\n' /var/lib/kilonova
    fi
}

say() { printf '%s\n' "$*"; }
die() {
    printf '%s\n' "$*" >&2
    exit 1
}

# Runs a command as root: as it is, or through sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -- "$@"; fi
}

# Runs a command, its output in a log, with one line that says what is being done and for how long.
# On a terminal the line counts the seconds; elsewhere it is repeated every 15 seconds.
progress() { # progress "what" LOG COMMAND...
    local what=$1 log=$2 started=$SECONDS shown=0 code=0 pid
    shift 2
    "$@" >> "$log" 2>&1 < /dev/null &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        if [ -t 1 ]; then
            printf '\r\033[K%s ... %d s' "$what" $((SECONDS - started))
        elif [ $((SECONDS - started)) -ge $((shown + 15)) ]; then
            shown=$((SECONDS - started))
            say "$what ... $shown s"
        fi
        sleep 0.2
    done
    wait "$pid" || code=$?
    if [ -t 1 ]; then printf '\r\033[K'; fi
    if [ $code = 0 ]; then
        say "$what: done, $((SECONDS - started)) s"
    else
        say "$what: failed after $((SECONDS - started)) s; the end of $log:"
        tail -n 25 "$log"
    fi
    return $code
}

# Makes the Python environment with the stock client, or leaves the one that fits.
make_venv() { # make_venv FOLDER REQUIREMENTS LOG
    local folder=$1 requirements=$2 log=$3 stamp
    stamp=$(cat "$ROOT"/scripts/requirements*.txt "$requirements" | sha256sum)
    if [ "$(cat "$folder/stamp" 2>/dev/null)" = "$stamp" ] && [ -x "$folder/bin/python" ]; then return; fi
    progress "stock OpenStack client from PyPI" "$log" install_venv "$folder" "$requirements" || return
    printf '%s\n' "$stamp" > "$folder/stamp"
}
install_venv() {
    # The distribution's Python: another one in PATH may lack the module venv.
    local try
    for try in 1 2 3; do
        /usr/bin/python3 -m venv --clear "$1" && "$1/bin/pip" install --disable-pip-version-check -q -r "$2" && return
        [ "$try" = 3 ] || sleep $((try * 5))
    done
    return 1
}
