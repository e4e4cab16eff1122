//! Where a server goes: hosts chosen from the view, and the claim that confirms the choice.

use crate::neighbours::Neighbours;
use db::instances::{Instance, Place};
use db::placing::Ties;
use journal::{Failure, StepError};
use scheduler::{Group, Request};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::collections::BTreeMap;
use types::agent::{FailureKind, WorkOutcome};
use types::{HostName, ServerId, Timestamp};

/// Claims tried in one transaction.
const CANDIDATES: usize = 8;
/// Hosts that may fail before the server does (Nova's `scheduler.max_attempts`).
const ATTEMPTS: usize = 3;

/// What a server asks of a host.
#[derive(Clone, Debug)]
pub struct Asked(Request);

impl Asked {
    /// Of a server as it was read in this transaction.
    pub fn read(tx: &mut Tx<'_>, server: &Instance) -> Result<Self, StepError> {
        let ties = db::placing::ties(tx, server.id)?;
        Self::with(tx, server, ties)
    }

    /// Of a server as it was read in this transaction, with what binds it.
    pub fn with(tx: &mut Tx<'_>, server: &Instance, ties: Ties) -> Result<Self, StepError> {
        let mut request = wish(server)?.with_hints(server);
        if let Some(group) = ties.group {
            request.group = Group::read(tx, group, server.id)?.map(|(group, _)| group);
        }
        request.locate(tx)?;
        request.owing = ties.debtors.into_iter().collect();
        Ok(Self(request))
    }

    /// With what a new server asks of its hardware.
    pub fn demanding(mut self, server: &Instance) -> Result<Self, StepError> {
        let nothing = BTreeMap::new();
        let image = server.image_properties().unwrap_or(&nothing);
        let request = self.0.demanding(&server.flavor, image);
        self.0 = request.map_err(refused)?;
        Ok(self)
    }
}

/// What a flow knows of its server's new place.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Choice {
    /// Hosts to try the claim on, best first.
    #[serde(default)]
    candidates: Vec<Place>,
    /// Where the server is claimed.
    #[serde(default)]
    pub place: Option<Place>,
    /// Hosts that failed.
    #[serde(default)]
    pub failed: Vec<HostName>,
    /// What each of them said.
    #[serde(default)]
    said: Vec<String>,
    /// An administrator would have the host whatever speaks against it: server groups do not count.
    #[serde(default)]
    forced: bool,
    /// The server was in a group when the hosts were picked. It is in none that it was not made in.
    #[serde(skip)]
    grouped: bool,
}

impl Choice {
    /// Picks hosts for a server that has been built before, as it shall be: with the flavor and image given in it, in its pinned zone,
    /// by its hints. `more` changes what is asked for. Hosts that failed, and hosts that still have to remove something of
    /// the server, are left out.
    pub async fn choose(
        &mut self,
        with: &Neighbours,
        server: &Instance,
        more: impl FnOnce(&mut Request),
    ) -> Result<(), StepError> {
        let read = server.clone();
        let mut asked = with.store.look(move |tx| Asked::read(tx, &read)).await?;
        // The host that the server was once built on by force is not where it must stay.
        asked.0.forced = false;
        self.choose_asked(with, asked, more).await
    }

    /// The same, of what has been read already.
    pub async fn choose_asked(
        &mut self,
        with: &Neighbours,
        asked: Asked,
        more: impl FnOnce(&mut Request),
    ) -> Result<(), StepError> {
        let Asked(mut request) = asked;
        request.tried = self.failed.iter().cloned().collect();
        more(&mut request);
        self.forced = request.unfiltered;
        self.grouped = request.group.is_some();
        if !self.candidates.is_empty() {
            // An earlier choice could not be claimed: the view is behind.
            with.view.refresh().await?;
        }
        with.view.renew().await?;
        let mut chosen = with.view.choose(&request);
        if chosen.is_err() {
            // The view may be behind.
            with.view.refresh().await?;
            chosen = with.view.choose(&request);
        }
        self.candidates = chosen.map_err(|refusal| StepError::Fail(self.no_host(&refusal)))?;
        self.candidates.truncate(CANDIDATES);
        Ok(())
    }

    /// Whether the claim looks at where other servers are. Pure.
    pub fn minds_a_group(&self) -> bool {
        self.grouped && !self.forced
    }

