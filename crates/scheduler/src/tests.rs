#![allow(clippy::unwrap_used)]

use crate::*;
use db::placement::Inventory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use types::image_properties::ImageProperties;
use types::server::Flavor;
use types::{FlavorId, HostName, NodeId, ProjectId, ServerId};
use uuid::Uuid;

fn host(number: u128) -> HostState {
    let inventory = [
        ("VCPU", 8, 4.0),
        ("MEMORY_MB", 16384, 1.0),
        ("DISK_GB", 100, 1.0),
    ];
    HostState {
        host: HostName(format!("host{number}")),
        node: NodeId(Uuid::from_u128(number)),
        hypervisor_hostname: format!("node{number}"),
        hypervisor_type: "QEMU".to_owned(),
        hypervisor_version: 7_002_000,
        host_ip: "192.0.2.1".to_owned(),
        cpu_info: json!({"arch": "x86_64", "features": ["aes", "vmx"]}),
        up: true,
        down: crate::Down::default(),
        disabled: false,
        zone: "nova".to_owned(),
        aggregates: Vec::new(),
        inventory: inventory
            .map(|(class, total, ratio)| {
                (class.to_owned(), Inventory::whole(class, total, 0, ratio))
            })
            .into(),
        counted: 0,
        servers: BTreeSet::new(),
        io_ops: 0,
        failed_builds: 0,
        supported: vec![
            ("x86_64".into(), "kvm".into(), "hvm".into()),
            ("x86_64".into(), "qemu".into(), "hvm".into()),
        ],
        traits: BTreeSet::new(),
    }
}

fn server(number: u128) -> ServerId {
    ServerId(Uuid::from_u128(number))
}

fn flavor(specs: &[(&str, &str)]) -> Flavor {
    Flavor {
        id: FlavorId("1".to_owned()),
        name: "small".to_owned(),
        memory_mb: 512,
        vcpus: 1,
        root_gb: 1,
        ephemeral_gb: 0,
        swap_mb: 0,
        rxtx_factor: 1.0,
        extra_specs: specs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    }
}

fn request() -> Request {
    Request::new(&flavor(&[]), None).unwrap()
}

fn with_specs(name: &str, value: &str) -> Request {
    Request::new(&flavor(&[(name, value)]), None).unwrap()
}

fn pick(
    hosts: &[HostState],
    request: &Request,
    settings: &Settings,
) -> Result<Vec<String>, Refusal> {
    let mut rng = StdRng::seed_from_u64(1);
    let chosen = select(hosts, request, settings, &mut rng)?;
    Ok(chosen
        .into_iter()
        .map(|candidate| candidate.host.0)
        .collect())
}

fn aggregate(metadata: &[(&str, &str)]) -> Aggregate {
    let metadata = metadata
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Aggregate {
        name: "a".to_owned(),
        metadata,
    }
}

type Change = fn(&mut HostState);
type Ask = fn() -> Request;

