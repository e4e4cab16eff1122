//! Build: from an accepted request to a running guest.
//!
//! | step | does | undo |
//! |---|---|---|
//! | `choose_host` | picks hosts from the view; the claim is in the transaction that ends the step | gives the claim back |
//! | `networks` (passed where it shall have none) | makes or binds ports on the host | deletes or gives back |
//! | `volumes` (passed where no disk is one) | makes or reserves volumes and connects them to the host | deletes or gives back |
//! | `plug` (passed where there are none) | waits until the network agent has wired them | - |
//! | `spawn` | the host makes the guest and starts it | the host removes all of it |
//!
//! A host that cannot build the guest is left out and the flow begins again at `choose_host`, three times at most
//! (Nova's `scheduler.max_attempts`).

use super::placing::{Asked, Choice};
use super::{fault, idle, ports, transition, volumes};
use crate::neighbours::Neighbours;
use async_trait::async_trait;
use db::block_devices::{self, BlockDevice};
use db::instances::{self, Change, Expected, Instance, Interface, Place};
use journal::{Context, End, Failure, Flow, HostWork, StepError, StepName};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::time::Duration;
use types::agent::{Direction, GuestImage, GuestKernel, GuestPlan, GuestVif, Verb, WorkOutcome};
use types::network_wanted::tap_name;
use types::server::WantedNetworks;
use types::tpm::Tpm;
use types::{HostName, PowerState, TaskState, Timestamp, VmState};

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Pick a host and claim what the server needs there.
    ChooseHost,
    /// Make or bind ports.
    Networks,
    /// Make or reserve volumes.
    Volumes,
    /// Wait for the wiring.
    Plug,
    /// Make the guest and start it.
    Spawn,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[
        Self::ChooseHost,
        Self::Networks,
        Self::Volumes,
        Self::Plug,
        Self::Spawn,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::ChooseHost => "choose_host",
            Self::Networks => "networks",
            Self::Volumes => "volumes",
            Self::Plug => "plug",
            Self::Spawn => "spawn",
        }
    }
}

/// What the flow knows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// Where the server goes.
    #[serde(flatten)]
    pub choice: Choice,
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
    /// The disks with their volumes, until they are on record.
    #[serde(skip)]
    devices: Vec<BlockDevice>,
    /// None of the disks is a volume.
    #[serde(default)]
    no_volumes: bool,
    /// The disks of such a server, which stay as they are on record.
    #[serde(skip)]
    local: Option<Vec<BlockDevice>>,
    /// It was asked for without networks.
    #[serde(default)]
    no_networks: bool,
    /// None of the ports has a security group.
    #[serde(skip)]
    no_groups: bool,
    /// The server as it was when its host was picked; what is used of it stays as it is while it is built.
    #[serde(skip)]
    server: Option<Box<Instance>>,
}

/// The flow.
pub struct Build {
    /// Network and image services, hosts.
    pub with: Neighbours,
}

impl State {
    /// What the server shows once it has a host.
    fn when_placed(&self) -> TaskState {
        if self.no_networks {
            self.until_spawning()
        } else {
            TaskState::Networking
        }
    }

    /// What the server shows once it has its ports: that it waits for volumes or the wiring, if it does.
    fn until_spawning(&self) -> TaskState {
        if self.no_volumes && self.interfaces.is_empty() {
            TaskState::Spawning
        } else {
            TaskState::BlockDeviceMapping
        }
    }
}

impl Build {
    async fn instance(&self, cx: &Context) -> Result<Instance, StepError> {
        super::instance(&self.with, cx).await
    }

    /// Reads the server, if it is not known, and picks hosts for it.
    async fn choose(&self, cx: &Context, state: &mut State) -> Result<(), StepError> {
        let (id, mut known) = (cx.server, self.with.newcomers.take(cx.task));
        let read = self.with.store.look(move |tx| {
            let whole = match known.take() {
                Some(known) => known,
                None => db::placing::to_be_placed(tx, id)?.ok_or(StepError::Fenced)?,
            };
            let (server, devices) = (whole.server, whole.devices);
            let asked = Asked::with(tx, &server, whole.ties)?.demanding(&server)?;
            Ok::<_, StepError>((server, devices, asked))
        });
        let (server, devices, asked) = read.await?;
        state.no_volumes = !devices.iter().any(BlockDevice::is_volume);
        state.local = state.no_volumes.then_some(devices);
        state.no_networks =
            server.networks == WantedNetworks::None && server.network_info.is_empty();
        let choosing = state.choice.choose_asked(&self.with, asked, |_| {});
        choosing.await?;
        state.server = Some(Box::new(server));
        Ok(())
    }

