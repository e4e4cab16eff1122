#!/usr/bin/env bash
# `make up`: from a fresh machine to a running cloud with a first server. Safe to repeat.
#
# Environment:
#   KILONOVA_HOME  where everything of the cloud lives (default /var/lib/kilonova)
#   DEMO=0         no demo server
#   HYPERVISOR     libvirt (default) or sim; HOSTS=N simulated hosts
#   UP_ARGS        more arguments for `kilonova up`
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

home=${KILONOVA_HOME:-$(default_home)}
hypervisor=${HYPERVISOR:-libvirt}
demo=${DEMO:-1}
read -r -a more <<< "${UP_ARGS:-}"
read -r -a hosts <<< "${HOSTS:+--hosts $HOSTS}"
ready_seconds=120

# The real cloud needs root for guests and networks; the simulated one needs nothing.
privileged=as_root
[ "$hypervisor" = sim ] && privileged="env"

if [ "$hypervisor" = sim ]; then set_of_packages=build; else set_of_packages=run; fi
"$ROOT/scripts/install-packages.sh" "$set_of_packages"
command -v cargo >/dev/null || die "no cargo in PATH: install Rust first (https://rustup.rs)"

logs=$(mktemp -d "${TMPDIR:-/tmp}/kilonova-up.XXXXXX")
trap 'rm -rf "$logs"' EXIT

(cd "$ROOT" && progress "building kilonova" "$logs/build" cargo build --locked --package kilonova) || exit 1
$privileged mkdir -p "$home"
image=$home/guest-image/cirros-kilonova.qcow2
progress "guest image" "$logs/image" $privileged "$ROOT/scripts/guest-image/build.sh" "$image" || exit 1
# shellcheck disable=SC2016 # for the inner shell
$privileged bash -c '. "$1/scripts/lib.sh"; make_venv "$2/venv" "$1/scripts/requirements.txt" "$3"' \
    bash "$ROOT" "$home" "$logs/venv" || exit 1

start_cloud() {
    # A file of the last run must not look like the sign of this one.
    $privileged rm -f "$home/clouds.yaml" "$home/openrc"
    # What the caller has open, a lock say, must not stay open as long as the cloud runs.
    # shellcheck disable=SC2016 # for the inner shell
    $privileged bash -c 'for fd in /proc/$$/fd/*; do [ "${fd##*/}" -le 2 ] || eval "exec ${fd##*/}>&-"; done
        log=$1; shift; setsid nohup "$@" >> "$log" 2>&1 < /dev/null & echo $!' bash "$home/log" \
        "$BINARY" up --home "$home" --hypervisor "$hypervisor" "${hosts[@]}" "${more[@]}"
}

wait_ready() {
    local pid=$1 started=$SECONDS
    until $privileged test -e "$home/clouds.yaml" && $privileged test -e "$home/openrc"; do
        if [ ! -e "/proc/$pid" ]; then
            $privileged tail -n 25 "$home/log"
            die "kilonova ended; its log is $home/log"
        fi
        if [ $((SECONDS - started)) -ge $ready_seconds ]; then
            $privileged tail -n 25 "$home/log"
            die "the cloud is not ready after $ready_seconds s; its log is $home/log"
        fi
        if [ -t 1 ]; then printf '\r\033[Kstarting the cloud ... %d s' $((SECONDS - started)); fi
        sleep 0.2
    done
    if [ -t 1 ]; then printf '\r\033[K'; fi
    say "starting the cloud: ready, $((SECONDS - started)) s"
}

if $privileged "$BINARY" status --home "$home" >/dev/null 2>&1; then
    say "the cloud is running already"
else
    wait_ready "$(start_cloud)"
fi

arguments=(--home "$home" --image "$image")
if [ "$demo" = 0 ]; then arguments+=(--no-server); fi
if [ "$hypervisor" = sim ]; then arguments+=(--no-ssh); fi
$privileged "$home/venv/bin/python" "$ROOT/scripts/demo.py" "${arguments[@]}"
