"""Flavors, key pairs, zones, hypervisors, services, quota, limits and usage through the stock command."""

SERVER_MADE_KEYS = ("--os-compute-api-version", "2.91")


def test_flavors(admin, demo, name):
    admin.run("flavor", "create", "--ram", "96", "--disk", "1", "--vcpus", "2", "--property", "hw:note=x", name)
    shown = demo.get("flavor", "show", name)
    assert (shown["ram"], shown["disk"], shown["vcpus"]) == (96, 1, 2)
    assert name in demo.names("flavor", "list")
    assert "409" in admin.fails("flavor", "create", "--ram", "96", "--disk", "1", name)
    admin.run("flavor", "delete", name)
    assert name not in demo.names("flavor", "list")


def test_imported_key(demo, key, name):
    public = key.with_suffix(".pub")
    made = demo.get("keypair", "create", "--public-key", public, name)
    assert made["type"] == "ssh" and made["fingerprint"].count(":") == 15
    assert demo.run("keypair", "show", "--public-key", name).split()[:2] == public.read_text().split()[:2]
    assert name in demo.names("keypair", "list")
    assert "409" in demo.fails("keypair", "create", "--public-key", public, name)
    demo.run("keypair", "delete", name)
    assert name not in demo.names("keypair", "list")


def test_generated_key(demo, name):
    """The private part is shown once."""
    private = demo.run(*SERVER_MADE_KEYS, "keypair", "create", "--type", "ssh", name)
    assert "PRIVATE KEY" in private.splitlines()[0], private[:80]
    assert demo.get("keypair", "show", name)["type"] == "ssh"
    assert demo.run("keypair", "show", "--public-key", name).startswith("ssh-")
    demo.run("keypair", "delete", name)


def test_generated_certificate(demo, demo_sdk, name):
    """Below 2.92 the server makes a certificate. The command loses `--type x509` on its way to the SDK."""
    made = demo_sdk.compute.post(
        "/os-keypairs", json={"keypair": {"name": name, "type": "x509"}}, microversion="2.10"
    ).json()["keypair"]
    assert "PRIVATE KEY" in made["private_key"].splitlines()[0]
    assert demo.get("keypair", "show", name)["type"] == "x509"
    assert demo.run("keypair", "show", "--public-key", name).startswith("-----BEGIN CERTIFICATE-----")
    demo.run("keypair", "delete", name)


def test_zones_hypervisors_and_services(admin, admin_sdk, demo):
    assert "nova" in {row["Zone Name"] for row in demo.get("availability", "zone", "list", "--compute")}
    hosts = admin.get("hypervisor", "list")
    assert len(hosts) == 3 and {row["State"] for row in hosts} == {"up"}
    name = hosts[0]["Hypervisor Hostname"]
    shown = admin.get("hypervisor", "show", name)
    assert shown["hypervisor_hostname"] == name and shown["state"] == "up"
    stats = admin.get("hypervisor", "stats", "show")
    assert stats["count"] == 3 and stats["vcpus"] > 0
    assert stats["memory_mb"] - stats["memory_mb_used"] == stats["free_ram_mb"]
    for version, status in [("2.87", 200), ("2.88", 404)]:
        assert admin_sdk.compute.get("/os-hypervisors/statistics", microversion=version).status_code == status
    services = admin.get("compute", "service", "list")
    assert {row["Binary"] for row in services} >= {"nova-compute", "nova-conductor", "nova-scheduler"}
    assert {row["State"] for row in services} == {"up"}
    refused = demo.fails("compute", "service", "list")
    assert "403" in refused or "Policy" in refused, refused


def test_service_can_be_disabled(admin):
    host = admin.get("compute", "service", "list", "--service", "nova-compute")[0]["Host"]
    admin.run("compute", "service", "set", "--disable", "--disable-reason", "maintenance", host, "nova-compute")
    rows = {row["Host"]: row for row in admin.get("compute", "service", "list", "--service", "nova-compute", "--long")}
    assert (rows[host]["Status"], rows[host]["Disabled Reason"]) == ("disabled", "maintenance")
    admin.run("compute", "service", "set", "--enable", host, "nova-compute")


def test_quota_limits_and_usage(admin, demo):
    quota = {row["Resource"]: row["Limit"] for row in demo.get("quota", "show", "--compute")}
    assert quota["instances"] == 10 and quota["cores"] == 20
    limits = {row["Name"]: row["Value"] for row in demo.get("limits", "show", "--absolute")}
    assert limits["max_total_instances"] == 10 and limits["total_instances_used"] >= 0
    admin.run("quota", "set", "--instances", "11", "demo")
    quota = {row["Resource"]: row["Limit"] for row in demo.get("quota", "show", "--compute")}
    assert quota["instances"] == 11
    admin.run("quota", "set", "--instances", "10", "demo")
    usage = demo.get("usage", "show")
    assert "Servers" in usage or "servers" in {key.lower() for key in usage}
