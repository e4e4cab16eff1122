//! Security groups and their rules.

use crate::api::request::Request;
use crate::check::protocol_number;
use crate::db;
use crate::doc::Doc;
use crate::fault::Fault;
use crate::schema::Kind;
use crate::work::{What, Work};
use serde_json::{Value, json};

/// The name of the group that every project has.
const DEFAULT: &str = "default";

/// The id of a project's default group, which is made on first use: all to others, all from members.
pub fn ensure_default(work: &mut Work<'_, '_>, project: &str) -> Result<String, Fault> {
    let found = db::column(work.tx, Kind::Group, "id", &[db::is("default_of", project)])?;
    if let Some(id) = found.into_iter().next() {
        return Ok(id);
    }
    let mut group = Doc::default();
    group.set("project_id", project);
    group.set("name", DEFAULT);
    group.set("description", "Default security group");
    group.set("stateful", true);
    group.set("shared", false);
    group.set("_default_of", project);
    crate::work::born(&mut group);
    db::insert(work.tx, Kind::Group, &group)?;
    for ethertype in ["IPv4", "IPv6"] {
        add_default_rule(work, &group, "egress", ethertype, Value::Null)?;
        add_default_rule(work, &group, "ingress", ethertype, group.id().into())?;
    }
    Ok(group.id().to_owned())
}

fn add_default_rule(
    work: &mut Work<'_, '_>,
    group: &Doc,
    direction: &str,
    ethertype: &str,
    remote: Value,
) -> Result<(), Fault> {
    let mut rule = Doc::default();
    rule.set("project_id", group.project());
    rule.set("security_group_id", group.id());
    rule.set("direction", direction);
    rule.set("ethertype", ethertype);
    rule.set("remote_group_id", remote);
    for name in [
        "protocol",
        "port_range_min",
        "port_range_max",
        "remote_ip_prefix",
    ] {
        rule.set(name, Value::Null);
    }
    insert_rule(work, group, &mut rule)
}

/// Refuses groups that are not there for a project.
pub fn demand_usable(work: &mut Work<'_, '_>, ids: &[String], project: &str) -> Result<(), Fault> {
    let found = db::find(
        work.tx,
        Kind::Group,
        &[db::one_of("id", ids.iter().map(String::as_str))],
    )?;
    let all = work.cx.sees_all();
    let usable = |id: &String| {
        found
            .iter()
            .any(|group| group.id() == id && (all || group.project() == project))
    };
    match ids.iter().find(|id| !usable(id)) {
        Some(id) => Err(Fault::not_found(Kind::Group, id)),
        None => Ok(()),
    }
}

/// Creates a group with the rules that let everything out.
pub fn create(work: &mut Work<'_, '_>, request: Request) -> Result<Doc, Fault> {
    let mut doc = request.doc;
    if doc.text("name").eq_ignore_ascii_case(DEFAULT) {
        return Err(Fault::conflict(
            "SecurityGroupDefaultAlreadyExists",
            "Default security group already exists.",
        ));
    }
    doc.set("shared", false);
    crate::work::born(&mut doc);
    db::insert(work.tx, Kind::Group, &doc)?;
    for ethertype in ["IPv4", "IPv6"] {
        add_default_rule(work, &doc, "egress", ethertype, Value::Null)?;
    }
    Ok(doc)
}

/// Changes a group.
pub fn update(work: &mut Work<'_, '_>, old: &Doc, mut doc: Doc) -> Result<Doc, Fault> {
    let renamed = old.text("name") != doc.text("name");
    if renamed && old.has("_default_of") {
        return Err(Fault::conflict(
            "SecurityGroupCannotUpdateDefault",
            "Updating default security group not allowed.",
        ));
    }
    if renamed && doc.text("name").eq_ignore_ascii_case(DEFAULT) {
        return Err(Fault::conflict(
            "SecurityGroupDefaultAlreadyExists",
            "Default security group already exists.",
        ));
    }
    if old.flag("stateful") != doc.flag("stateful") && db::ports_in_group(work.tx, doc.id())? > 0 {
        return Err(in_use(&doc));
    }
    crate::work::touched(&mut doc);
    db::save(work.tx, Kind::Group, &doc)?;
    work.changed(What::Group, doc.id());
    Ok(doc)
}

