//! Tokens for work that goes on after a user's request: compute acts as the service user `nova`, the volume service as
//! `cinder`.

use async_trait::async_trait;
use clients::{ClientError, ServiceTokens};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use types::Timestamp;

/// How long a token is used before a fresh one is made; well below its life.
const USED_FOR: Duration = Duration::from_secs(1200);

/// Tokens from the embedded identity service.
pub(crate) struct EmbeddedTokens {
    identity: identity::Service,
    user: &'static str,
    project: String,
    current: Mutex<HashMap<String, (String, Instant, Timestamp)>>,
}

impl EmbeddedTokens {
    /// Tokens of a service user on the project `service`.
    pub(crate) fn new(identity: identity::Service, user: &'static str, project: String) -> Self {
        Self {
            identity,
            user,
            project,
            current: Mutex::default(),
        }
    }
}

#[async_trait]
impl ServiceTokens for EmbeddedTokens {
    async fn token(&self) -> Result<String, ClientError> {
        self.token_in(&self.project).await
    }

    async fn token_in(&self, project_id: &str) -> Result<String, ClientError> {
        {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            // By both clocks: what checks tokens goes by the wall clock, which may have jumped.
            let now = Timestamp::now();
            current.retain(|_, (_, since, issued)| {
                since.elapsed() < USED_FOR && *issued <= now && now < issued.plus(USED_FOR)
            });
            if let Some((token, ..)) = current.get(project_id) {
                return Ok(token.clone());
            }
        }
        let now = (Instant::now(), Timestamp::now());
        let issued = self
            .identity
            .issue_service_token(self.user, project_id)
            .await;
        let unreachable = |error: identity::Error| ClientError::Unreachable {
            service: "the identity service",
            reason: error.to_string(),
        };
        let token = issued.map_err(unreachable)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.insert(project_id.to_owned(), (token.clone(), now.0, now.1));
        Ok(token)
    }
}

/// The same for the volume service.
pub(crate) struct VolumeTokens(pub(crate) Arc<dyn ServiceTokens>);

#[async_trait]
impl volume::Tokens for VolumeTokens {
    async fn token(&self) -> Result<String, String> {
        self.0.token().await.map_err(|error| error.to_string())
    }
}
