//! The conductors' side of the agent protocol: agents pull work, post what came of it, and say that they live.
//!
//! Served on a private socket (or called in the same process); what crosses it is JSON. An agent that repeats a
//! report or a heartbeat changes nothing.

use crate::guests::{self, Rules};
use crate::neighbours::Neighbours;
use crate::under_way;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bus::{Bell, Bus, Listener};
use db::block_devices::BlockDevice;
use db::hosts::{Beat, Ratios};
use db::migrations::{Bytes, Status};
use http::StatusCode;
use journal::Outcomes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use types::agent::{
    Answer, Asked, FailureKind, Heartbeat, Moving, Noted, Poll, SERVICE_VERSION, Work, WorkKey,
    WorkOutcome, WorkReport, does_not_know,
};
use types::tpm::Passphrase;
use types::{HostName, ImageId, ServerId, Timestamp};
use uuid::Uuid;

/// Bytes of a message of an agent.
const MESSAGE_LIMIT: usize = 16 << 20;
/// Pieces of work handed over at once.
const MOST_WORK: u64 = 64;
/// How often the secret part of a piece of work is tried before the work fails.
const SECRET_TRIES: u32 = 5;
/// The pause before it is tried again; doubles.
const SECRET_PAUSE: Duration = Duration::from_millis(200);
/// Servers whose guests are followed in one transaction.
const FOLLOWED: usize = 100;
/// The longest that a poll is held open.
const LONGEST_POLL: Duration = Duration::from_secs(25);

/// What there is to do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Polled {
    /// Work, in order.
    pub work: Vec<Given>,
    /// Questions.
    pub asked: Vec<Asked>,
}

/// A piece of work for a host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Given {
    /// The work.
    #[serde(flatten)]
    pub work: Work,
    /// When it was stored: by that its agent tells what is stored anew from what it was given already.
    pub stored: Timestamp,
}

/// Fills in what is not stored with work because it is secret: the files of a config drive.
#[async_trait::async_trait]
pub trait ConfigDrives: Send + Sync + 'static {
    /// The files of a server's config drive: path, and content in base64.
    async fn files(&self, server: ServerId) -> Result<Vec<(String, String)>, String>;

    /// The text of what is stored sealed.
    fn open(&self, sealed: &str) -> Option<String>;
}

/// One piece of work, told from a repeat of it by when it was stored.
type Handed = (WorkKey, u64, Timestamp);

#[derive(Default)]
struct Desk {
    incarnation: u64,
    handed: HashSet<Handed>,
    /// Work that could not be made whole, and how often.
    unready: HashMap<Handed, u32>,
    /// Questions that were handed over.
    asked: HashSet<Uuid>,
    /// Work of a newer release, of which the log has been told.
    unknown: HashSet<WorkKey>,
    /// A moment before the last look.
    looked: Option<Instant>,
    /// The last look may have left work for want of room.
    left: bool,
    /// Has rung if there may be something that the last look has not seen.
    bell: Option<Listener>,
}

/// The desk at which all agents are served.
#[derive(Clone)]
pub struct Agents {
    inner: Arc<Inner>,
}

struct Inner {
    with: Neighbours,
    bus: Bus,
    outcomes: Outcomes,
    drives: Arc<dyn ConfigDrives>,
    ratios: Ratios,
    rules: Rules,
    desks: Mutex<HashMap<HostName, Desk>>,
}