    /// Claims the first candidate that still has room for the server as it shall be; the place is noted here, and is
    /// the caller's to write.
    pub fn claim(
        &mut self,
        with: &Neighbours,
        tx: &mut Tx<'_>,
        server: &Instance,
        now: Timestamp,
    ) -> Result<Place, StepError> {
        let owner = (server.project_id.as_str(), server.user_id.as_str());
        let request = wish(server)?;
        let wanted: Vec<(&str, u64)> = request
            .resources
            .iter()
            .map(|(class, amount)| (class.as_str(), *amount))
            .collect();
        let neighbours = if self.minds_a_group() {
            group_of(tx, server.id)?
        } else {
            None
        };
        for place in std::mem::take(&mut self.candidates) {
            let admits = |(group, hosts): &(Group, Vec<HostName>)| group.admits(&place.host, hosts);
            if !neighbours.as_ref().is_none_or(admits) {
                continue;
            }
            // An administrator's word counts at once, whatever the view still thinks.
            let there = (&place.host, place.node_id);
            if !db::placement::claim_at(tx, server.id, owner, there, &wanted, self.forced, now)? {
                continue;
            }
            with.view.note_claim(place.node_id, server.id, &request);
            self.place = Some(place.clone());
            return Ok(place);
        }
        Err(StepError::Retry(
            "no chosen host would do any more by the time of the claim".to_owned(),
        ))
    }

    /// What the host chosen for a server answered: the guest's power state, or why it failed, as `what` and the host's reason.
    /// Another host shall try from the step `again`, unless the request itself is at fault, there is no such step, or
    /// enough have tried.
    pub fn answered(
        &self,
        outcome: Option<WorkOutcome>,
        what: &str,
        again: Option<&str>,
    ) -> Result<u8, StepError> {
        let (kind, message) = match outcome {
            Some(WorkOutcome::Done { power }) => return Ok(power),
            Some(WorkOutcome::Failed { kind, message, .. }) => (kind, message),
            Some(WorkOutcome::Fenced) => return Err(StepError::Fenced),
            None => (FailureKind::Host, "the host was not asked".to_owned()),
        };
        let words = format!("{what}: {}", super::told(kind, &message));
        if kind == FailureKind::Request {
            return Err(StepError::Fail(Failure::new(500, words).details(message)));
        }
        if self.failed.len() + 1 < ATTEMPTS && again.is_some() {
            let mut failure = Failure::new(500, words).details(message);
            failure.redo_from = again.map(str::to_owned);
            return Err(StepError::Fail(failure));
        }
        let last = self.place.as_ref().map(|place| &place.host);
        let details = self.told_by(last.map(|host| (host, message.as_str())));
        let words = match self.failed.len() {
            0 => words,
            before => format!("{}. {words}", exhausted(before + 1)),
        };
        Err(StepError::Fail(Failure::new(500, words).details(details)))
    }

    /// No host is left beside those that were tried and found unfit, `last` for the last one of them: what that one is
    /// unfit for says more than that it was tried.
    pub fn all_unfit(&self, last: &str, refusal: Failure) -> Failure {
        let words = match self.failed.len() {
            0 | 1 => last.to_owned(),
            tried => format!("{}. {last}", exhausted(tried)),
        };
        Failure::new(500, words).details(refusal.details.unwrap_or(refusal.message))
    }

    /// What the hosts that failed said, and the last one, for administrators.
    fn told_by(&self, last: Option<(&HostName, &str)>) -> String {
        let before = self.failed.iter().zip(self.said.iter().map(String::as_str));
        let lines: Vec<String> = before
            .chain(last)
            .map(|(host, reason)| format!("{host}: {reason}"))
            .collect();
        lines.join("\n")
    }

    /// The host failed: another one shall try.
    pub fn leave_out(&mut self, failure: &Failure) {
        if let Some(place) = &self.place {
            self.failed.push(place.host.clone());
            let reason = failure.details.as_ref().unwrap_or(&failure.message);
            // A host that failed before this was noted said something that is not known any more.
            self.said.resize(self.failed.len() - 1, "?".to_owned());
            self.said.push(reason.clone());
        }
    }

    /// No host is left. What those that tried said stays to be seen beside that.
    fn no_host(&self, refusal: &scheduler::Refusal) -> Failure {
        let (mut message, mut details) = (refusal.to_string(), refusal.for_admins());
        if !self.failed.is_empty() {
            message = format!("{}. {message}", exhausted(self.failed.len()));
            details = format!("{details}\n{}", self.told_by(None));
        }
        Failure::new(500, message).details(details)
    }
}

/// What the owner is told when other hosts were tried, much as Nova's MaxRetriesExceeded says it, and how many they were.
/// Short: there is room for 255 characters, and the reason follows.
fn exhausted(tried: usize) -> String {
    let hosts = if tried == 1 { "host" } else { "hosts" };
    format!(
        "Exceeded maximum number of retries. Exhausted all hosts available: {tried} {hosts} tried"
    )
}

fn wish(server: &Instance) -> Result<Request, StepError> {
    Request::of(server).map_err(refused)
}

/// What is asked for makes no sense.
pub(super) fn refused(wrong: impl std::error::Error) -> StepError {
    StepError::Fail(Failure::new(400, wrong.to_string()))
}

/// The group of a server with the other members that have a host, and these hosts.
fn group_of(
    tx: &mut Tx<'_>,
    server: ServerId,
) -> Result<Option<(Group, Vec<HostName>)>, sql::Error> {
    let Some(id) = db::server_groups::of_server(tx, server)? else {
        return Ok(None);
    };
    Group::read(tx, id, server)
}
