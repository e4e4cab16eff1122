"""Hosts in namespaces of this machine: each has a network, processes, a /run and a libvirt of its own."""

import pathlib
import subprocess
import time

from cloud import wait_until

# PID 1 of a host. What libvirt keeps is the host's own; the cache spares it a look at QEMU.
INIT = """
set -e
folder=$1
hostname "$2"
mount -t tmpfs tmpfs /run
mkdir -p /run/libvirt /run/netns /run/lock
for place in /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt; do
    if ! [ -d "$folder$place" ]; then
        mkdir -p "$folder$place"
        case $place in
        /etc/libvirt | /var/cache/libvirt) cp -a "$place/." "$folder$place/" ;;
        esac
        # The guests that this machine knows are none of the host's.
        if [ $place = /etc/libvirt ]; then rm -rf "$folder$place"/qemu/*.xml "$folder$place"/qemu/autostart; fi
        new=1
    fi
    mount --bind "$folder$place" "$place"
done
if [ -n "${new:-}" ]; then
printf 'host_uuid = "%s"\\n' "$(cat /proc/sys/kernel/random/uuid)" >> /etc/libvirt/libvirtd.conf
cat >> /etc/libvirt/qemu.conf <<'CONF'
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = [ ]
# Post-copy needs userfaultfd, which the kernel gives to whoever may trace.
clear_emulator_capabilities = 0
namespaces = [ ]
CONF
fi
ip link set lo up
: > "$folder/up"
while :; do sleep 3600 & wait $!; done
"""


def run(*command, check=True, **arguments):
    return subprocess.run([*map(str, command)], check=check, capture_output=True, text=True, **arguments)


class Wire:
    """What joins the hosts: a bridge of this machine with an address."""

    def __init__(self, name, prefix):
        self.name, self.prefix = name, prefix
        self.address = f"{prefix}.254"
        run("ip", "link", "add", "name", name, "type", "bridge", "stp_state", "0", "forward_delay", "0")
        run("ip", "addr", "add", f"{self.address}/24", "dev", name)
        run("ip", "link", "set", "dev", name, "up")

    def discard(self):
        subprocess.run(["ip", "link", "del", "dev", self.name], check=False, capture_output=True)


class Host:
    """One host. Its death ends all that runs in it; a new one with the same folder is the host that comes back."""

    def __init__(self, wire, number, folder):
        self.name, self.address = f"h{number}", f"{wire.prefix}.{number}"
        self.folder = pathlib.Path(folder) / self.name
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "up").unlink(missing_ok=True)
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--uts", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"]
            + ["--propagation", "private", "bash", "-c", INIT, "init", str(self.folder), self.name],
            stdin=subprocess.DEVNULL,
        )
        wait_until(lambda: (self.folder / "up").exists(), 60, f"{self.name} is up")
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.pid = int(children.read_text().split()[0])
        end = f"{wire.name}h{number}"
        run("ip", "link", "add", "name", end, "type", "veth", "peer", "name", "eth0", "netns", self.pid)
        run("ip", "link", "set", "dev", end, "master", wire.name, "up")
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "dev", "eth0", "up")

    def inside(self, *command):
        """A command line that runs in the host."""
        return ["nsenter", "-t", str(self.pid), "-m", "-u", "-n", "-p", "--", *map(str, command)]

    def run(self, *command, **arguments):
        return run(*self.inside(*command), **arguments)

    def discard(self):
        self.process.kill()
        self.process.wait()
        time.sleep(0.2)
