//! `POST /servers/{id}/action`.

use crate::call::{Call, Reply};
use crate::commands::within_limits;
use crate::faults::Fault;
use crate::idempotency::{self, Answer};
use crate::mv;
use crate::schemas::number;
use crate::verdict::{self, Rule};
use crate::vtpm::{self, Handed};
use base64::Engine;
use db::accept::{self, Accepted, Start};
use db::instances::{Change, Expected, Instance};
use http::StatusCode;
use serde_json::{Value, json};
use sql::Tx;
use std::sync::Arc;
use std::time::Duration;
use types::agent::{FailureKind, Question};
use types::{ServerId, TaskState, Timestamp, VmState};

/// How long an action waits for another that shows no task state to end.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// An action as a flow.
pub struct Wanted {
    /// What it wants of the server.
    pub rule: Rule,
    /// The action as recorded.
    pub action: &'static str,
    /// The flow.
    pub flow: &'static str,
    /// Its first state.
    pub state: Value,
    /// What the server shows meanwhile.
    pub task_state: Option<TaskState>,
    /// What the client is told.
    pub answer: Answer,
}

/// Starts a flow on a server, if its state allows it.
pub async fn start_flow(call: &Call, wanted: Wanted) -> Result<Instance, Fault> {
    start_flow_and(call, wanted, |_, _| Ok(())).await
}

