//! What agents and conductors would do next about what there is on hosts: servers that do not show what their guests do,
//! guests that run and must not, base images that no guest needs, and what networks have of taps, bridges and namespaces
//! that nobody wants. All of it is done unasked; an audit asks the hosts that are up and shows it, or has it done at once.

use crate::guests::{self, Becomes, Differs, Rules};
use crate::neighbours::{Neighbours, retry};
use bus::{Bell, Bus};
use clients::Looks;
use futures_util::StreamExt;
use journal::StepError;
use std::collections::BTreeSet;
use types::agent::{GuestSeen, Heartbeat, Holdings, Question, SERVICE_VERSION};
use types::{HostName, NodeId, ServerId, Timestamp};
use uuid::Uuid;

/// Hosts that are asked at the same time.
const AT_ONCE: usize = 32;

/// Something on a host that is not as it should be.
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
    /// A base image of this name is not needed.
    Base(String),
    /// Its network agent would do this, in the words of that agent.
    Network(String),
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
            What::Base(name) => write!(f, "{host} has base image {name}, which no guest needs"),
            What::Network(words) => {
                write!(f, "the network of {host} is not as it should be: {words}")
            }
        }
    }
}

/// What was found on hosts, and which could not be asked.
pub type Found = (Vec<OnHost>, Vec<String>);

/// Asks all hosts that are up and know the question.
///
/// # Errors
/// The database's.
pub async fn look(with: &Neighbours) -> Result<Found, StepError> {
    let hosts = up(with).await?;
    let (mut found, mut silent) = (Vec::new(), Vec::new());
    let mut asking = futures_util::stream::iter(hosts)
        .map(|host| async move { (of_host(with, &host).await, host) })
        .buffered(AT_ONCE);
    while let Some((answer, host)) = asking.next().await {
        match answer {
            Ok(its) => found.extend(its.into_iter().map(|what| OnHost {
                host: host.clone(),
                what,
            })),
            Err(StepError::Retry(reason)) => silent.push(format!("host {host}: {reason}")),
            Err(error) => return Err(error),
        }
    }
    of_networks(with, &mut found, &mut silent).await?;
    Ok((found, silent))
}

/// What network agents would do. Those of a Neutron cannot be asked.
async fn of_networks(
    with: &Neighbours,
    found: &mut Vec<OnHost>,
    silent: &mut Vec<String>,
) -> Result<(), StepError> {
    let looks = match looks(with, false).await {
        Ok(looks) => looks,
        Err(StepError::Retry(reason)) => {
            silent.push(format!("network agents: {reason}"));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    found.extend(looks.found.into_iter().map(|(host, words)| OnHost {
        host,
        what: What::Network(words),
    }));
    let no_word = |host: &HostName| format!("the network agent of {host} does not answer");
    silent.extend(looks.silent.iter().map(no_word));
    Ok(())
}

async fn looks(with: &Neighbours, mend: bool) -> Result<Looks, StepError> {
    let token = with.token().await?;
    let looks = with.networks.looks(&token, mend).await.map_err(retry)?;
    Ok(looks.unwrap_or_default())
}

/// The hosts that are up, of this release at least.
async fn up(with: &Neighbours) -> Result<Vec<HostName>, StepError> {
    with.view.renew().await?;
    let services: Vec<db::hosts::Service> = with.store.read(db::hosts::services).await?;
    let asked = services.into_iter().filter(|one| {
        one.binary == "nova-compute"
            && one.version >= i64::from(Question::Holdings { tidy: false }.since())
            && with.view.is_up(&one.host)
    });
    Ok(asked.map(|one| one.host).collect())
}

async fn holdings(with: &Neighbours, host: &HostName, tidy: bool) -> Result<Holdings, StepError> {
    let nobody = ServerId(Uuid::nil());
    let answer = with
        .questions
        .ask(host, nobody, Question::Holdings { tidy });
    let text = answer
        .await
        .map_err(|(_, reason)| StepError::Retry(reason))?;
    serde_json::from_str(&text).map_err(|error| StepError::Retry(error.to_string()))
}

async fn of_host(with: &Neighbours, host: &HostName) -> Result<Vec<What>, StepError> {
    let asked = Timestamp::now();
    let Holdings { guests, unused } = holdings(with, host, false).await?;
    let beat = as_heard(host, guests, asked);
    let reading = with
        .store
        .read(move |tx| guests::differences(tx, &beat, Timestamp::now()));
    let differing: Vec<Differs> = reading.await?;
    let mut found: Vec<What> = differing.into_iter().map(What::Guest).collect();
    found.extend(unused.into_iter().map(What::Base));
    Ok(found)
}

/// The heartbeat in which the host would have said that.
fn as_heard(host: &HostName, guests: Vec<GuestSeen>, asked: Timestamp) -> Heartbeat {
    Heartbeat {
        host: host.clone(),
        node: NodeId(Uuid::nil()),
        incarnation: 0,
        version: SERVICE_VERSION,
        complete: true,
        introduction: false,
        first: false,
        heard: Some(asked),
        guests,
        strays: Vec::new(),
        moving: Vec::new(),
        facts: None,
    }
}

/// Has done what was found and is still so; returns how much that was.
///
/// # Errors
/// The database or a host does not answer; call again later.
pub async fn mend(with: &Neighbours, bus: &Bus, found: &[OnHost]) -> Result<usize, StepError> {
    let mut count = 0;
    let of_compute = found
        .iter()
        .filter(|one| !matches!(one.what, What::Network(_)));
    let hosts: BTreeSet<&HostName> = of_compute.map(|one| &one.host).collect();
    for host in hosts {
        let asked = Timestamp::now();
        let its = || found.iter().filter(|one| one.host == *host);
        let tidy = its().any(|one| matches!(one.what, What::Base(_)));
        let Holdings { guests, unused } = holdings(with, host, tidy).await?;
        count += if tidy { unused.len() } else { 0 };
        let servers: BTreeSet<ServerId> = its().filter_map(OnHost::server).collect();
        count += follow(with, bus, as_heard(host, guests, asked), servers).await?;
    }
    if found.iter().any(|one| matches!(one.what, What::Network(_))) {
        let before = looks(with, true).await?.found.len();
        // The agents look again when they have done what they could.
        let after = looks(with, false).await?.found.len();
        count += before.saturating_sub(after);
    }
    Ok(count)
}

impl OnHost {
    fn server(&self) -> Option<ServerId> {
        match &self.what {
            What::Guest(one) => Some(one.server),
            What::Base(_) | What::Network(_) => None,
        }
    }
}

async fn follow(
    with: &Neighbours,
    bus: &Bus,
    beat: Heartbeat,
    servers: BTreeSet<ServerId>,
) -> Result<usize, StepError> {
    if servers.is_empty() {
        return Ok(0);
    }
    let following = with.store.write(move |tx| -> Result<_, sql::Error> {
        let now = Timestamp::now();
        let mut some = guests::differences(tx, &beat, now)?;
        some.retain(|one| servers.contains(&one.server));
        let seen: Vec<_> = some
            .iter()
            .map(|one| (one.server, guests::seen_in(&beat, one.server)))
            .collect();
        let tasks = guests::follow(tx, &beat, &seen, Rules::default(), &mut Vec::new(), now)?;
        Ok((some.len(), tasks))
    });
    let (count, tasks) = following.await?;
    if tasks {
        bus.ring(Bell::Tasks);
    }
    Ok(count)
}
