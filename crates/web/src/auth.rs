//! Tokens in requests, and who can say what they mean.

use async_trait::async_trait;
use http::HeaderMap;
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
