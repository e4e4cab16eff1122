//! `os-migrateLive`, and what can be done to a live migration that is under way.

use crate::call::{Call, Reply};
use crate::commands::known_host;
use crate::faults::Fault;
use crate::handlers::server_actions::{Wanted, ask, start_flow_and};
use crate::idempotency::Answer;
use crate::mv;
use crate::schemas::is_true;
use crate::verdict::{self, Rule};
use crate::vtpm;
use db::accept;
use db::instances::Instance;
use db::migrations::{self, End, Kind, Migration, NewMigration, Status};
use http::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;
use types::agent::Question;
use types::{HostName, MigrationId, TaskState, Timestamp};

const OUTER: &str = "os-migrateLive";
/// Who may say where to.
const TO_HOST: &str = "os_compute_api:os-migrate-server:migrate_live:host";
/// How long a request below 2.34 waits for the checks; Nova's RPC waits as long.
const CHECKING: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
/// What is done to one that is under way: the action and its event.
const FORCE_COMPLETE: (&str, &str) = (
    "live_migration_force_complete",
    "compute_live_migration_force_complete",
);
const CANCEL: (&str, &str) = ("live_migration_cancel", "compute_live_migration_abort");

/// `os-migrateLive`.
pub async fn migrate_live(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    let to = call.text(OUTER, "host").filter(|host| !host.is_empty());
    let to = to.map(str::to_owned);
    if to.is_some() {
        let (project, user) = (server.project_id.as_str(), server.user_id.as_str());
        call.require_for(TO_HOST, project, user)?;
    }
    let block = match call.field(OUTER, "block_migration") {
        Some(Value::String(text)) if text == "auto" => None,
        said => said.map(is_true),
    };
    let force = match call.field(OUTER, "force").map(is_true) {
        Some(true) if to.is_none() => {
            return Err(Fault::bad_request(
                "Can't force to a non-provided destination",
            ));
        }
        Some(force) => force,
        // Before one could ask for it, a host that was named was not checked by the scheduler.
        None => !call.at_least(mv::LIVE_FORCE),
    };
    vtpm::refuse_live(&server)?;
    verdict::MIGRATE_LIVE.check(&call, &server)?;
    if let Some(host) = to.clone() {
        let store = &call.api.deps.store;
        store.read(move |tx| known_host(tx, &host)).await?;
    }
    let migration = MigrationId::random();
    let answer = if call.at_least(mv::LIVE_ASYNC) {
        Answer::accepted()
    } else {
        Answer::Later
    };
    let wanted = Wanted {
        rule: verdict::MIGRATE_LIVE,
        action: "live-migration",
        flow: accept::LIVE_MIGRATION,
        state: json!({ "migration": migration, "to": to, "force": force, "block": block }),
        task_state: Some(TaskState::Migrating),
        answer,
    };
    let (user, now) = (call.caller.user_id.clone(), Timestamp::now());
    start_flow_and(&call, wanted, move |tx, server| {
        let new = NewMigration {
            id: migration,
            server: server.id,
            kind: Kind::LiveMigration,
            status: Status::Queued,
            source: End {
                compute: server.host.clone(),
                node: server.node.clone(),
            },
            dest: End {
                compute: to.clone().map(HostName),
                node: None,
            },
            old_flavor: &server.flavor.id,
            new_flavor: &server.flavor.id,
            project_id: server.project_id.as_str(),
            user_id: &user,
        };
        migrations::insert(tx, &new, now)?;
        Ok(())
    })
    .await?;
    if !call.at_least(mv::LIVE_ASYNC) {
        checked(&call, &server, migration).await?;
    }
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// Waits until the guest is on its way; what keeps it from that is the client's to know.
async fn checked(call: &Call, server: &Instance, id: MigrationId) -> Result<(), Fault> {
    let server = server.id;
    let until = tokio::time::Instant::now() + CHECKING;
    while tokio::time::Instant::now() < until {
        let reading = call.api.deps.store.read(move |tx| {
            Ok::<_, sql::Error>((migrations::get(tx, id)?, db::instances::get(tx, server)?))
        });
        let (migration, now) = reading.await?;
        match migration.map(|migration| migration.status) {
            Some(Status::Queued | Status::Preparing) => tokio::time::sleep(LOOK).await,
            Some(Status::Error) => {
                let fault = now.and_then(|now| now.fault);
                let words = fault.map_or_else(String::new, |fault| match fault.details {
                    Some(details) if call.is_admin() => details,
                    _ => fault.message,
                });
                return Err(Fault::bad_request(words));
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// A live migration of the server in the path, and the server, if it may be acted upon.
struct Under {
    server: Instance,
    migration: Migration,
}

async fn under_way(
    call: &Call,
    rule: &Rule,
    allowed: &[Status],
    method: &str,
    missing: fn(String) -> Fault,
) -> Result<Under, Fault> {
    let server = call.server().await?;
    rule.check(call, &server)?;
    let (id, number) = (server.id, call.param(1).parse().unwrap_or(-1));
    let reading = call
        .api
        .deps
        .store
        .read(move |tx| migrations::of_server_by_number(tx, id, number));
    let migration = reading.await?.ok_or_else(|| {
        let number = call.param(1);
        missing(format!("Migration {number} not found for instance {id}"))
    })?;
    if !allowed.contains(&migration.status) {
        let (number, state) = (migration.number, migration.status.as_str());
        return Err(Fault::bad_request(format!(
            "Migration {number} state of instance {id} is {state}. Cannot {method} while the migration is in this state."
        )));
    }
    Ok(Under { server, migration })
}

/// An action that is being done by a host.
struct Doing {
    action: i64,
    event: &'static str,
    host: Option<HostName>,
    since: Timestamp,
}

impl Doing {
    async fn start(
        call: &Call,
        server: &Instance,
        (action, event): (&'static str, &'static str),
    ) -> Result<Self, Fault> {
        let (id, host) = (server.id, server.host.clone());
        let (asker, since) = (call.requester(), Timestamp::now());
        let writing = call
            .api
            .deps
            .store
            .write(move |tx| db::actions::start(tx, id, action, &asker.as_requester(), since));
        let action: Result<i64, sql::Error> = writing.await;
        Ok(Self {
            action: action?,
            event,
            host,
            since,
        })
    }

    /// It is done, or the host did not do it: both are written with the event, so that none stays open when the client
    /// leaves meanwhile. A migration that `follows` has its guest on the new host by now.
    async fn end<T>(
        self,
        call: &Call,
        outcome: Result<T, Fault>,
        follows: Option<MigrationId>,
    ) -> Result<T, Fault> {
        let failure = outcome.as_ref().err().map(|fault| fault.message.clone());
        let now = Timestamp::now();
        let writing = call.api.deps.store.write(move |tx| {
            let host = self.host.as_ref().map(HostName::as_str);
            let event = db::actions::start_event(tx, self.action, self.event, host, self.since)?;
            db::actions::finish_event(tx, event, failure.as_deref(), now)?;
            if let Some(id) = follows {
                let still = migrations::get(tx, id)?.map(|migration| migration.status);
                if still == Some(Status::Running) {
                    migrations::set_status(tx, id, Status::RunningPostCopy, now)?;
                }
            }
            match &failure {
                Some(reason) => db::actions::fail(tx, self.action, reason, now),
                None => db::actions::succeed(tx, self.action, now),
            }
        });
        let written: Result<(), sql::Error> = writing.await;
        written?;
        outcome
    }
}

/// `force_complete` (2.22): the guest goes on on the other host at once where post-copy is permitted, else it stands still
/// until the rest of it has gone over.
pub async fn force_complete(call: Call) -> Result<Reply, Fault> {
    let found = under_way(
        &call,
        &verdict::FORCE_COMPLETE,
        &[Status::Running],
        "force complete",
        Fault::bad_request,
    )
    .await?;
    let doing = Doing::start(&call, &found.server, FORCE_COMPLETE).await?;
    let mode = ask(&call, &found.server, Question::ForceLive).await;
    let follows = mode.as_ref().is_ok_and(|mode| mode == "post_copy");
    let follows = follows.then_some(found.migration.id);
    doing.end(&call, mode, follows).await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// `DELETE /servers/{id}/migrations/{id}` (2.24; from 2.65 also before it has begun).
pub async fn abort(call: Call) -> Result<Reply, Fault> {
    const ALL: &[Status] = &[Status::Running, Status::Queued, Status::Preparing];
    let allowed = if call.at_least(mv::LIVE_ABORT_QUEUED) {
        ALL
    } else {
        &ALL[..1]
    };
    let found = under_way(
        &call,
        &verdict::ABORT_LIVE_MIGRATION,
        allowed,
        "abort live migration",
        Fault::not_found,
    )
    .await?;
    let doing = Doing::start(&call, &found.server, CANCEL).await?;
    let called_off = call_off(&call, &found).await;
    doing.end(&call, called_off, None).await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

async fn call_off(call: &Call, found: &Under) -> Result<(), Fault> {
    let (id, now) = (found.migration.id, Timestamp::now());
    let writing = call.api.deps.store.write(move |tx| {
        let still = migrations::get(tx, id)?.map(|migration| migration.status);
        if matches!(still, Some(Status::Queued | Status::Preparing)) {
            // The flow looks at this before it lets the guest go.
            migrations::set_status(tx, id, Status::Cancelled, now)?;
            return Ok::<_, sql::Error>(false);
        }
        Ok(still == Some(Status::Running))
    });
    if writing.await? {
        ask(call, &found.server, Question::AbortLive).await?;
    }
    Ok(())
}
