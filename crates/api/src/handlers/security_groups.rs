//! `/os-security-groups` and `/os-security-group-rules` (until 2.36), and the groups of a server.

use super::network_proxies::{ask, escape, list_of, unexpected};
use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::schemas::formats;
use clients::refusal;
use http::{Method, StatusCode};
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};

/// Ids that a query names at most; the URL has a limit.
const IDS_AT_ONCE: usize = 100;

fn text<'a>(document: &'a Value, name: &str) -> &'a str {
    document[name].as_str().unwrap_or_default()
}

fn owner(document: &Value) -> &str {
    match document["tenant_id"].as_str() {
        Some(id) => id,
        None => text(document, "project_id"),
    }
}

/// A rule's ports as they were shown: all of a protocol are 1 to 65535, or -1 where there are no ports.
fn ports(rule: &Value) -> (Value, Value) {
    let (from, to) = (&rule["port_range_min"], &rule["port_range_max"]);
    match rule["protocol"].as_str() {
        Some(protocol) if from.is_null() && to.is_null() => {
            let has_ports = ["tcp", "udp"].contains(&protocol.to_lowercase().as_str());
            if has_ports {
                (json!(1), json!(65535))
            } else {
                (json!(-1), json!(-1))
            }
        }
        _ => (from.clone(), to.clone()),
    }
}

/// Name and project of groups that rules name.
type Sources = HashMap<String, Option<Value>>;

/// A rule, unless the group it names is gone.
fn shown_rule(rule: &Value, sources: &Sources) -> Option<Value> {
    let (from, to) = ports(rule);
    let mut shown = json!({
        "id": rule["id"],
        "parent_group_id": rule["security_group_id"],
        "ip_protocol": rule["protocol"],
        "from_port": from,
        "to_port": to,
        "group": {},
        "ip_range": {},
    });
    match rule["remote_group_id"].as_str() {
        Some(group) => shown["group"] = sources.get(group)?.clone()?,
        None => {
            let range = rule["remote_ip_prefix"].as_str().unwrap_or("0.0.0.0/0");
            shown["ip_range"] = json!({ "cidr": range });
        }
    }
    Some(shown)
}

fn rules(group: &Value) -> impl Iterator<Item = &Value> {
    let all = group["security_group_rules"].as_array();
    all.into_iter()
        .flatten()
        .filter(|rule| rule["direction"] == "ingress")
}

fn source(group: &Value) -> Value {
    json!({ "name": group["name"], "tenant_id": owner(group) })
}

/// Looks up the groups that the rules of these groups name; those in the list need no question.
async fn sources(call: &Call, groups: &[Value]) -> Result<Sources, Fault> {
    let mut known: Sources = groups
        .iter()
        .map(|group| (text(group, "id").to_owned(), Some(source(group))))
        .collect();
    let named: BTreeSet<&str> = groups
        .iter()
        .flat_map(rules)
        .filter_map(|rule| rule["remote_group_id"].as_str())
        .collect();
    let unknown: Vec<String> = named
        .into_iter()
        .filter(|id| !known.contains_key(*id))
        .map(str::to_owned)
        .collect();
    for group in by_ids(call, &unknown).await? {
        known.insert(text(&group, "id").to_owned(), Some(source(&group)));
    }
    Ok(known)
}

async fn by_ids(call: &Call, ids: &[String]) -> Result<Vec<Value>, Fault> {
    let mut found = Vec::new();
    for some in ids.chunks(IDS_AT_ONCE) {
        let query: Vec<String> = some.iter().map(|id| format!("id={}", escape(id))).collect();
        let path = format!("/v2.0/security-groups?{}", query.join("&"));
        found.extend(list_of(call, &path, "security_groups").await?);
    }
    Ok(found)
}

fn shown(group: &Value, sources: &Sources) -> Value {
    let rules: Vec<Value> = rules(group)
        .filter_map(|rule| shown_rule(rule, sources))
        .collect();
    json!({
        "id": group["id"],
        "name": group["name"],
        "description": group["description"],
        "tenant_id": owner(group),
        "rules": rules,
    })
}

async fn answer_list(call: &Call, groups: &[Value]) -> Result<Reply, Fault> {
    let sources = sources(call, groups).await?;
    let mut list: Vec<Value> = groups.iter().map(|group| shown(group, &sources)).collect();
    list.sort_by(|a, b| {
        let key = |group: &Value| {
            (
                text(group, "tenant_id").to_owned(),
                text(group, "name").to_owned(),
            )
        };
        key(a).cmp(&key(b))
    });
    Reply::ok(&json!({ "security_groups": list }))
}

async fn answer_one(call: &Call, group: &Value) -> Result<Reply, Fault> {
    let groups = [group.clone()];
    let sources = sources(call, &groups).await?;
    Reply::ok(&json!({ "security_group": shown(group, &sources) }))
}

