//! Quotas, agents, availability zones, address statistics, extensions.

use crate::api::addressing;
use crate::api::listing::Query;
use crate::db::{self, agents, ipam, quotas};
use crate::doc::Doc;
use crate::fault::Fault;
use crate::schema::Kind;
use crate::work::Work;
use http::StatusCode;
use policy::Target;
use serde_json::{Map, Value, json};

/// Limits of projects that have none of their own, as Neutron's defaults.
const QUOTAS: &[(&str, i64)] = &[
    ("network", 100),
    ("subnet", 100),
    ("subnetpool", -1),
    ("port", 500),
    ("router", 10),
    ("floatingip", 50),
    ("security_group", 10),
    ("security_group_rule", 100),
    ("trunk", -1),
];

fn kind_of(resource: &str) -> Option<Kind> {
    Kind::ALL
        .into_iter()
        .find(|kind| kind.quota() == Some(resource))
}

/// Refuses `more` resources of a kind when the project's limit does not allow them.
pub fn demand_room(
    work: &mut Work<'_, '_>,
    kind: Kind,
    project: &str,
    more: usize,
) -> Result<(), Fault> {
    let Some(resource) = kind.quota() else {
        return Ok(());
    };
    let usual = QUOTAS
        .iter()
        .find(|(name, _)| *name == resource)
        .map_or(-1, |(_, limit)| *limit);
    let limit = quotas::of(work.tx, project)?
        .get(resource)
        .copied()
        .unwrap_or(usual);
    if limit < 0 {
        return Ok(());
    }
    let used = db::count(work.tx, kind, &[db::is("project_id", project)])?;
    if used + i64::try_from(more).unwrap_or(i64::MAX) > limit {
        return Err(Fault::conflict(
            "OverQuota",
            format!("Quota exceeded for resources: ['{resource}']."),
        ));
    }
    Ok(())
}

fn limits(work: &mut Work<'_, '_>, project: Option<&str>) -> Result<Map<String, Value>, Fault> {
    let own = project
        .map(|project| quotas::of(work.tx, project))
        .transpose()?
        .unwrap_or_default();
    Ok(QUOTAS
        .iter()
        .map(|(name, usual)| {
            (
                (*name).to_owned(),
                own.get(*name).unwrap_or(usual).to_owned().into(),
            )
        })
        .collect())
}

/// `GET /v2.0/quotas...`
pub fn show_quotas(work: &mut Work<'_, '_>, path: &[&str]) -> Result<Value, Fault> {
    let project = path
        .first()
        .copied()
        .unwrap_or(work.cx.project())
        .to_owned();
    let target = Target::new().with("project_id", project.as_str());
    match path {
        [] => {
            work.cx.demand("update_quota", &Target::new())?;
            let mut all = Vec::new();
            for project in quotas::projects(work.tx)? {
                let mut limits = limits(work, Some(&project))?;
                limits.insert("project_id".into(), project.as_str().into());
                limits.insert("tenant_id".into(), project.into());
                all.push(Value::Object(limits));
            }
            Ok(json!({"quotas": all}))
        }
        ["tenant" | "project"] => {
            Ok(json!({"tenant": {"project_id": work.cx.project(), "tenant_id": work.cx.project()}}))
        }
        [_] => {
            work.cx.demand("get_quota", &target)?;
            Ok(json!({"quota": limits(work, Some(&project))?}))
        }
        [_, "default"] => {
            work.cx.demand("get_quota", &target)?;
            Ok(json!({"quota": limits(work, None)?}))
        }
        [_, "details" | "details.json"] => {
            work.cx.demand("get_quota", &target)?;
            let mut details = Map::new();
            for (name, limit) in limits(work, Some(&project))? {
                let used = match kind_of(&name) {
                    Some(kind) => {
                        db::count(work.tx, kind, &[db::is("project_id", project.as_str())])?
                    }
                    None => 0,
                };
                details.insert(name, json!({"limit": limit, "used": used, "reserved": 0}));
            }
            Ok(json!({"quota": details}))
        }
        _ => Err(Fault::no_route()),
    }
}

/// `PUT /v2.0/quotas/{project}`
pub fn set_quotas(work: &mut Work<'_, '_>, project: &str, body: &Value) -> Result<Value, Fault> {
    work.cx.demand("update_quota", &Target::new())?;
    let wanted = body.get("quota").and_then(Value::as_object);
    let wanted = wanted.ok_or_else(|| Fault::request("Unable to find 'quota' in request body"))?;
    for (name, value) in wanted {
        if matches!(
            name.as_str(),
            "project_id" | "tenant_id" | "force" | "check_limit"
        ) {
            continue;
        }
        if !QUOTAS.iter().any(|(known, _)| known == name) {
            return Err(Fault::request(format!(
                "Unrecognized attribute(s) '{name}'"
            )));
        }
        let limit = crate::check::Check::Int(-1, i64::from(i32::MAX)).run(value);
        let limit = limit.map_err(|reason| {
            Fault::request(format!("Invalid input for {name}. Reason: {reason}."))
        })?;
        quotas::set(work.tx, project, name, limit.as_i64().unwrap_or(-1))?;
    }
    Ok(json!({"quota": limits(work, Some(project))?}))
}