impl Agents {
    /// A desk without visitors.
    pub fn new(
        with: Neighbours,
        bus: Bus,
        outcomes: Outcomes,
        drives: Arc<dyn ConfigDrives>,
        ratios: Ratios,
        rules: Rules,
    ) -> Self {
        let inner = Inner {
            with,
            bus,
            outcomes,
            drives,
            ratios,
            rules,
            desks: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The protocol as HTTP.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/agent/{host}/poll", post(poll))
            .route("/agent/{host}/report", post(report))
            .route("/agent/{host}/heartbeat", post(heartbeat))
            .route("/agent/{host}/answer", post(answer))
            .route("/agent/{host}/images/{image}", get(image).put(put_image))
            .route("/agent/{host}/peers/{peer}", get(peer))
            .route("/agent/{host}/peers/{peer}/servers/{server}", get(moves))
            .with_state(self.clone())
    }

    async fn poll(&self, host: &HostName, ask: Poll) -> Result<Polled, sql::Error> {
        let until =
            tokio::time::Instant::now() + Duration::from_millis(ask.wait_ms).min(LONGEST_POLL);
        let kept = self.desks().get_mut(host).and_then(|desk| {
            let known = desk.incarnation == ask.incarnation;
            desk.bell.take().filter(|_| known)
        });
        let mut looked = kept.is_some();
        if !looked {
            // Nothing more goes to a poll that another agent, or this one before its restart, has left behind.
            drop(self.inner.outcomes.hold_out(host));
        }
        let mut bell = kept.unwrap_or_else(|| self.inner.bus.listen(Bell::Host(host.clone())));
        loop {
            if looked {
                let mut hand = self.inner.outcomes.hold_out(host);
                let (handed, rung) = tokio::select! {
                    biased;
                    handed = hand.filled() => (Some(handed), false),
                    rung = tokio::time::timeout_at(until, bell.rung()) => (hand.close(), rung.is_ok()),
                };
                if let Some(handed) = handed {
                    // What has rung meanwhile is looked for by the next poll.
                    let bell = Some(bell).filter(|_| !rung);
                    return Ok(self.handed(host, ask, handed, bell).await);
                }
                if !rung {
                    return Ok(Polled::default());
                }
            }
            let polled = self.look(host, ask).await?;
            if !polled.work.is_empty() || !polled.asked.is_empty() {
                if let Some(desk) = self.desks().get_mut(host) {
                    desk.bell = Some(bell);
                }
                return Ok(polled);
            }
            looked = true;
        }
    }

    /// Work that comes from whoever has stored it.
    async fn handed(
        &self,
        host: &HostName,
        ask: Poll,
        given: journal::Handed,
        bell: Option<Listener>,
    ) -> Polled {
        let mut work = given.work;
        let handed = (work.key.clone(), work.epoch, given.stored);
        {
            let mut desks = self.desks();
            let desk = desks.get_mut(host);
            let waits = |desk: &&mut Desk| {
                desk.incarnation == ask.incarnation
                    && desk.looked.is_some_and(|at| at < given.since)
            };
            let Some(desk) = desk.filter(waits) else {
                drop(desks);
                // It is for the agent that was started since, or was to be found by a look already.
                self.inner.bus.ring(Bell::Host(host.clone()));
                return Polled::default();
            };
            desk.bell = bell;
            if !desk.handed.insert(handed.clone()) {
                // The look before found it.
                return Polled::default();
            }
        }
        let mut polled = Polled::default();
        if self.refuses(host, ask, &work) {
            return polled;
        }
        match self
            .fill_in(&mut work, given.devices.iter().collect())
            .await
        {
            Ok(()) => polled.work.push(self.shown(work, given.stored).await),
            Err(error) => self.put_off(host, work.server, handed, error),
        }
        polled
    }

    /// An agent is not handed what its release does not know: that has failed, and the agents of the first version, which
    /// cannot say so, would take no other work either. `true`: it was that.
    fn refuses(&self, host: &HostName, ask: Poll, work: &Work) -> bool {
        if work.verb.since() <= ask.version {
            return false;
        }
        let message = does_not_know(host, work.verb.name());
        tracing::error!(%host, server = %work.server, request_id = work.request, verb = work.verb.name(), version = ask.version,
            "work is not handed to a host whose release does not know it: bring it up to date");
        let (agents, host, server) = (self.clone(), host.clone(), work.server);
        let (key, epoch) = (work.key.clone(), work.epoch);
        tokio::spawn(async move {
            agents
                .fail(&host, server, (key, epoch), FailureKind::Host, message)
                .await;
        });
        true
    }

    /// The same for questions; those that are left are asked.
    async fn refuse_asked(
        &self,
        host: &HostName,
        ask: Poll,
        asked: &mut Vec<Asked>,
    ) -> Result<(), sql::Error> {
        let knows = |one: &Asked| one.question.since() <= ask.version;
        let unknown: Vec<Asked> = asked.iter().filter(|one| !knows(one)).cloned().collect();
        asked.retain(knows);
        for one in unknown {
            let told = does_not_know(host, one.question.name());
            tracing::error!(%host, version = ask.version, "a question is not asked: {told}");
            let answer = Answer {
                id: one.id,
                result: Err((FailureKind::Host, told)),
            };
            self.answered(host.clone(), answer).await?;
        }
        Ok(())
    }

    async fn look(&self, host: &HostName, ask: Poll) -> Result<Polled, sql::Error> {
        let wanted = host.clone();
        let waiting = move |tx: &mut sql::Tx<'_>| db::work::for_host(tx, &wanted, MOST_WORK);
        let told = self.inner.with.store.look(waiting).await?;
        // Not before it: the look may have waited, and found what was stored meanwhile.
        let now = Instant::now();
        let more = told.more;
        let (pending, devices, asked) = (told.pending, told.devices, told.asked);
        let mut polled = Polled::default();
        let mut new = Vec::new();
        {
            let mut desks = self.desks();
            let desk = desks.entry(host.clone()).or_default();
            if desk.incarnation != ask.incarnation {
                *desk = Desk {
                    incarnation: ask.incarnation,
                    ..Desk::default()
                };
            }
            desk.looked = Some(now);
            desk.left = more;
            let known = std::mem::take(&mut desk.asked);
            desk.asked = asked.iter().map(|asked| asked.id).collect();
            polled.asked = asked;
            polled.asked.retain(|asked| !known.contains(&asked.id));
            // What is not pending any more need not be remembered.
            let known = std::mem::replace(&mut desk.unknown, pending.unknown.into_iter().collect());
            for key in desk.unknown.difference(&known) {
                tracing::warn!(%host, task = %key.task, step = %key.step, "a newer conductor's work for this host is left to conductors of that release");
            }
            let known = std::mem::take(&mut desk.handed);
            for (work, stored) in pending.work {
                let handed = (work.key.clone(), work.epoch, stored);
                if !known.contains(&handed) {
                    new.push((work, handed.clone()));
                }
                desk.handed.insert(handed);
            }
            let Desk {
                handed, unready, ..
            } = desk;
            unready.retain(|one, _| handed.contains(one));
        }
        self.refuse_asked(host, ask, &mut polled.asked).await?;
        for (mut work, handed) in new {
            if self.refuses(host, ask, &work) {
                continue;
            }
            let server = work.server;
            let devices = devices.iter().filter(|one| one.server == server);
            match self.fill_in(&mut work, devices.collect()).await {
                Ok(()) => polled.work.push(self.shown(work, handed.2).await),
                Err(error) => self.put_off(host, work.server, handed, error),
            }
        }
        Ok(polled)
    }

    /// Work as it goes to its host, after its server shows that.
    async fn shown(&self, work: Work, stored: Timestamp) -> Given {
        under_way::handed(&self.inner.with.store, &self.inner.bus, &work).await;
        Given { work, stored }
    }

    /// Adds what is secret, and the disks as they are on record now. A guest must not get a drive without it.
    async fn fill_in(&self, work: &mut Work, devices: Vec<&BlockDevice>) -> Result<(), String> {
        if let Some(sealed) = work.verb.sealed_mut() {
            let clear = self.inner.drives.open(sealed);
            *sealed = clear.ok_or("what was stored sealed cannot be opened")?;
        }
        if let Some(Passphrase(sealed)) = &mut work.passphrase {
            let clear = self.inner.drives.open(sealed);
            *sealed = clear.ok_or("the passphrase of the TPM cannot be opened")?;
        }
        fill_in_disks(work, &devices)?;
        let Some(plan) = work.verb.plan_mut() else {
            return Ok(());
        };
        if plan.config_drive.is_some() {
            plan.config_drive = Some(self.inner.drives.files(work.server).await?);
        }
        Ok(())
    }

    /// Work that could not be made whole stays here for a moment; after some tries it has failed.
    fn put_off(&self, host: &HostName, server: ServerId, handed: Handed, error: String) {
        let tries = {
            let mut desks = self.desks();
            let unready = &mut desks.entry(host.clone()).or_default().unready;
            let tries = unready.entry(handed.clone()).or_default();
            *tries += 1;
            *tries
        };
        tracing::warn!(%server, %error, tries, "what is secret in a piece of work cannot be had");
        let (agents, host) = (self.clone(), host.clone());
        tokio::spawn(async move {
            if tries < SECRET_TRIES {
                tokio::time::sleep(SECRET_PAUSE * (1 << (tries - 1))).await;
                if let Some(desk) = agents.desks().get_mut(&host) {
                    desk.handed.remove(&handed);
                }
                agents.inner.bus.ring(Bell::Host(host));
                return;
            }
            let (key, epoch, _) = handed;
            let message = format!("the config drive's files cannot be made: {error}");
            let kind = FailureKind::Unavailable;
            agents
                .fail(&host, server, (key, epoch), kind, message)
                .await;
        });
    }

    /// Work has failed before its host was told of it.
    async fn fail(
        &self,
        host: &HostName,
        server: ServerId,
        (key, epoch): (WorkKey, u64),
        kind: FailureKind,
        message: String,
    ) {
        let report = WorkReport {
            key,
            epoch,
            outcome: WorkOutcome::failed(kind, message),
        };
        if let Err(error) = self.reported(host, report).await {
            tracing::error!(%server, %error, "a failure cannot be written");
        }
    }

    /// Takes what a host reports. What was left before may have room now.
    async fn reported(&self, host: &HostName, report: WorkReport) -> Result<(), sql::Error> {
        // A debt that cannot be paid is handed over again with the next look.
        let makes_room = report.key.step != db::work::DEBT_STEP
            || matches!(report.outcome, WorkOutcome::Done { .. });
        self.inner.outcomes.report(host, report).await?;
        let left = self.desks().get(host).is_some_and(|desk| desk.left);
        if makes_room && left {
            self.inner.bus.ring(Bell::Host(host.clone()));
        }
        Ok(())
    }

    fn desks(&self) -> MutexGuard<'_, HashMap<HostName, Desk>> {
        // Every change of a desk is whole at once, so one that a panic left behind is good, too.
        self.inner
            .desks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn heartbeat(&self, beat: Heartbeat) -> Result<Noted, sql::Error> {
        let host = beat.host.clone();
        if beat.introduction && beat.version != SERVICE_VERSION {
            tracing::warn!(%host, version = beat.version, ours = SERVICE_VERSION, "the agent of a host is of another release");
        }
        let news = beat.facts.is_some();
        let well = beat.facts.as_ref().is_none_or(|facts| facts.healthy);
        let (beat, ratios) = (Arc::new(beat), self.inner.ratios);
        let recorded = Arc::clone(&beat);
        let store = &self.inner.with.store;
        let recording = store.write(move |tx| record(tx, &recorded, &ratios));
        let heard = recording.await?;
        if heard == Beat::Well {
            // What could not be done meanwhile, as debts, is tried again at once, not with the next poll.
            self.inner.bus.ring(Bell::Host(host.clone()));
        }
        let again = self.follow_guests(&beat).await?;
        let noted = Noted {
            at: Timestamp::now(),
            again,
            forgotten: heard == Beat::New && beat.facts.is_none(),
        };
        // Many hosts beat at once: one renewal serves them all, unless this one has news of its own.
        let view = &self.inner.with.view;
        if !well || news || !view.is_up(&host) {
            view.refresh().await?;
        } else {
            view.renew().await?;
        }
        Ok(noted)
    }

    /// Holds the record against the guests that a heartbeat names. A host that has very many servers whose guests have
    /// all changed keeps nobody from writing for long: they are followed some at a time. What is interrupted is done by
    /// the next complete list. The servers of which the host has to speak again.
    async fn follow_guests(&self, beat: &Arc<Heartbeat>) -> Result<Vec<ServerId>, sql::Error> {
        if beat.guests.is_empty() && !beat.complete {
            return Ok(Vec::new());
        }
        let store = &self.inner.with.store;
        let read = Arc::clone(beat);
        let rules = self.inner.rules;
        let looking =
            move |tx: &mut sql::Tx<'_>| guests::differing(tx, &read, rules, Timestamp::now());
        let differing = if beat.complete {
            store.read(looking).await?
        } else {
            store.look(looking).await?
        };
        let mut unsure = differing.unsure;
        for some in differing.servers.chunks(FOLLOWED) {
            let (some, beat) = (some.to_vec(), Arc::clone(beat));
            let following = store.write(move |tx| {
                let mut unsure = Vec::new();
                let tasks = guests::follow(tx, &beat, &some, rules, &mut unsure, Timestamp::now())?;
                Ok::<_, sql::Error>((tasks, unsure))
            });
            let (tasks, more) = following.await?;
            unsure.extend(more);
            if tasks {
                self.inner.bus.ring(Bell::Tasks);
            }
        }
        if let Some(strangers) = differing.strangers {
            let noted = Arc::clone(beat);
            let noting = store
                .write(move |tx| guests::note(tx, &noted, &strangers, rules, Timestamp::now()));
            if noting.await? {
                self.inner.bus.ring(Bell::Host(beat.host.clone()));
            }
        }
        Ok(unsure)
    }

    async fn answered(&self, host: HostName, answer: Answer) -> Result<(), sql::Error> {
        let id = answer.id;
        self.inner
            .with
            .store
            .write(move |tx| db::questions::answer(tx, &host, &answer))
            .await?;
        self.inner.bus.ring(Bell::Answer(id));
        Ok(())
    }
}

/// Writes what a heartbeat says of its host.
fn record(tx: &mut sql::Tx<'_>, beat: &Heartbeat, ratios: &Ratios) -> Result<Beat, sql::Error> {
    let now = Timestamp::now();
    let problem = beat
        .facts
        .as_ref()
        .and_then(|facts| facts.problem.as_deref());
    let service = ("nova-compute", beat.version);
    let heard = db::hosts::beat_heard(tx, &beat.host, service, problem, now)?;
    if let Some(facts) = beat.facts.as_ref().filter(|facts| facts.healthy) {
        db::hosts::put_node(tx, &beat.host, beat.node, facts, ratios, now)?;
    }
    for moving in &beat.moving {
        progress(tx, &beat.host, moving, now)?;
    }
    Ok(heard)
}

/// Writes how far a live migration is, if it is the one that this host sends.
fn progress(
    tx: &mut sql::Tx<'_>,
    host: &HostName,
    moving: &Moving,
    now: Timestamp,
) -> Result<(), sql::Error> {
    let mut running = db::migrations::of_server_in(tx, moving.server, Status::Running)?;
    if running.is_none() {
        running = db::migrations::of_server_in(tx, moving.server, Status::RunningPostCopy)?;
    }
    let Some(migration) = running.filter(|one| one.source.compute.as_ref() == Some(host)) else {
        return Ok(());
    };
    if moving.post_copy && migration.status == Status::Running {
        db::migrations::set_status(tx, migration.id, Status::RunningPostCopy, now)?;
    }
    let bytes = |(total, processed, remaining): (u64, u64, u64)| Bytes {
        total: Some(total),
        processed: Some(processed),
        remaining: Some(remaining),
    };
    let (memory, disk) = (bytes(moving.memory), bytes(moving.disk));
    db::migrations::set_progress(tx, migration.id, memory, disk, now)?;
    let (total, _, left) = moving.memory;
    let percent = 100 - (left.min(total) * 100).checked_div(total).unwrap_or(0);
    let percent = i64::try_from(percent).unwrap_or(100);
    db::instances::set_progress(tx, moving.server, percent)
}

type Refusal = (StatusCode, String);

fn failed(error: &sql::Error) -> Refusal {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

/// A host's name belongs to the machine that has said it first, as that machine's servers are looked for there.
fn another_node(host: &HostName) -> String {
    format!(
        "another machine, or this one before it was installed anew, is {host}: bring back the file node-id of its home, or force its \
         compute service down, evacuate its servers and delete the service (openstack compute service delete)"
    )
}

async fn message<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let whole = web::body::bytes(body, MESSAGE_LIMIT)
        .await
        .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    serde_json::from_slice(&whole).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))
}

