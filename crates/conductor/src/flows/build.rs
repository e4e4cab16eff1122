//! Build: from an accepted request to a running guest.
//!
//! | step | does | undo |
//! |---|---|---|
//! | `choose_host` | picks hosts from the view; the claim is in the transaction that ends the step | gives the claim back |
//! | `networks` | makes or binds ports on the host | deletes or gives back |
//! | `plug` | waits until the network agent has wired them | - |
//! | `spawn` | the host makes the guest and starts it | the host removes all of it |
//!
//! A host that cannot build the guest is left out and the flow begins again at `choose_host`, three times at most
//! (Nova's `scheduler.max_attempts`).

use super::{fault, idle, ports, transition};
use crate::neighbours::Neighbours;
use async_trait::async_trait;
use db::instances::{self, Change, Expected, Instance, Interface, Place};
use journal::{Context, End, Failure, Flow, HostWork, StepError, StepName};
use scheduler::{Group, GroupPolicy, Request};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::collections::BTreeSet;
use std::time::Duration;
use types::agent::{Direction, FailureKind, GuestImage, GuestPlan, GuestVif, Verb, WorkOutcome};
use types::network_wanted::tap_name;
use types::{HostName, PowerState, ServerId, TaskState, Timestamp, VmState};

/// Hosts that may fail before the server goes to ERROR.
const ATTEMPTS: usize = 3;
/// Claims tried in one transaction.
const CANDIDATES: usize = 8;

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Pick a host and claim what the server needs there.
    ChooseHost,
    /// Make or bind ports.
    Networks,
    /// Wait for the wiring.
    Plug,
    /// Make the guest and start it.
    Spawn,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[Self::ChooseHost, Self::Networks, Self::Plug, Self::Spawn];

    fn as_str(self) -> &'static str {
        match self {
            Self::ChooseHost => "choose_host",
            Self::Networks => "networks",
            Self::Plug => "plug",
            Self::Spawn => "spawn",
        }
    }
}

/// What the flow knows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// Hosts to try the claim on, best first.
    #[serde(default)]
    candidates: Vec<Place>,
    /// Where the server is claimed.
    #[serde(default)]
    pub place: Option<Place>,
    /// Hosts that failed to build it.
    #[serde(default)]
    failed: Vec<HostName>,
    /// Why the last of them failed.
    #[serde(default)]
    last_failure: Option<String>,
    /// The server's interfaces.
    #[serde(default)]
    interfaces: Vec<Interface>,
    /// What the host is asked for. The config drive's files are filled in when the host pulls the work, because they
    /// hold secrets.
    #[serde(default)]
    plan: Option<GuestPlan>,
    /// The guest's power state after the start.
    #[serde(default)]
    power: u8,
}

/// The flow.
pub struct Build {
    /// Network and image services, hosts.
    pub with: Neighbours,
}

impl Build {
    async fn instance(&self, cx: &Context) -> Result<Instance, StepError> {
        super::instance(&self.with, cx).await
    }

    async fn choose_host(&self, cx: &Context, state: &mut State) -> Result<(), StepError> {
        let instance = self.instance(cx).await?;
        let request = self.request(&instance, state).await?;
        if !state.candidates.is_empty() {
            // An earlier choice could not be claimed: the view is behind.
            self.with.view.refresh().await?;
        }
        let mut chosen = self.with.view.choose(&request);
        if chosen.is_err() {
            // The view may be behind.
            self.with.view.refresh().await?;
            chosen = self.with.view.choose(&request);
        }
        state.candidates = chosen.map_err(|refusal| StepError::Fail(no_host(&refusal, state)))?;
        state.candidates.truncate(CANDIDATES);
        Ok(())
    }

