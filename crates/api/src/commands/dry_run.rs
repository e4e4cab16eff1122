//! What would become of a request for servers, without making any: `POST /servers?dry_run=true`.

use super::create_server::{CreateServer, Resolved};
use super::files_within_limits;
use crate::call::Call;
use crate::faults::Fault;
use crate::handlers::server_metadata::within_quota;
use scheduler::{Group, Hosts, Refusal, Request, Rows, Settings, UsageChange};
use serde_json::{Value, json};
use types::{HostName, ProjectId, ServerId, Timestamp, UserId};

/// What was read for the question.
struct Question {
    request: Request,
    rows: Rows,
    count: i64,
}

impl CreateServer {
    /// Says whether and where the servers would be placed, or why not. Refusals that the real request would meet before
    /// it is accepted (quotas, unknown zones and the like) are the same here.
    ///
    /// Nothing is written; another request may take the place before the real one comes.
    pub async fn try_out(self, call: &Call, resolved: Resolved) -> Result<Value, Fault> {
        let (project, user) = (
            ProjectId(call.project().to_owned()),
            UserId(call.caller.user_id.clone()),
        );
        let config = call.api.config.clone();
        let reading = call.api.deps.store.read(move |tx| {
            self.check_place(tx, &config)?;
            within_quota(tx, project.as_str(), self.metadata.len())?;
            files_within_limits(tx, &self.files, &project, &user)?;
            let count = self.within_limits(tx, &project, &user, &resolved)?;
            let id = ServerId::random();
            let mut server = self.instance(&resolved, id, 0, 1);
            server.project_id.clone_from(&project);
            let request = Request::of(&server);
            let request = request.map_err(|wrong| Fault::bad_request(wrong.to_string()))?;
            let mut request = request.with_hints(&server);
            request.demands = resolved.demands()?;
            if let Some(group) = self.group(tx, &project, &user, count)? {
                request.group = Group::read(tx, group, id)?.map(|(group, _)| group);
            }
            request.locate(tx)?;
            let rows = Rows::read(tx)?;
            Ok::<_, Fault>(Question {
                request,
                rows,
                count,
            })
        });
        let question = reading.await?;
        let (zone, down_after) = (
            &call.api.config.scheduling.default_zone,
            call.api.config.service_down_micros,
        );
        let hosts = Hosts::new();
        let states = scheduler::host_states(question.rows, zone, Timestamp::now(), down_after);
        hosts.replace(states);
        let scheduling = &call.api.config.scheduling;
        let placed = place_all(&hosts, question.request, question.count, scheduling);
        Ok(tell(&placed, question.count, call.is_admin()))
    }
}

/// Places one server after the other, each in what the ones before have left.
fn place_all(
    hosts: &Hosts,
    mut request: Request,
    count: i64,
    scheduling: &Settings,
) -> (Vec<HostName>, Option<Refusal>) {
    let mut placed = Vec::new();
    for _ in 0..count {
        let snapshot = hosts.snapshot();
        let all = snapshot.values().map(AsRef::as_ref);
        let chosen = scheduler::select(all, &request, scheduling, &mut rand::rng());
        let best = match chosen.map(|list| list.into_iter().next()) {
            Ok(Some(best)) => best,
            Ok(None) => break,
            Err(refusal) => return (placed, Some(refusal)),
        };
        let server = ServerId::random();
        if let Some(group) = &mut request.group {
            group.members.insert(server);
        }
        hosts.update_usage(&UsageChange {
            node: best.node,
            server,
            resources: request.resources.clone(),
            added: true,
        });
        placed.push(best.host);
    }
    (placed, None)
}

/// The answer; names of hosts are for administrators.
fn tell((placed, refusal): &(Vec<HostName>, Option<Refusal>), count: i64, admin: bool) -> Value {
    let mut answer = json!({
        "would_be_placed": refusal.is_none(),
        "requested": count,
        "placeable": placed.len(),
    });
    if admin {
        answer["hosts"] = placed.iter().map(HostName::as_str).collect();
    }
    let Some(refusal) = refusal else {
        return json!({ "dry_run": answer });
    };
    let message = if admin {
        refusal.for_admins()
    } else {
        refusal.to_string()
    };
    answer["message"] = message.into();
    answer["hosts_considered"] = refusal.considered.into();
    let reasons = refusal.by_reason.iter().map(|(reason, hosts)| {
        if !admin {
            return json!({ "reason": reason.to_string(), "count": hosts.len() });
        }
        let names: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
        json!({ "reason": reason.for_admins(), "count": hosts.len(), "hosts": names })
    });
    answer["reasons"] = reasons.collect();
    json!({ "dry_run": answer })
}
