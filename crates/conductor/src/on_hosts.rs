//! What agents and conductors would do next about what there is on hosts: servers that do not show what their guests do,
//! guests that run and must not, base images that no guest needs, and what networks have of taps, bridges and namespaces
//! that nobody wants. All of it is done unasked; an audit asks the hosts that are up and shows it, or has it done at once.

use crate::guests::{self, Becomes, Before, Differs};
use crate::neighbours::{Neighbours, retry};
use bus::{Bell, Bus};
use clients::Looks;
use db::instances::Standing;
use futures_util::StreamExt;
use futures_util::stream;
use journal::StepError;
use std::collections::BTreeSet;
use std::time::Duration;
use types::agent::{GuestSeen, Heartbeat, Holdings, Question, SERVICE_VERSION};
use types::{HostName, NodeId, ServerId, Timestamp};
use uuid::Uuid;

/// Hosts that are asked at the same time.
const AT_ONCE: usize = 32;
/// Agents tell within this time what a guest has done: what is so only for a moment is not told of.
const MOMENT: Duration = Duration::from_secs(1);
/// Servers that follow their guests in one transaction.
const FOLLOWED: usize = 100;

/// What hosts say when they are asked.
#[derive(Debug, Default)]
pub struct Look {
    /// What is not as it should be.
    pub found: Vec<OnHost>,
    /// Base images that are removed when their hosts look the next time.
    pub due: Vec<OnHost>,
    /// Who does not answer.
    pub silent: Vec<Silent>,
    /// Hosts that were not asked, with the reason.
    pub unasked: Vec<String>,
}

/// Something on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnHost {
    /// The host.
    pub host: HostName,
    /// What it is.
    pub what: What,
}

/// What there can be on a host that should not be as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A server's guest does something else than the server shows.
    Guest(Differs),
    /// A file of this name among the base images is not needed.
    Base(String),
    /// Its network agent would do this, in the words of that agent.
    Network(String),
}

/// Somebody who does not answer, or says why it cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silent {
    /// The host; without one, the network agents of all.
    pub host: Option<HostName>,
    /// Why.
    pub reason: String,
}

impl std::fmt::Display for OnHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = &self.host;
        match &self.what {
            What::Guest(one) => {
                let (state, power) = one.shown;
                let (server, does) = (one.server, one.power);
                write!(
                    f,
                    "server {server} is {state} and shows power state {power:?}, and its guest on {host} is {does:?}: "
                )?;
                match one.becomes {
                    Becomes::Shown(now) if now == state => write!(f, "it will show that"),
                    Becomes::Shown(now) => write!(f, "it becomes {now}"),
                    Becomes::SwitchedOff => write!(f, "the guest is switched off"),
                }
            }
            What::Base(name) => write!(
                f,
                "{host} removes {name} from its base images at the next look: no guest needs it"
            ),
            What::Network(words) => {
                write!(f, "the network of {host} is not as it should be: {words}")
            }
        }
    }
}

impl std::fmt::Display for Silent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Some(host) => write!(f, "host {host}: {}", self.reason),
            None => write!(f, "network agents: {}", self.reason),
        }
    }
}

impl OnHost {
    /// Whether it is about the same, which may have changed meanwhile.
    fn is_about(&self, other: &Self) -> bool {
        let what = match (&self.what, &other.what) {
            (What::Guest(one), What::Guest(other)) => one.server == other.server,
            (one, other) => one == other,
        };
        what && self.host == other.host
    }

    fn server_on(&self, host: &HostName) -> Option<ServerId> {
        match &self.what {
            What::Guest(one) if self.host == *host => Some(one.server),
            _ => None,
        }
    }

    fn is_of_network(&self) -> bool {
        matches!(self.what, What::Network(_))
    }
}

impl Silent {
    fn of(host: &HostName, reason: String) -> Self {
        Self {
            host: Some(host.clone()),
            reason,
        }
    }

