#![allow(clippy::unwrap_used)]
use super::*;
use db::instances::{Address, Interface, SecurityGroupRef};
use types::server::{Flavor, ImageRef, WantedNetworks};
use types::{PowerState, ServerId, Timestamp, VmState};

const ID: &str = "11111111-2222-3333-4444-555555555555";
const KEY: &str = "ssh-ed25519 AAAAC3Nz me@here";

fn address(ip: &str, version: u8, kind: &str) -> Address {
    Address {
        ip: ip.into(),
        version,
        kind: kind.into(),
    }
}

fn interface() -> Interface {
    Interface {
        port_id: "abcdef01-2345-6789-abcd-ef0123456789".into(),
        network_id: "net".into(),
        network_name: "private".into(),
        mac: "fa:16:3e:00:00:01".into(),
        mtu: 1442,
        addresses: vec![
            address("10.0.0.5", 4, "fixed"),
            address("172.24.4.9", 4, "floating"),
            address("fd00::5", 6, "fixed"),
        ],
        preexisting: false,
        tag: Some("front".into()),
    }
}

fn instance() -> Instance {
    Instance {
        number: 42,
        id: ID.parse::<ServerId>().unwrap(),
        project_id: "project".into(),
        user_id: "user".into(),
        display_name: "Web 1".into(),
        description: None,
        hostname: "web-1".into(),
        vm_state: VmState::Active,
        task_state: None,
        power_state: PowerState::Running,
        generation: 1,
        task_id: None,
        host: None,
        node: None,
        node_id: None,
        availability_zone: Some("nova".into()),
        pinned_zone: None,
        launched_on: None,
        flavor: Flavor {
            id: "1".into(),
            name: "m1.tiny".into(),
            memory_mb: 512,
            vcpus: 1,
            root_gb: 1,
            ephemeral_gb: 0,
            swap_mb: 0,
            rxtx_factor: 1.0,
            extra_specs: BTreeMap::new(),
        },
        image: Some(ImageRef {
            id: "DEADBEEF-0000-0000-0000-000000000000".parse().unwrap(),
            name: "cirros".into(),
            disk_format: "qcow2".into(),
            container_format: "bare".into(),
            size: 1,
            min_disk: 0,
            min_ram: 0,
            sha512: None,
            properties: BTreeMap::new(),
            check: None,
        }),
        key_name: Some("my key".into()),
        key_data: Some(KEY.into()),
        user_data: Some("IyEvYmluL3NoCmVjaG8gaGkK".into()),
        config_drive: true,
        access_ip_v4: None,
        access_ip_v6: None,
        metadata: [("role".to_owned(), "web".to_owned())].into(),
        networks: WantedNetworks::Auto,
        network_info: vec![interface()],
        security_groups: ["default", "web"]
            .map(|name| SecurityGroupRef {
                id: name.into(),
                name: name.into(),
            })
            .into(),
        scheduler_hints: json!({}),
        admin_pass: Some("sealed".into()),
        locked: false,
        locked_by: None,
        locked_reason: None,
        reservation_id: "r-abcdefgh".into(),
        launch_index: 3,
        root_device_name: Some("/dev/vda".into()),
        progress: 0,
        fault: None,
        created_at: Timestamp(0),
        updated_at: None,
        launched_at: None,
        terminated_at: None,
        deleted: false,
        kept: db::instances::Kept::default(),
    }
}

fn subnet(cidr: &str, version: u8, dhcp: bool) -> Subnet {
    Subnet {
        id: cidr.into(),
        cidr: cidr.into(),
        gateway_ip: Some(if version == 4 { "10.0.0.1" } else { "fd00::1" }.into()),
        dns_nameservers: vec![
            if version == 4 {
                "9.9.9.9"
            } else {
                "2620:fe::fe"
            }
            .into(),
        ],
        host_routes: Vec::new(),
        enable_dhcp: dhcp,
        ip_version: version,
        ipv6_address_mode: None,
    }
}

fn guest() -> Guest {
    let mut guest = Guest::new(instance());
    guest.admin_pass = Some("s3cret".into());
    guest.vendor = json!({ "site": "here" });
    guest
        .subnets
        .insert("net".into(), vec![subnet("10.0.0.0/24", 4, true)]);
    guest
}