/// Each filter refuses a host changed so, for this reason, and lets one pass that is not.
#[test]
fn each_filter_has_its_reason() {
    let all = Settings {
        filters: [
            Settings::default().filters,
            vec![
                Filter::AggregateInstanceExtraSpecs,
                Filter::AggregateMultiTenancyIsolation,
                Filter::NumInstances,
                Filter::IoOps,
            ],
        ]
        .concat(),
        max_instances_per_host: 2,
        max_io_ops_per_host: 2,
        ..Settings::default()
    };
    let group = |policy| {
        let group = Group {
            policy,
            members: [server(9)].into(),
            max_server_per_host: 1,
        };
        Request {
            group: Some(group),
            ..request()
        }
    };
    let image = |name: &str, value: &str| Request {
        image: ImageProperties::parse(&[(name.to_owned(), value.to_owned())].into()).unwrap(),
        ..request()
    };
    // (what is asked, the change that makes the host fit or unfit, whether it makes it fit, the reason)
    let cases: Vec<(Request, Change, bool, &str)> = vec![
        (
            request(),
            |h| h.inventory.get_mut("MEMORY_MB").unwrap().used = 16384 - 511,
            false,
            "without enough memory (need 512 MiB)",
        ),
        (
            request(),
            |h| h.inventory.get_mut("VCPU").unwrap().used = 32,
            false,
            "without enough vCPUs (need 1)",
        ),
        (
            request(),
            |h| h.inventory.get_mut("DISK_GB").unwrap().reserved = 100,
            false,
            "without enough disk (need 1 GiB)",
        ),
        (
            request(),
            |h| h.inventory.get_mut("MEMORY_MB").unwrap().max_unit = 511,
            false,
            "too small for one server with so much memory (need 512 MiB)",
        ),
        (
            request(),
            |h| h.inventory.get_mut("MEMORY_MB").unwrap().step_size = 500,
            false,
            "too small for one server with so much memory (need 512 MiB)",
        ),
        (
            with_specs("resources:CUSTOM_GOLD", "2"),
            |h| {
                drop(h.inventory.insert(
                    "CUSTOM_GOLD".into(),
                    Inventory::whole("CUSTOM_GOLD", 2, 0, 1.0),
                ))
            },
            true,
            "without enough CUSTOM_GOLD (need 2)",
        ),
        (
            with_specs("trait:CUSTOM_SSD", "required"),
            |h| {
                h.traits.insert("CUSTOM_SSD".into());
            },
            true,
            "not fit for the trait CUSTOM_SSD",
        ),
        (
            with_specs("trait:CUSTOM_SSD", "forbidden"),
            |h| {
                h.traits.insert("CUSTOM_SSD".into());
            },
            false,
            "not fit for the trait CUSTOM_SSD",
        ),
        (request(), |h| h.disabled = true, false, "disabled"),
        (request(), |h| h.up = false, false, "down (not heard of)"),
        (
            Request {
                forced: true,
                ..request()
            },
            |h| h.up = false,
            false,
            "down (not heard of)",
        ),
        (
            Request {
                zone: Some("east".into()),
                ..request()
            },
            |h| h.zone = "east".into(),
            true,
            "outside of the availability zone 'east'",
        ),
        (
            Request {
                only_host: Some(HostName("other".into())),
                ..request()
            },
            |h| h.host = HostName("other".into()),
            true,
            "not the one asked for",
        ),
        (
            Request {
                only_node: Some("other".into()),
                ..request()
            },
            |h| h.hypervisor_hostname = "other".into(),
            true,
            "not the one asked for",
        ),
        (
            Request {
                ignore_hosts: [HostName("host1".into())].into(),
                ..request()
            },
            |h| h.host = HostName("host2".into()),
            true,
            "excluded by the request",
        ),
        (
            Request {
                tried: [HostName("host1".into())].into(),
                // Where it was before counts less.
                ignore_hosts: [HostName("host1".into())].into(),
                ..request()
            },
            |h| h.host = HostName("host2".into()),
            true,
            "tried before, which failed",
        ),
        (
            Request {
                owing: [HostName("host1".into())].into(),
                ..request()
            },
            |h| h.host = HostName("host2".into()),
            true,
            "with something of the server left to be removed",
        ),
        (
            with_specs("capabilities:cpu_info:features", "<in> sse"),
            |h| h.cpu_info = json!({"features": ["sse"]}),
            true,
            "without the capability cpu_info:features that the flavor asks for",
        ),
        (
            with_specs("capabilities:hypervisor_version", ">= 8000000"),
            |h| h.hypervisor_version = 8_000_000,
            true,
            "without the capability hypervisor_version that the flavor asks for",
        ),
        (
            image("hw_architecture", "AArch64"),
            |h| {
                h.supported
                    .push(("aarch64".into(), "qemu".into(), "hvm".into()))
            },
            true,
            "unable to run what the image's properties ask for",
        ),
        (
            image("img_hv_type", "xen"),
            |h| {
                h.supported
                    .push(("x86_64".into(), "xen".into(), "xen".into()))
            },
            true,
            "unable to run what the image's properties ask for",
        ),
        (
            image("img_hv_requested_version", ">=8.0"),
            |h| h.hypervisor_version = 8_001_000,
            true,
            "unable to run what the image's properties ask for",
        ),
        (
            with_specs("aggregate_instance_extra_specs:ssd", "true"),
            |h| h.aggregates.push(aggregate(&[("ssd", "yes, true")])),
            true,
            "in no aggregate with the ssd that the flavor asks for",
        ),
        (
            request(),
            |h| {
                h.aggregates
                    .push(aggregate(&[("filter_tenant_id1", "p1,p2")]))
            },
            false,
            "kept for other projects",
        ),
        (
            Request {
                same_host: [server(9)].into(),
                ..request()
            },
            |h| {
                h.servers.insert(server(9));
            },
            true,
            "without a server of the same_host hint",
        ),
        (
            Request {
                different_host: [server(9)].into(),
                ..request()
            },
            |h| {
                h.servers.insert(server(9));
            },
            false,
            "with a server of the different_host hint",
        ),
        (
            group(GroupPolicy::Affinity),
            |h| {
                h.servers.insert(server(9));
            },
            true,
            "other than the server group's host",
        ),
        (
            group(GroupPolicy::AntiAffinity),
            |h| {
                h.servers.insert(server(9));
            },
            false,
            "in use by the server group",
        ),
        (
            request(),
            |h| h.servers.extend([server(1), server(2)]),
            false,
            "with as many servers as a host may have",
        ),
        (request(), |h| h.io_ops = 2, false, "too busy"),
    ];
    for (request, change, makes_fit, reason) in cases {
        let plain = host(1);
        let mut changed = host(1);
        change(&mut changed);
        let (fit, unfit) = if makes_fit {
            (changed, plain)
        } else {
            (plain, changed)
        };
        pick(&[fit], &request, &all).unwrap_or_else(|refusal| panic!("{reason}: {refusal}"));
        let refusal = pick(&[unfit], &request, &all).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            format!("No valid host was found. 1 host considered: 1 {reason}")
        );
    }
}