/// `DELETE /v2.0/quotas/{project}`
pub fn reset_quotas(work: &mut Work<'_, '_>, project: &str) -> Result<(), Fault> {
    work.cx.demand("delete_quota", &Target::new())?;
    if quotas::of(work.tx, project)?.is_empty() {
        let text = format!("Quota for tenant {project} could not be found.");
        return Err(Fault::new(
            StatusCode::NOT_FOUND,
            "TenantQuotaNotFound",
            text,
        ));
    }
    quotas::reset(work.tx, project)
}

fn agent_not_found(id: &str) -> Fault {
    Fault::new(
        StatusCode::NOT_FOUND,
        "AgentNotFound",
        format!("Agent {id} could not be found."),
    )
}

/// `GET /v2.0/agents` and `/v2.0/agents/{id}`
pub fn show_agents(
    work: &mut Work<'_, '_>,
    id: Option<&str>,
    query: &Query,
) -> Result<Value, Fault> {
    // A list holds what its reader may see; one agent that may not be seen is refused.
    if id.is_none() && !work.cx.allows("get_agent", &Target::new()) {
        return Ok(json!({"agents": []}));
    }
    work.cx.demand("get_agent", &Target::new())?;
    let mut all = agents::list(work.tx, work.cx.config.agent_down_seconds)?;
    if let Some(id) = id {
        let found = all
            .into_iter()
            .find(|agent| agent.id() == id)
            .ok_or_else(|| agent_not_found(id))?;
        return Ok(json!({"agent": found.0}));
    }
    for name in ["id", "host", "agent_type", "binary", "availability_zone"] {
        let wanted = query.all(name);
        all.retain(|agent| wanted.is_empty() || wanted.contains(&agent.text(name)));
    }
    for name in ["alive", "admin_state_up"] {
        let wanted = query
            .last(name)
            .map(|text| text.eq_ignore_ascii_case("true"));
        all.retain(|agent| wanted.is_none_or(|wanted| wanted == agent.flag(name)));
    }
    let all: Vec<Value> = all
        .into_iter()
        .map(|agent| Value::Object(agent.0))
        .collect();
    Ok(json!({"agents": all}))
}

/// `PUT /v2.0/agents/{id}`
pub fn update_agent(work: &mut Work<'_, '_>, id: &str, body: &Value) -> Result<Value, Fault> {
    work.cx.demand("update_agent", &Target::new())?;
    let wanted = body
        .get("agent")
        .ok_or_else(|| Fault::request("Unable to find 'agent' in request body"))?;
    let up = wanted.get("admin_state_up").and_then(Value::as_bool);
    agents::update(
        work.tx,
        id,
        up,
        wanted.get("description").and_then(Value::as_str),
    )?;
    show_agents(work, Some(id), &Query::default())
}

/// `DELETE /v2.0/agents/{id}`
pub fn delete_agent(work: &mut Work<'_, '_>, id: &str) -> Result<(), Fault> {
    work.cx.demand("delete_agent", &Target::new())?;
    show_agents(work, Some(id), &Query::default())?;
    if agents::delete(work.tx, id)? {
        work.gateway_moved()?;
    }
    Ok(())
}

/// `GET /v2.0/availability_zones`
pub fn availability_zones(work: &mut Work<'_, '_>) -> Result<Value, Fault> {
    let all = agents::list(work.tx, work.cx.config.agent_down_seconds)?;
    let zones = [("L3 agent", "router"), ("DHCP agent", "network")];
    let zones: Vec<Value> = zones
        .into_iter()
        .filter(|(kind, _)| all.iter().any(|agent| agent.text("agent_type") == *kind))
        .map(|(_, resource)| json!({"name": "nova", "resource": resource, "state": "available"}))
        .collect();
    Ok(json!({"availability_zones": zones}))
}

/// `GET /v2.0/network-ip-availabilities[/{network}]`
pub fn ip_availability(
    work: &mut Work<'_, '_>,
    id: Option<&str>,
    query: &Query,
) -> Result<Value, Fault> {
    work.cx
        .demand("get_network_ip_availability", &Target::new())?;
    let mut networks = match id {
        Some(id) => vec![work.get(Kind::Network, id)?],
        None => db::find(work.tx, Kind::Network, &[])?,
    };
    for (parameter, attribute) in [
        ("network_id", "id"),
        ("network_name", "name"),
        ("project_id", "project_id"),
        ("tenant_id", "project_id"),
    ] {
        let wanted = query.all(parameter);
        networks.retain(|network| wanted.is_empty() || wanted.contains(&network.text(attribute)));
    }
    let subnets = db::find(
        work.tx,
        Kind::Subnet,
        &[db::one_of("network_id", networks.iter().map(Doc::id))],
    )?;
    let subnets: Vec<Doc> = match query
        .last("ip_version")
        .and_then(|text| text.parse::<i64>().ok())
    {
        Some(version) => subnets
            .into_iter()
            .filter(|subnet| subnet.int("ip_version") == Some(version))
            .collect(),
        None => subnets,
    };
    let ids: Vec<String> = subnets
        .iter()
        .map(|subnet| subnet.id().to_owned())
        .collect();
    let usage = ipam::usage(work.tx, &ids)?;
    let mut all = Vec::new();
    for network in &networks {
        all.push(availability(network, &subnets, &usage));
    }
    match id {
        Some(_) => Ok(json!({"network_ip_availability": all.pop()})),
        None => Ok(json!({"network_ip_availabilities": all})),
    }
}

