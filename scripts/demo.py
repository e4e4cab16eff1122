#!/usr/bin/env python3
"""Gives a fresh cloud its images and a first server that answers SSH.

Uses the stock OpenStack SDK and nothing of Kilonova's own. Safe to repeat: what is there is used.
"""

import argparse
import pathlib
import socket
import subprocess
import sys
import time

import openstack
import openstack.exceptions

IMAGES = ("cirros-kilonova-disk", "cirros-kilonova-alt-disk")
NAME = "demo"
RANGE = "10.77.0.0/24"
ACTIVE_SECONDS = 180
SSH_SECONDS = 300
USER_DATA = "#!/bin/sh\necho 'hello from user-data' > /etc/motd\n"


class Step:
    """One line on the screen that says what is done now, and how long it took."""

    def __init__(self, what):
        self.what, self.started, self.shown = what, time.monotonic(), 0

    def tick(self):
        seconds = int(time.monotonic() - self.started)
        if sys.stdout.isatty():
            print(f"\r\033[K{self.what} ... {seconds} s", end="", flush=True)
        elif seconds >= self.shown + 15:
            self.shown = seconds
            print(f"{self.what} ... {seconds} s", flush=True)

    def __enter__(self):
        self.tick()
        return self

    def __exit__(self, kind, error, _trace):
        if sys.stdout.isatty():
            print("\r\033[K", end="")
        how = "done" if kind is None else "failed"
        print(f"{self.what}: {how}, {time.monotonic() - self.started:.1f} s", flush=True)


class Failed(Exception):
    """Something did not happen in time; the text says what and where to look."""


