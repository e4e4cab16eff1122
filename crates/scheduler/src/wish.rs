//! What a server's row says about where it shall be.

use crate::{Group, GroupPolicy, Request};
use db::instances::Instance;
use serde_json::Value;
use sql::Tx;
use std::collections::BTreeSet;
use types::{GroupId, HostName, ServerId};

impl Request {
    /// With the zone, the host and the servers that the owner named.
    #[must_use]
    pub fn with_hints(mut self, server: &Instance) -> Self {
        let hints = &server.scheduler_hints;
        self.zone.clone_from(&server.pinned_zone);
        self.only_host = hints["_host"].as_str().map(HostName::from);
        self.forced = self.only_host.is_some() && hints["_forced"] == true;
        self.same_host = servers_named(&hints["same_host"]);
        self.different_host = servers_named(&hints["different_host"]);
        self.project = Some(server.project_id.clone());
        self
    }

    /// Reads where the servers are that the hints and the group name; asks nothing when they name none.
    ///
    /// # Errors
    /// The database's.
    pub fn locate(&mut self, tx: &mut Tx<'_>) -> Result<(), sql::Error> {
        let members = self.group.iter().flat_map(|group| &group.members);
        let named = self.same_host.iter().chain(&self.different_host);
        let named: Vec<ServerId> = named.chain(members).copied().collect();
        self.places = db::hosts::places_of(tx, &named)?.into_iter().collect();
        Ok(())
    }
}

/// The servers that a scheduler hint names: one id or a list.
fn servers_named(hint: &Value) -> BTreeSet<ServerId> {
    let one = hint.as_str().into_iter();
    let many = hint
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|id| id.as_str());
    one.chain(many).filter_map(|id| id.parse().ok()).collect()
}

impl Group {
    /// A server group with those of its members, but for `server`, that have a host, and these hosts; none if the group
    /// is gone.
    ///
    /// # Errors
    /// The database's.
    pub fn read(
        tx: &mut Tx<'_>,
        id: GroupId,
        server: ServerId,
    ) -> Result<Option<(Self, Vec<HostName>)>, sql::Error> {
        let Some(group) = db::server_groups::get(tx, id)? else {
            return Ok(None);
        };
        let Some(policy) = GroupPolicy::parse(&group.policy) else {
            return Ok(None);
        };
        let placed = db::server_groups::placed_members(tx, id, server)?;
        let (members, hosts): (BTreeSet<ServerId>, Vec<HostName>) = placed.into_iter().unzip();
        let most = group.max_server_per_host;
        let group = Self {
            policy,
            members,
            max_server_per_host: most.and_then(|most| u64::try_from(most).ok()).unwrap_or(1),
        };
        Ok(Some((group, hosts)))
    }
}
