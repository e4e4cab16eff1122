//! Calls that the agent in a guest answers, or, where the guest wants that, never. They go over a link of their own: libvirt
//! works on a few calls of a connection at once, and those of other guests must not wait for this one's.

use super::{DomainRef, Encoder, Link, RpcError, SHORT, procedure};
use std::time::Duration;

/// How long libvirt waits for an answer of the agent, in seconds. Without being told it waits for ever for all but the
/// greeting before each command, for which it takes five seconds.
const AGENT_SECONDS: i32 = 20;
/// How long the daemon may take for the greeting and the command.
const AGENT: Duration = Duration::from_secs(30);

impl Link {
    /// Has the agent in a guest set a user's password.
    pub async fn set_user_password(
        &self,
        domain: &DomainRef,
        user: &str,
        password: &str,
    ) -> Result<(), RpcError> {
        let body = || {
            domain
                .encode(Encoder::default())
                .some_string(user)
                .some_string(password)
                .u32(0)
        };
        self.agent_call(procedure::DOMAIN_SET_USER_PASSWORD, domain, body)
            .await
    }

    /// Has the agent in a guest make all its file systems stand still.
    pub async fn freeze(&self, domain: &DomainRef) -> Result<(), RpcError> {
        self.file_systems(procedure::DOMAIN_FSFREEZE, domain).await
    }

    /// Has the agent let them go on.
    pub async fn thaw(&self, domain: &DomainRef) -> Result<(), RpcError> {
        self.file_systems(procedure::DOMAIN_FSTHAW, domain).await
    }

    async fn file_systems(&self, procedure: u32, domain: &DomainRef) -> Result<(), RpcError> {
        // No mount points are all of them; no flags.
        let body = || domain.encode(Encoder::default()).u32(0).u32(0);
        self.agent_call(procedure, domain, body).await
    }

    async fn agent_call(
        &self,
        procedure: u32,
        domain: &DomainRef,
        body: impl Fn() -> Encoder,
    ) -> Result<(), RpcError> {
        let wait = || domain.encode(Encoder::default()).i32(AGENT_SECONDS).u32(0);
        let told = procedure::DOMAIN_AGENT_SET_RESPONSE_TIMEOUT;
        match self.call(told, wait, SHORT).await {
            // A daemon before 5.10 does not know that; of a domain that is not there the call itself says so.
            Ok(_) | Err(RpcError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
        self.call(procedure, body, AGENT).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::libvirt::rpc::scripted::Scripted;
    use std::sync::{Arc, Mutex};
    use types::ServerId;
    use uuid::Uuid;

    #[tokio::test]
    async fn libvirt_is_told_first_how_long_it_waits_for_an_agent() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let daemon = Scripted::start(move |procedure, body| {
            seen.lock().unwrap().push((procedure, body));
            Box::pin(async move {
                // As an old daemon.
                match procedure {
                    procedure::DOMAIN_AGENT_SET_RESPONSE_TIMEOUT => Err(1),
                    _ => Ok(Encoder::default()),
                }
            })
        });
        let link = Link::new(daemon.sockets(), "test:///default".to_owned());
        let domain = DomainRef {
            id: ServerId::from(Uuid::from_u128(7)),
            name: "instance-1".to_owned(),
        };
        link.set_user_password(&domain, "admin", "secret")
            .await
            .unwrap();
        link.freeze(&domain).await.unwrap();
        link.thaw(&domain).await.unwrap();
        let asked = asked.lock().unwrap();
        let procedures: Vec<u32> = asked.iter().map(|(procedure, _)| *procedure).collect();
        let wait = procedure::DOMAIN_AGENT_SET_RESPONSE_TIMEOUT;
        assert_eq!(
            procedures,
            [
                procedure::AUTH_LIST,
                procedure::OPEN,
                wait,
                procedure::DOMAIN_SET_USER_PASSWORD,
                wait,
                procedure::DOMAIN_FSFREEZE,
                wait,
                procedure::DOMAIN_FSTHAW,
            ]
        );
        let told = domain.encode(Encoder::default()).i32(20).u32(0);
        assert_eq!(asked[2].1, told.finish());
    }
}
