//! What the agents on the hosts ask, and what waits for their reports.

use crate::api::listing::Query;
use crate::db;
use crate::doc::Doc;
use crate::fault::Fault;
use crate::schema::Kind;
use crate::service::{PortEvent, Service};
use crate::wanted::{self, Urgency};
use crate::work::{Context, Work};
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use policy::Target;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;
use types::network_wanted::{HostReport, HostWanted, ObjectStatus, Status};
use uuid::Uuid;

/// Longest wait of one question.
const WAIT: Duration = Duration::from_secs(60);
/// How often the database is asked although nobody in this process changed anything: another process may have.
const LOOK: Duration = Duration::from_secs(2);
/// How long changes are gathered that only tell who has which address elsewhere.
const SOON: Duration = Duration::from_millis(200);
/// Most bytes of a report.
const REPORT: usize = 32 << 20;
/// Most ports that one question may wait for.
const PORTS: usize = 1000;

pub(crate) fn router(service: Service) -> Router {
    Router::new()
        .route("/v2.0/agent/hosts/{host}/wanted", get(wanted))
        .route("/v2.0/agent/hosts/{host}/report", put(report))
        .layer(DefaultBodyLimit::max(REPORT))
        .with_state(service)
}

/// An agent speaks for its own host only.
fn check_host(headers: &HeaderMap, host: &str) -> Result<(), Fault> {
    let named = headers
        .get("x-agent-host")
        .and_then(|value| value.to_str().ok());
    let proper = !host.is_empty() && host.len() <= 255;
    if proper && named == Some(host) {
        return Ok(());
    }
    Err(Fault::new(
        StatusCode::FORBIDDEN,
        "HTTPForbidden",
        "X-Agent-Host must be the host of the path.",
    ))
}

fn seconds(query: &Query) -> Duration {
    let wait = query
        .last("wait")
        .and_then(|text| text.parse::<f64>().ok())
        .filter(|wait| wait.is_finite() && *wait >= 0.0);
    Duration::from_secs_f64(wait.unwrap_or(0.0).min(WAIT.as_secs_f64()))
}

async fn wanted(
    State(service): State<Service>,
    Path(host): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = Query::parse(query.as_deref().unwrap_or_default());
    match wait_for_news(&service, &host, &headers, &query).await {
        Ok(Some(wanted)) => Json(wanted).into_response(),
        Ok(None) => StatusCode::NOT_MODIFIED.into_response(),
        Err(fault) => fault.into_response(),
    }
}

async fn wait_for_news(
    service: &Service,
    host: &str,
    headers: &HeaderMap,
    query: &Query,
) -> Result<Option<HostWanted>, Fault> {
    check_host(headers, host)?;
    let since = query
        .last("since")
        .and_then(|text| text.parse::<u64>().ok())
        .unwrap_or(0);
    let deadline = Instant::now() + seconds(query);
    let cx = service.own_context();
    let mut revision = service.inner.revision.subscribe();
    if since == 0 {
        let tunnel = query.last("tunnel").and_then(|text| text.parse().ok());
        meet(service, &cx, host, tunnel).await?;
    }
    let mut seen = since;
    // When what was gathered is told.
    let mut soon: Option<Instant> = None;
    loop {
        revision.mark_unchanged();
        let asked = host.to_owned();
        let urgency = move |work: &mut Work<'_, '_>| wanted::urgency(work, &asked, seen);
        let urgency = match since {
            0 => Urgency::Now,
            _ => service.read(&cx, urgency).await?,
        };
        let now = Instant::now();
        let tell = match urgency {
            Urgency::None(newest) => {
                seen = newest;
                newest.saturating_sub(since) >= wanted::LAG
            }
            Urgency::Soon => now >= *soon.get_or_insert(deadline.min(now + SOON)),
            Urgency::Now => true,
        };
        if tell {
            let asked = host.to_owned();
            let news = move |work: &mut Work<'_, '_>| wanted::news(work, &asked, since);
            match service.read(&cx, news).await? {
                Ok(news) => return Ok(Some(news)),
                Err(newest) => seen = newest,
            }
            soon = None;
        }
        if now >= deadline {
            return Ok(None);
        }
        let look = soon.unwrap_or(now + LOOK).min(deadline);
        tokio::select! {
            _ = revision.changed() => {}
            () = tokio::time::sleep_until(look) => {}
        }
    }
}

/// The first host that is met becomes the one that serves DHCP and routers. Where tunnels of a host end somewhere else
/// than before, all who have a part of its networks must know.
async fn meet(
    service: &Service,
    cx: &Context,
    host: &str,
    tunnel: Option<IpAddr>,
) -> Result<(), Fault> {
    let asked = host.to_owned();
    if service
        .read(cx, move |work| {
            db::agents::is_known(work.tx, &asked, tunnel)
        })
        .await?
    {
        return Ok(());
    }
    let asked = host.to_owned();
    service
        .write(cx, move |work| {
            if !db::agents::know_host(work.tx, &asked, tunnel)? || !db::agents::any_tunnel(work.tx)?
            {
                return Ok(());
            }
            let gateway = wanted::gateway_host(work)?.as_deref() == Some(&asked[..]);
            let networks = match gateway {
                true => db::column(work.tx, Kind::Network, "id", &[])?,
                false => db::networks_on_host(work.tx, &asked)?,
            };
            for network in networks {
                work.changed(crate::work::What::Network, &network);
            }
            Ok(())
        })
        .await
}

async fn report(
    State(service): State<Service>,
    Path(host): Path<String>,
    headers: HeaderMap,
    Json(report): Json<HostReport>,
) -> Response {
    match take_report(&service, host, &headers, report).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(fault) => fault.into_response(),
    }
}

