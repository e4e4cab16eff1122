//! One request as a handler sees it, and its answer.

use crate::Inner;
use crate::faults::Fault;
use crate::idempotency::Key;
use crate::links::Links;
use crate::query::Query;
use crate::route::Route;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use policy::Target;
use serde::Serialize;
use serde_json::Value;
use std::num::IntErrorKind;
use std::sync::Arc;
use types::{Caller, Microversion, RequestId, Trace};

/// A request: authenticated, routed, negotiated, its query and body checked.
pub struct Call {
    /// The service.
    pub api: Arc<Inner>,
    /// The user's token, for questions to neighbours; never stored.
    pub token: String,
    /// Who asks.
    pub caller: Arc<Caller>,
    /// The microversion the answer must have.
    pub version: Microversion,
    /// The values of the path's parameters, in order.
    pub params: Vec<String>,
    /// The query.
    pub query: Query,
    /// It only asks what would become of the servers that it wants.
    pub dry_run: bool,
    /// The whole JSON body; null when there was none.
    pub body: Value,
    /// Where links begin.
    pub links: Links,
    /// The request's id.
    pub request_id: RequestId,
    /// The trace that the request came with; none when it begins one.
    pub trace: Option<Arc<Trace>>,
    /// The row of the routing table.
    pub route: &'static Route,
    /// The `Idempotency-Key`, if the request has one that counts.
    pub key: Option<Arc<Key>>,
}

impl Call {
    /// A parameter of the path.
    pub fn param(&self, index: usize) -> &str {
        self.params.get(index).map_or("", String::as_str)
    }

    /// Whether the version is at least this one.
    pub fn at_least(&self, version: Microversion) -> bool {
        self.version >= version
    }

    /// The caller's project; every token of the compute API has one, but for system scope.
    pub fn project(&self) -> &str {
        self.caller.project_id.as_deref().unwrap_or_default()
    }

    /// Whether the caller is an administrator (`context_is_admin`).
    pub fn is_admin(&self) -> bool {
        self.api
            .policy
            .allows("context_is_admin", &self.caller, &Target::new())
    }

    fn own_target(&self) -> Target {
        Target::new()
            .with("project_id", self.project())
            .with("user_id", &self.caller.user_id)
    }

    /// Whether a rule lets the caller pass for things of the caller's own project.
    pub fn may(&self, rule: &str) -> bool {
        self.api
            .policy
            .allows(rule, &self.caller, &self.own_target())
    }

    /// Refuses the request unless the rule lets the caller pass for the caller's own project.
    pub fn require(&self, rule: &str) -> Result<(), Fault> {
        if self.may(rule) {
            Ok(())
        } else {
            Err(Fault::denied(rule))
        }
    }

    /// Whether a rule lets the caller pass for things of this project and user.
    pub fn may_for(&self, rule: &str, project: &str, user: &str) -> bool {
        let target = Target::new()
            .with("project_id", project)
            .with("user_id", user);
        self.api.policy.allows(rule, &self.caller, &target)
    }

    /// Refuses the request unless the rule lets the caller pass for things of this project.
    pub fn require_for(&self, rule: &str, project: &str, user: &str) -> Result<(), Fault> {
        if self.may_for(rule, project, user) {
            Ok(())
        } else {
            Err(Fault::denied(rule))
        }
    }

    /// Refuses a project of the request that the identity service does not have.
    pub async fn demand_project(&self, id: &str) -> Result<(), Fault> {
        let known = self.caller.project_id.as_deref() == Some(id)
            || self.api.deps.validator.knows_project(id).await;
        if known {
            return Ok(());
        }
        Err(Fault::bad_request(format!(
            "Project ID {id} is not a valid project."
        )))
    }

    /// How many items a page has at most: `limit`, but no more than the configured maximum.
    pub fn limit(&self) -> Result<usize, Fault> {
        let most = self.api.config.max_limit;
        let Some(text) = self.query.get("limit") else {
            return Ok(most);
        };
        match count(text) {
            Some(limit) => Ok(limit.min(most)),
            None => Err(Fault::bad_request(format!(
                "limit [{text}] is not a number"
            ))),
        }
    }

    /// The same where 0 is no limit, as in lists paged by an offset (Nova's `common.limited`).
    pub fn limit_or_most(&self) -> Result<usize, Fault> {
        Ok(match self.limit()? {
            0 => self.api.config.max_limit,
            limit => limit,
        })
    }

    /// The offset of a list paged by numbers.
    pub fn offset(&self) -> usize {
        self.query.get("offset").and_then(count).unwrap_or(0)
    }

    /// A field of the object `outer` in the body.
    pub fn field(&self, outer: &str, name: &str) -> Option<&Value> {
        self.body.get(outer).and_then(|inner| inner.get(name))
    }

    /// A text of the object `outer` in the body.
    pub fn text(&self, outer: &str, name: &str) -> Option<&str> {
        self.field(outer, name).and_then(Value::as_str)
    }
}

/// A number of things; more than can be counted are as many as can be.
fn count(text: &str) -> Option<usize> {
    match text.parse::<usize>() {
        Ok(number) => Some(number),
        Err(error) => (*error.kind() == IntErrorKind::PosOverflow).then_some(usize::MAX),
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// JSON, or nothing.
    pub body: Option<Bytes>,
    /// `Location`, if there is one.
    pub location: Option<String>,
    /// Whether it is the first answer to an earlier request with the same `Idempotency-Key`.
    pub replayed: bool,
    /// How the wait that the client wanted has ended.
    pub waited: Option<&'static str>,
}

impl Reply {
    /// 200 with a document.
    pub fn ok(document: &impl Serialize) -> Result<Self, Fault> {
        Self::json(StatusCode::OK, document)
    }

    /// A document with another status.
    pub fn json(status: StatusCode, document: &impl Serialize) -> Result<Self, Fault> {
        Self::json_in(status, document, 0)
    }

    /// The same for a document of about so many bytes.
    pub fn json_in(
        status: StatusCode,
        document: &impl Serialize,
        room: usize,
    ) -> Result<Self, Fault> {
        let mut bytes = Vec::with_capacity(room.max(1024));
        serde_json::to_writer(&mut bytes, document).map_err(Fault::internal)?;
        Ok(Self {
            status,
            body: Some(bytes.into()),
            location: None,
            replayed: false,
            waited: None,
        })
    }

    /// A status without a document.
    pub fn empty(status: StatusCode) -> Self {
        Self {
            status,
            body: None,
            location: None,
            replayed: false,
            waited: None,
        }
    }

    /// With a `Location`.
    #[must_use]
    pub fn at(mut self, location: String) -> Self {
        self.location = Some(location);
        self
    }

    /// The HTTP answer.
    pub fn into_response(self) -> Response {
        let mut response = Response::new(self.body.map_or_else(Body::empty, Body::from));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if self.replayed {
            headers.insert(
                HeaderName::from_static("idempotency-replayed"),
                HeaderValue::from_static("true"),
            );
        }
        if let Some(waited) = self.waited {
            headers.insert(
                HeaderName::from_static("preference-applied"),
                HeaderValue::from_static(waited),
            );
        }
        if let Some(location) = self
            .location
            .and_then(|text| HeaderValue::from_str(&text).ok())
        {
            headers.insert(HeaderName::from_static("location"), location);
        }
        response
    }
}
