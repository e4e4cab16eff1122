//! What compute needs from its neighbours: images, networks, volumes, secrets, tokens for its own work, and short answers from hosts.
//!
//! The neighbours are asked by their public APIs, over a socket or by calling their router in the same process;
//! [`web::client::Client`] hides which.

mod images;
mod keys;
mod keystone;
mod networks;
pub mod volumes;

pub use images::{ImageRecord, Images, properties};
pub use keys::{KeyError, Keys, Payload, SecretType};
pub use keystone::{Keystone, Login};
pub use networks::{
    BoundPort, Looks, NetworkRecord, Networks, NewPort, PortRecord, Refused, Subnet, refusal,
};
pub use volumes::Volumes;
pub use web::client::{Answer, ClientError};

use async_trait::async_trait;
use http::{HeaderMap, HeaderValue};
use types::agent::{FailureKind, Question};
use types::{HostName, ServerId};

/// Gives tokens of compute's own service user, for work that goes on after the user's request has ended.
#[async_trait]
pub trait ServiceTokens: Send + Sync + 'static {
    /// A token of the service user, good for some minutes at least.
    async fn token(&self) -> Result<String, ClientError>;

    /// The same for work in a project whose things only its own tokens make: volumes.
    async fn token_in(&self, project_id: &str) -> Result<String, ClientError>;
}

/// Asks the agent of a host a short question.
#[async_trait]
pub trait HostQuestions: Send + Sync + 'static {
    /// The answer's text, or why there is none.
    async fn ask(
        &self,
        host: &HostName,
        server: ServerId,
        question: Question,
    ) -> Result<String, (FailureKind, String)>;
}

/// The headers of a request under a token.
fn headers(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(mut value) = HeaderValue::from_str(token) {
        value.set_sensitive(true);
        headers.insert("x-auth-token", value);
    }
    headers
}

fn unexpected(service: &'static str, what: &str, answer: &web::client::Answer) -> ClientError {
    let body: String = String::from_utf8_lossy(&answer.body)
        .chars()
        .take(200)
        .collect();
    ClientError::Unexpected {
        service,
        reason: format!("{what}: {} {body}", answer.status),
    }
}