async fn take_report(
    service: &Service,
    host: String,
    headers: &HeaderMap,
    report: HostReport,
) -> Result<(), Fault> {
    check_host(headers, &host)?;
    let cx = service.own_context();
    let looked = report.look.is_some();
    let act = move |work: &mut Work<'_, '_>| {
        db::agents::beat(work.tx, &host, &report.agents)?;
        if let Some(look) = &report.look {
            db::looks::answer(work.tx, &host, look)?;
        }
        let gateway = wanted::gateway_host(work)?.as_deref() == Some(host.as_str());
        let events = port_statuses(work, &host, gateway, &report)?;
        if gateway {
            statuses(work, Kind::Router, &report.routers)?;
            statuses(work, Kind::FloatingIp, &report.floating_ips)?;
        }
        Ok(events)
    };
    for event in service.write(&cx, act).await? {
        // Nobody may be listening.
        let _ = service.inner.events.send(event);
    }
    if looked {
        service.inner.looked.notify_waiters();
    }
    Ok(())
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Active => "ACTIVE",
        Status::Down => "DOWN",
        Status::Error => "ERROR",
    }
}

/// Takes over the statuses of ports. A host speaks only for the ports that are bound to it, and for those of the cloud's
/// own when it serves them. A report names every port of the host, so only what differs is read whole.
fn port_statuses(
    work: &mut Work<'_, '_>,
    host: &str,
    gateway: bool,
    report: &HostReport,
) -> Result<Vec<PortEvent>, Fault> {
    let told: HashMap<String, &ObjectStatus> = report
        .ports
        .iter()
        .map(|port| (port.id.to_string(), port))
        .collect();
    let ids: Vec<String> = told.keys().cloned().collect();
    let states = db::port_states(work.tx, &ids)?;
    let differing = states.iter().filter(|[id, status, bound, owner]| {
        let own = bound == host || gateway && owner.starts_with("network:");
        own && told.get(id).is_some_and(|port| word(port.status) != status)
    });
    let differing: Vec<&str> = differing.map(|[id, ..]| id.as_str()).collect();
    let mut events = Vec::new();
    for mut doc in db::find(work.tx, Kind::Port, &[db::one_of("id", differing)])? {
        let Some(port) = told.get(doc.id()) else {
            continue;
        };
        if let Some(detail) = &port.detail {
            tracing::warn!(
                port = doc.id(),
                host,
                detail,
                "a port could not be realised"
            );
        }
        doc.set("status", word(port.status));
        db::save(work.tx, Kind::Port, &doc)?;
        events.push(PortEvent {
            port_id: port.id,
            device_id: doc.text("device_id").to_owned(),
            status: port.status,
        });
    }
    Ok(events)
}

fn statuses(work: &mut Work<'_, '_>, kind: Kind, told: &[ObjectStatus]) -> Result<(), Fault> {
    let ids: Vec<String> = told.iter().map(|object| object.id.to_string()).collect();
    for mut doc in db::find(
        work.tx,
        kind,
        &[db::one_of("id", ids.iter().map(String::as_str))],
    )? {
        let Some(object) = told.iter().find(|object| object.id.to_string() == doc.id()) else {
            continue;
        };
        // A router that is switched off is still an active router in Neutron's words; a floating IP that lost its port is down.
        let status = match (kind, object.status) {
            (Kind::Router, Status::Down) => "ACTIVE",
            (Kind::FloatingIp, _) if !doc.has("port_id") => "DOWN",
            (_, status) => word(status),
        };
        if doc.text("status") != status {
            doc.set("status", status);
            db::save(work.tx, kind, &doc)?;
        }
    }
    Ok(())
}

/// `GET /v2.0/agent/ports?ids=A,B&wait=30`: answers when all the ports are ACTIVE, when one is in ERROR or gone, or when
/// the wait is over. For the compute service.
pub(crate) async fn wait_for_ports(
    service: &Service,
    cx: &Context,
    query: &Query,
) -> Result<Value, Fault> {
    cx.demand("wait_for_ports", &Target::new())?;
    let ids: Vec<String> = query
        .all("ids")
        .into_iter()
        .flat_map(|ids| ids.split(','))
        .filter(|id| !id.is_empty())
        .map(str::to_owned)
        .collect();
    if ids.is_empty() || ids.len() > PORTS || ids.iter().any(|id| Uuid::parse_str(id).is_err()) {
        return Err(Fault::request(format!(
            "Invalid input for ids. Reason: 1 to {PORTS} UUIDs are wanted."
        )));
    }
    let deadline = Instant::now() + seconds(query);
    let mut events = service.port_events();
    loop {
        let asked = ids.clone();
        let found = service
            .read(cx, move |work| {
                db::find(
                    work.tx,
                    Kind::Port,
                    &[db::one_of("id", asked.iter().map(String::as_str))],
                )
            })
            .await?;
        let status = |id: &String| {
            found
                .iter()
                .find(|port| port.id() == id)
                .map(|port| port.text("status"))
        };
        let active = ids.iter().all(|id| status(id) == Some("ACTIVE"));
        let lost = ids
            .iter()
            .any(|id| matches!(status(id), None | Some("ERROR")));
        if active || lost || Instant::now() >= deadline {
            let show = |doc: &Doc| json!({"id": doc.id(), "status": doc.text("status"), "device_id": doc.text("device_id")});
            return Ok(
                json!({"active": active, "ports": found.iter().map(show).collect::<Vec<_>>()}),
            );
        }
        let look = deadline.min(Instant::now() + LOOK);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Ok(event) if !ids.contains(&event.port_id.to_string()) => continue,
                    _ => break,
                },
                () = tokio::time::sleep_until(look) => break,
            }
        }
    }
}
