//! A cloud of several conductors and hosts in one thread, and everything that can happen to it.

use crate::nature;
use crate::watch::{API, Watch};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bus::{Bell, Bus};
use db::accept::{self, Accepted};
use db::instances::Instance;
use http::{Request, StatusCode};
use journal::Settings;
use journal::faults::{Fault, Faults, Point};
use kilonova_conductor::reconcile::Finding;
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testkit::{Cluster, Conductor, Options, Pace, Simulated, Way};
use tokio::sync::mpsc;
use tokio::time::sleep;
use types::{ServerId, VmState};

const CONDUCTORS: usize = 3;
const HOSTS: usize = 3;
/// Servers made at most, besides those that come at once.
const SERVERS: usize = 10;
/// Things that happen.
const EVENTS: usize = 35;
/// How long everything may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// What is done to servers in which states.
const ACTIONS: &[(&str, &[VmState])] = {
    use VmState::{
        Active, Paused, Rescued, Resized, Shelved, ShelvedOffloaded, SoftDelete, Stopped, Suspended,
    };
    &[
        (accept::STOP, &[Active]),
        (accept::START, &[Stopped]),
        (accept::REBOOT, &[Active]),
        (accept::PAUSE, &[Active]),
        (accept::UNPAUSE, &[Paused]),
        (accept::SUSPEND, &[Active]),
        (accept::RESUME, &[Suspended]),
        (accept::RESCUE, &[Active, Stopped]),
        (accept::UNRESCUE, &[Rescued]),
        (accept::REBUILD, &[Active, Stopped]),
        (accept::LIVE_MIGRATION, &[Active, Paused]),
        (accept::ATTACH_INTERFACE, &[Active, Stopped]),
        (accept::DETACH_INTERFACE, &[Active, Stopped]),
        (accept::ATTACH_VOLUME, &[Active, Stopped]),
        (accept::DETACH_VOLUME, &[Active, Stopped]),
        (accept::SWAP_VOLUME, &[Active]),
        (accept::EXTEND_VOLUME, &[Active]),
        (accept::ADD_FIXED_IP, &[Active]),
        (accept::REMOVE_FIXED_IP, &[Active]),
        (accept::CHANGE_PASSWORD, &[Active]),
        (accept::CRASH_DUMP, &[Active]),
        (accept::SNAPSHOT, &[Active, Stopped, Paused]),
        (accept::BACKUP, &[Active, Stopped]),
        (accept::RESIZE, &[Active, Stopped]),
        (accept::RESIZE, &[Active, Stopped]),
        (accept::CONFIRM_RESIZE, &[Resized]),
        (accept::REVERT_RESIZE, &[Resized]),
        (accept::SHELVE, &[Active, Stopped, Paused]),
        (accept::SHELVE_OFFLOAD, &[Shelved]),
        (accept::UNSHELVE_IN_PLACE, &[Shelved]),
        (accept::UNSHELVE, &[ShelvedOffloaded]),
        (accept::SOFT_DELETE, &[Active, Stopped]),
        (accept::RESTORE, &[SoftDelete]),
    ]
};

/// Those that copy disks.
const COPIES: &[&str] = &[
    accept::SNAPSHOT,
    accept::BACKUP,
    accept::RESIZE,
    accept::SHELVE,
];

/// A number below.
fn below(end: u64) -> u64 {
    rand::rng().random_range(0..end)
}

fn ms(from: u64, to: u64) -> Duration {
    Duration::from_millis(from + below(to - from))
}

/// Mostly soon, sometimes late.
fn way() -> Duration {
    match below(20) {
        0 => ms(20, 3000),
        1..=4 => ms(1, 20),
        _ => Duration::from_micros(below(900)),
    }
}

/// Whether bad things happen, and what did.
#[derive(Default)]
pub struct Chaos {
    calm: AtomicBool,
    log: Mutex<Vec<String>>,
    course: Mutex<u64>,
}

impl Chaos {
    /// True so often in a thousand, until all is calm.
    fn strikes(&self, per_mille: u64) -> bool {
        !self.calm.load(Ordering::SeqCst) && below(1000) < per_mille
    }

