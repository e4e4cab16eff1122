//! One request on its way through a handler.

use crate::fault::Fault;
use crate::service::{Held, Service};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use policy::Target;
use serde_json::{Map, Value as Json};
use std::collections::HashMap;
use std::sync::Arc;

/// What a handler knows of its request.
pub struct Call {
    /// The service.
    pub service: Service,
    /// The validated token; always there on routes that need one.
    pub(crate) held: Option<Arc<Held>>,
    /// What the client called this service, for links: `http://host:port`.
    pub base: String,
    /// The path as it came.
    pub path: String,
    /// The query as it came.
    pub raw_query: String,
    /// The headers.
    pub headers: HeaderMap,
    /// Parts of the path by name.
    pub params: HashMap<String, String>,
    /// The query, decoded.
    pub query: Vec<(String, String)>,
    /// The body; null when there is none.
    pub body: Json,
}

impl Call {
    /// The token of a route that needs one.
    pub(crate) fn held(&self) -> Result<&Arc<Held>, Fault> {
        self.held.as_ref().ok_or(Fault::Unauthorized)
    }

    /// A part of the path; the route table says which there are.
    pub fn param(&self, name: &str) -> &str {
        self.params.get(name).map_or("", String::as_str)
    }

    /// The first value of a query parameter.
    pub fn asked(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether a flag is in the query: `?nocatalog`, `?effective=1`; `0` and `false` mean no.
    pub fn flag(&self, name: &str) -> bool {
        self.asked(name).is_some_and(|value| {
            !matches!(
                value.to_ascii_lowercase().as_str(),
                "0" | "false" | "no" | "off"
            )
        })
    }

    /// The object under `name` in the body.
    pub fn object(&self, name: &str) -> Result<&Map<String, Json>, Fault> {
        let found = self.body.get(name).ok_or_else(|| Fault::required(name))?;
        found
            .as_object()
            .ok_or_else(|| Fault::field(name, format!("{found} is not of type 'object'")))
    }

    /// Refuses the request when the policy does.
    pub fn enforce(&self, rule: &str, target: &Target) -> Result<(), Fault> {
        if self.allowed(rule, target)? {
            Ok(())
        } else {
            Err(Fault::denied(rule))
        }
    }

    /// Whether the policy allows it.
    pub fn allowed(&self, rule: &str, target: &Target) -> Result<bool, Fault> {
        Ok(self
            .service
            .inner
            .policies
            .allows(rule, &self.held()?.caller, target))
    }

    /// The address of a resource.
    pub fn link(&self, plural: &str, id: &str) -> String {
        format!("{}/v3/{plural}/{id}", self.base)
    }
}

/// An answer with a JSON body.
pub fn json(status: StatusCode, body: &Json) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}

/// 200 with a JSON body.
pub fn ok(body: &Json) -> Response {
    json(StatusCode::OK, body)
}

/// 204.
pub fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

/// Decodes a query string.
pub fn query(raw: &str) -> Vec<(String, String)> {
    url::form_urlencoded::parse(raw.as_bytes())
        .into_owned()
        .collect()
}