/// `GET /os-security-groups`: the caller's project's; administrators may ask for everybody's.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    let everybody = call.is_admin() && call.query.get("all_tenants").is_some();
    let path = if everybody {
        "/v2.0/security-groups".to_owned()
    } else {
        format!(
            "/v2.0/security-groups?project_id={}",
            escape(call.project())
        )
    };
    let found = list_of(&call, &path, "security_groups").await?;
    let limit = call.limit_or_most()?;
    let page: Vec<Value> = found.into_iter().skip(call.offset()).take(limit).collect();
    answer_list(&call, &page).await
}

fn checked_id(call: &Call) -> Result<&str, Fault> {
    let id = call.param(0);
    if formats::uuid(id) {
        Ok(id)
    } else {
        Err(Fault::bad_request("Security group id should be uuid"))
    }
}

async fn group(call: &Call, id: &str) -> Result<Value, Fault> {
    let path = format!("/v2.0/security-groups/{}", escape(id));
    let answer = ask(call, Method::GET, &path, None).await?;
    match answer.status {
        StatusCode::OK => Ok(answer.part("security_group")),
        StatusCode::NOT_FOUND => Err(Fault::not_found(refusal(&answer))),
        _ => Err(unexpected(&answer)),
    }
}

/// `GET /os-security-groups/{id}`.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let group = group(&call, checked_id(&call)?).await?;
    answer_one(&call, &group).await
}

fn wanted(call: &Call) -> Value {
    let text = |name: &str| call.text("security_group", name).unwrap_or_default();
    json!({ "security_group": { "name": text("name"), "description": text("description") } })
}

/// `POST /os-security-groups`.
pub async fn create(call: Call) -> Result<Reply, Fault> {
    let body = wanted(&call);
    let answer = ask(&call, Method::POST, "/v2.0/security-groups", Some(&body)).await?;
    match answer.status {
        StatusCode::CREATED => answer_one(&call, &answer.json()["security_group"]).await,
        StatusCode::BAD_REQUEST => Err(Fault::bad_request(refusal(&answer))),
        StatusCode::CONFLICT => Err(Fault::forbidden(refusal(&answer))),
        _ => Err(unexpected(&answer)),
    }
}

/// `PUT /os-security-groups/{id}`.
pub async fn update(call: Call) -> Result<Reply, Fault> {
    let group = group(&call, checked_id(&call)?).await?;
    let path = format!("/v2.0/security-groups/{}", escape(text(&group, "id")));
    let answer = ask(&call, Method::PUT, &path, Some(&wanted(&call))).await?;
    match answer.status {
        StatusCode::OK => answer_one(&call, &answer.json()["security_group"]).await,
        StatusCode::NOT_FOUND => Err(Fault::not_found(refusal(&answer))),
        StatusCode::BAD_REQUEST | StatusCode::CONFLICT => Err(Fault::bad_request(refusal(&answer))),
        _ => Err(unexpected(&answer)),
    }
}

/// `DELETE /os-security-groups/{id}`.
pub async fn delete(call: Call) -> Result<Reply, Fault> {
    let group = group(&call, checked_id(&call)?).await?;
    let path = format!("/v2.0/security-groups/{}", escape(text(&group, "id")));
    let answer = ask(&call, Method::DELETE, &path, None).await?;
    match answer.status {
        StatusCode::NO_CONTENT => Ok(Reply::empty(StatusCode::ACCEPTED)),
        StatusCode::NOT_FOUND => Err(Fault::not_found(refusal(&answer))),
        StatusCode::CONFLICT => Err(Fault::bad_request(refusal(&answer))),
        _ => Err(unexpected(&answer)),
    }
}

/// A rule as asked for.
#[derive(Debug, Default, PartialEq)]
struct NewRule {
    group: Option<String>,
    cidr: Option<String>,
    /// Protocol and the two ports.
    what: Option<(String, i64, i64)>,
}

fn invalid_input(reason: &str) -> Fault {
    Fault::bad_request(format!("Invalid input received: {reason}"))
}

fn whole_number(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Bool(value) => Some(i64::from(*value)),
        _ => None,
    }
}

/// The range of a rule; everything when none is named.
fn cidr(given: &Value) -> Result<String, Fault> {
    let bad = |shown: String| Fault::bad_request(format!("{shown} is not a valid IP network."));
    let text = match given {
        Value::Null | Value::Bool(false) => return Ok("0.0.0.0/0".to_owned()),
        Value::String(text) if text.is_empty() => return Ok("0.0.0.0/0".to_owned()),
        Value::String(text) => percent_encoding::percent_decode_str(text)
            .decode_utf8_lossy()
            .into_owned(),
        other => return Err(bad(crate::schemas::python::string(other))),
    };
    let net: IpNet = text.parse().map_err(|_| bad(text.clone()))?;
    if net.prefix_len() == 0 && !net.addr().is_unspecified() {
        return Err(Fault::bad_request(format!(
            "Bad prefix for network in cidr {text}"
        )));
    }
    Ok(text)
}