fn availability(network: &Doc, subnets: &[Doc], usage: &[(String, i64)]) -> Value {
    let mut per_subnet = Vec::new();
    let (mut total, mut used) = (0u128, 0i64);
    for subnet in subnets
        .iter()
        .filter(|subnet| subnet.text("network_id") == network.id())
    {
        let size: u128 = addressing::pools(subnet)
            .iter()
            .map(|(first, last)| (last - first).saturating_add(1))
            .sum();
        let taken = usage
            .iter()
            .find(|(id, _)| id == subnet.id())
            .map_or(0, |(_, count)| *count);
        total = total.saturating_add(size);
        used += taken;
        per_subnet.push(json!({
            "subnet_id": subnet.id(),
            "subnet_name": subnet.text("name"),
            "ip_version": subnet.int("ip_version"),
            "cidr": subnet.text("cidr"),
            "total_ips": u64::try_from(size).unwrap_or(u64::MAX),
            "used_ips": taken,
        }));
    }
    json!({
        "network_id": network.id(),
        "network_name": network.text("name"),
        "project_id": network.project(),
        "tenant_id": network.project(),
        "total_ips": u64::try_from(total).unwrap_or(u64::MAX),
        "used_ips": used,
        "subnet_ip_availability": per_subnet,
    })
}

/// (alias, name) of the API extensions that work here; whatever is not here is not there.
const EXTENSIONS: &[(&str, &str)] = &[
    ("address-scope", "Address scope"),
    ("agent", "agent"),
    ("allowed-address-pairs", "Allowed Address Pairs"),
    (
        "auto-allocated-topology",
        "Auto Allocated Topology Services",
    ),
    ("availability_zone", "Availability Zone"),
    ("binding", "Port Binding"),
    ("binding-extended", "Port Bindings Extended"),
    ("default-subnetpools", "Default Subnetpools"),
    ("dns-integration", "DNS Integration"),
    (
        "ext-gw-mode",
        "Neutron L3 Configurable external gateway mode",
    ),
    ("external-net", "Neutron external network"),
    ("extra_dhcp_opt", "Neutron Extra DHCP options"),
    ("extraroute", "Neutron Extra Route"),
    ("extraroute-atomic", "Atomically add/remove extra routes"),
    ("filter-validation", "Filter parameters validation"),
    ("fip-port-details", "Floating IP Port Details Extension"),
    ("ip-substring-filtering", "IP address substring filtering"),
    ("ip_allocation", "IP Allocation"),
    ("net-mtu", "Network MTU"),
    ("net-mtu-writable", "Network MTU (writable)"),
    ("network-ip-availability", "Network IP Availability"),
    ("network_availability_zone", "Network Availability Zone"),
    ("pagination", "Pagination support"),
    ("port-security", "Port Security"),
    ("project-id", "project_id field enabled"),
    ("provider", "Provider Network"),
    ("quota_details", "Quota details management support"),
    ("quotas", "Quota management support"),
    ("router", "Neutron L3 Router"),
    ("router_availability_zone", "Router Availability Zone"),
    ("security-group", "security-group"),
    (
        "security-groups-normalized-cidr",
        "Normalized CIDR field for security group rules",
    ),
    (
        "security-groups-rules-belongs-to-default-sg",
        "Add the \"belongs_to_default_sg\" field to SG rules",
    ),
    ("sorting", "Sorting support"),
    ("standard-attr-description", "standard-attr-description"),
    ("standard-attr-revisions", "Resource revision numbers"),
    (
        "standard-attr-tag",
        "Tag support for resources with standard attribute",
    ),
    ("standard-attr-timestamp", "Resource timestamps"),
    ("stateful-security-group", "Stateful security group"),
    ("subnet_allocation", "Subnet Allocation"),
    ("trunk", "Trunk Extension"),
    ("trunk-details", "Trunk port details"),
];

/// `GET /v2.0/extensions[/{alias}]`
pub fn extensions(alias: Option<&str>) -> Result<Value, Fault> {
    let show = |(alias, name): &(&str, &str)| json!({"alias": alias, "name": name, "description": name, "updated": "2026-01-01T00:00:00-00:00", "links": []});
    match alias {
        None => Ok(json!({"extensions": EXTENSIONS.iter().map(show).collect::<Vec<_>>()})),
        Some(alias) => {
            let found = EXTENSIONS
                .iter()
                .find(|(known, _)| *known == alias)
                .map(show);
            let missing = || {
                Fault::new(
                    StatusCode::NOT_FOUND,
                    "HTTPNotFound",
                    format!("Extension with alias {alias} does not exist"),
                )
            };
            found
                .map(|extension| json!({"extension": extension}))
                .ok_or_else(missing)
        }
    }
}