    /// What the server asks of a host.
    async fn request(&self, instance: &Instance, state: &State) -> Result<Request, StepError> {
        let group = self.group(instance).await?;
        let mut request = Request::new(&instance.flavor, instance.image.as_ref())
            .map_err(|wrong| StepError::Fail(Failure::new(400, wrong.to_string())))?;
        let hints = &instance.scheduler_hints;
        request.zone.clone_from(&instance.pinned_zone);
        request.only_host = hints["_host"].as_str().map(HostName::from);
        request.forced = request.only_host.is_some();
        request.same_host = servers_named(&hints["same_host"]);
        request.different_host = servers_named(&hints["different_host"]);
        request.ignore_hosts = state.failed.iter().cloned().collect();
        request.project = Some(instance.project_id.clone());
        request.group = group;
        Ok(request)
    }

    /// The server group of the server, with the other members that have a host.
    async fn group(&self, instance: &Instance) -> Result<Option<Group>, StepError> {
        let server = instance.id;
        let found: Result<_, sql::Error> =
            self.with.store.read(move |tx| group_of(tx, server)).await;
        let found = found?;
        Ok(found.map(|(group, _)| group))
    }

    /// Claims the first candidate that still has room.
    fn claim(tx: &mut Tx<'_>, cx: &Context, state: &mut State) -> Result<(), StepError> {
        let now = Timestamp::now();
        let instance = instances::get(tx, cx.server)?.ok_or(StepError::Fenced)?;
        let owner = (instance.project_id.as_str(), instance.user_id.as_str());
        let request = Request::new(&instance.flavor, instance.image.as_ref())
            .map_err(|wrong| StepError::Fail(Failure::new(400, wrong.to_string())))?;
        let wanted: Vec<(&str, u64)> = request
            .resources
            .iter()
            .map(|(class, amount)| (class.as_str(), *amount))
            .collect();
        let neighbours = neighbours(tx, &instance)?;
        for place in std::mem::take(&mut state.candidates) {
            let admits = |(group, hosts): &(Group, Vec<HostName>)| group.admits(&place.host, hosts);
            if !neighbours.as_ref().is_none_or(admits) {
                continue;
            }
            if !db::placement::claim_amounts(tx, cx.server, owner, place.node_id, &wanted, now)? {
                continue;
            }
            let change = Change {
                place: Some(Some(place.clone())),
                task_state: Some(Some(TaskState::Networking)),
                ..Change::default()
            };
            transition(tx, cx, &change, now)?;
            state.place = Some(place);
            return Ok(());
        }
        Err(StepError::Retry(
            "no chosen host would do any more by the time of the claim".to_owned(),
        ))
    }

    async fn plan(&self, cx: &Context, state: &mut State) -> Result<(), StepError> {
        let instance = self.instance(cx).await?;
        let host = place(state)?.host.clone();
        state.interfaces = ports::ensure(&self.with, cx, &instance, &host).await?;
        state.plan = Some(guest_plan(&instance, &state.interfaces));
        Ok(())
    }

    fn spawned(state: &mut State, outcome: Option<WorkOutcome>) -> Result<(), StepError> {
        let (kind, message) = match outcome {
            Some(WorkOutcome::Done { power }) => {
                state.power = power;
                return Ok(());
            }
            Some(WorkOutcome::Failed { kind, message }) => (kind, message),
            Some(WorkOutcome::Fenced) => return Err(StepError::Fenced),
            None => (FailureKind::Host, "the host was not asked".to_owned()),
        };
        let mut failure = Failure::new(500, format!("Build of the server failed: {message}"))
            .details(message.as_str());
        if kind != FailureKind::Request && state.failed.len() + 1 < ATTEMPTS {
            failure.redo_from = Some(Step::ChooseHost.as_str().to_owned());
        }
        Err(StepError::Fail(failure))
    }
}

/// No host is left. What the last one that tried said stays to be seen beside that.
fn no_host(refusal: &scheduler::Refusal, state: &State) -> Failure {
    let (mut message, mut details) = (refusal.to_string(), refusal.for_admins());
    if let (Some(reason), Some(host)) = (&state.last_failure, state.failed.last()) {
        message = format!("{message}. The host that was tried last said: {reason}");
        details = format!("{details}\nThe host that was tried last, {host}, said: {reason}");
    }
    Failure::new(500, message).details(details)
}