/// Checks protocol and ports in the order and words of the old API.
fn what(protocol: &Value, from: &Value, to: &Value) -> Result<(String, i64, i64), Fault> {
    let protocol = crate::schemas::python::string(protocol);
    let upper = protocol.to_uppercase();
    let (Some(low), Some(high)) = (whole_number(from), whole_number(to)) else {
        return Err(invalid_input(if upper == "ICMP" {
            "Type and Code must be integers for ICMP protocol type"
        } else {
            "To and From ports must be integers"
        }));
    };
    if !["TCP", "UDP", "ICMP"].contains(&upper.as_str()) {
        return Err(Fault::bad_request(format!(
            "Invalid IP protocol {protocol}."
        )));
    }
    let bad = |why: String| Fault::bad_request(format!("Invalid port range {low}:{high}. {why}"));
    if upper == "ICMP" {
        let range = -1..=255;
        if !range.contains(&low) || !range.contains(&high) {
            return Err(bad("For ICMP, the type:code must be valid".to_owned()));
        }
    } else if low > high {
        return Err(bad(
            "Former value cannot be greater than the later".to_owned()
        ));
    } else if low < 1 || high > 65535 {
        return Err(bad(format!(
            "Valid {upper} ports should be between 1-65535"
        )));
    }
    Ok((protocol, low, high))
}

/// Reads the body of a new rule.
fn new_rule(body: &Value) -> Result<NewRule, Fault> {
    let group = body["group_id"].as_str().map(str::to_owned);
    let cidr = match &group {
        Some(_) => None,
        None => Some(cidr(&body["cidr"])?),
    };
    let protocol = &body["ip_protocol"];
    let named = !protocol.is_null() && protocol != "";
    let (mut from, mut to) = (body["from_port"].clone(), body["to_port"].clone());
    if group.is_some() && from.is_null() && to.is_null() {
        // A group alone opens everything of the protocol.
        match crate::schemas::python::string(protocol)
            .to_uppercase()
            .as_str()
        {
            "ICMP" => (from, to) = (json!(-1), json!(-1)),
            "TCP" | "UDP" => (from, to) = (json!(1), json!(65535)),
            _ => {}
        }
    }
    let what = if named && !from.is_null() && !to.is_null() {
        Some(what(protocol, &from, &to)?)
    } else if cidr.is_some() {
        return Err(Fault::bad_request(
            "Not enough parameters to build a valid rule.",
        ));
    } else {
        None
    };
    Ok(NewRule { group, cidr, what })
}

impl NewRule {
    fn exists_in(&self, group: &Value) -> bool {
        let (protocol, from, to) = match &self.what {
            Some((protocol, from, to)) => (json!(protocol), json!(from), json!(to)),
            None => (Value::Null, Value::Null, Value::Null),
        };
        rules(group).any(|rule| {
            let range = rule["remote_ip_prefix"].as_str().unwrap_or("0.0.0.0/0");
            rule["remote_group_id"].as_str() == self.group.as_deref()
                && Some(range) == self.cidr.as_deref()
                && rule["protocol"] == protocol
                && ports(rule) == (from.clone(), to.clone())
        })
    }

    /// As the network service wants it.
    fn body(&self, parent: &str) -> Value {
        let six = self.cidr.as_deref().is_some_and(|cidr| cidr.contains(':'));
        let mut rule = Map::new();
        let mut set = |name: &str, value: Value| rule.insert(name.to_owned(), value);
        set("direction", json!("ingress"));
        set("security_group_id", json!(parent));
        set("ethertype", json!(if six { "IPv6" } else { "IPv4" }));
        set("remote_ip_prefix", json!(self.cidr));
        set("remote_group_id", json!(self.group));
        if let Some((protocol, from, to)) = &self.what {
            set("protocol", json!(protocol.to_lowercase()));
            for (name, port) in [("port_range_min", from), ("port_range_max", to)] {
                if *port != -1 {
                    set(name, json!(port));
                }
            }
        }
        json!({ "security_group_rule": rule })
    }
}

