//! What conductors do next because the time for it has come: nothing is wrong with it.

use crate::{confirmations, offload, reclaim};
use db::instances::Instance;
use sql::{Store, Tx};
use std::time::Duration;
use types::{ServerId, Timestamp};

/// How long what waits for its time has to wait; what has none is not done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// Soft-deleted servers, until they are deleted for good (`reclaim_instance_interval`).
    pub reclaim: Option<Duration>,
    /// Resizes and cold migrations, until they are confirmed (`resize_confirm_window`).
    pub confirm: Option<Duration>,
    /// Shelved servers, until they leave their hosts (`shelved_offload_time`).
    pub offload: Option<Duration>,
}

/// What is done next, and with which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// It is deleted for good.
    Reclaim(ServerId),
    /// Its resize is confirmed.
    Confirm(ServerId),
    /// It leaves its host.
    Offload(ServerId),
}

impl std::fmt::Display for Due {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reclaim(server) => write!(
                f,
                "server {server} was deleted long enough ago: it is deleted for good at the next look"
            ),
            Self::Confirm(server) => write!(
                f,
                "server {server} has waited long enough for a word on its resize: that is confirmed at the next look"
            ),
            Self::Offload(server) => write!(
                f,
                "server {server} has been shelved for long enough: it leaves its host at the next look"
            ),
        }
    }
}

/// Finds the servers that waited before, in one unit of work.
type Find = fn(&mut Tx<'_>, Timestamp) -> Result<Vec<Instance>, sql::Error>;

/// How long, what waits, and what is done with it.
type Kind = (Option<Duration>, Find, fn(ServerId) -> Due);

/// What is due now. Servers that somebody works on are not.
///
/// # Errors
/// The database's.
pub async fn due(store: &Store, terms: Terms) -> Result<Vec<Due>, sql::Error> {
    let kinds: [Kind; 3] = [
        (terms.reclaim, reclaim::due, Due::Reclaim),
        (terms.confirm, confirmations::due, Due::Confirm),
        (terms.offload, offload::due, Due::Offload),
    ];
    let mut all = Vec::new();
    for (after, find, name) in kinds {
        let Some(after) = after else { continue };
        let before = Timestamp::now().minus(after);
        let found = store.read(move |tx| find(tx, before)).await?;
        all.extend(found.into_iter().map(|server| name(server.id)));
    }
    Ok(all)
}