#[test]
fn what_lets_hosts_pass() {
    let settings = Settings {
        filters: vec![Filter::Compute, Filter::AggregateMultiTenancyIsolation],
        ..Settings::default()
    };
    let mut kept = host(1);
    kept.aggregates
        .push(aggregate(&[("filter_tenant_id", "p1")]));
    let mine = Request {
        project: Some(ProjectId("p1".into())),
        ..request()
    };
    assert!(pick(std::slice::from_ref(&kept), &mine, &settings).is_ok());
    let mut disabled = host(1);
    disabled.disabled = true;
    let unfiltered = Request {
        unfiltered: true,
        ..request()
    };
    assert!(
        pick(std::slice::from_ref(&disabled), &unfiltered, &settings).is_ok(),
        "a disabled host is good enough for what is not filtered"
    );
    let forced = Request {
        forced: true,
        ..request()
    };
    let refusal = pick(&[disabled], &forced, &settings).unwrap_err();
    assert!(refusal.to_string().contains("1 disabled"), "{refusal}");
    // Nova's hosts mind the groups of servers that are forced onto them.
    let beside_another = Request {
        forced: true,
        group: Some(Group {
            policy: GroupPolicy::AntiAffinity,
            members: BTreeSet::from([server(9)]),
            max_server_per_host: 1,
        }),
        places: BTreeMap::from([(server(9), "host1".into())]),
        ..request()
    };
    assert!(pick(&[host(1)], &beside_another, &settings).is_err());
    assert!(pick(&[host(2)], &beside_another, &settings).is_ok());
    let first: Ask = || Request {
        group: Some(Group {
            policy: GroupPolicy::Affinity,
            members: BTreeSet::new(),
            max_server_per_host: 1,
        }),
        ..request()
    };
    assert!(
        pick(&[host(1)], &first(), &Settings::default()).is_ok(),
        "the first of a group"
    );
    let other_scope = with_specs("hw:cpu_policy", "shared");
    assert!(pick(&[host(1)], &other_scope, &Settings::default()).is_ok());
    let without_disk = with_specs("resources:DISK_GB", "0");
    assert!(!without_disk.resources.contains_key("DISK_GB"));
    for (name, value) in [("resources:VCPU", "many"), ("trait:X", "maybe")] {
        assert!(
            Request::new(&flavor(&[(name, value)]), None)
                .unwrap_err()
                .to_string()
                .contains(name)
        );
    }
    for filter in &Settings::default().filters {
        assert_eq!(Filter::parse(filter.name()), Some(*filter));
    }
    assert_eq!(Filter::parse("RamFilter"), None);
}

#[test]
fn a_refusal_counts_and_names_nobody() {
    let mut hosts = [host(1), host(2), host(3)];
    for full in &mut hosts[..2] {
        full.inventory.get_mut("MEMORY_MB").unwrap().used = 16384;
    }
    hosts[2].disabled = true;
    let refusal = pick(&hosts, &request(), &Settings::default()).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "No valid host was found. 3 hosts considered: 2 without enough memory (need 512 MiB), 1 disabled"
    );
    assert_eq!(
        refusal.for_admins(),
        "No valid host was found. 3 hosts considered: 2 without enough memory (need 512 MiB) [host1, host2], 1 disabled [host3]"
    );
    let refusal = pick(&[], &request(), &Settings::default()).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "No valid host was found. There are no compute hosts."
    );
}

