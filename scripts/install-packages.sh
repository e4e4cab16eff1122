#!/usr/bin/env bash
# Installs the distribution packages that Kilonova needs and that are missing (Debian 12 and 13, Ubuntu 24.04).
#
#   usage: install-packages.sh [run|build|test|bench|long] ...      default: run
#
#   build  a C compiler for the bundled SQLite
#   run    libvirt, QEMU, swtpm, dnsmasq, nftables, what builds the guest image, a Python for the stock client;
#          and the system user `kilonova`, which the part of the cloud without privileges becomes
#   test   run, and PostgreSQL, MariaDB, RabbitMQ, tools of the tests
#   bench  run, and wrk
#   long   what builds the Debian guest of the slow test
#
# Starts no service: what the packages would start stays stopped (a policy-rc.d is in place meanwhile).
# Needs root or sudo only when something is missing. Installs nothing else, and removes nothing.
set -euo pipefail
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin

build=(gcc libc6-dev ca-certificates)
image=(fakeroot mtools dosfstools syslinux syslinux-common e2fsprogs fdisk kmod cpio xz-utils zstd)
run=(libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils swtpm swtpm-tools dnsmasq-base
    nftables iproute2 procps openssh-client python3 python3-venv "${build[@]}" "${image[@]}")
test=("${run[@]}" postgresql mariadb-server rabbitmq-server xorriso shellcheck openssl iputils-ping
    libfaketime curl)
# Without it the network agent's tests on a real kernel are skipped. Its packages exclude each other: any will do.
command -v busybox >/dev/null || test+=(busybox)
# Only for the slow test with a Debian guest.
long=(mmdebstrap debian-archive-keyring)
bench=("${run[@]}" wrk iputils-ping)

say() { echo "packages: $*"; }
die() { echo "packages: $*" >&2; exit 1; }

wanted=()
user=
for set in "${@:-run}"; do
    case $set in
    build) wanted+=("${build[@]}") ;;
    run) wanted+=("${run[@]}") user=kilonova ;;
    test) wanted+=("${test[@]}") user=kilonova ;;
    bench) wanted+=("${bench[@]}") user=kilonova ;;
    long) wanted+=("${long[@]}") ;;
    *) die "unknown set $set; usage: $0 [run|build|test|bench|long] ..." ;;
    esac
done

missing() {
    local package
    for package in $(printf '%s\n' "${wanted[@]}" | sort -u); do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
    done
}

command -v dpkg-query >/dev/null || die "only Debian and Ubuntu are known here; install by hand: ${wanted[*]}"
user_is_there() { [ -z "$user" ] || getent passwd "$user" >/dev/null; }
mapfile -t need < <(missing)
if [ ${#need[@]} = 0 ] && user_is_there; then
    say "all there"
    exit 0
fi

# Only one of these at a time; what the other one has installed need not be installed again.
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "root or sudo is needed for packages (${need[*]}) and the system user ${user:-(none)}"
    say "asking sudo, for ${#need[@]} packages (${need[*]}) and the system user ${user:-(none)}"
    exec sudo -- "$0" "$@"
fi
exec 9>/run/kilonova-packages.lock
flock 9
if ! user_is_there; then
    useradd --system --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin "$user"
    say "made the system user $user"
fi
mapfile -t need < <(missing)
[ ${#need[@]} -gt 0 ] || exit 0

log=$(mktemp "${TMPDIR:-/tmp}/kilonova-packages.XXXXXX")
guard=/usr/sbin/policy-rc.d
guarded=
finish() {
    if [ -n "$guarded" ]; then rm -f "$guard"; fi
    rm -f "$log"
}
trap finish EXIT
trap 'exit 130' INT TERM
if [ ! -e "$guard" ]; then
    guarded=1
    printf '#!/bin/sh\n# Temporary: keeps packages from starting services.\nexit 101\n' > "$guard"
    chmod 755 "$guard"
fi

# Runs a command quietly, with a line every ten seconds that says how far it is.
quietly() { # quietly WHAT COMMAND...
    local what=$1 started=$SECONDS shown=$SECONDS pid
    shift
    "$@" > "$log" 2>&1 9>&- < /dev/null &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.5
        if [ $((SECONDS - shown)) -ge 10 ]; then
            shown=$SECONDS
            say "$what, $((SECONDS - started)) s: $(tail -n 1 "$log" | cut -c1-80)"
        fi
    done
    wait "$pid"
}

apt() {
    DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=5 \
        -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"
}
install() { apt install --no-install-recommends "$@"; }

for try in 1 2 3 4 5; do
    quietly "updating the package lists" apt update && break
    say "apt-get update failed (try $try of 5): $(grep -m1 '^[EW]:' "$log" || tail -n 1 "$log")"
    sleep $((try * 3))
done

say "installing ${#need[@]} packages: ${need[*]}"
started=$SECONDS
if ! quietly installing install "${need[@]}"; then
    # A machine may carry qemu-utils of a newer release (backports) than the QEMU that is to be installed; the two
    # do not go together. Then qemu-utils follows.
    version=$(apt-cache policy qemu-system-x86 | awk '/Candidate:/ { print $2 }')
    have=$(dpkg-query -W -f='${Version}' qemu-utils 2>/dev/null || true)
    if [ -n "$have" ] && [ "$have" != "$version" ]; then
        say "the installed qemu-utils $have does not go with qemu-system-x86 $version; replacing it"
        quietly installing install --allow-downgrades "${need[@]}" "qemu-utils=$version" ||
            { tail -n 30 "$log" >&2; die "apt-get install failed"; }
    else
        tail -n 30 "$log" >&2
        die "apt-get install failed"
    fi
fi
mapfile -t need < <(missing)
if [ ${#need[@]} -gt 0 ]; then
    # To make room apt may have removed what was there in another release (qemu-utils of the backports): now it fits.
    say "and once more: ${need[*]}"
    quietly installing install "${need[@]}" || { tail -n 30 "$log" >&2; die "apt-get install failed"; }
    mapfile -t need < <(missing)
fi
[ ${#need[@]} = 0 ] || die "still missing: ${need[*]}"
say "installed in $((SECONDS - started)) s"
