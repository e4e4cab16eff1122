#!/usr/bin/env bash
# `make down`: stops the cloud and removes guests, bridges, namespaces and nft tables. Disks and data stay.
# `make clean-data` (down.sh --data): removes the data too.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

home=${KILONOVA_HOME:-$(default_home)}
[ -e "$home" ] || { say "there is no cloud at $home"; exit 0; }
[ -x "$BINARY" ] || die "$BINARY is not built; \`make build\` builds it"
privileged=as_root
[ -w "$home" ] && privileged="env"

say "stopping the cloud at $home"
$privileged "$BINARY" down --home "$home"
[ "${1:-}" = --data ] || { say "stopped; the data stays in $home (\`make clean-data\` removes it)"; exit 0; }

# Only what is surely the folder of a cloud is removed.
case $(readlink -f "$home") in / | /home | /root | /usr* | /etc* | /var | /var/lib | "$(readlink -f "$HOME")" | "$ROOT") die "$home is not removed" ;; esac
if ! $privileged test -e "$home/clouds.yaml" && ! $privileged test -e "$home/log"; then
    die "$home does not look like the folder of a cloud; remove it by hand"
fi
$privileged rm -rf -- "$home"
say "removed $home"
