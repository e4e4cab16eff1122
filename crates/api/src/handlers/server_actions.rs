//! `POST /servers/{id}/action`.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::handlers::servers::unlocked;
use crate::schemas::number;
use base64::Engine;
use db::accept::{self, Start};
use db::instances::{Change, Expected, Instance};
use http::StatusCode;
use serde_json::{Value, json};
use types::agent::{FailureKind, Question};
use types::{TaskState, Timestamp, VmState};

/// What a flow needs of a server before it may start.
struct Wanted {
    /// As in the body, for messages.
    name: &'static str,
    /// As recorded.
    action: &'static str,
    flow: &'static str,
    state: Value,
    from: &'static [VmState],
    task_state: TaskState,
}

fn wrong_state(server: &Instance, name: &str, what: &str, state: &str) -> Fault {
    Fault::conflict(format!(
        "Cannot '{name}' instance {} while it is in {what} {state}",
        server.id
    ))
}

/// Starts a flow on a server, if its state allows it.
async fn start_flow(call: Call, wanted: Wanted) -> Result<Reply, Fault> {
    let seen = call.server().await?;
    unlocked(&call, &seen)?;
    let (id, asker, now) = (seen.id, call.requester(), Timestamp::now());
    call.api
        .deps
        .store
        .write(move |tx| -> Result<(), Fault> {
            let server =
                db::instances::get(tx, id)?.ok_or_else(|| Fault::no_server(&id.to_string()))?;
            if !wanted.from.contains(&server.vm_state) {
                return Err(wrong_state(
                    &server,
                    wanted.name,
                    "vm_state",
                    server.vm_state.as_str(),
                ));
            }
            if let Some(task) = server.task_state {
                return Err(wrong_state(
                    &server,
                    wanted.name,
                    "task_state",
                    task.as_str(),
                ));
            }
            if server.host.is_none() {
                return Err(Fault::conflict(format!("Instance {id} is not ready")));
            }
            let by = asker.as_requester();
            let start = Start {
                flow: wanted.flow,
                state: wanted.state.clone(),
                action: wanted.action,
                by,
            };
            if !accept::action(tx, id, server.generation, wanted.task_state, &start, now)? {
                return Err(Fault::conflict(format!(
                    "Instance {id} has just been changed by another request"
                )));
            }
            Ok(())
        })
        .await?;
    call.api.deps.bus.ring(bus::Bell::Tasks);
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// `os-start`.
pub async fn start(call: Call) -> Result<Reply, Fault> {
    let wanted = Wanted {
        name: "start",
        action: "start",
        flow: accept::START,
        state: json!({}),
        from: &[VmState::Stopped],
        task_state: TaskState::PoweringOn,
    };
    start_flow(call, wanted).await
}

/// `os-stop`.
pub async fn stop(call: Call) -> Result<Reply, Fault> {
    let wanted = Wanted {
        name: "stop",
        action: "stop",
        flow: accept::STOP,
        state: json!({}),
        from: &[VmState::Active, VmState::Error],
        task_state: TaskState::PoweringOff,
    };
    start_flow(call, wanted).await
}

/// `reboot`.
pub async fn reboot(call: Call) -> Result<Reply, Fault> {
    let hard = call
        .text("reboot", "type")
        .is_some_and(|kind| kind.eq_ignore_ascii_case("hard"));
    let wanted = Wanted {
        name: "reboot",
        action: "reboot",
        flow: accept::REBOOT,
        state: json!({ "hard": hard }),
        from: if hard {
            &[
                VmState::Active,
                VmState::Stopped,
                VmState::Paused,
                VmState::Suspended,
                VmState::Error,
            ]
        } else {
            &[VmState::Active]
        },
        task_state: if hard {
            TaskState::RebootingHard
        } else {
            TaskState::Rebooting
        },
    };
    start_flow(call, wanted).await
}

/// Changes fields of the server in one transaction, and records the action.
async fn edit<F>(call: &Call, action: &'static str, mut how: F) -> Result<(), Fault>
where
    F: FnMut(&mut Instance) -> Result<(), Fault> + Send + 'static,
{
    let (id, asker, now) = (call.server().await?.id, call.requester(), Timestamp::now());
    call.api
        .deps
        .store
        .write(move |tx| -> Result<(), Fault> {
            let mut server =
                db::instances::get(tx, id)?.ok_or_else(|| Fault::no_server(&id.to_string()))?;
            how(&mut server)?;
            db::instances::update_editable(tx, &server, now)?;
            db::actions::start(tx, id, action, &asker.as_requester(), now)?;
            Ok(())
        })
        .await
}

/// `lock`.
pub async fn lock(call: Call) -> Result<Reply, Fault> {
    let reason = call.text("lock", "locked_reason").map(str::to_owned);
    let project = call.project().to_owned();
    edit(&call, "lock", move |server| {
        let by_owner = server.project_id.as_str() == project;
        server.locked = true;
        server.locked_by = Some(if by_owner { "owner" } else { "admin" }.to_owned());
        server.locked_reason.clone_from(&reason);
        Ok(())
    })
    .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// `unlock`.
pub async fn unlock(call: Call) -> Result<Reply, Fault> {
    const OVERRIDE: &str = "os_compute_api:os-lock-server:unlock:unlock_override";
    let may_override = call.may(OVERRIDE);
    edit(&call, "unlock", move |server| {
        if server.locked_by.as_deref() == Some("admin") && !may_override {
            return Err(Fault::denied(OVERRIDE));
        }
        server.locked = false;
        server.locked_by = None;
        server.locked_reason = None;
        Ok(())
    })
    .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// `os-resetState`: for administrators, when the shown state is wrong and nothing works on the server.
pub async fn reset_state(call: Call) -> Result<Reply, Fault> {
    let id = call.server().await?.id;
    let state = if call.text("os-resetState", "state") == Some("active") {
        VmState::Active
    } else {
        VmState::Error
    };
    let (asker, now) = (call.requester(), Timestamp::now());
    call.api
        .deps
        .store
        .write(move |tx| -> Result<(), Fault> {
            let server =
                db::instances::get(tx, id)?.ok_or_else(|| Fault::no_server(&id.to_string()))?;
            if let Some(task) = server.task_state.filter(|_| server.task_id.is_some()) {
                return Err(wrong_state(
                    &server,
                    "reset state of",
                    "task_state",
                    task.as_str(),
                ));
            }
            let change = Change {
                vm_state: Some(state),
                task_state: Some(None),
                ..Change::default()
            };
            db::instances::transition(
                tx,
                id,
                Expected::Generation(server.generation),
                &change,
                now,
            )?;
            db::actions::start(tx, id, "resetState", &asker.as_requester(), now)?;
            Ok(())
        })
        .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// `injectNetworkInfo`: hypervisors that need it are long gone; a network's data reaches guests by itself.
pub async fn inject_network_info(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    unlocked(&call, &server)?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// `forceDelete`: deletes now, whatever the state.
pub async fn force_delete(call: Call) -> Result<Reply, Fault> {
    crate::handlers::servers::delete(call).await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// Bytes of a console log at most.
const CONSOLE_BYTES: u64 = 100 * 1024;

/// What a host says about a server.
pub async fn ask(call: &Call, server: &Instance, question: Question) -> Result<String, Fault> {
    let Some(host) = &server.host else {
        return Err(Fault::conflict(format!(
            "Instance {} is not ready",
            server.id
        )));
    };
    call.api
        .deps
        .questions
        .ask(host, server.id, question)
        .await
        .map_err(|(kind, reason)| match kind {
            FailureKind::NotFound => Fault::no_server(&server.id.to_string()),
            FailureKind::Request => Fault::conflict(reason),
            FailureKind::Host | FailureKind::Unavailable | FailureKind::Timeout => {
                tracing::warn!(%host, reason, "a host did not answer a question");
                Fault::unavailable(format!(
                    "The host of instance {} does not answer.",
                    server.id
                ))
            }
        })
}

/// `os-getConsoleOutput`.
pub async fn console_output(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    let lines = call.field("os-getConsoleOutput", "length").and_then(number);
    let text = ask(
        &call,
        &server,
        Question::ConsoleLog {
            max_bytes: CONSOLE_BYTES,
        },
    )
    .await?;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(Fault::internal)?;
    let log = String::from_utf8_lossy(&bytes);
    Reply::ok(&json!({ "output": clean(tail(&log, lines)) }))
}

/// The last lines; none or -1 means all.
fn tail(log: &str, lines: Option<i64>) -> &str {
    let Some(lines) = lines.and_then(|lines| usize::try_from(lines).ok()) else {
        return log;
    };
    if lines == 0 {
        return "";
    }
    let body = log.strip_suffix('\n').unwrap_or(log);
    match body.rmatch_indices('\n').nth(lines - 1) {
        Some((at, _)) => &log[at + 1..],
        None => log,
    }
}

/// Without control characters, which some readers of JSON cannot bear.
fn clean(log: &str) -> String {
    log.chars()
        .filter(|c| !c.is_control() || matches!(c, '\n' | '\t' | '\r'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails() {
        for (lines, wanted) in [
            (None, "a\nb\nc\n"),
            (Some(-1), "a\nb\nc\n"),
            (Some(2), "b\nc\n"),
            (Some(0), ""),
            (Some(9), "a\nb\nc\n"),
        ] {
            assert_eq!(tail("a\nb\nc\n", lines), wanted, "{lines:?}");
        }
        assert_eq!(clean("a\u{1b}[0m\tb\r\n"), "a[0m\tb\r\n");
    }
}
