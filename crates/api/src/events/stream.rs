//! `GET /events`: what happens to the servers of the caller's project, as Server-Sent Events (WHATWG HTML, "Server-sent
//! events"). `Last-Event-ID`, or `?last_event_id=`, goes on after an event; each event comes at least once, with an id of
//! its own in `id` of its document.

use super::hub::{Following, Told};
use super::wait::{refused, stopped};
use crate::Inner;
use crate::faults::{self, Fault};
use crate::query::{self, Key, Query, key};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use db::outbox::{Entry, Kind};
use futures_util::stream;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, header};
use policy::Target;
use serde_json::json;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use types::{Caller, Timestamp};
use web::auth::AuthError;
use web::serve::Stopping;

/// Where it is served, below no version.
pub const PATH: &str = "/events";
/// The keys of its query, each with what it is for.
pub const KEYS: [(Key, &str); 3] = [
    (ALL_PROJECTS, "Events of the servers of all projects"),
    (SERVER, "Events of this server only"),
    (LAST_EVENT_ID, "As the header Last-Event-ID"),
];
const ALL_PROJECTS: Key = key("all_projects", query::Kind::Any).once();
const SERVER: Key = key("server", query::Kind::Any).once();
const LAST_EVENT_ID: Key = key("last_event_id", query::Kind::Digits).once();
/// The rules that guard it.
pub const POLICIES: [&str; 2] = [OWN, ALL];
/// The rule of one's own project.
const OWN: &str = "kilonova:events";
/// The rule of all projects.
const ALL: &str = "kilonova:events:all_projects";
/// The rule that shows hosts, as with servers.
const HOSTS: &str = "os_compute_api:os-extended-server-attributes";

/// Silence after which a comment says that the stream lives.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often the token is looked at again: it may have been revoked.
const TOKEN_LOOK: Duration = Duration::from_secs(60);
/// A stream ends after this time, whatever its token: the client comes back and goes on.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Rows read at once for a stream that goes on from earlier.
const PAGE: u64 = 200;

/// Serves one stream.
pub async fn serve(State(api): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    match open(&api, &parts).await {
        Ok(response) | Err(response) => response,
    }
}

