//! HTTP: paths, tokens, bodies, status codes.

use crate::agent;
use crate::api::listing::{self, Query};
use crate::api::request::{self, Request};
use crate::api::{
    bindings, floatingips, looks, networks, ports, routers, security_groups, services, subnetpools,
    subnets, topology, trunks, view,
};
use crate::db;
use crate::doc::Doc;
use crate::fault::Fault;
use crate::schema::Kind;
use crate::service::Service;
use crate::tags;
use crate::work::{Context, Work};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use web::auth::AuthError;

/// Most bytes of a request's body.
const BODY: usize = 4 << 20;

pub(crate) fn router(service: Service) -> Router {
    Router::new()
        .fallback(handle)
        .layer(axum::middleware::from_fn(web::request_id::layer))
        .with_state(service)
}

async fn handle(State(service): State<Service>, request: axum::extract::Request) -> Response {
    match answer(&service, request).await {
        Ok(response) => response,
        Err(fault) => fault.into_response(),
    }
}

fn ok(body: Value) -> Response {
    axum::Json(body).into_response()
}

fn version_document(base: &str) -> Value {
    json!({"id": "v2.0", "status": "CURRENT", "links": [{"rel": "self", "href": format!("{base}/v2.0/")}]})
}

async fn answer(service: &Service, request: axum::extract::Request) -> Result<Response, Fault> {
    let path = request.uri().path().to_owned();
    let base = web::address::origin(request.headers(), request.uri());
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [] => Ok(ok(json!({"versions": [version_document(&base)]}))),
        ["v2.0", rest @ ..] => authenticated(service, request, rest, &base).await,
        _ => Err(Fault::no_route()),
    }
}

fn refused(error: AuthError) -> Response {
    if let AuthError::Unavailable(reason) = &error {
        tracing::error!(%reason, "tokens cannot be validated");
        let text = "The identity service does not answer.";
        return Fault::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "HTTPServiceUnavailable",
            text,
        )
        .into_response();
    }
    web::auth::unauthorized(None)
}

async fn authenticated(
    service: &Service,
    request: axum::extract::Request,
    rest: &[&str],
    base: &str,
) -> Result<Response, Fault> {
    let caller = match web::auth::caller(request.headers(), service.inner.validator.as_ref()).await
    {
        Ok(caller) => caller,
        Err(error) => return Ok(refused(error)),
    };
    let cx = service.context(caller);
    let method = request.method().clone();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let url = format!("{base}{}", request.uri().path());
    let body = match method {
        Method::POST | Method::PUT => read_body(request.into_body()).await?,
        _ => Value::Null,
    };
    // `/v2.0/networks.json` is an old way to ask for JSON.
    let mut path: Vec<String> = rest.iter().map(|part| (*part).to_owned()).collect();
    if let Some(last) = path.last_mut()
        && let Some(bare) = last.strip_suffix(".json")
    {
        *last = bare.to_owned();
    }
    if path == ["agent", "ports"] && method == Method::GET {
        return agent::wait_for_ports(service, &cx, &query).await.map(ok);
    }
    if path == ["agents", "looks"] && method == Method::POST {
        return looks::ask(service, &cx, &body).await.map(ok);
    }
    let call = Call {
        method,
        path,
        query,
        url,
        body,
    };
    // A topology is made when it is asked for.
    let makes = call.path.first().map(String::as_str) == Some("auto-allocated-topology");
    let writes = call.method != Method::GET || makes;
    if !writes && call.path == ["security-groups"] {
        need_default_group(service, &cx, &call.query).await?;
    }
    let act = move |work: &mut Work<'_, '_>| call.run(work);
    let (status, body) = if writes {
        service.write(&cx, act).await?
    } else {
        service.read(&cx, act).await?
    };
    match body {
        Value::Null => Ok(status.into_response()),
        body => Ok((status, axum::Json(body)).into_response()),
    }
}

/// A project that looks for its security groups finds the default one, also when it had none yet.
async fn need_default_group(service: &Service, cx: &Context, query: &Query) -> Result<(), Fault> {
    let named = query.last("project_id").or(query.last("tenant_id"));
    let named = named.filter(|_| cx.sees_all());
    let project = named.unwrap_or(cx.project()).to_owned();
    if project.is_empty() {
        return Ok(());
    }
    let asked = project.clone();
    let there = move |work: &mut Work<'_, '_>| {
        db::count(
            work.tx,
            Kind::Group,
            &[db::is("default_of", asked.as_str())],
        )
    };
    if service.read(cx, there).await? > 0 {
        return Ok(());
    }
    let make =
        move |work: &mut Work<'_, '_>| security_groups::ensure_default(work, &project).map(|_| ());
    service.write(cx, make).await
}