fn text(guest: &Guest, path: &str) -> Option<String> {
    match guest.lookup(path, b"seed", Some("192.0.2.1"))? {
        Found::Text(bytes) | Found::Json(bytes) => Some(String::from_utf8(bytes).unwrap()),
        Found::Password => Some("<password>".into()),
    }
}

fn json_at(guest: &Guest, path: &str) -> Value {
    serde_json::from_str(&text(guest, path).unwrap()).unwrap()
}

#[test]
fn texts_at_paths() {
    let ec2_versions = "1.0\n2007-01-19\n2007-03-01\n2007-08-29\n2007-10-10\n2007-12-15\n2008-02-01\n2008-09-01\n2009-04-04\nlatest";
    let all = "ami-id\nami-launch-index\nami-manifest-path\nblock-device-mapping/\nhostname\ninstance-action\ninstance-id\n\
        instance-type\nlocal-hostname\nlocal-ipv4\nplacement/\npublic-hostname\npublic-ipv4\npublic-keys/\nreservation-id\n\
        security-groups";
    let first = "ami-id\nami-launch-index\nami-manifest-path\nhostname\ninstance-id\nlocal-ipv4\npublic-keys/\nreservation-id\n\
        security-groups";
    let newest = "meta_data.json\nuser_data\npassword\nvendor_data.json\nnetwork_data.json\nvendor_data2.json";
    let table = [
        ("/", Some(ec2_versions)),
        ("", Some(ec2_versions)),
        ("/ec2/", Some(ec2_versions)),
        ("/latest", Some("meta-data/\nuser-data")),
        ("/latest/", Some("meta-data/\nuser-data")),
        ("/ec2/2009-04-04/meta-data/", Some(all)),
        ("/latest/meta-data", Some(all)),
        ("//latest/./x/../meta-data//", Some(all)),
        ("/1.0/meta-data", Some(first)),
        ("/latest/meta-data/ami-id", Some("ami-deadbeef")),
        ("/latest/meta-data/ami-launch-index", Some("3")),
        ("/latest/meta-data/ami-manifest-path", Some("FIXME")),
        ("/latest/meta-data/instance-id", Some("i-0000002a")),
        ("/latest/meta-data/hostname", Some("web-1.novalocal")),
        ("/latest/meta-data/local-ipv4", Some("10.0.0.5")),
        ("/latest/meta-data/public-ipv4", Some("172.24.4.9")),
        ("/1.0/meta-data/public-ipv4", None),
        ("/latest/meta-data/instance-type", Some("m1.tiny")),
        ("/latest/meta-data/reservation-id", Some("r-abcdefgh")),
        ("/latest/meta-data/security-groups", Some("default\nweb")),
        ("/latest/meta-data/public-keys/", Some("0=my key")),
        ("/latest/meta-data/public-keys/0", Some("openssh-key")),
        ("/latest/meta-data/public-keys/0/openssh-key", Some(KEY)),
        (
            "/latest/meta-data/placement/availability-zone",
            Some("nova"),
        ),
        ("/latest/meta-data/block-device-mapping/", Some("ami\nroot")),
        ("/latest/meta-data/block-device-mapping/ami", Some("vda")),
        (
            "/latest/meta-data/block-device-mapping/root",
            Some("/dev/vda"),
        ),
        ("/latest/user-data", Some("#!/bin/sh\necho hi\n")),
        ("/latest/user-data/x", None),
        ("/latest/nothing", None),
        ("/latest/meta-data/hostname/x", None),
        ("/latest/meta-data/kernel-id", None),
        ("/2030-01-01/meta-data", None),
        ("/2012-08-10/meta-data", None),
        ("/openstack/2012-08-10", Some("meta_data.json\nuser_data")),
        (
            "/openstack/2013-10-17",
            Some("meta_data.json\nuser_data\npassword\nvendor_data.json"),
        ),
        ("/openstack/2025-04-04/", Some(newest)),
        ("/openstack/latest", Some(newest)),
        ("/openstack/latest/user_data", Some("#!/bin/sh\necho hi\n")),
        ("/openstack/latest/password", Some("<password>")),
        ("/openstack/2012-08-10/password", None),
        (
            "/openstack/latest/vendor_data.json",
            Some(r#"{"site":"here"}"#),
        ),
        ("/openstack/2013-04-04/vendor_data.json", None),
        (
            "/openstack/2016-10-06/vendor_data2.json",
            Some(r#"{"static":{"site":"here"}}"#),
        ),
        ("/openstack/2016-06-30/vendor_data2.json", None),
        ("/openstack/2009-04-04", None),
        ("/openstack/content", None),
        ("/openstack/latest/meta_data.json/x", None),
    ];
    let guest = guest();
    for (path, wanted) in table {
        assert_eq!(text(&guest, path).as_deref(), wanted, "{path}");
    }
    let versions = text(&guest, "/openstack").unwrap();
    assert!(
        versions.starts_with("2012-08-10\n") && versions.ends_with("2025-04-04\nlatest"),
        "{versions}"
    );
    assert_eq!(root_listing(), ec2_versions);
}

#[test]
fn meta_data_grows_with_its_versions() {
    let base = [
        "uuid",
        "meta",
        "admin_pass",
        "public_keys",
        "keys",
        "hostname",
        "name",
        "launch_index",
        "availability_zone",
    ];
    let table: [(&str, &[&str]); 5] = [
        ("2012-08-10", &[]),
        ("2013-04-04", &["random_seed"]),
        ("2015-10-15", &["random_seed", "project_id"]),
        ("2018-08-27", &["random_seed", "project_id", "devices"]),
        (
            "latest",
            &["random_seed", "project_id", "devices", "dedicated_cpus"],
        ),
    ];
    let guest = guest();
    for (version, more) in table {
        let document = json_at(&guest, &format!("/openstack/{version}/meta_data.json"));
        let names: Vec<&str> = document
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(names, [&base[..], more].concat(), "{version}");
    }
    let document = json_at(&guest, "/openstack/latest/meta_data.json");
    assert_eq!(document["uuid"], ID);
    assert_eq!(document["meta"], json!({ "role": "web" }));
    assert_eq!(document["public_keys"], json!({ "my key": KEY }));
    assert_eq!(
        document["keys"],
        json!([{ "name": "my key", "type": "ssh", "data": KEY }])
    );
    assert_eq!(document["hostname"], "web-1.novalocal");
    assert_eq!(document["name"], "Web 1");
    assert_eq!(document["random_seed"], "c2VlZA==");
    assert_eq!(document["admin_pass"], "s3cret");
    let nic = &document["devices"][0];
    assert_eq!(nic["tags"], json!(["front"]));
    assert_eq!(nic["vf_trusted"], false);
    let old = json_at(&guest, "/openstack/2017-02-22/meta_data.json");
    assert_eq!(old["devices"][0].get("vf_trusted"), None);
}

#[test]
fn disks_are_named() {
    use db::block_devices::BlockDevice;
    use types::disks::{Destination, Source};
    let mut guest = guest();
    let server = guest.instance.id;
    let volume = BlockDevice {
        volume_id: Some("v1".to_owned()),
        device_name: Some("/dev/vdc".to_owned()),
        tag: Some("data".to_owned()),
        ..BlockDevice::new(server, Source::Volume, Destination::Volume)
    };
    let swap = BlockDevice {
        guest_format: Some("swap".to_owned()),
        device_name: Some("/dev/vdb".to_owned()),
        ..BlockDevice::new(server, Source::Blank, Destination::Local)
    };
    guest.devices = vec![swap, volume];
    let document = json_at(&guest, "/openstack/latest/meta_data.json");
    let disk = json!({ "type": "disk", "bus": "none", "address": "none", "serial": "v1", "path": "/dev/vdc", "tags": ["data"] });
    assert_eq!(document["devices"].as_array().unwrap().last(), Some(&disk));
    for (name, device) in [("swap", "/dev/vdb"), ("ebs0", "/dev/vdc")] {
        let path = format!("/latest/meta-data/block-device-mapping/{name}");
        let found = guest.lookup(&path, b"seed", None);
        assert_eq!(
            found,
            Some(Found::Text(device.as_bytes().to_vec())),
            "{name}"
        );
    }
}

#[test]
fn a_bare_guest_has_neither_key_nor_data_nor_password() {
    let mut bare = instance();
    (bare.key_name, bare.key_data, bare.user_data) = (None, None, None);
    bare.metadata.clear();
    bare.network_info.clear();
    bare.root_device_name = None;
    let mut guest = Guest::new(bare);
    guest.domain.clear();
    let document = json_at(&guest, "/openstack/latest/meta_data.json");
    for name in ["meta", "admin_pass", "public_keys", "keys"] {
        assert_eq!(document.get(name), None, "{name}");
    }
    assert_eq!(document["hostname"], "web-1");
    for (path, wanted) in [
        ("/latest", Some("meta-data/")),
        ("/latest/user-data", None),
        ("/openstack/latest/user_data", None),
        ("/openstack/2012-08-10", Some("meta_data.json")),
        ("/latest/meta-data/public-keys", None),
        ("/latest/meta-data/local-ipv4", Some("192.0.2.1")),
        ("/latest/meta-data/public-ipv4", Some("")),
        (
            "/latest/meta-data/block-device-mapping/root",
            Some("/dev/sda1"),
        ),
        ("/openstack/latest/network_data.json", Some("{}")),
        (
            "/openstack/latest/vendor_data2.json",
            Some(r#"{"static":{}}"#),
        ),
    ] {
        assert_eq!(text(&guest, path).as_deref(), wanted, "{path}");
    }
}

#[test]
fn certificates_are_known_by_their_text() {
    let mut with_certificate = instance();
    with_certificate.key_data = Some("-----BEGIN CERTIFICATE-----\nMII".into());
    assert_eq!(KeyPair::of(&with_certificate).unwrap().kind, "x509");
    with_certificate.key_data = None;
    assert_eq!(KeyPair::of(&with_certificate), None);
}

#[test]
fn broken_user_data_counts_as_none_and_line_breaks_do_not_matter() {
    let mut guest = guest();
    for (stored, wanted) in [
        ("aGVs\nbG8=\n", Some("hello")),
        ("aGVsbG8", Some("hello")),
        ("%%%", None),
        ("", Some("")),
    ] {
        guest.instance.user_data = Some(stored.into());
        assert_eq!(
            guest.user_data().as_deref(),
            wanted.map(str::as_bytes),
            "{stored:?}"
        );
    }
}

#[test]
fn network_data_with_dhcp_leaves_addresses_to_it() {
    let document = json_at(&guest(), "/openstack/latest/network_data.json");
    assert_eq!(
        document,
        json!({
            "links": [{
                "id": "tapabcdef01-23", "vif_id": "abcdef01-2345-6789-abcd-ef0123456789", "type": "bridge",
                "mtu": null, "ethernet_mac_address": "fa:16:3e:00:00:01",
            }],
            "networks": [{ "id": "network0", "type": "ipv4_dhcp", "link": "tapabcdef01-23", "network_id": "net" }],
            "services": [{ "type": "dns", "address": "9.9.9.9" }],
        })
    );
}

#[test]
fn network_data_without_dhcp_says_it_all() {
    let mut guest = guest();
    let mut v4 = subnet("10.0.0.0/24", 4, false);
    v4.host_routes = vec![
        ("192.168.7.9/16".into(), "10.0.0.2".into()),
        ("nonsense".into(), "10.0.0.3".into()),
    ];
    let mut v6 = subnet("fd00::/64", 6, false);
    v6.gateway_ip = None;
    v6.ipv6_address_mode = Some("slaac".into());
    let other = subnet("10.9.0.0/24", 4, true);
    guest.subnets.insert("net".into(), vec![other, v4, v6]);
    let document = json_at(&guest, "/openstack/latest/network_data.json");
    assert_eq!(
        document["links"][0]["mtu"], 1442,
        "the DHCP of another subnet does not count"
    );
    assert_eq!(
        document["networks"],
        json!([
            {
                "id": "network0", "type": "ipv4", "link": "tapabcdef01-23", "ip_address": "10.0.0.5",
                "netmask": "255.255.255.0",
                "routes": [
                    { "network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.0.1" },
                    { "network": "192.168.0.0", "netmask": "255.255.0.0", "gateway": "10.0.0.2" },
                ],
                "network_id": "net", "services": [{ "type": "dns", "address": "9.9.9.9" }],
            },
            {
                "id": "network1", "type": "ipv6_slaac", "link": "tapabcdef01-23", "ip_address": "fd00::5",
                "netmask": "ffff:ffff:ffff:ffff::", "routes": [],
                "network_id": "net", "services": [{ "type": "dns", "address": "2620:fe::fe" }],
            },
        ])
    );
    assert_eq!(document["services"].as_array().unwrap().len(), 2);
}

#[test]
fn only_network_data_needs_subnets() {
    for (path, wanted) in [
        ("/openstack/latest/network_data.json", true),
        ("//openstack/2018-08-27/network_data.json/", true),
        ("/openstack/latest/meta_data.json", false),
        ("/openstack/latest", false),
        ("/latest/meta-data", false),
        ("/", false),
    ] {
        assert_eq!(needs_subnets(path), wanted, "{path}");
    }
}

#[test]
fn the_config_drive_holds_both_trees() {
    let guest = guest();
    let files: BTreeMap<String, Vec<u8>> = guest.config_drive_files(b"seed").into_iter().collect();
    let count = |folder: &str| files.keys().filter(|path| path.starts_with(folder)).count();
    for (folder, wanted) in [
        ("ec2/2009-04-04/", 2),
        ("ec2/latest/", 2),
        ("ec2/", 4),
        ("openstack/2012-08-10/", 2),
        ("openstack/2013-04-04/", 2),
        ("openstack/2013-10-17/", 3),
        ("openstack/2015-10-15/", 4),
        ("openstack/2016-06-30/", 4),
        ("openstack/2016-10-06/", 5),
        ("openstack/latest/", 5),
        ("", 4 + 2 + 2 + 3 + 4 + 4 + 5 * 6),
    ] {
        assert_eq!(count(folder), wanted, "{folder}");
    }
    for path in [
        "openstack/latest/meta_data.json",
        "openstack/2018-08-27/network_data.json",
        "openstack/2016-10-06/vendor_data2.json",
        "openstack/2012-08-10/user_data",
    ] {
        let served = text(&guest, path).unwrap();
        assert_eq!(String::from_utf8_lossy(&files[path]), served, "{path}");
    }
    let ec2: Value = serde_json::from_slice(&files["ec2/latest/meta-data.json"]).unwrap();
    assert_eq!(ec2["instance-id"], "i-0000002a");
    assert_eq!(ec2["public-keys"]["0"]["openssh-key"], KEY);
    assert_eq!(
        files["ec2/latest/user-data"],
        files["openstack/latest/user_data"]
    );
}

#[test]
fn no_log_can_show_the_password() {
    let shown = format!("{:?}", guest());
    assert!(shown.contains(ID) && !shown.contains("s3cret"), "{shown}");
}

#[test]
fn injected_files_are_on_the_config_drive_only() {
    let mut guest = guest();
    guest.files = vec![
        ("/etc/a".to_owned(), b"first".to_vec()),
        ("/etc/b".to_owned(), b"second".to_vec()),
    ];
    let files: BTreeMap<String, Vec<u8>> = guest.config_drive_files(b"seed").into_iter().collect();
    assert_eq!(files["openstack/content/0000"], b"first");
    assert_eq!(files["openstack/content/0001"], b"second");
    let meta: Value = serde_json::from_slice(&files["openstack/latest/meta_data.json"]).unwrap();
    assert_eq!(
        meta["files"],
        json!([
            {"content_path": "/content/0000", "path": "/etc/a"},
            {"content_path": "/content/0001", "path": "/etc/b"},
        ])
    );
    assert_eq!(guest.lookup("/openstack/content/0000", b"", None), None);
}