async fn poll(
    State(agents): State<Agents>,
    Path(host): Path<HostName>,
    body: Body,
) -> Result<Response, Refusal> {
    let ask: Poll = message(body).await?;
    let polled = agents
        .poll(&host, ask)
        .await
        .map_err(|error| failed(&error))?;
    Ok(axum::Json(polled).into_response())
}

async fn report(
    State(agents): State<Agents>,
    Path(host): Path<HostName>,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let report: WorkReport = message(body).await?;
    agents
        .reported(&host, report)
        .await
        .map_err(|error| failed(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

async fn heartbeat(
    State(agents): State<Agents>,
    Path(host): Path<HostName>,
    body: Body,
) -> Result<Response, Refusal> {
    let beat: Heartbeat = message(body).await?;
    if beat.host != host {
        let told = format!("{host} does not speak for {}", beat.host);
        return Err((StatusCode::FORBIDDEN, told));
    }
    let noted = agents.heartbeat(beat).await.map_err(|error| {
        // By whichever database: the constraint, or its column.
        let named = error.to_string();
        if error.is_unique_violation()
            && ["compute_nodes_host", "compute_nodes.host"]
                .iter()
                .any(|one| named.contains(one))
        {
            return (StatusCode::CONFLICT, another_node(&host));
        }
        failed(&error)
    })?;
    Ok(axum::Json(noted).into_response())
}

async fn answer(
    State(agents): State<Agents>,
    Path(host): Path<HostName>,
    body: Body,
) -> Result<StatusCode, Refusal> {
    agents
        .answered(host, message(body).await?)
        .await
        .map_err(|error| failed(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Where another host is.
async fn peer(
    State(agents): State<Agents>,
    Path((_, peer)): Path<(HostName, HostName)>,
) -> Result<Response, Refusal> {
    let nodes: Result<_, sql::Error> = agents.inner.with.store.read(db::hosts::nodes).await;
    let nodes = nodes.map_err(|error| failed(&error))?;
    let found = nodes.into_iter().find(|node| node.host == peer);
    let unknown = || (StatusCode::NOT_FOUND, format!("no host {peer}"));
    let address = found.ok_or_else(unknown)?.facts.host_ip;
    Ok(axum::Json(serde_json::json!({ "address": address })).into_response())
}

/// Which way a server moves between two hosts now, if it does.
async fn moves(
    State(agents): State<Agents>,
    Path((host, peer, server)): Path<(HostName, HostName, ServerId)>,
) -> Result<Response, Refusal> {
    let store = &agents.inner.with.store;
    let found: Result<_, sql::Error> = store
        .read(move |tx| db::migrations::under_way(tx, server))
        .await;
    let found = found.map_err(|error| failed(&error))?;
    let ends = found.map(|found| (found.source.compute, found.dest.compute));
    let (host, peer) = (Some(host), Some(peer));
    let way = ends.and_then(|ends| {
        if ends == (host.clone(), peer.clone()) {
            Some("there")
        } else if ends == (peer, host) {
            Some("here")
        } else {
            None
        }
    });
    Ok(axum::Json(serde_json::json!({ "way": way })).into_response())
}

/// An image's bytes, fetched under the service user's token: agents have no credentials.
async fn image(
    State(agents): State<Agents>,
    Path((_, id)): Path<(String, ImageId)>,
) -> Result<Response, Refusal> {
    let gateway = |error: clients::ClientError| (StatusCode::BAD_GATEWAY, error.to_string());
    let token = agents.inner.with.tokens.token().await.map_err(gateway)?;
    match agents
        .inner
        .with
        .images
        .download(&token, id)
        .await
        .map_err(gateway)?
    {
        Some(body) => Ok(Response::new(body)),
        None => Err((StatusCode::NOT_FOUND, format!("image {id} has no data"))),
    }
}

fn fill_in_disks(work: &mut Work, devices: &[&BlockDevice]) -> Result<(), String> {
    if let Some(plan) = work.verb.plan_of_disks_mut() {
        plan.disks = crate::disks::of_guest(devices.iter().copied());
    }
    if let Some((volume, disk)) = work.verb.volume_mut() {
        let mut its = devices.iter();
        let its = its.find(|device| device.volume_id.as_deref() == Some(&*volume));
        let found = its.and_then(|device| crate::disks::of_device(device));
        *disk = Some(Box::new(found.ok_or("the volume is not on record")?));
    }
    Ok(())
}

/// The data of an image that waits for it, sent on under the service user's token.
async fn put_image(
    State(agents): State<Agents>,
    Path((host, id)): Path<(String, ImageId)>,
    data: Body,
) -> Result<StatusCode, Refusal> {
    let gateway = |error: clients::ClientError| (StatusCode::BAD_GATEWAY, error.to_string());
    let with = &agents.inner.with;
    under_way::begins(&with.store, &agents.inner.bus, HostName(host), id).await;
    let token = with.tokens.token().await.map_err(gateway)?;
    match with
        .images
        .upload(&token, id, data)
        .await
        .map_err(gateway)?
    {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(reason) => Err((StatusCode::CONFLICT, reason)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use types::agent::{Direction, Verb};

    #[test]
    fn what_is_handed_over_says_when_it_was_stored_and_is_the_work_as_it_was() {
        let work = Work {
            key: WorkKey {
                task: types::TaskId::random(),
                step: "step".to_owned(),
                direction: Direction::Do,
            },
            epoch: 3,
            server: ServerId::random(),
            request: "req-1".to_owned(),
            trace: None,
            deadline_seconds: 60,
            verb: Verb::EnsureAbsent,
            passphrase: None,
        };
        let alone = serde_json::to_value(&work).unwrap();
        let stored = Timestamp(1234);
        let mut given = serde_json::to_value(Given { work, stored }).unwrap();
        let said = given.as_object_mut().unwrap().remove("stored");
        assert_eq!(said, Some(1234.into()));
        assert_eq!(given, alone);
    }
}
