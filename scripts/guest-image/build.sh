#!/usr/bin/env bash
# Builds the small guest image that a fresh cloud offers, from packages of this machine's distribution.
#
#   usage: build.sh OUT.qcow2
#
# The guest: the distribution's kernel for virtual machines, busybox, dropbear, qemu-guest-agent. It boots by BIOS
# from a virtio, NVMe or SCSI disk, obeys a config drive or the metadata service, and lets in the user `cirros`
# (password `gocubsgo`, sudo without a password) and root by key. See README.md beside this file.
#
# No mount, no loop device, nothing installed on this machine: the guest's programs are downloaded with apt-get into
# a cache and unpacked there. Runs as root, or as a user under fakeroot (it starts that itself).
#
# Environment:
#   KILONOVA_CACHE     where unpacked packages are kept (default: $XDG_CACHE_HOME/kilonova, ~/.cache/kilonova)
#   GUEST_ROOT_MIB     size of the root file system before it grows (default 40)
set -euo pipefail
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:?usage: build.sh OUT.qcow2}
cache=${KILONOVA_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/kilonova}/guest-image
root_mib=${GUEST_ROOT_MIB:-40}
# usr-is-merged keeps apt from choosing a large alternative of the same meaning.
programs=(busybox-static dropbear-bin qemu-guest-agent e2fsprogs util-linux fdisk usr-is-merged)
fresh_days=7
max_bytes=$((25 * 1000 * 1000))

say() { echo "guest-image: $*"; }
die() { echo "guest-image: $*" >&2; exit 1; }

if [ "$(id -u)" != 0 ] && [ -z "${FAKEROOTKEY:-}" ]; then
    command -v fakeroot >/dev/null || die "run this as root, or install fakeroot"
    exec fakeroot -- "$0" "$@"
fi

[ "$(uname -m)" = x86_64 ] || die "only x86_64 is supported (this is $(uname -m))"
for tool in sfdisk mkfs.vfat mcopy syslinux mke2fs depmod modprobe cpio qemu-img dpkg-deb cc; do
    command -v "$tool" >/dev/null || die "missing: $tool (scripts/install-packages.sh run installs it)"
done
mbr=/usr/lib/syslinux/mbr/mbr.bin
[ -e "$mbr" ] || die "missing: $mbr (package syslinux-common)"

# ---------------------------------------------------------------------------------------------- packages
# apt is asked as if nothing were installed, so that it names every library too.
apt_guest() { # apt_guest DIRECTORY APT-ARGUMENT...
    local dir=$1
    shift
    mkdir -p "$dir/archives/partial"
    : > "$dir/status"
    apt-get -q -y --no-install-recommends -o Acquire::Retries=5 \
        -o Dir::State::status="$dir/status" -o Dir::Cache::archives="$dir/archives" \
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o Debug::NoLocking=true \
        -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0 "$@"
}

# The packages behind the meta package: an image, and on Ubuntu its modules apart.
kernel_packages() {
    local meta image
    meta=linux-image-cloud-amd64
    # shellcheck disable=SC1091
    [ "$(. /etc/os-release && echo "$ID")" = ubuntu ] && meta=linux-image-virtual
    image=$(apt-cache depends "$meta" 2>/dev/null | awk '$1 ~ /Depends:$/ && $2 ~ /^linux-image-[0-9]/ { print $2; exit }')
    [ -n "$image" ] || return 1
    echo "$image"
    apt-cache depends "$image" | awk '$1 ~ /Depends:$/ && $2 ~ /^linux-modules-[0-9]/ { print $2; exit }'
}

# Only root can: within fakeroot it fails.
renew_lists() { apt-get -q -y -o Acquire::Retries=5 update >&2; }