#[test]
fn weighers_order() {
    let cases: Vec<(&str, Change, bool)> = vec![
        (
            "free memory",
            |h| h.inventory.get_mut("MEMORY_MB").unwrap().used = 1,
            false,
        ),
        (
            "free vCPUs",
            |h| h.inventory.get_mut("VCPU").unwrap().used = 1,
            false,
        ),
        (
            "free disk",
            |h| h.inventory.get_mut("DISK_GB").unwrap().used = 1,
            false,
        ),
        ("work going on", |h| h.io_ops = 1, false),
        ("failed builds", |h| h.failed_builds = 1, false),
        ("newer hypervisor", |h| h.hypervisor_version += 1, true),
        (
            "a build failure outweighs everything",
            |h| {
                h.failed_builds = 1;
                h.hypervisor_version += 1;
            },
            false,
        ),
    ];
    for (name, change, better) in cases {
        let mut changed = host(2);
        change(&mut changed);
        let order = pick(&[host(1), changed], &request(), &Settings::default()).unwrap();
        let expected = if better {
            ["host2", "host1"]
        } else {
            ["host1", "host2"]
        };
        assert_eq!(order, expected, "{name}");
    }
    for (policy, expected) in [
        (GroupPolicy::SoftAffinity, ["host2", "host1"]),
        (GroupPolicy::SoftAntiAffinity, ["host1", "host2"]),
    ] {
        let mut with_member = host(2);
        with_member.servers.insert(server(9));
        let group = Group {
            policy,
            members: [server(9)].into(),
            max_server_per_host: 1,
        };
        let order = pick(
            &[host(1), with_member],
            &Request {
                group: Some(group),
                ..request()
            },
            &Settings::default(),
        )
        .unwrap();
        assert_eq!(order, expected, "{policy:?}");
    }
    // An aggregate turns the preference round for its hosts.
    let mut stacked = host(2);
    stacked
        .aggregates
        .push(aggregate(&[("ram_weight_multiplier", "5.0")]));
    let mut settings = Settings::default();
    settings.weights.ram = -1.0;
    let mut fuller = host(1);
    fuller.inventory.get_mut("MEMORY_MB").unwrap().used = 100;
    assert_eq!(
        pick(&[fuller, stacked], &request(), &settings).unwrap(),
        ["host2", "host1"]
    );
}

#[test]
fn ties_are_broken_by_chance_and_a_subset_spreads() {
    let hosts: Vec<HostState> = (1..=5).map(host).collect();
    let mut best = host(6);
    best.hypervisor_version += 1;
    let firsts = |hosts: &[HostState], settings: &Settings| -> BTreeSet<String> {
        let first = |seed| {
            select(
                hosts,
                &request(),
                settings,
                &mut StdRng::seed_from_u64(seed),
            )
            .unwrap()[0]
                .host
                .0
                .clone()
        };
        (0..100).map(first).collect()
    };
    assert_eq!(firsts(&hosts, &Settings::default()).len(), 5);
    let all: Vec<HostState> = hosts.into_iter().chain([best]).collect();
    assert_eq!(
        firsts(&all, &Settings::default()),
        ["host6".to_owned()].into()
    );
    assert!(
        firsts(
            &all,
            &Settings {
                host_subset_size: 100,
                ..Settings::default()
            }
        )
        .len()
            == 6
    );
}