/// The group of a server with the other members that have a host, and these hosts.
fn group_of(
    tx: &mut Tx<'_>,
    server: ServerId,
) -> Result<Option<(Group, Vec<HostName>)>, sql::Error> {
    let Some(id) = db::server_groups::of_server(tx, server)? else {
        return Ok(None);
    };
    let Some(group) = db::server_groups::get(tx, id)? else {
        return Ok(None);
    };
    let Some(policy) = GroupPolicy::parse(&group.policy) else {
        return Ok(None);
    };
    let placed = db::server_groups::placed_members(tx, id, server)?;
    let (members, hosts): (BTreeSet<ServerId>, Vec<HostName>) = placed.into_iter().unzip();
    let most = group.max_server_per_host;
    let group = Group {
        policy,
        members,
        max_server_per_host: most.and_then(|most| u64::try_from(most).ok()).unwrap_or(1),
    };
    Ok(Some((group, hosts)))
}

/// The same; none where an administrator named the host.
fn neighbours(
    tx: &mut Tx<'_>,
    instance: &Instance,
) -> Result<Option<(Group, Vec<HostName>)>, sql::Error> {
    if instance.scheduler_hints["_host"].is_string() {
        return Ok(None);
    }
    group_of(tx, instance.id)
}

/// The servers that a scheduler hint names: one id or a list.
fn servers_named(hint: &serde_json::Value) -> BTreeSet<ServerId> {
    let one = hint.as_str().into_iter();
    let many = hint
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|id| id.as_str());
    one.chain(many).filter_map(|id| id.parse().ok()).collect()
}

fn place(state: &State) -> Result<&Place, StepError> {
    state
        .place
        .as_ref()
        .ok_or_else(|| StepError::Fail(Failure::new(500, "No host was claimed.")))
}

/// An interface as the guest's host shall make it. Pure.
pub fn guest_vif(interface: &Interface) -> GuestVif {
    let port = interface.port_id.parse();
    GuestVif {
        port_id: interface.port_id.clone(),
        mac: interface.mac.clone(),
        tap: port.map(|id| tap_name(&id)).unwrap_or_default(),
        mtu: interface.mtu,
    }
}

/// The guest as its host shall make it. Pure.
pub fn guest_plan(instance: &Instance, interfaces: &[Interface]) -> GuestPlan {
    let image = instance.image.as_ref();
    GuestPlan {
        number: u64::try_from(instance.number).unwrap_or(0),
        name: instance.display_name.clone(),
        project_id: instance.project_id.0.clone(),
        user_id: instance.user_id.0.clone(),
        flavor_name: instance.flavor.name.clone(),
        vcpus: instance.flavor.vcpus,
        memory_mb: instance.flavor.memory_mb,
        root_gb: instance.flavor.root_gb,
        ephemeral_gb: instance.flavor.ephemeral_gb,
        swap_mb: instance.flavor.swap_mb,
        image: image.map(|image| GuestImage {
            id: image.id,
            disk_format: image.disk_format.clone(),
            size: image.size,
            sha512: image.sha512.clone(),
        }),
        vifs: interfaces.iter().map(guest_vif).collect(),
        config_drive: instance.config_drive.then(Vec::new),
        hardware: image
            .map(|image| image.properties.clone())
            .unwrap_or_default(),
    }
}

#[async_trait]
impl Flow for Build {
    const NAME: &'static str = db::accept::BUILD;
    type State = State;
    type Step = Step;

