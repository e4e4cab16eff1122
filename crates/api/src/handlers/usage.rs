//! `/os-simple-tenant-usage`: hours of servers, by project; and the audit log of usage periods.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::mv;
use db::instances::Instance;
use db::list::{Column, Condition, Query};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use types::{ServerId, Timestamp};

const HOUR: f64 = 3_600_000_000.0;

/// From when to when.
#[derive(Clone, Copy)]
struct Period {
    start: Timestamp,
    stop: Timestamp,
}

/// A time in one of the forms that usage takes: `T` with or without a fraction, or a space with one.
fn time_of(text: &str) -> Option<Timestamp> {
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    let (seconds, fraction) = shape
        .split_once('.')
        .map_or((shape.as_str(), None), |(seconds, fraction)| {
            (seconds, Some(fraction))
        });
    let fraction = match (seconds, fraction) {
        ("0000-00-00T00:00:00", None) => "0",
        ("0000-00-00T00:00:00" | "0000-00-00 00:00:00", Some(fraction)) => fraction,
        _ => return None,
    };
    let fits = (1..=6).contains(&fraction.len()) && fraction.bytes().all(|b| b == b'0');
    fits.then(|| Timestamp::parse(text)).flatten()
}

fn period(call: &Call) -> Result<Period, Fault> {
    let time = |name: &str, default: Timestamp| match call.query.get(name) {
        None | Some("") => Ok(default),
        Some(text) => time_of(text)
            .ok_or_else(|| Fault::bad_request(format!("Datetime is in invalid format: {text}"))),
    };
    let now = Timestamp::now();
    let (start, stop) = (time("start", now)?, time("end", Timestamp(now.0 + 1))?);
    if start >= stop {
        return Err(Fault::bad_request(
            "Invalid start time. The start time cannot occur after the end time.",
        ));
    }
    // What is not over yet has not been used.
    let stop = stop.min(now);
    Ok(Period { start, stop })
}

/// Hours a server ran within the period.
fn hours(server: &Instance, period: Period) -> f64 {
    let Some(launched) = server.launched_at else {
        return 0.0;
    };
    let begin = launched.max(period.start);
    let end = server.terminated_at.unwrap_or(period.stop).min(period.stop);
    if end <= begin {
        0.0
    } else {
        (end.micros() - begin.micros()) as f64 / HOUR
    }
}

/// The marker of the page asked for: the last server of the page before.
fn after(call: &Call) -> Result<Option<ServerId>, Fault> {
    let marker = call
        .query
        .get("marker")
        .filter(|_| call.at_least(mv::USAGE_PAGES));
    let id = marker.map(|text| text.parse::<ServerId>().map_err(|_| no_marker(call)));
    id.transpose()
}

fn no_marker(call: &Call) -> Fault {
    let marker = call.query.get("marker").unwrap_or_default();
    Fault::bad_request(format!("marker [{marker}] not found"))
}

/// Servers that an answer counts at most: where there are no pages, what is beyond the limit is left out, as by Nova.
fn most(call: &Call) -> Result<usize, Fault> {
    if call.at_least(mv::USAGE_PAGES) {
        call.limit()
    } else {
        Ok(call.api.config.max_limit)
    }
}

/// A page of the servers that lived in the period, one project after the other, and in each by their ids.
async fn servers(
    call: &Call,
    project: Option<&str>,
    period: Period,
) -> Result<Vec<Instance>, Fault> {
    let mut conditions = vec![
        Condition::Below(Column::LaunchedAt, period.stop.into()),
        Condition::MissingOrAbove(Column::TerminatedAt, period.start.into()),
    ];
    if let Some(project) = project {
        conditions.push(Condition::Is(Column::ProjectId, project.into()));
    }
    let query = Query {
        conditions,
        order: vec![(Column::ProjectId, false), (Column::Uuid, false)],
        limit: Some(most(call)? as u64),
        after: after(call)?,
        ..Query::default()
    };
    let store = &call.api.deps.store;
    let found = store.read(move |tx| db::list::page(tx, &query)).await?;
    found.ok_or_else(|| no_marker(call))
}

