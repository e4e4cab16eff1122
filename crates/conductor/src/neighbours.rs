//! What flows need from outside: the services beside compute under the service user's token, and the hosts' view.

use crate::flows::grace::Patience;
use crate::flows::hosts_fit::Checks;
use crate::newcomers::Newcomers;
use crate::view::View;
use clients::{ClientError, HostQuestions, Images, Keys, Networks, ServiceTokens, Volumes};
use journal::StepError;
use sql::Store;
use std::sync::Arc;

/// Shared by all flows.
#[derive(Clone)]
pub struct Neighbours {
    /// The compute database.
    pub store: Store,
    /// The network service.
    pub networks: Arc<Networks>,
    /// The image service.
    pub images: Arc<Images>,
    /// The volume service.
    pub volumes: Arc<Volumes>,
    /// The key manager; not every site has one.
    pub keys: Arc<Keys>,
    /// The service user's tokens.
    pub tokens: Arc<dyn ServiceTokens>,
    /// The hosts as schedulers see them.
    pub view: Arc<View>,
    /// Asks agents.
    pub questions: Arc<dyn HostQuestions>,
    /// What the new host of a guest that runs is held against.
    pub checks: Checks,
    /// Servers that this process has just accepted.
    pub newcomers: Newcomers,
    /// How long guests may take to go down.
    pub patience: Patience,
}

impl Neighbours {
    /// A token of the service user; the identity service being away is a reason to try again.
    pub(crate) async fn token(&self) -> Result<String, StepError> {
        self.tokens.token().await.map_err(retry)
    }
}

/// A neighbour that does not answer: the step is tried again until its deadline.
pub(crate) fn retry(error: ClientError) -> StepError {
    StepError::Retry(error.to_string())
}