    /// Whether nothing is known of that because nobody answers.
    fn hides(&self, one: &OnHost) -> bool {
        match &self.host {
            Some(host) => *host == one.host,
            None => one.is_of_network(),
        }
    }
}

/// Asks all hosts that are up and know the question.
///
/// # Errors
/// The database's. Who does not answer is told of.
pub async fn look(with: &Neighbours) -> Result<Look, StepError> {
    let mut look = Look::default();
    let hosts = up(with, &mut look.unasked).await?;
    let mut asking = stream::iter(hosts)
        .map(|host| async move { (of_host(with, &host).await, host) })
        .buffered(AT_ONCE);
    while let Some((answer, host)) = asking.next().await {
        let on = |what| OnHost {
            host: host.clone(),
            what,
        };
        match answer {
            Ok((differing, unused)) => {
                let differing = differing.into_iter().map(What::Guest);
                look.found.extend(differing.map(on));
                look.due.extend(unused.into_iter().map(What::Base).map(on));
            }
            Err(StepError::Retry(reason)) => look.silent.push(Silent::of(&host, reason)),
            Err(error) => return Err(error),
        }
    }
    let networks = looks(with, false, &mut look.silent).await?;
    let of_network = |(host, words)| OnHost {
        host,
        what: What::Network(words),
    };
    look.found
        .extend(networks.found.into_iter().map(of_network));
    let unasked = networks.unasked.into_iter();
    look.unasked.extend(unasked.map(|(host, reason)| {
        format!("the network agent of host {host} {reason}: it was not asked")
    }));
    Ok(look)
}

/// The hosts that are up and of this release at least; of the others it says why they are not asked.
async fn up(with: &Neighbours, unasked: &mut Vec<String>) -> Result<Vec<HostName>, StepError> {
    with.view.renew().await?;
    let services: Vec<db::hosts::Service> = with.store.read(db::hosts::services).await?;
    let known_since = i64::from(Question::Holdings { tidy: false }.since());
    let mut up = Vec::new();
    for service in services {
        let host = service.host;
        if service.binary != "nova-compute" {
            continue;
        }
        if !with.view.is_up(&host) {
            unasked.push(format!("host {host} is down: it was not asked"));
        } else if service.version < known_since {
            unasked.push(format!(
                "host {host} is of an older release: it was not asked"
            ));
        } else {
            up.push(host);
        }
    }
    Ok(up)
}

/// What network agents say; those of a Neutron cannot be asked.
async fn looks(
    with: &Neighbours,
    mend: bool,
    silent: &mut Vec<Silent>,
) -> Result<Looks, StepError> {
    let asking = async {
        let token = with.token().await?;
        with.networks.looks(&token, mend).await.map_err(retry)
    };
    match asking.await {
        Ok(looks) => {
            let looks = looks.unwrap_or_default();
            let no_word = || "its network agent does not answer".to_owned();
            silent.extend(looks.silent.iter().map(|host| Silent::of(host, no_word())));
            Ok(looks)
        }
        Err(StepError::Retry(reason)) => {
            silent.push(Silent { host: None, reason });
            Ok(Looks::default())
        }
        Err(error) => Err(error),
    }
}

/// What a host has, and when its servers were changed last before it was asked.
async fn holdings(
    with: &Neighbours,
    host: &HostName,
    tidy: bool,
) -> Result<(Before, Holdings), StepError> {
    let on = host.clone();
    let reading = with
        .store
        .read(move |tx| db::instances::standing_on(tx, &on));
    let standing: Vec<Standing> = reading.await?;
    let before = standing.into_iter().map(|one| (one.id, one.since));
    let nobody = ServerId(Uuid::nil());
    let answer = with
        .questions
        .ask(host, nobody, Question::Holdings { tidy });
    let text = answer
        .await
        .map_err(|(_, reason)| StepError::Retry(reason))?;
    let holdings = serde_json::from_str(&text);
    let holdings = holdings.map_err(|error| StepError::Retry(error.to_string()))?;
    Ok((before.collect(), holdings))
}

