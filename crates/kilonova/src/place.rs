//! Where conductors and the network service meet the agents of hosts.

use std::path::PathBuf;
use web::client::Client;

/// A place to listen at or to go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// `unix:/path`: on the same machine; whoever may open the socket is trusted.
    Unix(PathBuf),
}

impl Place {
    /// Reads `unix:/path`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            _ => Err(format!(
                "{text:?} is not a place, as unix:/run/kilonova/agents.sock"
            )),
        }
    }

    fn client(&self, service: &'static str) -> Client {
        match self {
            Self::Unix(path) => Client::unix(service, path),
        }
    }
}

/// A client of a service in any of these places.
pub(crate) fn client(service: &'static str, places: &[Place]) -> Client {
    Client::several(
        service,
        places.iter().map(|place| place.client(service)).collect(),
    )
}
