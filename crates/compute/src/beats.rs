//! What an agent says of itself, its host and its guests, by the clock and when something happens to them.

use crate::agent::Agent;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use types::agent::{GuestSeen, Heartbeat, HostFacts, Noted, SERVICE_VERSION};
use types::{ServerId, Timestamp};
use virt::GuestInfo;

/// The pause before a conductor hears again what it was not sure of: longer than the clocks of two of them may differ.
const AGAIN: Duration = GATHER;
/// How long what happens to guests gathers after a heartbeat: the first of many events is told at once, the others together.
const GATHER: Duration = Duration::from_millis(500);

/// What conductors hear of a guest.
pub(crate) fn seen(guest: &GuestInfo) -> GuestSeen {
    GuestSeen {
        server: guest.id,
        power: guest.power.code(),
    }
}

impl Agent {
    /// Says for the first time what the host is and holds, until a conductor has taken it. Afterwards the host is known
    /// and the servers on it show what their guests do.
    pub async fn introduce(&self) {
        // Whether or not a conductor is there.
        self.hypervisor.recover().await;
        let mut pause = Duration::from_millis(20);
        loop {
            let facts = self.facts().await;
            let there = self.all_guests().await;
            let complete = facts.healthy && there.is_some();
            // What does not work yet is no reason for what guests do not do.
            let (guests, strays) = there.filter(|_| complete).unwrap_or_default();
            let beat = Heartbeat {
                host: self.settings.host.clone(),
                node: self.settings.node,
                incarnation: self.incarnation,
                version: SERVICE_VERSION,
                complete,
                introduction: true,
                first: complete,
                heard: None,
                guests,
                strays,
                moving: Vec::new(),
                facts: Some(facts),
            };
            match self.post("heartbeat", &beat).await {
                Ok(_) => {
                    self.listed.store(complete, Ordering::Relaxed);
                    return;
                }
                Err(error) => {
                    tracing::warn!(host = %self.settings.host, %error, "no conductor knows this host yet");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    pub(crate) async fn beat_loop(self: Arc<Self>) {
        let mut events = self.hypervisor.events();
        let mut known: Option<HostFacts> = None;
        let mut complete = true;
        let mut named = tokio::time::Instant::now();
        let mut changed: BTreeSet<ServerId> = BTreeSet::new();
        let mut heard: Option<Timestamp> = None;
        loop {
            // What a guest did while a flow worked on its server was not written then: look at all of them now and then.
            complete |= (self.settings.guests).is_some_and(|pause| named.elapsed() >= pause);
            let facts = self.facts().await;
            let news = known.as_ref() != Some(&facts);
            let there = match complete {
                true => self.all_guests().await,
                false => None,
            };
            let whole = there.is_some() && facts.healthy;
            let changed_now = std::mem::take(&mut changed);
            let listed = self.listed.load(Ordering::Relaxed);
            let (guests, strays) = match there {
                // As in the introduction.
                _ if !listed && !facts.healthy => Default::default(),
                Some(all) => all,
                None => (self.look_at(changed_now, &mut changed).await, Vec::new()),
            };
            let beat = Heartbeat {
                host: self.settings.host.clone(),
                node: self.settings.node,
                incarnation: self.incarnation,
                version: SERVICE_VERSION,
                // A problem is said again with every beat, so that the service stays down while it lasts.
                facts: (news || facts.problem.is_some()).then(|| facts.clone()),
                guests,
                strays,
                moving: self.hypervisor.moving().await,
                complete: whole,
                introduction: false,
                first: whole && !listed,
                heard,
            };
            let mut pause = self.settings.beat;
            let taken = self.post("heartbeat", &beat).await;
            let spoke = tokio::time::Instant::now();
            self.beaten.send_replace(());
            match taken {
                Ok(answer) => {
                    known = Some(facts);
                    // A conductor of an older version says nothing.
                    if let Ok(noted) = serde_json::from_value::<Noted>(answer) {
                        heard = Some(noted.at);
                        if noted.forgotten || !noted.again.is_empty() {
                            pause = pause.min(AGAIN);
                        }
                        if noted.forgotten {
                            known = None;
                        }
                        changed.extend(noted.again);
                    }
                    if whole {
                        self.listed.store(true, Ordering::Relaxed);
                    }
                    if complete {
                        named = tokio::time::Instant::now();
                    }
                    complete = complete && !whole;
                }
                Err(error) => {
                    tracing::warn!(host = %self.settings.host, %error, "a heartbeat was not taken");
                    // Perhaps it was, and the answer is lost: everything once more.
                    (complete, known) = (true, None);
                }
            }
            let deadline = spoke + pause;
            match tokio::time::timeout_at(deadline, events.recv()).await {
                Err(_) => {}
                Ok(Ok(event)) => {
                    changed.insert(event.id);
                    tokio::time::sleep_until(deadline.min(spoke + GATHER)).await;
                    while let Ok(more) = events.try_recv() {
                        changed.insert(more.id);
                    }
                }
                // Events were missed: look at everything.
                Ok(Err(_)) => complete = true,
            }
        }
    }

    /// What these guests do: of several events for one only the present state counts. What cannot be told now is looked at
    /// `again`.
    async fn look_at(
        &self,
        servers: BTreeSet<ServerId>,
        again: &mut BTreeSet<ServerId>,
    ) -> Vec<GuestSeen> {
        let mut all = Vec::new();
        for server in servers {
            match self.hypervisor.guest(server).await {
                Ok(guest) => all.extend(guest.as_ref().map(seen)),
                Err(_) => drop(again.insert(server)),
            }
        }
        all
    }

    /// All guests, and the servers of which there are only files. `None`: they cannot be listed now, which says nothing
    /// of what there is.
    async fn all_guests(&self) -> Option<(Vec<GuestSeen>, Vec<ServerId>)> {
        let guests = self.hypervisor.guests().await;
        let strays = self.hypervisor.stray_files(self.settings.strays).await;
        match guests.and_then(|guests| Ok((guests, strays?))) {
            Ok((guests, strays)) => Some((guests.iter().map(seen).collect(), strays)),
            Err(error) => {
                tracing::warn!(host = %self.settings.host, %error, "guests cannot be listed");
                None
            }
        }
    }

    pub(crate) async fn facts(&self) -> HostFacts {
        match self.hypervisor.host().await {
            Ok(facts) => facts.report(&self.settings.host_ip),
            Err(error) => HostFacts {
                hypervisor_type: String::new(),
                hypervisor_version: 0,
                hypervisor_hostname: self.settings.host.0.clone(),
                vcpus: 0,
                memory_mb: 0,
                disk_gb: 0,
                free_disk_gb: 0,
                memory_mb_used: 0,
                cpu_info: Value::Null,
                host_ip: self.settings.host_ip.clone(),
                supported: Vec::new(),
                traits: Vec::new(),
                storage: None,
                healthy: false,
                problem: Some(error.to_string()),
            },
        }
    }
}