    fn note(&self, text: impl Into<String>) {
        let text = format!("{:>12.6} {}", nature::now() as f64 / 1e6, text.into());
        self.log.lock().unwrap().push(text);
    }

    /// Adds to the course of things, by which two worlds are compared (FNV-1a).
    fn fold(&self, text: &str) {
        let mut course = self.course.lock().unwrap();
        for byte in text.bytes().chain(nature::now().to_le_bytes()) {
            *course = (*course ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    /// What happened, the last events of it.
    pub fn told(&self) -> String {
        let log = self.log.lock().unwrap();
        log[log.len().saturating_sub(150)..].join("\n")
    }
}

/// The line of one process to the database.
struct Line {
    name: String,
    chaos: Arc<Chaos>,
    watch: Arc<Watch>,
    frozen: Arc<AtomicBool>,
}

impl Line {
    fn errors(&self) -> bool {
        self.name != API
    }
}

/// Waits while a process stands still.
async fn thawed(frozen: &AtomicBool) {
    while frozen.load(Ordering::SeqCst) {
        sleep(Duration::from_millis(20)).await;
    }
}

fn lost(on: &str) -> Option<sql::Error> {
    Some(sql::Error::Unreachable(format!("lost on the way {on}")))
}

impl Pace for Line {
    fn there(&self) -> Way {
        let (chaos, frozen) = (Arc::clone(&self.chaos), Arc::clone(&self.frozen));
        let errors = self.errors();
        Box::pin(async move {
            sleep(way()).await;
            thawed(&frozen).await;
            if errors && chaos.strikes(8) {
                return lost("there");
            }
            None
        })
    }

    fn written(&self, tx: &mut sql::Tx<'_>) {
        self.chaos.fold(&self.name);
        self.watch.look(tx, &self.name);
    }

    fn back(&self) -> Way {
        let (chaos, frozen) = (Arc::clone(&self.chaos), Arc::clone(&self.frozen));
        let errors = self.errors();
        Box::pin(async move {
            sleep(way()).await;
            thawed(&frozen).await;
            if errors && chaos.strikes(8) {
                return lost("back");
            }
            None
        })
    }
}

/// Faults of steps, now and then.
struct Now {
    chaos: Arc<Chaos>,
    line: String,
    crashed: Arc<AtomicBool>,
}

impl Faults for Now {
    fn at(&self, point: &Point) -> Option<Fault> {
        if !self.chaos.strikes(25) {
            return None;
        }
        let fault = match below(4) {
            0 => {
                self.crashed.store(true, Ordering::SeqCst);
                Fault::Crash
            }
            1 => Fault::Repeat,
            _ => Fault::Fail,
        };
        self.chaos
            .note(format!("{}: {fault:?} at {point:?}", self.line));
        Some(fault)
    }
}

struct Slot {
    runs: Option<Conductor>,
    frozen: Arc<AtomicBool>,
    /// Whether it was made to crash.
    crashed: Arc<AtomicBool>,
    starts: u32,
}

/// The whole of it.
pub struct World {
    cluster: Cluster,
    database: Simulated,
    chaos: Arc<Chaos>,
    watch: Arc<Watch>,
    slots: Mutex<Vec<Slot>>,
    buses: Mutex<BTreeMap<String, Bus>>,
    /// The conductor that each host's agent asks.
    asked: Mutex<Vec<usize>>,
    /// Hosts that reach nobody.
    apart: Mutex<BTreeSet<usize>>,
    servers: Mutex<Vec<ServerId>>,
    deleted: Mutex<BTreeSet<ServerId>>,
    copies: bool,
}

/// What a world has been.
pub struct Lived {
    /// The course of things.
    pub course: u64,
    /// Commits, claims, claims of what another ran.
    pub seen: (u64, u64, u64),
    /// How often each action went well, and how often not.
    pub ended: Ended,
}

/// How often each action went well, and how often not.
pub type Ended = BTreeMap<String, (u64, u64)>;

/// The actions that are to go well in some world.
pub fn actions() -> BTreeSet<&'static str> {
    let more = [accept::EVACUATE, "create", "delete"];
    let all = ACTIONS.iter().map(|(flow, _)| *flow).chain(more);
    // It is shown as a deletion.
    all.filter(|flow| *flow != accept::SOFT_DELETE).collect()
}

/// `copies`: disks are copied there, to images and to other hosts. The files are real ones, so such a world is not quite
/// repeatable.
///
/// Lets a world live until it is at rest, and looks at what is left.
pub async fn live(chaos: Arc<Chaos>, copies: bool, shared: bool) -> Lived {
    let watch = Arc::new(Watch::default());
    let database = Simulated::new().unwrap();
    let line = |name: &str, frozen| Line {
        name: name.to_owned(),
        chaos: Arc::clone(&chaos),
        watch: Arc::clone(&watch),
        frozen,
    };
    let options = Options {
        hosts: HOSTS,
        // Too small for everything that is asked for.
        size: (4, 64 * 1024, 1024),
        journal: Settings {
            beat: Duration::from_secs(1),
            look: Duration::from_secs(1),
            lease: Duration::from_secs(5),
            retry: Duration::from_millis(50),
            undo_deadline: Duration::from_secs(60),
            ..Settings::default()
        },
        beat: Duration::from_secs(10),
        shared,
        ..Options::default()
    };
    let (bus, rings) = Bus::carried();
    let api = database.store(Arc::new(line(API, Arc::default())));
    let cluster = Cluster::bare(api, bus.clone(), options).await;
    let slot = || Slot {
        runs: None,
        frozen: Arc::default(),
        crashed: Arc::default(),
        starts: 0,
    };
    let world = Arc::new(World {
        cluster,
        database: database.clone(),
        chaos: Arc::clone(&chaos),
        watch: Arc::clone(&watch),
        slots: Mutex::new((0..CONDUCTORS).map(|_| slot()).collect()),
        buses: Mutex::default(),
        asked: Mutex::new((0..HOSTS).map(|host| host % CONDUCTORS).collect()),
        apart: Mutex::default(),
        servers: Mutex::default(),
        deleted: Mutex::default(),
        copies,
    });
    world.join(API, bus, rings);
    for index in 0..CONDUCTORS {
        world.boot(index).await;
    }
    for index in 0..HOSTS {
        world.start_agent(index);
    }
    sleep(Duration::from_secs(15)).await;
    for _ in 0..EVENTS {
        sleep(ms(0, 1500)).await;
        world.revive_crashed().await;
        world.happen().await;
    }
    let ended = world.come_to_rest().await;
    let course = *chaos.course.lock().unwrap();
    Lived {
        course,
        seen: watch.counts(),
        ended,
    }
}

impl World {
    /// Takes the rings of a bus to all others: late, in any order, or not at all.
    fn join(self: &Arc<Self>, name: &str, bus: Bus, mut rings: mpsc::Receiver<Bell>) {
        self.buses.lock().unwrap().insert(name.to_owned(), bus);
        let (world, name) = (Arc::clone(self), name.to_owned());
        tokio::spawn(async move {
            while let Some(bell) = rings.recv().await {
                let others: Vec<Bus> = {
                    let buses = world.buses.lock().unwrap();
                    let others = buses.iter().filter(|(other, _)| **other != name);
                    others.map(|(_, bus)| bus.clone()).collect()
                };
                for other in others {
                    if world.chaos.strikes(250) {
                        continue;
                    }
                    let (bell, late) = (bell.clone(), way());
                    tokio::spawn(async move {
                        sleep(late).await;
                        other.ring_here(&bell);
                    });
                }
            }
        });
    }

    /// Starts a conductor, again and again until the database lets it.
    async fn boot(self: &Arc<Self>, index: usize) {
        let name = format!("c{index}");
        loop {
            let (frozen, crashed, line) = {
                let slot = &mut self.slots.lock().unwrap()[index];
                slot.starts += 1;
                slot.frozen = Arc::default();
                slot.crashed = Arc::default();
                let (frozen, crashed) = (Arc::clone(&slot.frozen), Arc::clone(&slot.crashed));
                (frozen, crashed, format!("{name}/{}", slot.starts))
            };
            let pace = Line {
                name: line.clone(),
                chaos: Arc::clone(&self.chaos),
                watch: Arc::clone(&self.watch),
                frozen,
            };
            let store = self.database.store(Arc::new(pace));
            let (bus, rings) = Bus::carried();
            let faults = Arc::new(Now {
                chaos: Arc::clone(&self.chaos),
                line: line.clone(),
                crashed,
            });
            let down_after = Duration::from_secs(45);
            let started = self
                .cluster
                .conductor(&name, store, bus.clone(), down_after, faults)
                .await;
            if let Ok(conductor) = started {
                self.join(&name, bus, rings);
                self.chaos.note(format!("{line} runs"));
                self.slots.lock().unwrap()[index].runs = Some(conductor);
                return;
            }
        }
    }

    /// The conductor dies, and is started again a while later.
    fn kill(self: &Arc<Self>, index: usize, away: Duration) {
        let killed = self.slots.lock().unwrap()[index].runs.take();
        if killed.is_none() {
            return;
        }
        self.chaos.note(format!("c{index} dies for {away:?}"));
        self.buses.lock().unwrap().remove(&format!("c{index}"));
        let world = Arc::clone(self);
        tokio::spawn(async move {
            sleep(away).await;
            world.boot(index).await;
        });
    }

    async fn revive_crashed(self: &Arc<Self>) {
        for index in 0..CONDUCTORS {
            let crashed = {
                let slot = &self.slots.lock().unwrap()[index];
                let stopped = slot.runs.as_ref().is_some_and(Conductor::crashed);
                assert!(
                    !stopped || slot.crashed.load(Ordering::SeqCst),
                    "c{index} works no more, and nothing made it stop"
                );
                stopped
            };
            if crashed {
                self.kill(index, ms(50, 9000));
            }
        }
    }

    async fn happen(self: &Arc<Self>) {
        match below(100) {
            0..=24 => self.create().await,
            25..=32 => self.delete().await,
            33..=77 => self.act().await,
            78..=79 => self.lose_host().await,
            80..=86 => self.kill(below(CONDUCTORS as u64) as usize, ms(10, 15_000)),
            87..=91 => self.freeze(),
            92..=94 => self.part(),
            95 => self.restart_agent(),
            96 => {
                self.cluster.network.set_down(true);
                self.later(ms(100, 20_000), |world| {
                    world.cluster.network.set_down(false)
                });
            }
            97 => {
                self.cluster.volumes.set_down(true);
                self.later(ms(100, 20_000), |world| {
                    world.cluster.volumes.set_down(false)
                });
            }
            _ => {
                for _ in 0..4 {
                    self.create().await;
                }
            }
        }
    }

    fn later(self: &Arc<Self>, time: Duration, what: impl FnOnce(&Self) + Send + 'static) {
        let world = Arc::clone(self);
        tokio::spawn(async move {
            sleep(time).await;
            what(&world);
        });
    }

    /// A conductor stands still, perhaps for longer than its lease, and goes on as if nothing had been.
    fn freeze(self: &Arc<Self>) {
        let index = below(CONDUCTORS as u64) as usize;
        let frozen = Arc::clone(&self.slots.lock().unwrap()[index].frozen);
        let time = ms(100, 30_000);
        self.chaos
            .note(format!("c{index} stands still for {time:?}"));
        frozen.store(true, Ordering::SeqCst);
        self.later(time, move |_| frozen.store(false, Ordering::SeqCst));
    }

    fn start_agent(self: &Arc<Self>, index: usize) {
        let wire = Router::new().fallback(carry);
        self.cluster.hosts[index].start(wire.with_state((Arc::clone(self), index)));
    }

    /// A host's agent dies in the middle of what it does, and is started again a while later; its guests go on.
    fn restart_agent(self: &Arc<Self>) {
        let index = below(HOSTS as u64) as usize;
        let time = ms(10, 60_000);
        let host = &self.cluster.hosts[index];
        self.chaos
            .note(format!("the agent of {} dies for {time:?}", host.name));
        host.stop();
        let world = Arc::clone(self);
        tokio::spawn(async move {
            sleep(time).await;
            world.start_agent(index);
        });
    }

    /// A host reaches no conductor.
    fn part(self: &Arc<Self>) {
        let host = below(HOSTS as u64) as usize;
        let time = ms(100, 90_000);
        self.chaos
            .note(format!("host {host} is apart for {time:?}"));
        self.apart.lock().unwrap().insert(host);
        self.later(time, move |world| {
            world.apart.lock().unwrap().remove(&host);
        });
    }

    /// A host is gone, its servers are evacuated, and it comes back with what it had.
    async fn lose_host(self: &Arc<Self>) {
        let index = below(HOSTS as u64) as usize;
        if !self.apart.lock().unwrap().insert(index) {
            return;
        }
        let host = &self.cluster.hosts[index];
        self.chaos.note(format!("{} is lost", host.name));
        self.cluster.set_forced_down(host, true).await;
        sleep(ms(0, 4000)).await;
        let servers = self.servers.lock().unwrap().clone();
        for server in servers {
            let name = host.name.clone();
            let fit = move |one: &Instance| {
                use VmState::{Active, Error, Stopped};
                one.host.as_ref() == Some(&name)
                    && one.task_id.is_none()
                    && [Active, Stopped, Error].contains(&one.vm_state)
            };
            let state = self.cluster.first_state(accept::EVACUATE, server);
            let flow = accept::EVACUATE;
            if self.cluster.try_act(server, flow, state, fit).await == Accepted::Yes {
                self.chaos.note(format!("{flow} of {server} is accepted"));
            }
        }
        let (world, time) = (Arc::clone(self), ms(5000, 60_000));
        tokio::spawn(async move {
            sleep(time).await;
            let host = &world.cluster.hosts[index];
            world.chaos.note(format!("{} is back", host.name));
            world.cluster.set_forced_down(host, false).await;
            world.apart.lock().unwrap().remove(&index);
        });
    }

    async fn create(&self) {
        let live = self.servers.lock().unwrap().len() - self.deleted.lock().unwrap().len();
        if live >= SERVERS + HOSTS {
            return;
        }
        let server = self.cluster.create().await;
        self.chaos.note(format!("{server} is accepted"));
        self.servers.lock().unwrap().push(server);
    }

    fn any(&self) -> Option<ServerId> {
        let servers = self.servers.lock().unwrap();
        let deleted = self.deleted.lock().unwrap();
        let mut live = servers.iter().filter(|one| !deleted.contains(one));
        let count = live.clone().count() as u64;
        if count == 0 {
            return None;
        }
        live.nth(below(count) as usize).copied()
    }

    async fn delete(&self) {
        let Some(server) = self.any() else { return };
        self.chaos.note(format!("{server} is to be deleted"));
        self.cluster.delete(server).await;
        self.deleted.lock().unwrap().insert(server);
    }

    /// A server, rather one that is in a state in which few are.
    async fn unusual(&self) -> Option<Instance> {
        let mut found = None;
        for _ in 0..3 {
            let server = self.cluster.server(self.any()?).await;
            let usual = server.vm_state == VmState::Active || server.task_id.is_some();
            found = Some(server);
            if !usual {
                break;
            }
        }
        found
    }

    async fn act(&self) {
        let Some(shown) = self.unusual().await else {
            return;
        };
        let server = shown.id;
        let fits: Vec<_> = ACTIONS
            .iter()
            .filter(|(flow, states)| {
                let copies = COPIES.contains(flow) && !self.copies;
                !copies && states.contains(&shown.vm_state)
            })
            .collect();
        if shown.task_state.is_some() || shown.task_id.is_some() || fits.is_empty() {
            return;
        }
        let (flow, states) = *fits[below(fits.len() as u64) as usize];
        let fit = move |one: &Instance| {
            states.contains(&one.vm_state) && one.task_id.is_none() && one.task_state.is_none()
        };
        if flow == accept::SOFT_DELETE {
            self.cluster.soft_delete(server).await;
            self.chaos.note(format!("{flow} of {server} is accepted"));
            return;
        }
        if !self.has_what_it_takes(flow, server) {
            return;
        }
        let accepted = if flow == accept::RESIZE {
            // Larger ones fit nowhere.
            let grows = shown.flavor.vcpus < 4 && below(2) == 0;
            let flavor = match grows {
                true => Cluster::twice(&shown.flavor),
                false => shown.flavor,
            };
            let where_to = ["never", "last"][below(2) as usize];
            let state = serde_json::json!({ "same_host": where_to });
            self.cluster.try_resize_to(server, flavor, state, fit).await
        } else {
            let mut state = self.cluster.first_state(flow, server);
            if flow == accept::SHELVE {
                state["offload"] = (below(2) == 0).into();
            }
            let image = state["image"].as_str().map(str::to_owned);
            let accepted = self.cluster.try_act(server, flow, state, fit).await;
            if let Some(image) = image.filter(|_| accepted != Accepted::Yes) {
                self.cluster.images.lose(&image);
            }
            accepted
        };
        if accepted == Accepted::Yes {
            self.chaos.note(format!("{flow} of {server} is accepted"));
        }
    }

    /// Whether the server has the port or the volume that an action is about.
    fn has_what_it_takes(&self, flow: &str, server: ServerId) -> bool {
        let id = server.to_string();
        match flow {
            accept::DETACH_INTERFACE | accept::REMOVE_FIXED_IP => {
                let ports = self.cluster.network.ports();
                let its = ports.into_iter().find(|(_, device)| *device == id);
                its.is_some_and(|(port, _)| !self.cluster.network.addresses(&port).is_empty())
            }
            accept::DETACH_VOLUME | accept::EXTEND_VOLUME | accept::SWAP_VOLUME => {
                let made = self.cluster.volumes.made();
                let all = self.cluster.volumes.attachments();
                all.iter().any(|(volume, holder, _)| {
                    *holder == id && !made.iter().any(|(one, _)| one == volume)
                })
            }
            _ => true,
        }
    }

    /// Nothing bad happens any more: everything that was begun must end, and leave what the records say.
    async fn come_to_rest(self: &Arc<Self>) -> Ended {
        self.chaos.calm.store(true, Ordering::SeqCst);
        self.chaos.note("calm");
        // Late runs of those that stand still come to their end.
        while self
            .slots
            .lock()
            .unwrap()
            .iter()
            .any(|slot| slot.frozen.load(Ordering::SeqCst))
        {
            sleep(Duration::from_millis(500)).await;
        }
        self.idle().await;
        sleep(Duration::from_secs(20)).await;
        self.idle().await;
        self.say_what_is_unsaid().await;
        self.audit("at rest").await;
        let servers = self.servers.lock().unwrap().clone();
        let ended = self.ended(&servers).await;
        for server in servers {
            self.cluster.delete(server).await;
            self.deleted.lock().unwrap().insert(server);
        }
        self.idle().await;
        self.audit("when all is deleted").await;
        assert_eq!(self.cluster.network.ports(), []);
        assert_eq!(self.cluster.volumes.attachments(), []);
        assert_eq!(self.cluster.volumes.made(), []);
        for host in &self.cluster.hosts {
            assert_eq!(host.guests().await, []);
        }
        ended
    }

    /// How the actions on these servers have ended.
    async fn ended(&self, servers: &[ServerId]) -> Ended {
        let mut ended = Ended::new();
        for server in servers.iter().copied() {
            let read = move |tx: &mut sql::Tx<'_>| db::actions::of_server(tx, server);
            let all: Result<Vec<_>, sql::Error> = self.cluster.store.read(read).await;
            for action in all.unwrap() {
                let (well, badly) = ended.entry(action.action).or_default();
                *(if action.message.is_none() {
                    well
                } else {
                    badly
                }) += 1;
            }
        }
        ended
    }

    /// A late run that died between connecting a volume once more and saying that it is in use leaves that to audits; all
    /// else must be in order without one.
    async fn say_what_is_unsaid(&self) {
        self.cluster.list().await;
        let found = self.cluster.findings().await;
        let unsaid = |one: &&Finding| matches!(one, Finding::Unsaid(_));
        let count = found.iter().filter(unsaid).count();
        assert_eq!(count, found.len(), "{found:?}");
        if count > 0 {
            self.chaos.note(format!("{found:?}"));
            assert_eq!(self.cluster.reconcile().await, count);
        }
    }

    async fn idle(self: &Arc<Self>) {
        let begun = nature::now();
        loop {
            self.revive_crashed().await;
            let open: Result<Vec<_>, sql::Error> = self.cluster.store.read(db::tasks::open).await;
            let (open, debts) = (open.unwrap(), self.cluster.debts().await);
            let apart = self.apart.lock().unwrap().len();
            if open.is_empty() && debts.is_empty() && apart == 0 {
                return;
            }
            let waited = Duration::from_micros(nature::now() - begun);
            assert!(
                waited < PATIENCE,
                "no rest: tasks {open:#?}, debts {debts:?}"
            );
            sleep(Duration::from_millis(500)).await;
        }
    }

    async fn audit(&self, when: &str) {
        assert_eq!(self.watch.wrong(), Vec::<String>::new());
        self.cluster.look_again().await;
        let wrong = self.cluster.audit().await;
        assert_eq!(wrong, Vec::<String>::new(), "{when}");
        assert_eq!(self.cluster.findings().await, [], "{when}");
        let deleted = self.deleted.lock().unwrap().clone();
        for server in deleted {
            let shown = self.cluster.server(server).await;
            assert!(shown.deleted, "{server} was deleted and is there");
        }
    }

    /// The desk that a host's agent asks now: mostly the one that answered last.
    fn desk(
        &self,
        host: usize,
    ) -> Option<(Router, tokio_util::sync::CancellationToken, Arc<AtomicBool>)> {
        let slots = self.slots.lock().unwrap();
        let asked = &mut self.asked.lock().unwrap()[host];
        if self.chaos.strikes(50) || slots[*asked].runs.is_none() {
            *asked = below(CONDUCTORS as u64) as usize;
        }
        let slot = &slots[*asked];
        let conductor = slot.runs.as_ref()?;
        let frozen = Arc::clone(&slot.frozen);
        Some((conductor.desk.clone(), conductor.killed(), frozen))
    }
}

fn refused(why: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, why.to_owned()).into_response()
}

/// The wire between an agent and the conductors.
async fn carry(
    State((world, host)): State<(Arc<World>, usize)>,
    request: Request<Body>,
) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, 16 << 20).await else {
        return refused("no body");
    };
    sleep(way()).await;
    if world.apart.lock().unwrap().contains(&host) || world.chaos.strikes(30) {
        return refused("lost on the way there");
    }
    let Some((desk, killed, frozen)) = world.desk(host) else {
        return refused("nobody there");
    };
    let path = parts.uri.to_string();
    let times = if path.ends_with("/report") && world.chaos.strikes(50) {
        2
    } else {
        1
    };
    let mut answer = refused("nobody there");
    for _ in 0..times {
        let ask = async {
            thawed(&frozen).await;
            let client = web::client::Client::in_process("a conductor", desk.clone());
            let body = Body::from(bytes.clone());
            let headers = parts.headers.clone();
            client
                .send(parts.method.clone(), &path, headers, body)
                .await
        };
        answer = match killed.run_until_cancelled(ask).await {
            Some(Ok(answer)) => answer,
            _ => return refused("it died"),
        };
    }
    sleep(way()).await;
    if world.apart.lock().unwrap().contains(&host) || world.chaos.strikes(30) {
        return refused("lost on the way back");
    }
    answer
}
