//! Tokens in requests, and who can say what they mean.

use async_trait::async_trait;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use std::sync::Arc;
use types::Caller;

/// Why a request has no caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is no `X-Auth-Token` header.
    #[error("the request has no token")]
    Missing,
    /// The token is unknown, malformed, expired or revoked.
    #[error("the token is not valid")]
    Invalid,
    /// The identity service cannot be asked.
    #[error("the identity service does not answer: {0}")]
    Unavailable(String),
}

/// Says who holds a token. The embedded identity service does it locally.
#[async_trait]
pub trait TokenValidator: Send + Sync + 'static {
    /// Validates a token.
    async fn validate(&self, token: &str) -> Result<Arc<Caller>, AuthError>;

    /// Whether there is a project with this id; `true` as well where nobody can say.
    async fn knows_project(&self, _id: &str) -> bool {
        true
    }
}

/// What keystonemiddleware answers in front of every service to who has no token, or a bad one. It names the identity service.
pub fn unauthorized(identity_url: Option<&str>) -> Response {
    let body = serde_json::json!({"error": {
        "code": 401, "title": "Unauthorized", "message": "The request you have made requires authentication."
    }});
    let challenge = format!("Keystone uri=\"{}\"", identity_url.unwrap_or("identity"));
    let headers = [(header::WWW_AUTHENTICATE, challenge)];
    (StatusCode::UNAUTHORIZED, headers, axum::Json(body)).into_response()
}

/// The caller of a request, by its `X-Auth-Token` header.
pub async fn caller(
    headers: &HeaderMap,
    validator: &dyn TokenValidator,
) -> Result<Arc<Caller>, AuthError> {
    let header = headers.get("x-auth-token").ok_or(AuthError::Missing)?;
    let token = header.to_str().map_err(|_| AuthError::Invalid)?.trim();
    if token.is_empty() {
        return Err(AuthError::Missing);
    }
    validator.validate(token).await
}