def wait(step, seconds, check, failure):
    """Calls check until it gives a true value and returns that."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        if time.monotonic() > deadline:
            raise Failed(failure())
        step.tick()
        time.sleep(0.5)
    return found


def register_images(admin, path):
    for name in IMAGES:
        if any(image.status == "active" for image in admin.image.images(name=name)):
            continue
        with Step(f"image {name}"):
            admin.create_image(
                name, filename=str(path), disk_format="qcow2", container_format="bare", visibility="public", wait=True
            )


def ensure_key(cloud, folder):
    folder.mkdir(parents=True, exist_ok=True)
    private = folder / "id_ed25519"
    if not private.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", NAME, "-f", str(private)], check=True)
    public = private.with_suffix(".pub").read_text().strip()
    known = cloud.compute.find_keypair(NAME)
    if known and known.public_key.split()[1] != public.split()[1]:
        cloud.compute.delete_keypair(known)
        known = None
    if not known:
        cloud.compute.create_keypair(name=NAME, public_key=public)
    return private


def ensure_group(cloud):
    group = cloud.network.find_security_group(NAME)
    if group:
        return group
    group = cloud.network.create_security_group(name=NAME, description="SSH and ping from everywhere")
    for protocol, port in (("tcp", 22), ("icmp", None)):
        cloud.network.create_security_group_rule(
            security_group_id=group.id,
            direction="ingress",
            ethertype="IPv4",
            protocol=protocol,
            port_range_min=port,
            port_range_max=port,
        )
    return group


def ensure_network(cloud):
    network = cloud.network.find_network(NAME)
    if network:
        return network
    public = cloud.network.find_network("public", ignore_missing=False)
    network = cloud.network.create_network(name=NAME)
    subnet = cloud.network.create_subnet(network_id=network.id, name=NAME, ip_version=4, cidr=RANGE)
    router = cloud.network.create_router(name=NAME, external_gateway_info={"network_id": public.id})
    cloud.network.add_interface_to_router(router, subnet_id=subnet.id)
    return network


def ensure_server(cloud, network, group):
    server = cloud.compute.find_server(NAME)
    if server:
        server = cloud.compute.get_server(server.id)
        if server.status == "ERROR":
            cloud.compute.delete_server(server)
            cloud.compute.wait_for_delete(server)
            server = None
        elif server.status == "SHUTOFF":
            cloud.compute.start_server(server)
    if not server:
        image = cloud.image.find_image(IMAGES[0], ignore_missing=False)
        flavor = cloud.compute.find_flavor("m1.nano", ignore_missing=False)
        server = cloud.create_server(
            NAME,
            image=image.id,
            flavor=flavor.id,
            network=network.id,
            key_name=NAME,
            security_groups=[group.name],
            userdata=USER_DATA,
            auto_ip=False,
            wait=False,
        )
    with Step(f"server {NAME}") as step:

        def active():
            found = cloud.compute.get_server(server.id)
            if found.status == "ERROR":
                raise Failed(f"the server went to ERROR: {(found.fault or {}).get('message')}")
            return found if found.status == "ACTIVE" else None

        return wait(step, ACTIVE_SECONDS, active, lambda: f"the server is not ACTIVE after {ACTIVE_SECONDS} s")


def ensure_floating_ip(cloud, server):
    port = next(iter(cloud.network.ports(device_id=server.id)))
    for address in cloud.network.ips(port_id=port.id):
        return address.floating_ip_address
    public = cloud.network.find_network("public", ignore_missing=False)
    address = cloud.network.create_ip(floating_network_id=public.id, port_id=port.id)
    return address.floating_ip_address


def ssh_command(key, address):
    return [
        "ssh", "-i", str(key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
        "-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", f"cirros@{address}",
    ]  # fmt: skip


def wait_for_ssh(cloud, server, key, address):
    with Step(f"SSH to {address}") as step:

        def answers():
            try:
                socket.create_connection((address, 22), timeout=2).close()
            except OSError:
                return None
            done = subprocess.run([*ssh_command(key, address), "hostname"], capture_output=True, text=True, check=False)
            return done.stdout.strip() if done.returncode == 0 else None

        def failure():
            console = cloud.compute.get_server_console_output(server, length=30)
            text = console.get("output") if isinstance(console, dict) else console
            return f"no SSH at {address} after {SSH_SECONDS} s; the end of the guest's console:\n{text}"

        return wait(step, SSH_SECONDS, answers, failure)


def epilogue(home, key, address, with_server):
    client = f"{home}/venv/bin/openstack"
    print(f"\nThe cloud runs in the background; its log is {home}/log. `make down` stops it.")
    print(f"Credentials: {home}/clouds.yaml (clouds kilonova and kilonova-demo), or: . {home}/openrc")
    print("\nTry:")
    print(f"  export OS_CLIENT_CONFIG_FILE={home}/clouds.yaml OS_CLOUD=kilonova-demo PATH={home}/venv/bin:$PATH")
    if not with_server:
        print("  openstack image list")
        print("  openstack flavor list")
        print("  openstack network list")
        print("  openstack server create --image cirros-kilonova-disk --flavor m1.nano --network private --wait first")
        print("  openstack console log show first")
        return
    print("  openstack server list --long")
    print(f"  openstack server show {NAME}")
    print(f"  openstack console log show {NAME}")
    if address and key:
        print(f"  ssh -i {key} cirros@{address}          # password: gocubsgo")
    print(f"  openstack server create --image {IMAGES[0]} --flavor m1.nano --network {NAME} --wait second")
    print(f"\n(the client is {client})")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", required=True, type=pathlib.Path, help="the cloud's KILONOVA_HOME")
    parser.add_argument("--image", required=True, type=pathlib.Path, help="the guest image (qcow2)")
    parser.add_argument("--no-server", action="store_true", help="only the images")
    parser.add_argument("--no-ssh", action="store_true", help="do not wait for the guest (simulated hypervisor)")
    options = parser.parse_args()
    config = openstack.config.OpenStackConfig(config_files=[str(options.home / "clouds.yaml")])

    def connect(name):
        return openstack.connection.Connection(config=config.get_one(cloud=name))

    register_images(connect("kilonova"), options.image)
    if options.no_server:
        epilogue(options.home, None, None, with_server=False)
        return 0
    cloud = connect("kilonova-demo")
    key = ensure_key(cloud, options.home / "demo")
    network = ensure_network(cloud)
    server = ensure_server(cloud, network, ensure_group(cloud))
    address = ensure_floating_ip(cloud, server)
    if not options.no_ssh:
        name = wait_for_ssh(cloud, server, key, address)
        print(f"the guest answered SSH and calls itself {name}")
    epilogue(options.home, key if not options.no_ssh else None, address, with_server=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failed, openstack.exceptions.SDKException) as error:
        sys.exit(f"demo: {error}")