/// One project's usage.
#[derive(Default)]
struct Usage {
    hours: f64,
    vcpu_hours: f64,
    memory_hours: f64,
    disk_hours: f64,
    servers: Vec<Value>,
}

impl Usage {
    fn add(&mut self, server: &Instance, period: Period) {
        let hours = hours(server, period);
        let flavor = &server.flavor;
        let disk = flavor.root_gb + flavor.ephemeral_gb;
        self.hours += hours;
        self.vcpu_hours += hours * f64::from(flavor.vcpus);
        self.memory_hours += hours * f64::from(flavor.memory_mb);
        self.disk_hours += hours * f64::from(disk);
        let end = server.terminated_at;
        let until = end.unwrap_or_else(Timestamp::now);
        let uptime = server
            .launched_at
            .map_or(0, |at| (until.micros() - at.micros()).max(0) / 1_000_000);
        let state = if end.is_some() {
            "terminated"
        } else {
            server.vm_state.as_str()
        };
        self.servers.push(json!({
            "instance_id": server.id, "name": server.display_name, "hours": hours, "flavor": flavor.name, "vcpus": flavor.vcpus,
            "memory_mb": flavor.memory_mb, "local_gb": disk, "tenant_id": server.project_id,
            "started_at": server.launched_at.map(Timestamp::iso_micros), "ended_at": end.map(Timestamp::iso_micros),
            "state": state, "uptime": uptime,
        }));
    }

    fn document(self, project: &str, period: Period, with_servers: bool) -> Value {
        let mut map = Map::new();
        map.insert("tenant_id".to_owned(), project.into());
        map.insert("start".to_owned(), period.start.iso_micros().into());
        map.insert("stop".to_owned(), period.stop.iso_micros().into());
        map.insert("total_hours".to_owned(), self.hours.into());
        map.insert("total_vcpus_usage".to_owned(), self.vcpu_hours.into());
        map.insert("total_memory_mb_usage".to_owned(), self.memory_hours.into());
        map.insert("total_local_gb_usage".to_owned(), self.disk_hours.into());
        if with_servers {
            map.insert("server_usages".to_owned(), self.servers.into());
        }
        map.into()
    }
}

fn next(call: &Call, servers: &[Instance]) -> Option<String> {
    let limit = call
        .limit()
        .ok()
        .filter(|limit| call.at_least(mv::USAGE_PAGES) && *limit > 0)?;
    servers
        .last()
        .filter(|_| servers.len() == limit)
        .map(|server| server.id.to_string())
}

/// `GET`: every project.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    let period = period(&call)?;
    let detailed = call.query.get("detailed") == Some("1");
    let servers = servers(&call, None, period).await?;
    let mut projects: BTreeMap<&str, Usage> = BTreeMap::new();
    for server in &servers {
        projects
            .entry(server.project_id.as_str())
            .or_default()
            .add(server, period);
    }
    let list: Vec<Value> = projects
        .into_iter()
        .map(|(project, usage)| usage.document(project, period, detailed))
        .collect();
    let mut document = json!({ "tenant_usages": list });
    if let Some(marker) = next(&call, &servers) {
        document["tenant_usages_links"] = json!(call.links.next(
            "/os-simple-tenant-usage",
            call.query.pairs(),
            &marker
        ));
    }
    Reply::ok(&document)
}

/// `GET /{project}`.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let project = call.param(0).to_owned();
    if let Some(rule) = call.route.policy {
        call.require_for(rule, &project, &call.caller.user_id)?;
    }
    let period = period(&call)?;
    let servers = servers(&call, Some(&project), period).await?;
    if servers.is_empty() {
        return Reply::ok(&json!({ "tenant_usage": {} }));
    }
    let mut usage = Usage::default();
    servers.iter().for_each(|server| usage.add(server, period));
    let mut document = json!({ "tenant_usage": usage.document(&project, period, true) });
    if let Some(marker) = next(&call, &servers) {
        let path = format!("/os-simple-tenant-usage/{project}");
        document["tenant_usage_links"] = json!(call.links.next(&path, call.query.pairs(), &marker));
    }
    Reply::ok(&document)
}