    fn event(&self, step: Step) -> Option<&'static str> {
        matches!(step, Step::Networks | Step::Plug | Step::Spawn)
            .then_some("compute__do_build_and_run_instance")
    }

    fn host(&self, step: Step, state: &State) -> Option<HostName> {
        if step == Step::ChooseHost {
            return None;
        }
        state.place.as_ref().map(|place| place.host.clone())
    }

    fn deadline(&self, step: Step) -> Duration {
        match step {
            Step::ChooseHost => Duration::from_secs(30),
            Step::Networks => Duration::from_secs(120),
            Step::Plug => Duration::from_secs(60),
            Step::Spawn => Duration::from_secs(1800),
        }
    }

    async fn is_away(&self, host: &HostName) -> bool {
        self.with.view.refresh().await.is_ok() && !self.with.view.is_up(host)
    }

    fn host_work(&self, step: Step, direction: Direction, state: &State) -> Option<HostWork> {
        if step != Step::Spawn {
            return None;
        }
        let host = state.place.as_ref()?.host.clone();
        let verb = match direction {
            Direction::Do => Verb::EnsureGuest(Box::new(state.plan.clone()?)),
            Direction::Undo => Verb::EnsureAbsent,
        };
        Some(HostWork { host, verb })
    }

    async fn run(
        &self,
        cx: &Context,
        step: Step,
        state: &mut State,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        match step {
            Step::ChooseHost => self.choose_host(cx, state).await,
            Step::Networks => self.plan(cx, state).await,
            Step::Plug => ports::plugged(&self.with, cx).await,
            Step::Spawn => Self::spawned(state, outcome),
        }
    }

    async fn undo(
        &self,
        cx: &Context,
        step: Step,
        _state: &mut State,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        match step {
            Step::Networks => ports::remove(&self.with, &self.instance(cx).await?).await,
            Step::Spawn => super::power_after(outcome).map(|_| ()),
            Step::ChooseHost | Step::Plug => Ok(()),
        }
    }

    fn commit(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        step: Step,
        direction: Direction,
        state: &mut State,
    ) -> Result<(), StepError> {
        let now = Timestamp::now();
        let shows = |task_state| Change {
            task_state: Some(Some(task_state)),
            ..Change::default()
        };
        match (step, direction) {
            (Step::ChooseHost, Direction::Do) => {
                Self::claim(tx, cx, state)?;
                let instance = instances::get(tx, cx.server)?.ok_or(StepError::Fenced)?;
                if let Ok(request) = Request::new(&instance.flavor, instance.image.as_ref()) {
                    let node = place(state)?.node_id;
                    self.with.view.note_claim(node, cx.server, &request);
                }
                Ok(())
            }
            (Step::ChooseHost, Direction::Undo) => {
                db::placement::release(tx, cx.server, now)?;
                state.place = None;
                transition(
                    tx,
                    cx,
                    &Change {
                        place: Some(None),
                        ..shows(TaskState::Scheduling)
                    },
                    now,
                )
            }
            (Step::Networks, Direction::Do) => {
                instances::set_network_info(tx, cx.server, &state.interfaces)?;
                Ok(())
            }
            (Step::Networks, Direction::Undo) => {
                instances::set_network_info(tx, cx.server, &[])?;
                state.interfaces.clear();
                Ok(())
            }
            (Step::Plug, Direction::Do) => transition(tx, cx, &shows(TaskState::Spawning), now),
            _ => Ok(()),
        }
    }

    fn note_failure(&self, state: &mut State, failure: &Failure) {
        if failure.redo_from.is_some()
            && let Some(place) = &state.place
        {
            state.failed.push(place.host.clone());
            let reason = failure.details.as_ref().unwrap_or(&failure.message);
            state.last_failure = Some(reason.clone());
        }
    }

    fn finish(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        state: &State,
        end: End<'_>,
        now: Timestamp,
    ) -> Result<(), sql::Error> {
        let change = match end {
            End::Done => Change {
                vm_state: Some(VmState::Active),
                power_state: Some(PowerState::from_code(i64::from(state.power))),
                launched_at: Some(now),
                fault: Some(None),
                progress: Some(0),
                ..idle()
            },
            End::Unwound(failure) => Change {
                vm_state: Some(VmState::Error),
                power_state: Some(PowerState::NoState),
                fault: Some(Some(fault(failure, now))),
                ..idle()
            },
        };
        instances::transition(tx, cx.server, Expected::Task(cx.task), &change, now)?;
        if let Some(place) = &state.place {
            instances::set_launched_on(tx, cx.server, &place.host)?;
        }
        Ok(())
    }
}