/// Whatever the hosts and the request: a candidate has room, a refused host that is up and enabled has not, the order
/// depends on hosts and chance only, and no more is placed than fits.
#[test]
fn never_where_resources_lack() {
    let given = std::env::var("KILONOVA_TEST_SEED").ok();
    let seed: u64 = given.map_or_else(rand::random, |seed| seed.parse().unwrap());
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..300 {
        let mut hosts: Vec<HostState> = (1..=rng.random_range(1..8)).map(host).collect();
        for host in &mut hosts {
            host.up = rng.random_bool(0.9);
            host.disabled = rng.random_bool(0.1);
            for inventory in host.inventory.values_mut() {
                inventory.total = rng.random_range(1..40);
                inventory.max_unit = inventory.total;
                inventory.reserved = rng.random_range(0..3).min(inventory.total);
                inventory.allocation_ratio = [0.5, 1.0, 1.5, 16.0][rng.random_range(0..4)];
                inventory.used = rng.random_range(0..30);
            }
        }
        let classes = ["VCPU", "MEMORY_MB", "DISK_GB"];
        let resources: BTreeMap<String, u64> = classes
            .map(|class| (class.to_owned(), rng.random_range(1..12)))
            .into();
        let request = Request {
            resources,
            ..Request::default()
        };
        let fits = |host: &HostState| {
            request.resources.iter().all(|(class, need)| {
                let i = &host.inventory[class];
                #[allow(clippy::cast_precision_loss)]
                let within =
                    (i.used + need) as f64 <= (i.total - i.reserved) as f64 * i.allocation_ratio;
                within && *need <= i.max_unit
            })
        };
        let expected: BTreeSet<&HostName> = hosts
            .iter()
            .filter(|host| host.up && !host.disabled && fits(host))
            .map(|host| &host.host)
            .collect();
        let chance = rng.random();
        let settings = Settings {
            host_subset_size: rng.random_range(1..4),
            ..Settings::default()
        };
        let outcome = select(
            &hosts,
            &request,
            &settings,
            &mut StdRng::seed_from_u64(chance),
        );
        let reversed = select(
            hosts.iter().rev(),
            &request,
            &settings,
            &mut StdRng::seed_from_u64(chance),
        );
        match &outcome {
            Ok(candidates) => {
                assert_eq!(
                    candidates
                        .iter()
                        .map(|candidate| &candidate.host)
                        .collect::<BTreeSet<_>>(),
                    expected
                );
                assert_eq!(reversed.as_ref(), Ok(candidates));
            }
            Err(refusal) => {
                assert!(expected.is_empty());
                assert_eq!(refusal.considered, hosts.len());
                assert_eq!(
                    refusal
                        .by_reason
                        .iter()
                        .map(|(_, hosts)| hosts.len())
                        .sum::<usize>(),
                    hosts.len()
                );
            }
        }
        // Placing one after the other ends, and nothing is over-committed.
        let view = Hosts::new();
        view.replace(hosts);
        let mut placed: u128 = 0;
        while let Ok(candidates) = select(
            view.snapshot().values().map(AsRef::as_ref),
            &request,
            &settings,
            &mut rng,
        ) {
            placed += 1;
            assert!(placed < 10_000);
            let change = UsageChange {
                node: candidates[0].node,
                server: server(placed),
                resources: request.resources.clone(),
                added: true,
            };
            view.update_usage(&change);
            view.update_usage(&change);
            let snapshot = view.snapshot();
            let host = &snapshot[&candidates[0].node];
            assert!(
                host.inventory
                    .values()
                    .all(|inventory| inventory.used <= inventory.capacity())
            );
        }
    }
}

#[test]
fn the_view_changes_under_nobody() {
    let view = Hosts::new();
    view.replace([host(1)]);
    let before = view.snapshot();
    let node = host(1).node;
    let change = UsageChange {
        node,
        server: server(1),
        resources: [("VCPU".to_owned(), 2)].into(),
        added: true,
    };
    view.update_usage(&change);
    assert_eq!(before[&node].free("VCPU"), 32);
    assert_eq!(view.snapshot()[&node].free("VCPU"), 30);
    view.update_usage(&UsageChange {
        added: false,
        ..change.clone()
    });
    view.update_usage(&UsageChange {
        added: false,
        ..change.clone()
    });
    assert_eq!(view.snapshot()[&node].free("VCPU"), 32);
    view.update_usage(&UsageChange {
        node: NodeId::random(),
        ..change
    });
    assert_eq!(view.snapshot().len(), 1);
}