fn in_use(doc: &Doc) -> Fault {
    Fault::conflict(
        "SecurityGroupInUse",
        format!("Security Group {} in use.", doc.id()),
    )
}

/// Removes a group with its rules.
pub fn remove(work: &mut Work<'_, '_>, doc: &Doc) -> Result<(), Fault> {
    if doc.has("_default_of") && !work.cx.is_admin() {
        let text = "Insufficient rights for removing default security group.";
        return Err(Fault::conflict("SecurityGroupCannotRemoveDefault", text));
    }
    if db::ports_in_group(work.tx, doc.id())? > 0 {
        return Err(in_use(doc));
    }
    let mut rules = db::find(
        work.tx,
        Kind::Rule,
        &[db::is("security_group_id", doc.id())],
    )?;
    rules.extend(db::find(
        work.tx,
        Kind::Rule,
        &[db::is("remote_group_id", doc.id())],
    )?);
    for rule in rules {
        db::delete(work.tx, Kind::Rule, rule.id())?;
        work.changed(What::Group, rule.text("security_group_id"));
    }
    db::delete(work.tx, Kind::Group, doc.id())?;
    work.changed(What::Group, doc.id());
    Ok(())
}

/// Creates a rule.
pub fn create_rule(work: &mut Work<'_, '_>, request: Request) -> Result<Doc, Fault> {
    let mut doc = request.doc;
    let group = work.visible(Kind::Group, doc.text("security_group_id"))?;
    let project = group.project().to_owned();
    if !work.cx.sees_all() && doc.project() != project {
        return Err(Fault::not_found(Kind::Group, group.id()));
    }
    doc.set("project_id", project);
    if let Some(remote) = doc.text_opt("remote_group_id").map(str::to_owned) {
        if doc.has("remote_ip_prefix") {
            return Err(Fault::bad(
                "SecurityGroupMultipleRemoteEntites",
                "Only one of remote_group_id, remote_address_group_id or remote_ip_prefix may be provided.",
            ));
        }
        work.visible(Kind::Group, &remote)?;
    }
    check_rule(&doc)?;
    insert_rule(work, &group, &mut doc)?;
    work.changed(What::Group, group.id());
    Ok(doc)
}

fn insert_rule(work: &mut Work<'_, '_>, group: &Doc, doc: &mut Doc) -> Result<(), Fault> {
    doc.set("belongs_to_default_sg", group.has("_default_of"));
    let normalized = doc
        .text_opt("remote_ip_prefix")
        .and_then(|text| text.parse::<ipnet::IpNet>().ok());
    doc.set(
        "normalized_cidr",
        normalized
            .map(|net| net.trunc().to_string())
            .map_or(Value::Null, Value::from),
    );
    let content = content(doc);
    let matches = [
        db::is("security_group_id", group.id()),
        db::is("content", content.as_str()),
    ];
    if let Some(twin) = db::column(work.tx, Kind::Rule, "id", &matches)?.first() {
        let text = format!("Security group rule already exists. Rule id is {twin}.");
        return Err(Fault::conflict("SecurityGroupRuleExists", text));
    }
    doc.set("_content", content);
    crate::work::born(doc);
    db::insert(work.tx, Kind::Rule, doc)
}

/// What makes two rules the same.
fn content(doc: &Doc) -> String {
    let protocol = doc
        .text_opt("protocol")
        .and_then(|text| rule_protocol(text, doc.text("ethertype")));
    let port = |name| {
        doc.int(name)
            .map_or("-".to_owned(), |port| port.to_string())
    };
    let any = matches!(doc.text("normalized_cidr"), "0.0.0.0/0" | "::/0");
    [
        doc.text("direction").to_owned(),
        doc.text("ethertype").to_owned(),
        protocol.map_or("-".to_owned(), |number| number.to_string()),
        port("port_range_min"),
        port("port_range_max"),
        if any {
            String::new()
        } else {
            doc.text("normalized_cidr").to_owned()
        },
        doc.text("remote_group_id").to_owned(),
    ]
    .join(",")
}

/// The protocol's number; `icmp` is another one in IPv6.
pub fn rule_protocol(text: &str, ethertype: &str) -> Option<u8> {
    match protocol_number(text)? {
        1 if ethertype == "IPv6" => Some(58),
        number => Some(number),
    }
}