    async fn plan(&self, cx: &Context, state: &mut State) -> Result<(), StepError> {
        let instance = match state.server.take() {
            Some(known) => known,
            None => Box::new(self.instance(cx).await?),
        };
        let host = place(state)?.host.clone();
        let made = ports::ensure(&self.with, cx, &instance, &host);
        let made = made.await.map_err(|error| aborted(&instance, error))?;
        (state.interfaces, state.no_groups) = (made.interfaces, made.no_groups);
        state.plan = Some(guest_plan(&instance, &state.interfaces));
        Ok(())
    }

    async fn volumes(&self, cx: &Context, state: &mut State) -> Result<(), StepError> {
        let devices = volumes::devices(&self.with, cx.server).await?;
        if !devices.iter().any(BlockDevice::is_volume) {
            return Ok(());
        }
        let instance = self.instance(cx).await?;
        let host = place(state)?.host.clone();
        state.devices = volumes::connect(&self.with, cx, &instance, devices, Some(host)).await?;
        volumes::complete(&self.with, &instance, &state.devices).await
    }

    fn spawned(state: &mut State, outcome: Option<WorkOutcome>) -> Result<(), StepError> {
        let again = Some(Step::ChooseHost.as_str());
        state.power = state
            .choice
            .answered(outcome, "Build of the server failed", again)?;
        Ok(())
    }
}

fn place(state: &State) -> Result<&Place, StepError> {
    state
        .choice
        .place
        .as_ref()
        .ok_or_else(|| StepError::Fail(Failure::new(500, "No host was claimed.")))
}

/// What the request is at fault for ends the build, as its owner sees it: other hosts are not tried.
fn aborted(server: &Instance, error: StepError) -> StepError {
    match error {
        StepError::Fail(failure) if failure.code < 500 => {
            let words = format!(
                "Build of instance {} aborted: {}",
                server.id, failure.message
            );
            StepError::Fail(Failure {
                code: 500,
                message: words,
                ..failure
            })
        }
        other => other,
    }
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
        image: instance.image.as_ref().map(GuestImage::from),
        vifs: interfaces.iter().map(guest_vif).collect(),
        config_drive: instance.config_drive.then(Vec::new),
        hardware: instance.image_properties().cloned().unwrap_or_default(),
        // Filled in when the host pulls the work: how it reaches volumes is a secret, too.
        disks: Vec::new(),
        tpm: tpm_of(instance),
        kernel: kernel_of(instance),
    }
}

fn kernel_of(instance: &Instance) -> Option<GuestKernel> {
    Some(GuestKernel {
        image: instance.kept.kernel.clone()?,
        ramdisk: instance.kept.ramdisk.clone(),
    })
}

/// The TPM of a server, by its flavor and image. Its secret was made when that was asked for; one that has none does not
/// start, since there can be no passphrase either.
fn tpm_of(instance: &Instance) -> Option<Tpm> {
    let nothing = std::collections::BTreeMap::new();
    let image = instance.image_properties().unwrap_or(&nothing);
    let wanted = scheduler::tpm(&instance.flavor, image).ok()??;
    let secret = instance.kept.vtpm_secret.map(|secret| secret.id);
    Some(Tpm {
        wanted,
        secret: secret.unwrap_or_default(),
    })
}

#[async_trait]
impl Flow for Build {
    const NAME: &'static str = db::accept::BUILD;
    type State = State;
    type Step = Step;

