#!/usr/bin/env bash
# Builds the release before this one, for the test of a rolling upgrade (tests/e2e/test_two_releases.py).
#
#   usage: previous.sh [REF]
#
# REF is what to build: by default the newest tag that is not this commit, and where there is none the commit before
# compute's schema last changed, so that the two releases differ in it. The binary is target/previous/kilonova; its
# path is the last line that is printed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT"

ref=${1:-$(git describe --tags --abbrev=0 HEAD^ 2>/dev/null || true)}
if [ -z "$ref" ]; then
    newest=$(git log -1 --diff-filter=A --format=%H -- crates/db/src/migrations)
    ref=$(git rev-parse --verify --quiet "$newest^") ||
        die "the history does not go back to the release before: git fetch --unshallow"
fi
commit=$(git rev-parse --verify --quiet "$ref^{commit}") || die "no commit $ref"

target=${CARGO_TARGET_DIR:-$ROOT/target}/previous
mkdir -p "$target"
if [ "$(cat "$target/commit" 2>/dev/null)" != "$commit" ]; then
    say "building $commit" >&2
    source=$(mktemp -d "${TMPDIR:-/tmp}/kilonova-previous.XXXXXX")
    trap 'rm -rf "$source"' EXIT
    git archive "$commit" | tar -x -C "$source"
    (cd "$source" && CARGO_TARGET_DIR=$target/build cargo build --quiet --locked --package kilonova) >&2
    mv "$target/build/debug/kilonova" "$target/kilonova"
    # Some gigabytes, for a release that does not change.
    rm -rf "$target/build"
    echo "$commit" > "$target/commit"
fi
echo "$target/kilonova"
