//! All routes of the Placement API: method, path, first microversion, policy, handler.

use crate::dispatch::{Answer, Call, Handler};
use crate::fault::Fault;
use crate::{allocations, candidates, inventories, providers, usages};
use futures_util::future::BoxFuture;
use http::Method;
use serde_json::json;

/// A row of the table. `{}` in a path stands for any one segment.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    /// The minor number of the microversion that brought it.
    pub(crate) since: u16,
    /// Without a policy everybody may read it, without a token.
    pub(crate) policy: Option<&'static str>,
    pub(crate) run: Handler,
}

const fn row(
    method: Method,
    path: &'static str,
    since: u16,
    policy: &'static str,
    run: Handler,
) -> Route {
    Route {
        method,
        path,
        since,
        policy: Some(policy),
        run,
    }
}

const GET: Method = Method::GET;
const PUT: Method = Method::PUT;
const POST: Method = Method::POST;
const DELETE: Method = Method::DELETE;

const RP: &str = "/resource_providers/{}";
const RP_INVENTORIES: &str = "/resource_providers/{}/inventories";
const RP_INVENTORY: &str = "/resource_providers/{}/inventories/{}";
const RP_AGGREGATES: &str = "/resource_providers/{}/aggregates";
const RP_TRAITS: &str = "/resource_providers/{}/traits";
const CLASS: &str = "/resource_classes/{}";
const TRAIT: &str = "/traits/{}";
const ALLOCATIONS: &str = "/allocations/{}";

pub(crate) static ROUTES: &[Route] = &[
    Route {
        method: GET,
        path: "/",
        since: 0,
        policy: None,
        run: |_| Box::pin(async { Ok(versions()) }),
    },
    row(
        GET,
        "/resource_providers",
        0,
        "placement:resource_providers:list",
        |c| Box::pin(providers::list(c)),
    ),
    row(
        POST,
        "/resource_providers",
        0,
        "placement:resource_providers:create",
        |c| Box::pin(providers::create(c)),
    ),
    row(GET, RP, 0, "placement:resource_providers:show", |c| {
        Box::pin(providers::show(c))
    }),
    row(PUT, RP, 0, "placement:resource_providers:update", |c| {
        Box::pin(providers::update(c))
    }),
    row(DELETE, RP, 0, "placement:resource_providers:delete", |c| {
        Box::pin(providers::delete(c))
    }),
    row(
        GET,
        RP_INVENTORIES,
        0,
        "placement:resource_providers:inventories:list",
        |c| Box::pin(inventories::list(c)),
    ),
    row(
        POST,
        RP_INVENTORIES,
        0,
        "placement:resource_providers:inventories:create",
        |c| Box::pin(inventories::create(c)),
    ),
    row(
        PUT,
        RP_INVENTORIES,
        0,
        "placement:resource_providers:inventories:update",
        |c| Box::pin(inventories::replace(c)),
    ),
    row(
        DELETE,
        RP_INVENTORIES,
        5,
        "placement:resource_providers:inventories:delete",
        |c| Box::pin(inventories::clear(c)),
    ),
    row(
        GET,
        RP_INVENTORY,
        0,
        "placement:resource_providers:inventories:show",
        |c| Box::pin(inventories::show(c)),
    ),
    row(
        PUT,
        RP_INVENTORY,
        0,
        "placement:resource_providers:inventories:update",
        |c| Box::pin(inventories::update(c)),
    ),
    row(
        DELETE,
        RP_INVENTORY,
        0,
        "placement:resource_providers:inventories:delete",
        |c| Box::pin(inventories::delete(c)),
    ),
    row(
        GET,
        "/resource_providers/{}/usages",
        0,
        "placement:resource_providers:usages",
        |c| Box::pin(usages::of_provider(c)),
    ),
    row(
        GET,
        "/resource_providers/{}/allocations",
        0,
        "placement:resource_providers:allocations:list",
        |c| Box::pin(allocations::of_provider(c)),
    ),
    row(
        GET,
        RP_AGGREGATES,
        1,
        "placement:resource_providers:aggregates:list",
        |c| Box::pin(providers::aggregates(c)),
    ),
    row(
        PUT,
        RP_AGGREGATES,
        1,
        "placement:resource_providers:aggregates:update",
        not_built,
    ),
    row(
        GET,
        RP_TRAITS,
        6,
        "placement:resource_providers:traits:list",
        |c| Box::pin(providers::traits(c)),
    ),
    row(
        PUT,
        RP_TRAITS,
        6,
        "placement:resource_providers:traits:update",
        not_built,
    ),
    row(
        DELETE,
        RP_TRAITS,
        6,
        "placement:resource_providers:traits:delete",
        not_built,
    ),
    row(
        GET,
        "/resource_classes",
        2,
        "placement:resource_classes:list",
        |c| Box::pin(usages::classes(c)),
    ),
    row(
        POST,
        "/resource_classes",
        2,
        "placement:resource_classes:create",
        not_built,
    ),
    row(GET, CLASS, 2, "placement:resource_classes:show", |c| {
        Box::pin(usages::class(c))
    }),
    row(
        PUT,
        CLASS,
        2,
        "placement:resource_classes:update",
        not_built,
    ),
    row(
        DELETE,
        CLASS,
        2,
        "placement:resource_classes:delete",
        not_built,
    ),
    row(GET, "/traits", 6, "placement:traits:list", |c| {
        Box::pin(usages::traits(c))
    }),
    row(GET, TRAIT, 6, "placement:traits:show", |c| {
        Box::pin(usages::one_trait(c))
    }),
    row(PUT, TRAIT, 6, "placement:traits:update", not_built),
    row(DELETE, TRAIT, 6, "placement:traits:delete", not_built),
    row(GET, "/usages", 9, "placement:usages", |c| {
        Box::pin(usages::of_project(c))
    }),
    row(
        GET,
        "/allocation_candidates",
        10,
        "placement:allocation_candidates:list",
        |c| Box::pin(candidates::list(c)),
    ),
    row(
        POST,
        "/allocations",
        13,
        "placement:allocations:manage",
        |c| Box::pin(allocations::set_many(c)),
    ),
    row(GET, ALLOCATIONS, 0, "placement:allocations:list", |c| {
        Box::pin(allocations::of_consumer(c))
    }),
    row(PUT, ALLOCATIONS, 0, "placement:allocations:update", |c| {
        Box::pin(allocations::set(c))
    }),
    row(
        DELETE,
        ALLOCATIONS,
        0,
        "placement:allocations:delete",
        |c| Box::pin(allocations::delete(c)),
    ),
    row(
        POST,
        "/reshaper",
        30,
        "placement:reshaper:reshape",
        not_built,
    ),
];