fn check_rule(doc: &Doc) -> Result<(), Fault> {
    let ethertype = doc.text("ethertype");
    if let Some(prefix) = doc.text_opt("remote_ip_prefix")
        && prefix.contains(':') != (ethertype == "IPv6")
    {
        let text = format!("Conflicting value ethertype {ethertype} for CIDR {prefix}");
        return Err(Fault::bad("SecurityGroupRuleParameterConflict", text));
    }
    let (low, high) = (doc.int("port_range_min"), doc.int("port_range_max"));
    let Some(name) = doc.text_opt("protocol") else {
        if low.is_some() || high.is_some() {
            let text = "Must also specify protocol if port range is given.";
            return Err(Fault::bad("SecurityGroupProtocolRequiredWithPorts", text));
        }
        return Ok(());
    };
    if ethertype == "IPv4" && (name.starts_with("ipv6-") || name == "icmpv6") {
        let text = format!("Invalid ethertype {ethertype} for protocol {name}.");
        return Err(Fault::bad(
            "SecurityGroupEthertypeConflictWithProtocol",
            text,
        ));
    }
    match rule_protocol(name, ethertype) {
        Some(6 | 17 | 33 | 132 | 136) => check_ports(name, low, high),
        Some(1 | 58) => check_icmp(low, high),
        _ if low.is_some() || high.is_some() => {
            let text = format!(
                "Invalid protocol {name} for port range, only supported for TCP, UDP, UDPLITE, SCTP and DCCP."
            );
            Err(Fault::bad("SecurityGroupInvalidProtocolForPort", text))
        }
        _ => Ok(()),
    }
}

fn check_ports(name: &str, low: Option<i64>, high: Option<i64>) -> Result<(), Fault> {
    match (low, high) {
        (None, None) => Ok(()),
        (Some(0), _) | (_, Some(0)) => {
            let text =
                format!("Invalid port value 0 for protocol {name}, port numbers start at 1.");
            Err(Fault::bad("SecurityGroupInvalidPortValue", text))
        }
        (Some(low), Some(high)) if low <= high => Ok(()),
        _ => Err(Fault::bad(
            "SecurityGroupInvalidPortRange",
            "For TCP/UDP protocols, port_range_min must be <= port_range_max",
        )),
    }
}

fn check_icmp(kind: Option<i64>, code: Option<i64>) -> Result<(), Fault> {
    for (attribute, field, value) in [
        ("port_range_min", "type", kind),
        ("port_range_max", "code", code),
    ] {
        if let Some(value) = value.filter(|value| !(0..=255).contains(value)) {
            let text = format!(
                "Invalid value for ICMP {field} ({attribute}) {value}. It must be 0 to 255."
            );
            return Err(Fault::bad("SecurityGroupInvalidIcmpValue", text));
        }
    }
    if kind.is_none()
        && let Some(code) = code
    {
        let text = format!(
            "ICMP code (port-range-max) {code} is provided but ICMP type (port-range-min) is missing."
        );
        return Err(Fault::bad("SecurityGroupMissingIcmpType", text));
    }
    Ok(())
}

/// Removes a rule.
pub fn remove_rule(work: &mut Work<'_, '_>, doc: &Doc) -> Result<(), Fault> {
    db::delete(work.tx, Kind::Rule, doc.id())?;
    work.changed(What::Group, doc.text("security_group_id"));
    Ok(())
}

/// Adds what is not stored: the rules.
pub fn complete(work: &mut Work<'_, '_>, docs: &mut [Doc]) -> Result<(), Fault> {
    let ids: Vec<String> = docs.iter().map(|doc| doc.id().to_owned()).collect();
    let mut rules = db::find(
        work.tx,
        Kind::Rule,
        &[db::one_of(
            "security_group_id",
            ids.iter().map(String::as_str),
        )],
    )?;
    rules.sort_by(|a, b| (a.text("created_at"), a.id()).cmp(&(b.text("created_at"), b.id())));
    for doc in docs {
        let own = rules
            .iter()
            .filter(|rule| rule.text("security_group_id") == doc.id());
        let own: Value = own
            .map(|rule| Value::Object(super::view::plain(rule)))
            .collect();
        doc.set("security_group_rules", own);
        if !doc.contains_key("shared") {
            doc.set("shared", json!(false));
        }
    }
    Ok(())
}