/// `POST /os-security-group-rules`.
pub async fn create_rule(call: Call) -> Result<Reply, Fault> {
    let body = call.body["security_group_rule"].clone();
    let parent = group(&call, text(&body, "parent_group_id")).await?;
    let mut sources = Sources::new();
    if let Some(id) = body["group_id"].as_str() {
        let named = group(&call, id).await?;
        sources.insert(id.to_owned(), Some(source(&named)));
    }
    let rule = new_rule(&body)?;
    let id = text(&parent, "id");
    if rule.exists_in(&parent) {
        return Err(Fault::bad_request(format!(
            "This rule already exists in group {id}"
        )));
    }
    let path = "/v2.0/security-group-rules";
    let answer = ask(&call, Method::POST, path, Some(&rule.body(id))).await?;
    match answer.status {
        StatusCode::CREATED => {
            let made = answer.part("security_group_rule");
            Reply::ok(&json!({ "security_group_rule": shown_rule(&made, &sources) }))
        }
        StatusCode::NOT_FOUND => Err(Fault::not_found(refusal(&answer))),
        StatusCode::CONFLICT => Err(Fault::forbidden(refusal(&answer))),
        StatusCode::BAD_REQUEST => Err(Fault::bad_request(refusal(&answer))),
        _ => Err(unexpected(&answer)),
    }
}

/// `DELETE /os-security-group-rules/{id}`.
pub async fn delete_rule(call: Call) -> Result<Reply, Fault> {
    let path = format!("/v2.0/security-group-rules/{}", escape(checked_id(&call)?));
    let answer = ask(&call, Method::DELETE, &path, None).await?;
    match answer.status {
        StatusCode::NO_CONTENT => Ok(Reply::empty(StatusCode::ACCEPTED)),
        StatusCode::NOT_FOUND => Err(Fault::not_found(refusal(&answer))),
        StatusCode::CONFLICT => Err(Fault::conflict(refusal(&answer))),
        _ => Err(unexpected(&answer)),
    }
}

/// `GET /servers/{id}/os-security-groups`: of all the server's ports.
pub async fn of_server(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    let path = format!("/v2.0/ports?device_id={}", server.id);
    let ports = list_of(&call, &path, "ports").await?;
    let ids: BTreeSet<String> = ports
        .iter()
        .flat_map(|port| port["security_groups"].as_array().into_iter().flatten())
        .filter_map(|id| id.as_str().map(str::to_owned))
        .collect();
    let ids: Vec<String> = ids.into_iter().collect();
    let groups = by_ids(&call, &ids).await?;
    answer_list(&call, &groups).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_as_asked_for() {
        let rule = |body: Value| new_rule(&body).map_err(|fault| fault.message);
        let what = |protocol: &str, from, to| Some((protocol.to_owned(), from, to));
        let range = |range: &str| Some(range.to_owned());
        type Case = (Value, Result<NewRule, &'static str>);
        let table: Vec<Case> = vec![
            (
                json!({"ip_protocol": "tcp", "from_port": "22", "to_port": 22, "cidr": "10.0.0.0%2F24"}),
                Ok(NewRule {
                    group: None,
                    cidr: range("10.0.0.0/24"),
                    what: what("tcp", 22, 22),
                }),
            ),
            (
                json!({"ip_protocol": "icmp", "group_id": "g"}),
                Ok(NewRule {
                    group: Some("g".to_owned()),
                    cidr: None,
                    what: what("icmp", -1, -1),
                }),
            ),
            (
                json!({"group_id": "g"}),
                Ok(NewRule {
                    group: Some("g".to_owned()),
                    ..NewRule::default()
                }),
            ),
            (
                json!({"cidr": "10.0.0.0/24"}),
                Err("Not enough parameters to build a valid rule."),
            ),
            (
                json!({"ip_protocol": "tcp", "from_port": 1, "to_port": 2, "cidr": "x"}),
                Err("x is not a valid IP network."),
            ),
            (
                json!({"ip_protocol": "tcp", "from_port": 1, "to_port": 2, "cidr": "10.0.0.0/0"}),
                Err("Bad prefix for network in cidr 10.0.0.0/0"),
            ),
            (
                json!({"ip_protocol": "tcp", "from_port": 9, "to_port": 2}),
                Err("Invalid port range 9:2. Former value cannot be greater than the later"),
            ),
            (
                json!({"ip_protocol": "udp", "from_port": 0, "to_port": 2}),
                Err("Invalid port range 0:2. Valid UDP ports should be between 1-65535"),
            ),
            (
                json!({"ip_protocol": "icmp", "from_port": 256, "to_port": 2}),
                Err("Invalid port range 256:2. For ICMP, the type:code must be valid"),
            ),
            (
                json!({"ip_protocol": "icmp", "from_port": "a", "to_port": 2}),
                Err(
                    "Invalid input received: Type and Code must be integers for ICMP protocol type",
                ),
            ),
            (
                json!({"ip_protocol": "sctp", "from_port": 1, "to_port": 2}),
                Err("Invalid IP protocol sctp."),
            ),
        ];
        for (body, wanted) in table {
            assert_eq!(rule(body.clone()), wanted.map_err(str::to_owned), "{body}");
        }
    }
}