async fn read_body(body: Body) -> Result<Value, Fault> {
    let bytes = web::body::bytes(body, BODY)
        .await
        .map_err(|error| match error {
            web::body::BodyError::TooLarge { .. } => Fault::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "HTTPRequestEntityTooLarge",
                "Request is too large.",
            ),
            other => Fault::request(other.to_string()),
        })?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes).map_err(|_| Fault::bad("HTTPBadRequest", "The server could not comply with the request since it is either malformed or otherwise incorrect."))
}

/// A request that is understood as far as its path.
#[derive(Clone)]
struct Call {
    method: Method,
    path: Vec<String>,
    query: Query,
    url: String,
    body: Value,
}

type Outcome = Result<(StatusCode, Value), Fault>;

fn fine(body: Value) -> Outcome {
    Ok((StatusCode::OK, body))
}

fn nothing() -> (StatusCode, Value) {
    (StatusCode::NO_CONTENT, Value::Null)
}

impl Call {
    fn run(&self, work: &mut Work<'_, '_>) -> Outcome {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let (get, put) = (self.method == Method::GET, self.method == Method::PUT);
        let delete = self.method == Method::DELETE;
        match path.as_slice() {
            [] if get => fine(resources(&self.url)),
            ["extensions"] if get => fine(services::extensions(None)?),
            ["extensions", alias] if get => fine(services::extensions(Some(alias))?),
            ["quotas", rest @ ..] if get => fine(services::show_quotas(work, rest)?),
            ["quotas", project] if put => fine(services::set_quotas(work, project, &self.body)?),
            ["quotas", project] if delete => {
                services::reset_quotas(work, project).map(|()| nothing())
            }
            ["agents"] if get => fine(services::show_agents(work, None, &self.query)?),
            ["agents", id] if get => fine(services::show_agents(work, Some(id), &self.query)?),
            ["agents", id] if put => fine(services::update_agent(work, id, &self.body)?),
            ["agents", id] if delete => services::delete_agent(work, id).map(|()| nothing()),
            ["availability_zones"] if get => fine(services::availability_zones(work)?),
            ["network-ip-availabilities"] if get => {
                fine(services::ip_availability(work, None, &self.query)?)
            }
            ["network-ip-availabilities", id] if get => {
                fine(services::ip_availability(work, Some(id), &self.query)?)
            }
            ["routers", id, "add_router_interface"] if put => {
                fine(routers::add_interface(work, id, &self.body)?)
            }
            ["routers", id, "remove_router_interface"] if put => {
                fine(routers::remove_interface(work, id, &self.body)?)
            }
            ["auto-allocated-topology", project] if get => {
                fine(topology::show(work, project, &self.query)?)
            }
            ["auto-allocated-topology", project] if delete => {
                topology::remove(work, project).map(|()| nothing())
            }
            [
                "trunks",
                id,
                action @ ("add_subports" | "remove_subports" | "get_subports"),
            ] => trunks::sub_ports(work, self.method.as_str(), id, action, &self.body),
            ["routers", id, "add_extraroutes"] if put => self.extra_routes(work, id, true),
            ["routers", id, "remove_extraroutes"] if put => self.extra_routes(work, id, false),
            [collection, rest @ ..] => match Kind::by_path(collection) {
                Some(kind) => self.resource(work, kind, rest),
                None => Err(Fault::no_route()),
            },
            [] => Err(Fault::no_route()),
        }
    }

    fn extra_routes(&self, work: &mut Work<'_, '_>, id: &str, add: bool) -> Outcome {
        let doc = routers::extra_routes(work, id, &self.body, add)?;
        fine(json!({"router": view::show_one(work, Kind::Router, doc, &[])?}))
    }