async fn of_host(
    with: &Neighbours,
    host: &HostName,
) -> Result<(Vec<Differs>, Vec<String>), StepError> {
    let (mut differing, unused) = differing(with, host).await?;
    if !differing.is_empty() {
        tokio::time::sleep(MOMENT).await;
        let (again, _) = self::differing(with, host).await?;
        differing.retain(|one| again.contains(one));
    }
    Ok((differing, unused))
}

async fn differing(
    with: &Neighbours,
    host: &HostName,
) -> Result<(Vec<Differs>, Vec<String>), StepError> {
    let (before, Holdings { guests, unused }) = holdings(with, host, false).await?;
    let beat = as_told(host, guests);
    let reading = with
        .store
        .read(move |tx| guests::differences(tx, &beat, &before, Timestamp::now()));
    Ok((reading.await?, unused))
}

/// The heartbeat in which the host would have said that, if it were to be believed whatever the time is: it is only held
/// against servers that have not changed since it was asked.
fn as_told(host: &HostName, guests: Vec<GuestSeen>) -> Heartbeat {
    Heartbeat {
        host: host.clone(),
        node: NodeId(Uuid::nil()),
        incarnation: 0,
        version: SERVICE_VERSION,
        complete: true,
        introduction: true,
        first: false,
        heard: None,
        guests,
        strays: Vec::new(),
        moving: Vec::new(),
        facts: None,
    }
}

/// Has done what was found, where it is still so, and what is due; returns how much of what was found is over, and who did
/// not answer meanwhile.
///
/// # Errors
/// The database's.
pub async fn mend(
    with: &Neighbours,
    bus: &Bus,
    was: &Look,
) -> Result<(usize, Vec<Silent>), StepError> {
    let mut silent = Vec::new();
    let of_compute = was.found.iter().filter(|one| !one.is_of_network());
    let hosts: BTreeSet<&HostName> = of_compute.chain(&was.due).map(|one| &one.host).collect();
    let mut mending = stream::iter(hosts)
        .map(|host| async move { (mend_host(with, bus, host, was).await, host) })
        .buffered(AT_ONCE);
    while let Some((done, host)) = mending.next().await {
        match done {
            Err(StepError::Retry(reason)) => silent.push(Silent::of(host, reason)),
            done => done?,
        }
    }
    if was.found.iter().any(OnHost::is_of_network) {
        looks(with, true, &mut silent).await?;
    }
    if was.found.is_empty() {
        return Ok((0, silent));
    }
    let now = look(with).await?;
    silent.extend(now.silent);
    let remains = |one: &&OnHost| {
        silent.iter().any(|silent| silent.hides(one))
            || now.found.iter().any(|now| now.is_about(one))
    };
    let remaining = was.found.iter().filter(remains).count();
    Ok((was.found.len() - remaining, silent))
}

async fn mend_host(
    with: &Neighbours,
    bus: &Bus,
    host: &HostName,
    was: &Look,
) -> Result<(), StepError> {
    let tidy = was.due.iter().any(|one| one.host == *host);
    let (before, Holdings { guests, .. }) = holdings(with, host, tidy).await?;
    let beat = as_told(host, guests);
    let servers = was.found.iter().filter_map(|one| one.server_on(host));
    let servers: Vec<ServerId> = servers.collect();
    for some in servers.chunks(FOLLOWED) {
        let (some, beat, before) = (some.to_vec(), beat.clone(), before.clone());
        let following = with
            .store
            .write(move |tx| guests::follow_unchanged(tx, &beat, &before, &some, Timestamp::now()));
        let tasks: Result<bool, sql::Error> = following.await;
        if tasks? {
            bus.ring(Bell::Tasks);
        }
    }
    Ok(())
}