fn not_built(_: Call) -> BoxFuture<'static, Result<Answer, Fault>> {
    Box::pin(async {
        Err(Fault::not_built(
            "Changing resource classes, traits, provider aggregates, and reshaping",
        ))
    })
}

/// The version document.
pub(crate) fn versions() -> Answer {
    Answer::json(json!({"versions": [{
        "id": "v1.0",
        "min_version": "1.0",
        "max_version": "1.39",
        "status": "CURRENT",
        "links": [{"rel": "self", "href": ""}],
    }]}))
}

/// What the placeholders stand for, if the path is of this form.
fn captures(form: &str, path: &str) -> Option<Vec<String>> {
    let mut captured = Vec::new();
    let mut segments = path.split('/');
    for wanted in form.split('/') {
        let segment = segments.next()?;
        if wanted == "{}" && !segment.is_empty() {
            captured.push(segment.to_owned());
        } else if wanted != segment {
            return None;
        }
    }
    segments.next().is_none().then_some(captured)
}

/// The route of a request: 404 without one at this version, 405 where only other methods are.
pub(crate) fn find(
    method: &Method,
    path: &str,
    version: u16,
) -> Result<(&'static Route, Vec<String>), Fault> {
    let path = if path.is_empty() { "/" } else { path };
    let method = if *method == Method::HEAD {
        &GET
    } else {
        method
    };
    let mut allowed = Vec::new();
    for route in ROUTES {
        let Some(captured) = captures(route.path, path) else {
            continue;
        };
        if route.method != *method {
            allowed.push(route.method.as_str());
        } else if route.since <= version {
            return Ok((route, captured));
        } else {
            return Err(Fault::not_found(""));
        }
    }
    if allowed.is_empty() {
        return Err(Fault::not_found(""));
    }
    allowed.sort_unstable();
    Err(Fault::method_not_allowed(
        method.as_str(),
        allowed.join(", "),
    ))
}
