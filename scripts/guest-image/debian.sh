#!/usr/bin/env bash
# Builds a full Debian guest with the real cloud-init, for the slow end-to-end test.
#
#   usage: debian.sh OUT.qcow2        (root; about two minutes; needs the package mmdebstrap)
#
# Nothing of it is ours: Debian's packages, Debian's cloud-init, Debian's defaults. It has no password and no key; what
# it has after its first boot came from the cloud. Boots by BIOS from a virtio disk.
set -euo pipefail
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
umask 022

out=${1:?usage: debian.sh OUT.qcow2}
suite=${DEBIAN_SUITE:-bookworm}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
root_mib=1400
boot_mib=96
packages=linux-image-cloud-amd64,systemd-sysv,udev,dbus,netplan.io,systemd-resolved,cloud-init,cloud-guest-utils
packages+=,openssh-server,sudo,qemu-guest-agent,iproute2,iputils-ping,wget,ca-certificates

die() { echo "debian-guest: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || die "run this as root"
for tool in mmdebstrap sfdisk mkfs.vfat mcopy syslinux mke2fs qemu-img; do
    command -v "$tool" >/dev/null || die "missing: $tool"
done
if [ -s "$out" ] && [ "$out" -nt "$0" ]; then
    echo "debian-guest: $out is up to date"
    exit 0
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/debian-guest.XXXXXX")
trap 'rm -rf "$work"' EXIT
started=$SECONDS
keyring=()
# On a distribution that does not know Debian's keys the package debian-archive-keyring brings them.
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] &&
    keyring=(--keyring=/usr/share/keyrings/debian-archive-keyring.gpg)
# shellcheck disable=SC2016 # for the shell of the hooks
mmdebstrap --quiet --variant=apt --mode=root "${keyring[@]}" --include="$packages" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='echo "LABEL=debian-root / ext4 defaults,x-systemd.growfs 0 1" > "$1/etc/fstab"' \
    --customize-hook='rm -f "$1"/etc/ssh/ssh_host_* "$1/etc/hostname" "$1/etc/resolv.conf" "$1/etc/machine-id"; : > "$1/etc/machine-id"' \
    --customize-hook='ln -s /run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"' \
    --customize-hook='chroot "$1" systemctl enable systemd-networkd systemd-resolved' \
    "$suite" "$work/root" "$mirror"

raw=$work/disk.raw
start2=$((1 + boot_mib))
truncate -s $((start2 + root_mib + 1))M "$raw"
sfdisk -q "$raw" <<TABLE
label: dos
start=1MiB, size=${boot_mib}MiB, type=e, bootable
start=${start2}MiB, type=83
TABLE
dd if=/usr/lib/syslinux/mbr/mbr.bin of="$raw" bs=440 count=1 conv=notrunc status=none
mkfs.vfat -F 16 -n DEBBOOT --offset 2048 "$raw" $((boot_mib * 1024)) >/dev/null 2>&1
cat > "$work/syslinux.cfg" <<CONFIG
SERIAL 0 115200
DEFAULT debian
PROMPT 0
LABEL debian
 KERNEL vmlinuz
 APPEND initrd=initrd.img root=LABEL=debian-root ro console=tty0 console=ttyS0,115200 no_timer_check net.ifnames=0
CONFIG
export MTOOLS_SKIP_CHECK=1
mcopy -i "$raw@@1M" "$work"/root/boot/vmlinuz-* ::vmlinuz
mcopy -i "$raw@@1M" "$work"/root/boot/initrd.img-* ::initrd.img
mcopy -i "$raw@@1M" "$work/syslinux.cfg" ::syslinux.cfg
syslinux --install --offset $((1024 * 1024)) "$raw"
rm -rf "$work"/root/boot/* "$work"/root/var/cache/apt/*.bin "$work"/root/var/lib/apt/lists/*
mke2fs -q -t ext4 -L debian-root -m 0 -O ^metadata_csum,^orphan_file \
    -E "offset=$((start2 * 1024 * 1024)),lazy_itable_init=0,lazy_journal_init=0" -d "$work/root" "$raw" ${root_mib}m
qemu-img convert -q -c -O qcow2 "$raw" "$out.new"
mv "$out.new" "$out"
echo "debian-guest: built $out: $(($(stat -c %s "$out") / 1000000)) MB, $((SECONDS - started)) s"
