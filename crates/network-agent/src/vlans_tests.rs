#![allow(clippy::unwrap_used)]
use super::*;
use crate::desired::Link;
use crate::names::Alias;

const PORTS: [Uuid; 2] = [Uuid::from_u128(1), Uuid::from_u128(2)];

fn cloud() -> CloudId {
    CloudId::new("c1").unwrap()
}

/// Two ports under the trunk of `tapt`: VLANs 42 and 43.
fn desired() -> Desired {
    let cable = |port: Uuid, id: u16| Link {
        kind: LinkKind::VlanCable {
            parent: "tapt".into(),
            id,
            inner: format!("kvl{id}"),
        },
        mtu: 1450,
        master: Some("kbr".into()),
        up: true,
        object: port,
        addresses: BTreeSet::new(),
    };
    let [one, two] = PORTS;
    let links = [("tap42", cable(one, 42)), ("tap43", cable(two, 43))];
    Desired {
        links: links.map(|(name, link)| (name.to_owned(), link)).into(),
        ..Desired::default()
    }
}

fn links(tap: u32) -> BTreeMap<String, SeenLink> {
    [("tapt", tap), ("kvl42", 142), ("kvl43", 143)]
        .map(|(name, index)| {
            let link = SeenLink {
                index,
                mtu: 1450,
                ..SeenLink::default()
            };
            (name.to_owned(), link)
        })
        .into()
}

/// As it is when all programs are there.
fn realised(wanted: &[Filter]) -> Seen {
    let mut all = Seen::new();
    for filter in wanted {
        let found = (filter.place, Some(filter.program.name()));
        all.entry(filter.link.clone()).or_default().insert(found);
    }
    all
}

fn lines(wanted: &[Filter], seen: &Seen) -> Vec<String> {
    let steps = plan(wanted, seen, Path::new("/run/v"));
    steps.into_iter().map(|step| step.line).collect()
}

fn load(link: &str, place: u16, name: &str) -> String {
    format!(
        "filter replace dev {link} ingress pref {place} handle 1 bpf direct-action object-file /run/v/{name}.o section {name}"
    )
}

#[test]
fn programs_join_cables_and_tap() {
    let wanted = wanted(&desired(), &links(7)).filters;
    assert_eq!(
        lines(&wanted, &Seen::new()),
        [
            "qdisc add dev tapt clsact".to_owned(),
            load("tapt", 42, "kilonova-pop-42-to-142"),
            "qdisc add dev kvl42 clsact".to_owned(),
            load("kvl42", 1, "kilonova-push-42-to-7"),
            load("tapt", 43, "kilonova-pop-43-to-143"),
            "qdisc add dev kvl43 clsact".to_owned(),
            load("kvl43", 1, "kilonova-push-43-to-7"),
        ]
    );
    let there = realised(&wanted);
    assert_eq!(lines(&wanted, &there), [""; 0]);
    // Someone else's programs are let be.
    let mut shared = there.clone();
    shared.get_mut("tapt").unwrap().insert((9, None));
    assert_eq!(lines(&wanted, &shared), [""; 0]);
    assert_eq!(
        lines(&wanted[2..], &shared),
        [
            "qdisc del dev kvl42 clsact",
            "filter del dev tapt ingress pref 42"
        ]
    );
    // Nothing is left on the tap of a trunk that carries nothing any more.
    let mut alone = there.clone();
    alone.retain(|link, _| link == "tapt");
    assert_eq!(lines(&[], &alone), ["qdisc del dev tapt clsact"]);
    let foreign = Seen::from([
        ("tapt".to_owned(), BTreeSet::from([(9, None)])),
        ("tapx".to_owned(), BTreeSet::new()),
    ]);
    assert_eq!(lines(&[], &foreign), [""; 0]);
}

#[test]
fn a_tap_that_was_made_anew_gets_its_programs() {
    let (before, after) = (links(7), links(8));
    let mut there = realised(&wanted(&desired(), &before).filters);
    there.remove("tapt");
    assert_eq!(
        lines(&wanted(&desired(), &after).filters, &there),
        [
            "qdisc add dev tapt clsact".to_owned(),
            load("tapt", 42, "kilonova-pop-42-to-142"),
            load("kvl42", 1, "kilonova-push-42-to-8"),
            load("tapt", 43, "kilonova-pop-43-to-143"),
            load("kvl43", 1, "kilonova-push-43-to-8"),
        ]
    );
}

#[test]
fn a_missing_interface_is_said_and_the_others_work() {
    let mut links = links(7);
    links.remove("kvl42");
    let all = wanted(&desired(), &links);
    assert_eq!(all.missing, [(PORTS[0], "kvl42".to_owned())]);
    assert!(all.filters.iter().all(|filter| filter.port == PORTS[1]));
    assert_eq!(all.filters.len(), 2);
}

#[test]
fn inner_ends_work_once_their_programs_are_there() {
    let mut links = links(7);
    let said = |links: &_| {
        let steps = ends(&desired(), links, |port| *port == PORTS[0]);
        let lines = steps.into_iter().map(|step| step.line);
        lines.collect::<Vec<_>>()
    };
    assert_eq!(
        said(&links),
        ["link set dev kvl42 addrgenmode none arp off up"]
    );
    links.get_mut("kvl42").unwrap().up = true;
    assert_eq!(said(&links), [""; 0]);
    links.get_mut("kvl42").unwrap().mtu = 1500;
    assert_eq!(said(&links), ["link set dev kvl42 mtu 1450"]);
}

#[test]
fn what_tc_prints() {
    let queues = br#"[{"kind":"noqueue","handle":"0:","dev":"tapt","root":true},{"kind":"clsact","handle":"ffff:","dev":"tapt"},
        {"kind":"clsact","handle":"ffff:","dev":"kvl42"},{"kind":"clsact","handle":"ffff:","dev":"eth0"},{"kind":"ingress","dev":"tapi"}]"#;
    let mut links = links(7);
    links.get_mut("tapt").unwrap().alias = Some(Alias::new(&cloud(), PORTS[0], None));
    links.insert("eth0".into(), SeenLink::default());
    let wanted = wanted(&desired(), &links).filters;
    let found = hooks(queues, &cloud(), &links, &wanted[..2]).unwrap();
    assert_eq!(found, BTreeSet::from(["kvl42".into(), "tapt".into()]));
    let filters = br#"[{"protocol":"all","pref":1,"kind":"bpf","chain":0}]
[{"protocol":"all","pref":9,"kind":"bpf","chain":0},{"protocol":"all","pref":9,"kind":"bpf","chain":0,"options":{"handle":"0x1","bpf_name":"other.o:[classifier]"}},
{"protocol":"all","pref":42,"kind":"bpf","chain":0,"options":{"handle":"0x1","bpf_name":"kilonova-pop-42-to-142.o:[kilonova-pop-42-to-142]","direct-action":true,"prog":{"id":6}}}]
"#;
    let name = "kilonova-pop-42-to-142".to_owned();
    assert_eq!(
        seen(filters, &found).unwrap(),
        Seen::from([
            ("kvl42".to_owned(), BTreeSet::new()),
            (
                "tapt".to_owned(),
                BTreeSet::from([(9, None), (42, Some(name))])
            ),
        ])
    );
}

#[test]
fn files_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("vlans");
    fs::create_dir(&folder).unwrap();
    let wanted = wanted(&desired(), &links(7)).filters;
    write(&folder, &wanted).unwrap();
    tidy(&folder, &wanted[..1]).unwrap();
    let left: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["kilonova-pop-42-to-142.o"]);
    tidy(&folder, &[]).unwrap();
    assert!(!folder.exists());
}