async fn open(api: &Arc<Inner>, request: &Parts) -> Result<Response, Response> {
    let headers = &request.headers;
    let caller = match web::auth::caller(headers, &*api.deps.validator).await {
        Ok(caller) => caller,
        Err(AuthError::Missing | AuthError::Invalid) => {
            return Err(faults::unauthorized(&api.config.auth_url));
        }
        Err(AuthError::Unavailable(reason)) => {
            tracing::warn!(reason, "tokens cannot be checked");
            let fault = Fault::unavailable("The identity service does not answer.");
            return Err(fault.into_response());
        }
    };
    let begun = begin(api, request, caller).await;
    let stream = begun.map_err(Fault::into_response)?;
    let mut response = Response::new(Body::from_stream(stream::unfold(stream, Stream::next)));
    let headers = response.headers_mut();
    let fixed = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

async fn begin(api: &Arc<Inner>, request: &Parts, caller: Arc<Caller>) -> Result<Stream, Fault> {
    let headers = &request.headers;
    let query = Query::parse(request.uri.query().unwrap_or_default());
    let own = caller.project_id.clone().unwrap_or_default();
    let target = Target::new()
        .with("project_id", &own)
        .with("user_id", &caller.user_id);
    let allows = |rule| api.policy.allows(rule, &caller, &target);
    let require = |rule| match allows(rule) {
        true => Ok(()),
        false => Err(Fault::denied(rule)),
    };
    require(OWN)?;
    let all = match query.get(ALL_PROJECTS.name) {
        None => false,
        Some(text) => crate::handlers::servers_create::says_yes(text),
    };
    if all {
        require(ALL)?;
    }
    let server = match query.get(SERVER.name) {
        None => None,
        Some(text) => {
            let id = text.parse::<types::ServerId>();
            Some(
                id.map_err(|_| Fault::bad_request(format!("server '{text}' is not a UUID.")))?
                    .to_string(),
            )
        }
    };
    let cursor = cursor(headers, &query)?;
    let project = (!all).then(|| own.clone());
    let following = api.hub.follow(&own, project.clone());
    let following = following.await.map_err(refused)?;
    let since = following.since;
    let mut stream = Stream {
        api: Arc::clone(api),
        token: token(headers),
        shows_hosts: allows(HOSTS),
        ends: Instant::now() + left(&caller),
        looked: Instant::now(),
        stopping: request.extensions.get::<Stopping>().cloned(),
        following,
        project,
        server,
        replay: None,
        replayed: HashSet::new(),
        ready: VecDeque::new(),
    };
    let Some(cursor) = cursor else {
        stream.ready.push_back(hello(since));
        return Ok(stream);
    };
    // The newest event is always kept, so who knows a later one has it from another database: this one was restored.
    let (lowest, highest) = api.deps.store.read(db::outbox::bounds).await?;
    if cursor > highest.max(since) {
        stream.ready.extend([hello(since), never(cursor)]);
        return Ok(stream);
    }
    stream.ready.push_back(hello(cursor));
    if cursor < lowest.saturating_sub(1) {
        stream.ready.push_back(forgotten(cursor));
    }
    stream.replay = Some(cursor);
    Ok(stream)
}

/// Where the client wants to go on.
fn cursor(headers: &HeaderMap, query: &Query) -> Result<Option<i64>, Fault> {
    let header = headers.get("last-event-id");
    let text = match header {
        Some(value) => Some(value.to_str().unwrap_or("?")),
        None => query.get(LAST_EVENT_ID.name),
    };
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match text.parse::<i64>() {
        Ok(number) if number >= 0 => Ok(Some(number)),
        _ => Err(Fault::bad_request(format!(
            "Last-Event-ID '{text}' is not the id of an event of this stream."
        ))),
    }
}

fn token(headers: &HeaderMap) -> String {
    let value = headers.get("x-auth-token");
    let text = value.and_then(|value| value.to_str().ok());
    text.unwrap_or_default().trim().to_owned()
}

/// How long the token is still good.
pub fn left(caller: &Caller) -> Duration {
    let left = caller
        .expires_at
        .micros()
        .saturating_sub(Timestamp::now().micros());
    Duration::from_micros(u64::try_from(left).unwrap_or(0)).min(LONGEST)
}

/// The first words: how soon to come back after a break, and where.
fn hello(since: i64) -> Bytes {
    format!("retry: 1000\nid: {since}\n: events of servers\n\n").into()
}

/// What was asked for is no longer kept.
fn forgotten(cursor: i64) -> Bytes {
    lost(
        cursor,
        "Events from then on are no longer kept; list the servers.",
    )
}

/// What was asked for has never been here.
fn never(cursor: i64) -> Bytes {
    lost(
        cursor,
        "There is no such event, as when an older database was restored; list the servers.",
    )
}

fn lost(cursor: i64, message: &str) -> Bytes {
    let document = json!({ "last_event_id": cursor, "message": message });
    format!("event: lost\ndata: {document}\n\n").into()
}

struct Stream {
    api: Arc<Inner>,
    token: String,
    shows_hosts: bool,
    ends: Instant,
    looked: Instant,
    stopping: Option<Stopping>,
    following: Following,
    project: Option<String>,
    server: Option<String>,
    /// Rows after this one are read from the database before what is told live.
    replay: Option<i64>,
    /// Rows read from the database that may be told live as well.
    replayed: HashSet<i64>,
    ready: VecDeque<Bytes>,
}

impl Stream {
    /// The next bytes; none is the end.
    async fn next(mut self) -> Option<(Result<Bytes, std::convert::Infallible>, Self)> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some((Ok(bytes), self));
            }
            if Instant::now() >= self.ends || !self.still_valid().await {
                return None;
            }
            if let Some(from) = self.replay.take() {
                self.read_page(from).await?;
                continue;
            }
            let heartbeat = (Instant::now() + HEARTBEAT).min(self.ends);
            tokio::select! {
                told = self.following.events.recv() => self.tell(told?),
                () = tokio::time::sleep_until(heartbeat) => {
                    self.ready.push_back(Bytes::from_static(b": \n\n"));
                }
                () = stopped(self.stopping.as_ref()) => return None,
            }
        }
    }

    /// Whether the token is still good, asked now and then.
    async fn still_valid(&mut self) -> bool {
        if self.looked.elapsed() < TOKEN_LOOK {
            return true;
        }
        self.looked = Instant::now();
        let checked = self.api.deps.validator.validate(&self.token).await;
        !matches!(checked, Err(AuthError::Missing | AuthError::Invalid))
    }

    /// Reads what happened after a number; none when the database does not answer, so that the client comes back.
    async fn read_page(&mut self, from: i64) -> Option<()> {
        let project = self.project.clone();
        let reading = self.api.deps.store.read(move |tx| match &project {
            Some(project) => db::outbox::of_project_after(tx, project, from, PAGE),
            None => db::outbox::after(tx, from, PAGE),
        });
        let page: Vec<Entry> = match reading.await {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(%error, "earlier events of servers cannot be read");
                return None;
            }
        };
        if page.len() as u64 == PAGE {
            self.replay = page.last().map(|entry| entry.id);
        }
        let since = self.following.since;
        for entry in page {
            if entry.id > since {
                self.replayed.insert(entry.id);
            }
            let cursor = entry.id.min(since);
            self.push(&entry, cursor);
        }
        Some(())
    }

    fn tell(&mut self, told: Told) {
        if !self.replayed.remove(&told.entry.id) {
            self.push(&told.entry, told.cursor);
        }
    }

    fn push(&mut self, entry: &Entry, cursor: i64) {
        let concerns = entry.kind.is_of_server()
            && self
                .server
                .as_ref()
                .is_none_or(|server| *server == entry.subject);
        if concerns {
            self.ready
                .push_back(written(entry, cursor, self.shows_hosts));
        }
    }
}

/// One event as it goes over the wire.
fn written(entry: &Entry, cursor: i64, shows_hosts: bool) -> Bytes {
    let name = match entry.kind {
        Kind::ActionStart => "action.start",
        Kind::ActionEnd => "action.end",
        Kind::EventEnd => "event.end",
        _ => "state",
    };
    let mut document = json!({
        "id": entry.id,
        "at": entry.at.iso_micros_z(),
        "server_id": entry.subject,
        "project_id": entry.project_id,
        "vm_state": entry.vm_state,
        "task_state": entry.task_state,
        "power_state": entry.power_state,
    });
    let more = [
        ("action", &entry.action),
        ("event", &entry.event),
        ("result", &entry.outcome),
        ("message", &entry.message),
        ("request_id", &entry.request_id),
        ("user_id", &entry.user_id),
    ];
    for (key, value) in more {
        if let Some(value) = value {
            document[key] = value.as_str().into();
        }
    }
    if shows_hosts {
        document["host"] = entry.host.as_deref().into();
    }
    format!("id: {cursor}\nevent: {name}\ndata: {document}\n\n").into()
}