/// The last whole month that was over before this time, as periods of usage audits are by default.
fn month_before(at: Timestamp) -> (Timestamp, Timestamp) {
    // What ends at this time is not over yet.
    let at = Timestamp(at.0 - 1);
    let text = at.iso_micros();
    let (year, month): (i32, i32) = (
        text[..4].parse().unwrap_or(1970),
        text[5..7].parse().unwrap_or(1),
    );
    let first = |year: i32, month: i32| {
        Timestamp::parse(&format!("{year:04}-{month:02}-01T00:00:00")).unwrap_or(at)
    };
    let begin = if month == 1 {
        first(year - 1, 12)
    } else {
        first(year, month - 1)
    };
    (begin, first(year, month))
}

async fn audit(call: Call, root: &str, at: Timestamp) -> Result<Reply, Fault> {
    let (begin, end) = month_before(at);
    let services = call.api.deps.store.read(db::hosts::services).await?;
    let hosts: Vec<String> = services
        .iter()
        .filter(|service| service.binary == "nova-compute")
        .map(|service| service.host.to_string())
        .collect();
    let done = match hosts.len() {
        0 => "ALL".to_owned(),
        some => format!("0 of {some}"),
    };
    Reply::ok(&json!({ root: {
        "period_beginning": begin.sql_seconds(), "period_ending": end.sql_seconds(),
        "num_hosts": hosts.len(), "num_hosts_done": 0, "num_hosts_running": 0, "num_hosts_not_run": hosts.len(),
        "hosts_not_run": hosts, "total_instances": 0, "total_errors": 0, "log": {},
        "overall_status": format!("{done} hosts done. 0 errors."),
    } }))
}

/// `GET /os-instance_usage_audit_log`: no periodic audit runs here, so no host has reported.
pub async fn audit_log(call: Call) -> Result<Reply, Fault> {
    audit(call, "instance_usage_audit_logs", Timestamp::now()).await
}

/// `GET /os-instance_usage_audit_log/{before}`.
pub async fn audit_log_until(call: Call) -> Result<Reply, Fault> {
    let text = call.param(0).to_owned();
    // A blank between day and time, as the answers have it, and nothing else.
    let at = time_of(&text.replacen(' ', "T", 1)).filter(|_| text.contains(' '));
    let at = at.ok_or_else(|| Fault::bad_request(format!("Invalid timestamp for date {text}")))?;
    audit(call, "instance_usage_audit_log", at).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_of_months() {
        let at = Timestamp::parse("2026-01-15T10:00:00").unwrap_or_default();
        let (begin, end) = month_before(at);
        assert_eq!(
            (begin.sql_seconds().as_str(), end.sql_seconds().as_str()),
            ("2025-12-01 00:00:00", "2026-01-01 00:00:00")
        );
    }

    #[test]
    fn a_month_that_ends_now_is_not_over() {
        let at = Timestamp::parse("2026-01-01T00:00:00").unwrap_or_default();
        assert_eq!(month_before(at).1.sql_seconds(), "2025-12-01 00:00:00");
        let after = Timestamp(at.0 + 1);
        assert_eq!(month_before(after).1.sql_seconds(), "2026-01-01 00:00:00");
    }

    #[test]
    fn forms_of_times() {
        for good in [
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.5",
            "2026-01-01 00:00:00.000001",
        ] {
            assert!(time_of(good).is_some(), "{good}");
        }
        for bad in [
            "2026-01-01",
            "2026-01-01 00:00:00",
            "2026-01-01T00:00:00Z",
            "2026-01-01T00:00:00.1234567",
            "2026-13-01T00:00:00",
            "",
        ] {
            assert!(time_of(bad).is_none(), "{bad}");
        }
    }
}