    fn event(&self, step: Step) -> Option<&'static str> {
        (step != Step::ChooseHost).then_some("compute__do_build_and_run_instance")
    }

    fn event_of_failure(&self, step: Step) -> Option<&'static str> {
        match step {
            Step::ChooseHost => Some("conductor_schedule_and_build_instances"),
            other => self.event(other),
        }
    }

    fn host(&self, step: Step, state: &State) -> Option<HostName> {
        if step == Step::ChooseHost {
            return None;
        }
        state.choice.place.as_ref().map(|place| place.host.clone())
    }

    fn only_decides(&self, step: Step) -> bool {
        step == Step::ChooseHost
    }

    fn skips(&self, step: Step, state: &State) -> bool {
        match step {
            Step::Networks => state.no_networks,
            Step::Volumes => state.no_volumes,
            Step::Plug => state.interfaces.is_empty(),
            _ => false,
        }
    }

    fn deadline(&self, step: Step, _state: &State) -> Duration {
        match step {
            Step::ChooseHost => Duration::from_secs(30),
            Step::Networks => Duration::from_secs(120),
            Step::Volumes => Duration::from_secs(1800),
            Step::Plug => Duration::from_secs(60),
            Step::Spawn => Duration::from_secs(1800),
        }
    }

    async fn is_away(&self, host: &HostName) -> bool {
        super::is_away(&self.with, host).await
    }

    fn host_work(&self, step: Step, direction: Direction, state: &State) -> Option<HostWork> {
        if step != Step::Spawn {
            return None;
        }
        let host = state.choice.place.as_ref()?.host.clone();
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
            Step::ChooseHost => self.choose(cx, state).await,
            Step::Networks => self.plan(cx, state).await,
            Step::Volumes => self.volumes(cx, state).await,
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
            Step::Volumes => {
                let devices = volumes::devices(&self.with, cx.server).await?;
                volumes::give_back(&self.with, &self.instance(cx).await?, &devices).await
            }
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
                let server = state.server.take().ok_or(StepError::Fenced)?;
                let place = state.choice.claim(&self.with, tx, &server, now)?;
                if state.no_networks {
                    state.plan = Some(guest_plan(&server, &[]));
                }
                state.server = Some(server);
                let change = Change {
                    place: Some(Some(place)),
                    ..shows(state.when_placed())
                };
                transition(tx, cx, &change, now)
            }
            (Step::ChooseHost, Direction::Undo) => {
                db::placement::release(tx, cx.server, now)?;
                state.choice.place = None;
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
                if state.no_groups {
                    // It shows what its ports have, not what `default` was put down for.
                    instances::set_security_groups(tx, cx.server, &[])?;
                }
                let change = Change {
                    network_info: Some(state.interfaces.clone()),
                    ..shows(state.until_spawning())
                };
                transition(tx, cx, &change, now)
            }
            (Step::Networks, Direction::Undo) => {
                instances::set_network_info(tx, cx.server, &[])?;
                state.interfaces.clear();
                Ok(())
            }
            (Step::Volumes, Direction::Do) => {
                volumes::keep(tx, &mut state.devices)?;
                if !state.interfaces.is_empty() {
                    return Ok(());
                }
                transition(tx, cx, &shows(TaskState::Spawning), now)
            }
            (Step::Volumes, Direction::Undo) => {
                let mut devices = block_devices::of_server(tx, cx.server)?;
                Ok(volumes::forget_connections(tx, &mut devices)?)
            }
            (Step::Plug, Direction::Do) => transition(tx, cx, &shows(TaskState::Spawning), now),
            _ => Ok(()),
        }
    }

    fn rests_on_others(&self, step: Step, state: &State) -> bool {
        match step {
            // The claim changes what it reads of the host. Where the other members of a group are is another matter.
            Step::ChooseHost => state.choice.minds_a_group(),
            Step::Spawn => false,
            Step::Networks | Step::Volumes | Step::Plug => true,
        }
    }

    fn disks(&self, step: Step, state: &State) -> Option<Vec<BlockDevice>> {
        let plan = state.plan.as_ref().filter(|_| step == Step::Spawn)?;
        // The passphrase of a TPM is stored with the task.
        state.local.clone().filter(|_| plan.tpm.is_none())
    }

    fn note_failure(&self, state: &mut State, failure: &Failure) {
        if failure.redo_from.is_some() {
            state.choice.leave_out(failure);
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
                launched_on: state.choice.place.as_ref().map(|place| place.host.clone()),
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
        Ok(())
    }
}