    fn resource(&self, work: &mut Work<'_, '_>, kind: Kind, rest: &[&str]) -> Outcome {
        match (self.method.as_str(), rest) {
            ("GET", []) => fine(listing::list(work, kind, &self.query, &self.url)?),
            ("POST", []) => self.create(work, kind),
            ("GET", [id]) => {
                let doc = work.visible(kind, id)?;
                fine(json!({kind.singular(): view::show_one(work, kind, doc, &self.query.fields)?}))
            }
            ("PUT", [id]) => self.update(work, kind, id),
            ("DELETE", [id]) => {
                let doc = work.visible(kind, id)?;
                work.permit("delete", kind, &doc, &Doc::default())?;
                remove(work, kind, &doc)?;
                Ok(nothing())
            }
            (method, [id, "bindings", rest @ ..]) if kind == Kind::Port => {
                bindings::handle(work, method, id, rest, &self.body)
            }
            (method, [id, "tags", tag @ ..]) => {
                tags::handle(work, kind, method, id, tag, &self.body)
            }
            ("GET" | "POST" | "PUT" | "DELETE", _) => Err(Fault::no_route()),
            _ => Err(Fault::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "HTTPMethodNotAllowed",
                "The method is not allowed for this resource.",
            )),
        }
    }

    fn create(&self, work: &mut Work<'_, '_>, kind: Kind) -> Outcome {
        let (requests, bulk) = request::creations(work.cx, kind, &self.body)?;
        let mut per_project: Vec<(String, usize)> = Vec::new();
        for request in &requests {
            match per_project
                .iter_mut()
                .find(|(project, _)| project == request.doc.project())
            {
                Some((_, count)) => *count += 1,
                None => per_project.push((request.doc.project().to_owned(), 1)),
            }
        }
        for (project, count) in per_project {
            services::demand_room(work, kind, &project, count)?;
        }
        let mut made = Vec::with_capacity(requests.len());
        for request in requests {
            permit_create(work, kind, &request)?;
            made.push(create(work, kind, request)?);
        }
        let mut shown = view::show(work, kind, made, &[])?;
        let body = if bulk {
            json!({kind.plural(): shown})
        } else {
            json!({kind.singular(): shown.pop()})
        };
        Ok((StatusCode::CREATED, body))
    }

    fn update(&self, work: &mut Work<'_, '_>, kind: Kind, id: &str) -> Outcome {
        let given = request::update(kind, &self.body)?;
        let old = work.visible(kind, id)?;
        work.permit("update", kind, &old, &given)?;
        let mut doc = old.clone();
        for (name, value) in given.iter() {
            doc.set(name, value.clone());
        }
        let doc = update(work, kind, &old, doc, &given)?;
        fine(json!({kind.singular(): view::show_one(work, kind, doc, &[])?}))
    }
}

/// A network that the caller may not see is not found, before any rule refuses what is wanted of it.
fn permit_create(work: &mut Work<'_, '_>, kind: Kind, request: &Request) -> Result<(), Fault> {
    if matches!(kind, Kind::Port | Kind::Subnet) {
        work.visible(Kind::Network, request.doc.text("network_id"))?;
    }
    work.permit("create", kind, &request.doc, &request.given)
}

fn create(work: &mut Work<'_, '_>, kind: Kind, request: Request) -> Result<Doc, Fault> {
    match kind {
        Kind::Network => networks::create(work, request),
        Kind::Subnet => subnets::create(work, request),
        Kind::SubnetPool => subnetpools::create(work, request),
        Kind::AddressScope => subnetpools::create_scope(work, request),
        Kind::Port => ports::create(work, request),
        Kind::Router => routers::create(work, request),
        Kind::FloatingIp => floatingips::create(work, request),
        Kind::Group => security_groups::create(work, request),
        Kind::Rule => security_groups::create_rule(work, request),
        Kind::Trunk => trunks::create(work, request),
    }
}

fn update(
    work: &mut Work<'_, '_>,
    kind: Kind,
    old: &Doc,
    doc: Doc,
    given: &Doc,
) -> Result<Doc, Fault> {
    match kind {
        Kind::Network => networks::update(work, old, doc),
        Kind::Subnet => subnets::update(work, old, doc),
        Kind::SubnetPool => subnetpools::update(work, old, doc),
        Kind::AddressScope => subnetpools::update_scope(work, old, doc),
        Kind::Port => ports::update(work, old, doc, given),
        Kind::Router => routers::update(work, old, doc, given),
        Kind::FloatingIp => floatingips::update(work, old, doc, given),
        Kind::Group => security_groups::update(work, old, doc),
        Kind::Rule => Err(Fault::no_route()),
        Kind::Trunk => trunks::update(work, doc),
    }
}

fn remove(work: &mut Work<'_, '_>, kind: Kind, doc: &Doc) -> Result<(), Fault> {
    match kind {
        Kind::Network => networks::remove(work, doc),
        Kind::Subnet => subnets::remove(work, doc),
        Kind::SubnetPool => subnetpools::remove(work, doc),
        Kind::AddressScope => subnetpools::remove_scope(work, doc),
        Kind::Port => ports::remove(work, doc),
        Kind::Router => routers::remove(work, doc),
        Kind::FloatingIp => floatingips::remove(work, doc),
        Kind::Group => security_groups::remove(work, doc),
        Kind::Rule => security_groups::remove_rule(work, doc),
        Kind::Trunk => trunks::remove(work, doc),
    }
}

/// `GET /v2.0/`
fn resources(url: &str) -> Value {
    let url = url.trim_end_matches('/');
    let others = [
        ("quota", "quotas"),
        ("agent", "agents"),
        ("availability_zone", "availability_zones"),
    ];
    let kinds = Kind::ALL
        .into_iter()
        .map(|kind| (kind.singular(), kind.plural(), kind.path()));
    let all = kinds.chain(others.into_iter().map(|(name, path)| (name, path, path)));
    let all: Vec<Value> = all
        .map(|(name, collection, path)| json!({"name": name, "collection": collection, "links": [{"rel": "self", "href": format!("{url}/{path}")}]}))
        .collect();
    json!({"resources": all})
}