/// The same, with writes that belong to it: in the same transaction, after the server's state was found to allow it. The
/// answer is kept in that transaction too, for the request's `Idempotency-Key`.
pub async fn start_flow_and<F>(call: &Call, wanted: Wanted, writes: F) -> Result<Instance, Fault>
where
    F: Fn(&mut Tx<'_>, &mut Instance) -> Result<(), Fault> + Clone + Send + 'static,
{
    let server = call.server().await?;
    // Whether the state allows it is found out before the key manager is asked, and again when it is accepted.
    let handed = match wanted.rule.refusal(&server, call.is_admin()) {
        None => vtpm::for_flow(call, &server, wanted.flow).await?,
        Some(_) => None,
    };
    start_flow_with(call, server.id, wanted, handed, writes).await
}

/// The same, with the passphrase of the server's TPM.
pub async fn start_flow_with<F>(
    call: &Call,
    id: ServerId,
    wanted: Wanted,
    handed: Option<Handed>,
    writes: F,
) -> Result<Instance, Fault>
where
    F: Fn(&mut Tx<'_>, &mut Instance) -> Result<(), Fault> + Clone + Send + 'static,
{
    let given = handed.clone();
    let writes = move |tx: &mut Tx<'_>, server: &mut Instance| {
        if let Some(handed) = &given {
            handed.keep(tx, server)?;
        }
        writes(tx, server)
    };
    let started = accept_flow(call, id, wanted, writes).await;
    // One that may have been written may be in use.
    if started.as_ref().is_err_and(|fault| !fault.in_doubt) {
        vtpm::take_back(call, &handed).await;
    }
    started
}

async fn accept_flow<F>(
    call: &Call,
    id: ServerId,
    wanted: Wanted,
    writes: F,
) -> Result<Instance, Fault>
where
    F: Fn(&mut Tx<'_>, &mut Instance) -> Result<(), Fault> + Clone + Send + 'static,
{
    let until = tokio::time::Instant::now() + PATIENCE;
    let wanted = Arc::new(wanted);
    loop {
        let (asker, now) = (call.requester(), Timestamp::now());
        let (may_override, asked, writes) = (call.is_admin(), Arc::clone(&wanted), writes.clone());
        let key = call.key.clone();
        let accepting = call.api.deps.store.write(move |tx| {
            let mut server =
                db::instances::get(tx, id)?.ok_or_else(|| Fault::no_server(&id.to_string()))?;
            asked.rule.check_as(&server, may_override)?;
            let start = Start {
                flow: asked.flow,
                state: asked.state.clone(),
                action: asked.action,
                by: asker.as_requester(),
            };
            let accepted = accept::action(tx, &server, asked.task_state, &start, now)?;
            if accepted == Accepted::Yes {
                writes(tx, &mut server)?;
                if let Some(key) = &key {
                    key.settle(tx, &asked.answer)?;
                }
            }
            Ok::<_, Fault>((accepted, server))
        });
        let (accepted, server) = accepting.await?;
        if accepted == Accepted::Yes {
            if let (Some(key), Answer::Now(_)) = (&call.key, &wanted.answer) {
                key.mark_kept();
            }
            call.api.deps.bus.ring(bus::Bell::Tasks);
            return Ok(server);
        }
        if tokio::time::Instant::now() >= until {
            return Err(busy(call, &server, "").await?);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Refuses an action while another one is under way that must end first. Its owner is told which one that is,
/// administrators what it waits for and how to end that; `or` is what else may be done.
pub(super) async fn busy(call: &Call, server: &Instance, or: &str) -> Result<Fault, Fault> {
    let still_busy = |by: Option<&str>| {
        let (id, by) = (
            server.id,
            by.map(|by| format!(" by {by}")).unwrap_or_default(),
        );
        Fault::conflict(format!(
            "Instance {id} is still being worked on{by}; try again later{or}"
        ))
    };
    let Some(task) = server.task_id else {
        return Ok(still_busy(None));
    };
    let reading = call.api.deps.store.read(move |tx| {
        let Some(task) = db::tasks::get(tx, task)? else {
            return Ok(None);
        };
        let action = match task.action {
            Some(action) => db::actions::name(tx, action)?,
            None => None,
        };
        let host = db::work::awaited(tx, task.id)?;
        Ok::<_, sql::Error>(Some((task, action, host)))
    });
    let Some((task, action, host)) = reading.await? else {
        return Ok(still_busy(None));
    };
    let action = action.unwrap_or_else(|| task.flow.clone());
    if !call.is_admin() {
        return Ok(still_busy(Some(&format!("'{action}'"))));
    }
    let waits = match (&task.waits, host) {
        (Some(waits), _) => format!(" waits: {}", waits.reason),
        (None, Some(host)) => format!(" waits for host {host}"),
        (None, None) => " is under way".to_owned(),
    };
    let (id, step) = (task.id, task.step.as_deref().unwrap_or("-"));
    Ok(still_busy(Some(&format!(
        "'{action}', whose step '{step}'{waits}; `kilonova manage task show {id}` tells more, `kilonova manage task \
         abandon {id}` ends it"
    ))))
}

/// Starts a flow that the request says nothing more about.
async fn plain(
    call: Call,
    rule: Rule,
    flow: &'static str,
    task_state: TaskState,
) -> Result<Reply, Fault> {
    let wanted = Wanted {
        rule,
        action: flow,
        flow,
        state: json!({}),
        task_state: Some(task_state),
        answer: Answer::accepted(),
    };
    start_flow(&call, wanted).await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// `os-start`.
pub async fn start(call: Call) -> Result<Reply, Fault> {
    plain(call, verdict::START, accept::START, TaskState::PoweringOn).await
}

/// `os-stop`.
pub async fn stop(call: Call) -> Result<Reply, Fault> {
    plain(call, verdict::STOP, accept::STOP, TaskState::PoweringOff).await
}

/// `pause`.
pub async fn pause(call: Call) -> Result<Reply, Fault> {
    plain(call, verdict::PAUSE, accept::PAUSE, TaskState::Pausing).await
}

/// `unpause`.
pub async fn unpause(call: Call) -> Result<Reply, Fault> {
    plain(
        call,
        verdict::UNPAUSE,
        accept::UNPAUSE,
        TaskState::Unpausing,
    )
    .await
}

/// `suspend`.
pub async fn suspend(call: Call) -> Result<Reply, Fault> {
    plain(
        call,
        verdict::SUSPEND,
        accept::SUSPEND,
        TaskState::Suspending,
    )
    .await
}

/// `resume`.
pub async fn resume(call: Call) -> Result<Reply, Fault> {
    plain(call, verdict::RESUME, accept::RESUME, TaskState::Resuming).await
}

/// `reboot`.
pub async fn reboot(call: Call) -> Result<Reply, Fault> {
    let hard = call
        .text("reboot", "type")
        .is_some_and(|kind| kind.eq_ignore_ascii_case("hard"));
    let (rule, task_state) = if hard {
        (verdict::REBOOT_HARD, TaskState::RebootingHard)
    } else {
        (verdict::REBOOT_SOFT, TaskState::Rebooting)
    };
    let wanted = Wanted {
        rule,
        action: "reboot",
        flow: accept::REBOOT,
        state: json!({ "hard": hard }),
        task_state: Some(task_state),
        answer: Answer::accepted(),
    };
    start_flow(&call, wanted).await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// `trigger_crash_dump` (2.17): the server shows no task meanwhile.
pub async fn crash_dump(call: Call) -> Result<Reply, Fault> {
    let wanted = Wanted {
        rule: verdict::CRASH_DUMP,
        action: "trigger_crash_dump",
        flow: accept::CRASH_DUMP,
        state: json!({}),
        task_state: None,
        answer: Answer::accepted(),
    };
    start_flow(&call, wanted).await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// `restore`: quota is needed for it again.
pub async fn restore(call: Call) -> Result<Reply, Fault> {
    let wanted = Wanted {
        rule: verdict::RESTORE,
        action: "restore",
        flow: accept::RESTORE,
        state: json!({}),
        task_state: Some(TaskState::Restoring),
        answer: Answer::accepted(),
    };
    start_flow_and(&call, wanted, |tx, server| {
        let again = Instance {
            vm_state: VmState::Active,
            ..server.clone()
        };
        within_limits(
            tx,
            &server.project_id,
            &server.user_id,
            accept::holds(&again),
        )
    })
    .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// Changes fields of the server in one transaction, and records the action with its event. Where `how` changes nothing, nothing
/// is recorded.
async fn edit<F>(call: &Call, id: ServerId, rule: Rule, mut how: F) -> Result<Reply, Fault>
where
    F: FnMut(&mut Instance) -> Result<bool, Fault> + Send + 'static,
{
    let (asker, now) = (call.requester(), Timestamp::now());
    let may_override = call.is_admin();
    at_once(call, move |tx| {
        let mut server =
            db::instances::get(tx, id)?.ok_or_else(|| Fault::no_server(&id.to_string()))?;
        rule.check_as(&server, may_override)?;
        if !how(&mut server)? {
            return Ok(());
        }
        db::instances::update_editable(tx, &server, now)?;
        let action = db::actions::start(tx, id, rule.name, &asker.as_requester(), now)?;
        let event = format!("api_{}", rule.name);
        db::actions::note_event(tx, action, &event, None, None, now)?;
        Ok(db::actions::succeed(tx, action, now)?)
    })
    .await
}

/// An action that is done with one transaction, in which its 202 is kept for the request's `Idempotency-Key`.
pub async fn at_once<F>(call: &Call, mut how: F) -> Result<Reply, Fault>
where
    F: FnMut(&mut Tx<'_>) -> Result<(), Fault> + Send + 'static,
{
    let done = move |tx: &mut Tx<'_>| how(tx).map(|()| Reply::empty(StatusCode::ACCEPTED));
    idempotency::keeping(call, done).await
}

const OWNER: &str = "owner";

/// Whose lock it is if somebody of this project locks the server.
fn locker(server: &Instance, project: &str) -> &'static str {
    if server.project_id.as_str() == project {
        OWNER
    } else {
        "admin"
    }
}

/// `lock`. The owner of a locked server changes nothing: an administrator's lock would become the owner's, who may unlock
/// that (Nova's `compute.api.lock`).
pub async fn lock(call: Call) -> Result<Reply, Fault> {
    let reason = call.text("lock", "locked_reason").map(str::to_owned);
    let reason = reason.filter(|_| call.at_least(mv::LOCKED_REASON));
    let project = call.project().to_owned();
    let id = call.server().await?.id;
    edit(&call, id, verdict::LOCK, move |server| {
        let by = locker(server, &project);
        if server.locked && by == OWNER {
            return Ok(false);
        }
        server.locked = true;
        server.locked_by = Some(by.to_owned());
        if reason.is_some() {
            server.locked_reason.clone_from(&reason);
        }
        Ok(true)
    })
    .await
}

/// `unlock`: of somebody else's lock only with a rule of its own.
pub async fn unlock(call: Call) -> Result<Reply, Fault> {
    const OVERRIDE: &str = "os_compute_api:os-lock-server:unlock:unlock_override";
    let seen = call.server().await?;
    let may_override = call.may_for(OVERRIDE, seen.project_id.as_str(), seen.user_id.as_str());
    let project = call.project().to_owned();
    edit(&call, seen.id, verdict::UNLOCK, move |server| {
        let own = locker(server, &project);
        if server.locked_by.as_deref().is_some_and(|by| by != own) && !may_override {
            return Err(Fault::denied(OVERRIDE));
        }
        server.locked = false;
        server.locked_by = None;
        server.locked_reason = None;
        Ok(true)
    })
    .await
}

/// `os-resetState`: for administrators, when the shown state is wrong. What works on the server goes on, and writes the
/// state it ends in.
pub async fn reset_state(call: Call) -> Result<Reply, Fault> {
    let id = call.server().await?.id;
    let state = if call.text("os-resetState", "state") == Some("active") {
        VmState::Active
    } else {
        VmState::Error
    };
    let (asker, now) = (call.requester(), Timestamp::now());
    at_once(&call, move |tx| {
        let server =
            db::instances::get(tx, id)?.ok_or_else(|| Fault::no_server(&id.to_string()))?;
        let change = Change {
            vm_state: Some(state),
            task_state: Some(None),
            ..Change::default()
        };
        let expected = Expected::Generation(server.generation);
        db::instances::transition(tx, id, expected, &change, now)?;
        let action = db::actions::start(tx, id, "resetState", &asker.as_requester(), now)?;
        Ok(db::actions::succeed(tx, action, now)?)
    })
    .await
}

/// `injectNetworkInfo`: hypervisors that need it are long gone; a network's data reaches guests by itself.
pub async fn inject_network_info(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    verdict::INJECT_NETWORK_INFO.check(&call, &server)?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// `forceDelete`: deletes now, whatever the state.
pub async fn force_delete(call: Call) -> Result<Reply, Fault> {
    crate::handlers::servers::delete_now(&call).await
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
            FailureKind::Host
            | FailureKind::Unavailable
            | FailureKind::Timeout
            | FailureKind::Guest
            | FailureKind::Cancelled
            | FailureKind::PostCopy
            | FailureKind::HostDown => {
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

/// Without the control characters that Nova leaves out: all below U+0020 but tab and line feed.
fn clean(log: &str) -> String {
    log.chars()
        .filter(|c| *c >= ' ' || matches!(c, '\n' | '\t'))
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
        assert_eq!(clean("a\u{1b}[0m\tb\r\n\u{7f}"), "a[0m\tb\n\u{7f}");
    }
}