# Prints the folder that holds the unpacked packages, filling it first where it is not there yet.
fetch_packages() {
    local wanted key dir kernel deb
    mkdir -p "$cache"
    # Another build at the same time waits here and then finds everything.
    exec 8> "$cache/lock"
    flock 8
    dir=$(find "$cache" -maxdepth 2 -path '*/packages-*/complete' -mtime "-$fresh_days" | tail -1)
    if [ -n "$dir" ]; then
        dirname "$dir"
        return
    fi
    plan() { kernel=$(kernel_packages) && wanted=$(apt_guest "$cache/plan" -s install "${programs[@]}" 2>/dev/null); }
    if ! plan && { ! renew_lists || ! plan; }; then
        dir=$(find "$cache" -maxdepth 2 -path '*/packages-*/complete' | tail -1)
        [ -n "$dir" ] || die "apt-get does not know the packages needed; run: apt-get update"
        dirname "$dir"
        return
    fi
    # shellcheck disable=SC2086 # one or two names
    wanted=$(awk '$1 == "Inst" { print $2, $3 }' <<<"$wanted" | sort && apt-cache policy $kernel | awk '/Candidate/ { print "kernel", $2 }')
    key=$(sha256sum <<<"$wanted" | cut -c1-12)
    dir=$cache/packages-$key
    if [ ! -e "$dir/complete" ]; then
        rm -rf "$cache"/packages-*
        mkdir -p "$dir/tree"
        say "downloading $(wc -l <<<"$wanted") packages" >&2
        download() {
            # shellcheck disable=SC2086 # one or two names
            apt_guest "$dir" -qq --download-only install "${programs[@]}" >&2 &&
                (cd "$dir/archives" && apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=5 download $kernel >&2)
        }
        # Packages of old lists may be gone.
        download || { renew_lists && download; }
        for deb in "$dir"/archives/*.deb; do
            dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$dir/tree" --no-same-owner \
                --keep-directory-symlink --exclude='./usr/share' --exclude='./usr/src' --exclude='./dev'
        done
        rm -rf "$dir/archives"
        keep_needed_modules "$dir"
    fi
    touch "$dir/complete"
    echo "$dir"
}

# Of the kernel only the image and the drivers of a virtual machine are kept, unpacked and in loading order.
keep_needed_modules() { # keep_needed_modules DIRECTORY
    local tree=$1/tree modules base version path name plain
    local drivers="virtio_pci virtio_blk virtio_net virtio_scsi sd_mod sr_mod ata_piix ahci virtio_console virtio_rng
        virtio_balloon nvme ext4 isofs vfat nls_cp437 nls_ascii nls_iso8859_1 nls_utf8 button evdev af_packet ipv6"
    for base in "$tree" "$tree/usr"; do
        [ -d "$base/lib/modules" ] && [ -n "$(ls "$base/lib/modules")" ] && break
    done
    version=$(find "$base/lib/modules" -mindepth 1 -maxdepth 1 -printf '%f\n' | sort -V | tail -1)
    depmod -b "$base" "$version" 2>/dev/null || depmod -b "$tree" "$version"
    modules=$1/modules
    mkdir -p "$modules"
    for name in $drivers; do
        modprobe -d "$base" -S "$version" --show-depends "$name" 2>/dev/null | awk '$1 == "insmod" { print $2 }'
    done | awk '!seen[$0]++' > "$1/insmod"
    while read -r path; do
        name=$(basename "$path")
        plain=${name%.ko*}.ko
        case $name in
        *.xz) xz -dc "$path" > "$modules/$plain" ;;
        *.zst) zstd -qdc "$path" > "$modules/$plain" ;;
        *.gz) gzip -dc "$path" > "$modules/$plain" ;;
        *) cp "$path" "$modules/$plain" ;;
        esac
        echo "$plain" >> "$modules/order"
    done < "$1/insmod"
    [ -s "$modules/order" ] || die "no driver found in the kernel package ($base/lib/modules/$version)"
    cp "$tree"/boot/vmlinuz-* "$1/vmlinuz"
    rm -rf "${base:?}/lib/modules" "${tree:?}/boot"
}

# ---------------------------------------------------------------------------------------------- trees
# Copies programs of the unpacked packages into a tree, with the libraries that they load.
copy_programs() { # copy_programs TREE PROGRAM...
    local tree=$1 program source loader library
    shift
    loader=$(find "$packages/tree" -name 'ld-linux-x86-64.so.2' | head -1)
    mkdir -p "$tree/usr/bin" "$tree/usr/lib/x86_64-linux-gnu" "$tree/usr/lib64"
    for program in "$@"; do
        source=$(find "$packages/tree" \( -type f -o -type l \) -path "*bin/$program" | head -1)
        [ -n "$source" ] || die "no program $program in the packages"
        rm -f "$tree/usr/bin/$program"
        cp -L "$source" "$tree/usr/bin/$program"
        while read -r library; do
            cp -Ln "$library" "$tree/usr/lib/x86_64-linux-gnu/"
        done < <(env -u LD_PRELOAD "$loader" --inhibit-cache --library-path "$library_path" --list "$source" |
            awk -v loader="$loader" '/=> \// && $3 != loader { print $3 }')
    done
    cp -L "$loader" "$tree/usr/lib64/ld-linux-x86-64.so.2"
}

# The bare tree: every program in /usr/bin, the older names are links to it.
busybox_tree() { # busybox_tree TREE
    local tree=$1 applet
    mkdir -p "$tree"/{dev,proc,sys,tmp,run,root,mnt,etc,home,var/log,var/lib,usr/bin,usr/lib,usr/lib64}
    ln -s usr/bin "$tree/bin"
    ln -s usr/bin "$tree/sbin"
    ln -s bin "$tree/usr/sbin"
    ln -s usr/lib "$tree/lib"
    ln -s usr/lib64 "$tree/lib64"
    ln -s ../run "$tree/var/run"
    cp "$busybox" "$tree/usr/bin/busybox"
    for applet in $("$busybox" --list); do
        case $applet in busybox | dpkg | dpkg-deb | rpm | rpm2cpio) continue ;; esac
        ln -s busybox "$tree/usr/bin/$applet"
    done
}

check_applets() {
    local applet have
    have=" $("$busybox" --list | tr '\n' ' ') "
    for applet in sh init getty login udhcpc acpid awk sed wget nc mount insmod switch_root findfs mkpasswd ip; do
        [[ $have == *" $applet "* ]] || die "busybox-static of this distribution has no $applet"
    done
}

build_initramfs() { # build_initramfs TREE OUT
    busybox_tree "$1"
    copy_programs "$1" sfdisk
    cp -r "$packages/modules" "$1/modules"
    install -m755 "$here/initramfs/init" "$1/init"
    (cd "$1" && find . | sort | cpio --quiet -o -H newc -R 0:0 | gzip -9n) > "$2"
}

build_root() { # build_root TREE
    local tree=$1 status=0
    busybox_tree "$tree"
    copy_programs "$tree" dropbear dropbearkey dbclient resize2fs mke2fs e2fsck tune2fs mkfs blkid lsblk sfdisk qemu-ga
    ln -sf mke2fs "$tree/usr/bin/mkfs.ext4"
    ln -sf mke2fs "$tree/usr/bin/mkfs.ext3"
    ln -sf mke2fs "$tree/usr/bin/mkfs.ext2"
    rm -f "$tree/usr/bin/mkfs.vfat"
    printf '#!/bin/sh\nexec mkdosfs "$@"\n' > "$tree/usr/bin/mkfs.vfat"
    cp -r "$here/root/." "$tree/"
    chmod 755 "$tree"/etc/init.d/* "$tree"/etc/acpi/PWRF/* "$tree"/usr/lib/guest/* \
        "$tree"/usr/bin/{curl,chpasswd,shutdown,mkfs.vfat}
    chmod 644 "$tree/usr/lib/guest/json.awk"
    # "wget -T" of Debian 12's static busybox ends with a segmentation fault: look, and stand in for it. The shell
    # prefers its own applets to files, so the applet also needs another name (same length, same place in the order).
    { "$busybox" wget -T 1 -q -O /dev/null http://127.0.0.1:1/; } 2>/dev/null || status=$?
    if [ $status -ge 128 ]; then
        sed -i 's/\x00wget\x00which\x00/\x00wgeT\x00which\x00/' "$tree/usr/bin/busybox"
        "$tree/usr/bin/busybox" --list | grep -qx wgeT || die "busybox crashes on wget -T and cannot be changed"
        rm "$tree/usr/bin/wget"
        ln -s ../lib/guest/wget-without-timeout "$tree/usr/bin/wget"
    fi
    # "ping" wants rights that a user does not have, and the shell runs its own: the same, through sudo.
    sed -i 's/\x00ping\x00ping6\x00/\x00pinG\x00pinG6\x00/' "$tree/usr/bin/busybox"
    "$tree/usr/bin/busybox" --list | grep -qx pinG6 || die "the applet ping cannot be changed"
    for applet in ping ping6; do
        rm "$tree/usr/bin/$applet"
        printf '#!/bin/sh\nexec sudo busybox %s "$@"\n' "${applet/g/G}" > "$tree/usr/bin/$applet"
        chmod 755 "$tree/usr/bin/$applet"
    done
    cc -static -Os -s -Wall -Wextra -o "$tree/usr/bin/sudo" "$here/sudo.c"

    mkdir -p "$tree"/root/.ssh "$tree"/home/cirros/.ssh "$tree"/etc/dropbear
    printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'cirros:x:1000:1000:cirros:/home/cirros:/bin/sh' \
        'nobody:x:65534:65534:nobody:/:/bin/false' > "$tree/etc/passwd"
    printf '%s\n' 'root:x:0:' 'tty:x:5:' 'disk:x:6:' 'sudo:x:27:cirros' 'cirros:x:1000:' 'nogroup:x:65534:' > "$tree/etc/group"
    printf 'root:*:19000:0:99999:7:::\ncirros:%s:19000:0:99999:7:::\n' \
        "$(printf gocubsgo | "$busybox" mkpasswd -m sha512 -S kilonovaguest -P 0)" > "$tree/etc/shadow"
    echo guest > "$tree/etc/hostname"
    printf '127.0.0.1 localhost\n::1 localhost\n' > "$tree/etc/hosts"
    echo /bin/sh > "$tree/etc/shells"
    : > "$tree/etc/resolv.conf"
    printf 'Kilonova guest, \\n, kernel \\r\nlog in as cirros, password gocubsgo, or as root with a key\n\n' > "$tree/etc/issue"
    printf 'export PATH=/usr/sbin:/usr/bin:/sbin:/bin\nexport PS1='\''\\u@\\h:\\w\\$ '\''\n' > "$tree/etc/profile"
    printf 'NAME="Kilonova guest"\nID=kilonova-guest\nPRETTY_NAME="Kilonova guest"\n' > "$tree/etc/os-release"
    chown -R 0:0 "$tree"
    chown -R 1000:1000 "$tree/home/cirros"
    chmod 600 "$tree/etc/shadow"
    chmod 700 "$tree/root" "$tree/root/.ssh" "$tree/home/cirros/.ssh"
    chmod 4755 "$tree/usr/bin/sudo"
    chmod 1777 "$tree/tmp"
}

# ---------------------------------------------------------------------------------------------- disk
# Partition 1: FAT with syslinux, kernel and initramfs. Partition 2: the root file system, last so that it can grow.
assemble_disk() { # assemble_disk ROOT-TREE INITRAMFS RAW
    local tree=$1 initramfs=$2 raw=$3 boot_kib boot_mib start2
    boot_kib=$(du -ck --apparent-size "$packages/vmlinuz" "$initramfs" | awk 'END { print $1 }')
    boot_mib=$((boot_kib / 1024 + 4))
    start2=$((1 + boot_mib))
    rm -f "$raw"
    truncate -s $((start2 + root_mib))M "$raw"
    sfdisk -q "$raw" <<TABLE
label: dos
start=1MiB, size=${boot_mib}MiB, type=e, bootable
start=${start2}MiB, type=83
TABLE
    dd if=$mbr of="$raw" bs=440 count=1 conv=notrunc status=none

    mkfs.vfat -F 16 -n GUESTBOOT --offset 2048 "$raw" $((boot_mib * 1024)) 2>&1 >/dev/null |
        grep -v 'block count mismatch' >&2 || true # it looks at the size of the file, not of the partition
    cat > "$work/syslinux.cfg" <<CONFIG
SERIAL 0 115200
DEFAULT guest
PROMPT 0
LABEL guest
 KERNEL vmlinuz
 APPEND initrd=initramfs.gz console=tty0 console=ttyS0,115200 no_timer_check net.ifnames=0 tsc=reliable panic=10 cryptomgr.notests quiet loglevel=4
CONFIG
    export MTOOLS_SKIP_CHECK=1
    mcopy -i "$raw@@1M" "$packages/vmlinuz" ::vmlinuz
    mcopy -i "$raw@@1M" "$initramfs" ::initramfs.gz
    mcopy -i "$raw@@1M" "$work/syslinux.cfg" ::syslinux.cfg
    syslinux --install --offset $((1024 * 1024)) "$raw"

    # A journal, because guests are killed; 4 KiB blocks, because the file system grows to the flavor's disk.
    mke2fs -q -t ext4 -b 4096 -N 8192 -m 0 -J size=4 -L guest-root -O ^metadata_csum,^orphan_file \
        -E "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,offset=$((start2 * 1024 * 1024))" \
        -d "$tree" "$raw" $((root_mib * 1024))k
}

# ---------------------------------------------------------------------------------------------- run
started=$(date +%s)
packages=$(fetch_packages)
library_path=$packages/tree/lib/x86_64-linux-gnu:$packages/tree/usr/lib/x86_64-linux-gnu
busybox=$(find "$packages/tree" -type f -path '*bin/busybox' | head -1)

# The image is rebuilt only when something that goes into it has changed.
inputs=$(
    cd "$here"
    { echo "$packages $root_mib"; find . -type f ! -name '*.md' -print0 | sort -z | xargs -0 sha256sum; } | sha256sum | cut -d' ' -f1
)
if [ -s "$out" ] && [ "$(cat "$out.inputs" 2>/dev/null)" = "$inputs" ]; then
    say "$out is up to date"
    exit 0
fi
check_applets
work=$(mktemp -d "${TMPDIR:-/tmp}/guest-image.XXXXXX")
trap 'rm -rf "$work"' EXIT
build_initramfs "$work/initramfs" "$work/initramfs.gz"
build_root "$work/root"
assemble_disk "$work/root" "$work/initramfs.gz" "$work/disk.raw"
mkdir -p "$(dirname "$out")"
qemu-img convert -q -c -O qcow2 "$work/disk.raw" "$out.$$"
size=$(stat -c %s "$out.$$")
if [ "$size" -gt $max_bytes ]; then
    rm -f "$out.$$"
    die "the image is $size bytes, more than $max_bytes"
fi
mv "$out.$$" "$out"
echo "$inputs" > "$out.inputs"
say "built $out: $((size / 1000)) kB, kernel $((($(stat -c %s "$packages/vmlinuz")) / 1000)) kB, initramfs $(($(stat -c %s "$work/initramfs.gz") / 1000)) kB, $(($(date +%s) - started)) s"