#[test]
fn rows_become_hosts() {
    use db::hosts::{Node, Service};
    use types::agent::HostFacts;
    use types::{ServiceId, Timestamp};
    let now = Timestamp(1_000_000_000);
    let name = |n: u128| HostName(format!("host{n}"));
    let node = |n: u128| Node {
        id: 1,
        uuid: NodeId(Uuid::from_u128(n)),
        host: name(n),
        hypervisor_hostname: format!("node{n}"),
        facts: HostFacts {
            hypervisor_type: "QEMU".into(),
            hypervisor_version: 1,
            hypervisor_hostname: format!("node{n}"),
            vcpus: 4,
            memory_mb: 1024,
            disk_gb: 10,
            free_disk_gb: 10,
            memory_mb_used: 0,
            cpu_info: json!({}),
            host_ip: "192.0.2.1".into(),
            supported: Vec::new(),
            traits: vec!["HW_CPU_X86_AVX2".into()],
            storage: None,
            healthy: n != 3,
            problem: None,
        },
    };
    let service = |n: u128, seen: i64| Service {
        id: 1,
        uuid: ServiceId::random(),
        host: name(n),
        binary: "nova-compute".into(),
        beats: 1,
        last_seen_up: Some(Timestamp(seen)),
        disabled: n == 2,
        disabled_reason: None,
        forced_down: false,
        version: 1,
        problem: None,
        created_at: now,
        updated_at: None,
    };
    let services = vec![service(1, now.0 - 5), service(2, 0), service(3, now.0)];
    let inventories = vec![(
        Uuid::from_u128(1),
        Inventory {
            used: 3,
            ..Inventory::whole("VCPU", 4, 0, 1.0)
        },
    )];
    let (servers, busy) = (vec![(name(1), 2)], vec![(name(1), 1)]);
    let aggregates = vec![(aggregate(&[("availability_zone", "east")]), vec![name(1)])];
    let rows = Rows {
        nodes: (1..=4).map(node).collect(),
        services,
        inventories,
        servers,
        busy,
        aggregates,
    };
    let hosts = host_states(rows, "nova", now, 1000);
    let traits = |host: &HostState| host.traits.iter().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(traits(&hosts[0]), "COMPUTE_NODE HW_CPU_X86_AVX2");
    assert_eq!(
        traits(&hosts[1]),
        "COMPUTE_NODE COMPUTE_STATUS_DISABLED HW_CPU_X86_AVX2"
    );
    let seen: Vec<(bool, bool, &str)> = hosts
        .iter()
        .map(|host| (host.up, host.disabled, host.zone.as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            (true, false, "east"),
            (false, true, "nova"),
            (false, false, "nova"),
            (false, true, "nova")
        ]
    );
    assert_eq!(
        (
            hosts[0].free("VCPU"),
            hosts[0].num_servers(),
            hosts[0].io_ops
        ),
        (1, 2, 1)
    );
}

#[test]
fn servers_that_were_there_before_count_by_their_places() {
    let settings = Settings::default();
    let placed = |request: Request| Request {
        places: [(server(9), HostName("host1".into()))].into(),
        ..request
    };
    let group = |policy| {
        Some(Group {
            policy,
            members: [server(9)].into(),
            max_server_per_host: 1,
        })
    };
    let apart = Request {
        different_host: [server(9)].into(),
        ..request()
    };
    let together = Request {
        same_host: [server(9)].into(),
        ..request()
    };
    let near = Request {
        group: group(GroupPolicy::Affinity),
        ..request()
    };
    let away = Request {
        group: group(GroupPolicy::AntiAffinity),
        ..request()
    };
    for (request, only) in [
        (apart, "host2"),
        (together, "host1"),
        (near, "host1"),
        (away, "host2"),
    ] {
        let chosen = pick(&[host(1), host(2)], &placed(request), &settings).unwrap();
        assert_eq!(chosen, [only]);
    }
    let mut full = host(1);
    full.counted = 1;
    let settings = Settings {
        filters: vec![Filter::NumInstances],
        max_instances_per_host: 1,
        ..settings
    };
    assert_eq!(
        pick(&[full, host(2)], &request(), &settings).unwrap(),
        ["host2"]
    );
}

/// Every host lacks it, and everybody is told what it is; where an administrator named the host, too.
#[test]
fn hardware_that_no_host_has() {
    let flavor = flavor(&[("hw:cpu_policy", "dedicated"), ("hw:numa_nodes", "1")]);
    let wanted = || {
        Request::new(&flavor, None)
            .unwrap()
            .demanding(&flavor, &BTreeMap::new())
            .unwrap()
    };
    let forced = Request {
        only_host: Some("host1".into()),
        forced: true,
        ..wanted()
    };
    let words = "1 host considered: 1 without CPUs for one guest alone (hw:cpu_policy=dedicated)";
    for request in [wanted(), forced] {
        let refusal = pick(&[host(1)], &request, &Settings::default()).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            format!("No valid host was found. {words}")
        );
    }
    let down = HostState {
        up: false,
        ..host(2)
    };
    let refusal = pick(&[host(1), down], &wanted(), &Settings::default()).unwrap_err();
    assert!(refusal.to_string().contains("1 down"), "{refusal}");
    let as_it_is = Request::new(&flavor, None).unwrap();
    assert!(pick(&[host(1)], &as_it_is, &Settings::default()).is_ok());
}
