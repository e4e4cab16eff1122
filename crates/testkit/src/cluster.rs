//! A whole cloud in one process.

use crate::accepted::{new_instance, shown_while};
use crate::host::Host;
use crate::images::Images;
use crate::key_manager::KeyManager;
use crate::network::{NETWORK, Network};
use crate::options::Options;
use crate::volumes::Volumes;
use crate::{Kind, TestStore};
use bus::{Bell, Bus};
use clients::{ClientError, Networks, ServiceTokens};
use conductor::Neighbours;
use conductor::agents::{Agents, ConfigDrives};
use conductor::newcomers::Newcomers;
use conductor::questions::Questions;
use conductor::view::View;
use db::accept::{self, Accepted};
use db::actions::Requester;
use db::block_devices::BlockDevice;
use db::instances::Instance;
use db::placing::{Ties, ToBePlaced};
use journal::faults::{Fault, Faults, Never, Point};
use journal::{Journal, Outcomes, Settings, Worker};
use sql::{Store, Tx};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use types::disks::{Destination, Source};
use types::server::{Flavor, WantedInterface};
use types::{GroupId, ServerId, Timestamp};

/// The project of all servers that a cluster makes.
pub const PROJECT: &str = "demo";
pub(crate) const USER: &str = "tester";
pub(crate) const BY: Requester<'static> = Requester {
    request_id: "req-1",
    user_id: USER,
    project_id: PROJECT,
    trace: None,
};
/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(180);

/// Faults that can be exchanged while workers run.
pub struct Switch(Mutex<Arc<dyn Faults>>);

impl Switch {
    fn current(&self) -> Arc<dyn Faults> {
        Arc::clone(&self.0.lock().unwrap())
    }
}

#[async_trait::async_trait]
impl Faults for Switch {
    fn at(&self, point: &Point) -> Option<Fault> {
        self.current().at(point)
    }

    async fn released(&self, point: &Point) {
        self.current().released(point).await;
    }
}

/// CPUs are not given twice, so that a small host is soon full.
fn ratios() -> db::hosts::Ratios {
    db::hosts::Ratios {
        cpu: 1.0,
        reserved_memory_mb: 0,
        ..db::hosts::Ratios::default()
    }
}

struct Token;

#[async_trait::async_trait]
impl ServiceTokens for Token {
    async fn token_in(&self, _: &str) -> Result<String, ClientError> {
        self.token().await
    }

    async fn token(&self) -> Result<String, ClientError> {
        Ok("service".to_owned())
    }
}

/// Empty drives, or none so often.
#[derive(Default)]
struct Drives(AtomicUsize);

#[async_trait::async_trait]
impl ConfigDrives for Drives {
    fn open(&self, sealed: &str) -> Option<String> {
        sealed.strip_prefix("sealed ").map(str::to_owned)
    }

    async fn files(&self, _server: ServerId) -> Result<Vec<(String, String)>, String> {
        let less = |left: usize| left.checked_sub(1);
        let failing = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        match failing {
            Ok(_) => Err("the seal is broken".to_owned()),
            Err(_) => Ok(Vec::new()),
        }
    }
}

/// A conductor of [`Cluster::conductor`]. Dropping it kills it where it stands.
pub struct Conductor {
    /// Where agents are served.
    pub desk: axum::Router,
    worker: Worker,
    stop: CancellationToken,
}

impl Conductor {
    /// Whether an injected crash has ended it.
    pub fn crashed(&self) -> bool {
        self.worker.stopped()
    }

    /// Cancelled when it is killed.
    pub fn killed(&self) -> CancellationToken {
        self.stop.clone()
    }
}

impl Drop for Conductor {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A cloud of simulated hosts.
pub struct Cluster {
    /// The compute database.
    pub store: Store,
    /// The network service.
    pub network: Arc<Network>,
    /// The image service.
    pub images: Arc<Images>,
    /// The volume service.
    pub volumes: Arc<Volumes>,
    /// The key manager.
    pub keys: Arc<KeyManager>,
    /// The passphrase of their TPMs that requests bring, where servers have one.
    pub passphrase: Mutex<Option<&'static str>>,
    tpm: Option<&'static str>,
    /// The hosts as schedulers see them.
    pub view: Arc<View>,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// Whether they share the disks of their guests.
    pub(crate) shared: bool,
    drives: Arc<Drives>,
    pub(crate) created: Mutex<Vec<ServerId>>,
    pub(crate) bus: Bus,
    outcomes: Outcomes,
    with: Neighbours,
    pub(crate) desk: Agents,
    settings: Mutex<Settings>,
    faults: Arc<Switch>,
    workers: Mutex<BTreeMap<String, Worker>>,
    _database: Option<TestStore>,
    _folder: tempfile::TempDir,
}

impl Cluster {
    /// A running cluster on a database of this kind, with one worker named `w` and all agents up.
    pub async fn on(kind: &Kind, options: Options) -> Self {
        let database = kind.database().await;
        let mut cluster = Self::bare(database.store.clone(), Bus::new(), options).await;
        cluster._database = Some(database);
        for host in &cluster.hosts {
            cluster.start_host(host);
        }
        cluster
            .until("all hosts are up", async || {
                cluster.view.refresh().await.unwrap();
                let mut hosts = cluster.hosts.iter();
                hosts.all(|host| cluster.view.is_up(&host.name))
            })
            .await;
        cluster.start_worker("w").await;
        cluster
    }

    /// A cluster on this empty database, without any worker or agent, and with the bells of the API.
    pub async fn bare(store: Store, bus: Bus, options: Options) -> Self {
        db::migrate(&store).await.unwrap();
        let network = Arc::new(Network::default());
        let images = Arc::new(Images::default());
        let volumes = Arc::new(Volumes::default());
        let keys = Arc::new(KeyManager::default());
        let view = Arc::new(View::new(store.clone(), options.down_after));
        let client = |router| web::client::Client::in_process("a neighbour", router);
        let with = Neighbours {
            store: store.clone(),
            networks: Arc::new(Networks::new(client(network.router()))),
            images: Arc::new(clients::Images::new(client(images.router()))),
            volumes: Arc::new(clients::Volumes::new(client(volumes.router()))),
            keys: Arc::new(clients::Keys::new(client(keys.router()))),
            tokens: Arc::new(Token),
            view: Arc::clone(&view),
            questions: Arc::new(Questions::new(store.clone(), bus.clone())),
            checks: options.checks,
            newcomers: Newcomers::default(),
            patience: options.patience,
        };
        let outcomes = Outcomes::new(store.clone());
        let drives = Arc::new(Drives::default());
        let desk = Agents::new(
            with.clone(),
            bus.clone(),
            outcomes.clone(),
            Arc::clone(&drives) as Arc<dyn ConfigDrives>,
            ratios(),
            options.rules,
        );
        let folder = tempfile::tempdir().unwrap();
        let peers = Arc::default();
        let hosts = (1..=options.hosts)
            .map(|number| {
                let name = format!("host-{number}");
                Host::new(folder.path(), &name, &options, &peers)
            })
            .collect();
        Self {
            store,
            network,
            images,
            volumes,
            keys,
            passphrase: Mutex::new(Some("secret")),
            tpm: options.tpm,
            view,
            hosts,
            shared: options.shared,
            drives,
            created: Mutex::default(),
            bus,
            outcomes,
            with,
            desk,
            settings: Mutex::new(options.journal),
            faults: Arc::new(Switch(Mutex::new(Arc::new(Never)))),
            workers: Mutex::default(),
            _database: None,
            _folder: folder,
        }
    }

    /// The same on SQLite.
    pub async fn new(options: Options) -> Self {
        Self::on(&crate::kinds()[0], options).await
    }

    /// Waits until something is so.
    ///
    /// # Panics
    /// When it is not so after three minutes.
    pub async fn until(&self, what: &str, mut so: impl AsyncFnMut() -> bool) {
        let start = Instant::now();
        while !so().await {
            if start.elapsed() > PATIENCE {
                let tasks: Result<Vec<_>, sql::Error> = self.store.read(db::tasks::open).await;
                panic!("not after three minutes: {what}; tasks: {tasks:#?}");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Starts (or starts again) the agent of a host.
    pub fn start_host(&self, host: &Host) {
        host.start(self.desk.router());
    }

    /// Takes all vCPUs of a host behind the back of everybody's view, as another scheduler would.
    pub async fn take_all(&self, host: &Host) {
        let name = host.name.clone();
        let write = move |tx: &mut Tx<'_>| -> Result<(), sql::Error> {
            for node in db::hosts::nodes(tx)? {
                let left = db::placement::inventories(tx, node.uuid.0)?
                    .into_iter()
                    .find(|inventory| inventory.resource_class == "VCPU")
                    .map_or(0, |inventory| inventory.capacity() - inventory.used);
                let wanted = types::server::Resources {
                    vcpus: left,
                    ..types::server::Resources::default()
                };
                if node.host == name {
                    let other = ServerId::random();
                    let now = Timestamp::now();
                    db::placement::claim(tx, other, ("p", "u"), node.uuid, &wanted, now)?;
                }
            }
            Ok(())
        };
        self.store.write(write).await.unwrap();
    }

    /// Disables a host behind the back of everybody's view, as the API of another process would.
    pub async fn disable(&self, host: &Host) {
        let name = host.name.clone();
        let write = move |tx: &mut Tx<'_>| -> Result<(), sql::Error> {
            for service in db::hosts::services(tx)? {
                if service.host == name {
                    let now = Timestamp::now();
                    db::hosts::set_disabled(tx, service.uuid, true, None, now)?;
                }
            }
            Ok(())
        };
        self.store.write(write).await.unwrap();
    }

    /// Tells a host's agent to look for work.
    pub fn ring(&self, host: &Host) {
        self.bus.ring(Bell::Host(host.name.clone()));
    }

    /// The agent of a server's host stops, and the host is declared down; its guests go on.
    pub async fn lose_host(&self, server: ServerId) -> &Host {
        let name = self.server(server).await.host.expect("it is on a host");
        let host = self.host(&name);
        host.stop();
        self.set_forced_down(host, true).await;
        host
    }

    /// What an operator's audit finds.
    pub async fn findings(&self) -> Vec<conductor::reconcile::Finding> {
        let audit = conductor::reconcile::audit(&self.with).await.unwrap();
        assert_eq!(audit.silent, Vec::<String>::new());
        audit.found
    }

    /// Every host is up again.
    pub async fn revive(&self) {
        for host in self.hosts.iter().filter(|host| !host.runs()) {
            self.set_forced_down(host, false).await;
            self.start_host(host);
        }
    }

    /// Declares a host down, or takes that back.
    pub async fn set_forced_down(&self, host: &Host, down: bool) {
        let name = host.name.clone();
        let write = move |tx: &mut Tx<'_>| -> Result<(), sql::Error> {
            for service in db::hosts::services(tx)? {
                if service.host == name {
                    db::hosts::set_forced_down(tx, service.uuid, down, Timestamp::now())?;
                }
            }
            Ok(())
        };
        self.store.write(write).await.unwrap();
        self.view.refresh().await.unwrap();
    }

    /// Starts a journal worker; one that ran under the name is returned, still running.
    pub async fn start_worker(&self, name: &str) -> Option<Worker> {
        let settings = self.settings.lock().unwrap().clone();
        let journal = Journal::new(
            name,
            self.store.clone(),
            self.bus.clone(),
            self.outcomes.clone(),
            settings,
        );
        let journal = conductor::flows::register(journal, &self.with)
            .with_faults(Arc::clone(&self.faults) as Arc<dyn Faults>);
        let worker = journal.start().await.unwrap();
        self.workers.lock().unwrap().insert(name.to_owned(), worker)
    }

    fn journal(&self) -> Journal {
        let (store, bus) = (self.store.clone(), self.bus.clone());
        let journal = Journal::new("", store, bus, self.outcomes.clone(), Settings::default());
        conductor::flows::register(journal, &self.with)
    }

    /// The flows that workers run, with their steps.
    pub fn flows(&self) -> Vec<(&'static str, Vec<&'static str>)> {
        self.journal().steps().to_vec()
    }

    /// Whether workers can read this as the state of a flow.
    ///
    /// # Errors
    /// Why they cannot.
    pub fn readable(&self, flow: &str, state: &str) -> Result<(), String> {
        self.journal().readable(flow, state)
    }

    /// Kills a worker where it stands, as the death of its process would.
    pub fn kill_worker(&self, name: &str) {
        self.workers.lock().unwrap().remove(name);
    }

    /// Starts worker `w` again with other times.
    pub async fn change_settings(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings.lock().unwrap());
        drop(self.start_worker("w").await);
    }

    /// From now on these faults strike.
    pub fn set_faults(&self, faults: Arc<dyn Faults>) {
        *self.faults.0.lock().unwrap() = faults;
    }

    /// How many tasks stand at a step; with none, how many there are.
    pub async fn tasks_at(&self, step: Option<&str>) -> usize {
        let open: Result<Vec<_>, sql::Error> = self.store.read(db::tasks::open).await;
        let open = open.unwrap().into_iter();
        let there = open.filter(|task| step.is_none() || task.step.as_deref() == step);
        there.count()
    }

    /// Waits until no worker runs any task, not even one that was taken from it.
    pub async fn rest(&self) {
        self.until("no worker runs anything", async || {
            self.workers.lock().unwrap().values().all(Worker::rests)
        })
        .await;
    }

    /// Waits until no task is left; workers that crashed are started again.
    pub async fn idle(&self) {
        self.until("no task is left", async || {
            let crashed: Vec<String> = {
                let workers = self.workers.lock().unwrap();
                let stopped = workers.iter().filter(|(_, worker)| worker.stopped());
                stopped.map(|(name, _)| name.clone()).collect()
            };
            for name in crashed {
                self.start_worker(&name).await;
            }
            let open: Result<Vec<_>, sql::Error> = self.store.read(db::tasks::open).await;
            open.unwrap().is_empty()
        })
        .await;
    }

    /// Waits until no task is left, but not for longer than this.
    pub async fn ended_within(&self, time: Duration) {
        let _ = tokio::time::timeout(time, self.idle()).await;
    }

    /// Waits until no host owes anything.
    pub async fn paid(&self) {
        self.until("all debts are paid", async || self.debts().await.is_empty())
            .await;
    }

    /// Which hosts owe the removal of which servers.
    pub async fn debts(&self) -> Vec<(types::HostName, ServerId)> {
        let debts: Result<Vec<_>, sql::Error> = self.store.read(db::work::debts).await;
        let debts = debts.unwrap().into_iter();
        debts.map(|(host, server, _)| (host, server)).collect()
    }

    /// A flavor of one CPU, 512 MiB and 1 GiB.
    pub fn flavor() -> Flavor {
        Flavor {
            id: "1".into(),
            name: "small".to_owned(),
            memory_mb: 512,
            vcpus: 1,
            root_gb: 1,
            ephemeral_gb: 0,
            swap_mb: 0,
            rxtx_factor: 1.0,
            extra_specs: BTreeMap::new(),
        }
    }

    /// Accepts a server on the network with a volume of its own and one that is made for it, as the API would.
    pub async fn create(&self) -> ServerId {
        let with_tpm = |server: &mut Instance| {
            if let Some(security) = self.tpm {
                Self::with_tpm(server, security);
            }
        };
        self.create_with(with_tpm).await
    }

    /// The same, changed before it is accepted.
    pub async fn create_with(&self, change: impl FnOnce(&mut Instance)) -> ServerId {
        let mut instance = new_instance();
        change(&mut instance);
        let id = instance.id;
        self.created.lock().unwrap().push(id);
        let made = BlockDevice {
            volume_size: Some(1),
            delete_on_termination: true,
            ..BlockDevice::new(id, Source::Blank, Destination::Volume)
        };
        let devices = [given_volume(id, &self.volumes.make()), made];
        let mut known = ToBePlaced {
            server: instance.clone(),
            devices: devices.to_vec(),
            ties: Ties::default(),
        };
        let hands = self.hands_passphrase();
        let write = move |tx: &mut Tx<'_>| {
            for device in &devices {
                db::block_devices::insert(tx, device, Timestamp::now())?;
            }
            let accepted = accept::create(tx, &instance, BY)?;
            hands(tx, &instance)?;
            Ok(accepted)
        };
        let accepted: Result<_, sql::Error> = self.store.write(write).await;
        let (number, task) = accepted.unwrap();
        (known.server.number, known.server.task_id) = (number, Some(task.id));
        if !self.hand_over(task, known) {
            self.bus.ring(Bell::Tasks);
        }
        id
    }

    /// Hands a new task over to a worker, as an API does that has one in its process.
    fn hand_over(&self, task: db::tasks::Task, server: ToBePlaced) -> bool {
        let workers = self.workers.lock().unwrap();
        let worker = workers.values().next();
        let known = &self.with.newcomers;
        worker.is_some_and(|worker| known.hand_over(&worker.intake(), task, server))
    }

    /// Accepts a server that boots from a volume of its owner's.
    pub async fn create_from_volume(&self) -> ServerId {
        let mut instance = new_instance();
        instance.kept.boot_volume = Some(db::instances::BootVolume::default());
        let id = instance.id;
        self.created.lock().unwrap().push(id);
        let root = BlockDevice {
            boot_index: Some(0),
            device_name: Some("/dev/vda".to_owned()),
            ..given_volume(id, &self.volumes.make())
        };
        let write = move |tx: &mut Tx<'_>| {
            db::block_devices::insert(tx, &root, Timestamp::now())?;
            accept::create(tx, &instance, BY)
        };
        let accepted: Result<_, sql::Error> = self.store.write(write).await;
        accepted.unwrap();
        self.bus.ring(Bell::Tasks);
        id
    }

    /// Accepts a server whose image says that there is an agent in the guest.
    pub async fn create_with_agent(&self) -> ServerId {
        let image = serde_json::json!({ "id": ServerId::random(), "name": "i", "disk_format": "raw",
            "container_format": "bare", "size": 1, "min_disk": 0, "min_ram": 0, "sha512": null,
            "properties": { "hw_qemu_guest_agent": "yes" } });
        let image = serde_json::from_value(image).unwrap();
        self.create_with(|server| server.image = Some(image)).await
    }

    /// A server group, as the API would store it.
    pub async fn make_group(&self, policy: &str) -> GroupId {
        let group = db::server_groups::Group {
            id: GroupId::random(),
            project_id: PROJECT.to_owned(),
            user_id: USER.to_owned(),
            name: policy.to_owned(),
            policy: policy.to_owned(),
            max_server_per_host: None,
        };
        let id = group.id;
        let write = move |tx: &mut Tx<'_>| db::server_groups::insert(tx, &group, Timestamp::now());
        let written: Result<(), sql::Error> = self.store.write(write).await;
        written.unwrap();
        id
    }

    /// Accepts a server without volumes.
    pub async fn create_local(&self) -> ServerId {
        let instance = new_instance();
        let id = instance.id;
        self.created.lock().unwrap().push(id);
        let write = move |tx: &mut Tx<'_>| accept::create(tx, &instance, BY).map(drop);
        let accepted: Result<(), sql::Error> = self.store.write(write).await;
        accepted.unwrap();
        self.bus.ring(Bell::Tasks);
        id
    }

    /// Accepts a server that joins a group.
    pub async fn create_in(&self, group: GroupId) -> ServerId {
        let instance = new_instance();
        let id = instance.id;
        self.created.lock().unwrap().push(id);
        let write = move |tx: &mut Tx<'_>| {
            accept::create(tx, &instance, BY)?;
            db::server_groups::add_member(tx, group, id)
        };
        let accepted: Result<(), sql::Error> = self.store.write(write).await;
        accepted.unwrap();
        self.bus.ring(Bell::Tasks);
        id
    }

    /// The files of config drives cannot be made the next so many times.
    pub fn fail_drives(&self, times: usize) {
        self.drives.0.store(times, Ordering::SeqCst);
    }

    /// One conductor of several: a worker under this name, a desk for agents, a view, on a line to the database and a bus
    /// of its own.
    ///
    /// # Errors
    /// The database's.
    pub async fn conductor(
        &self,
        name: &str,
        store: Store,
        bus: Bus,
        down_after: Duration,
        faults: Arc<dyn Faults>,
    ) -> Result<Conductor, sql::Error> {
        let view = Arc::new(View::new(store.clone(), down_after));
        let with = Neighbours {
            store: store.clone(),
            view,
            questions: Arc::new(Questions::new(store.clone(), bus.clone())),
            newcomers: Newcomers::default(),
            ..self.with.clone()
        };
        let outcomes = Outcomes::shared(store.clone(), bus.clone());
        let drives = Arc::clone(&self.drives) as Arc<dyn ConfigDrives>;
        let desk = Agents::new(
            with.clone(),
            bus.clone(),
            outcomes.clone(),
            drives,
            ratios(),
            conductor::guests::Rules::default(),
        );
        let settings = self.settings.lock().unwrap().clone();
        let journal = Journal::new(name, store.clone(), bus.clone(), outcomes, settings);
        let journal = conductor::flows::register(journal, &with).with_faults(faults);
        let worker = journal.start().await?;
        let stop = CancellationToken::new();
        let look = Duration::from_millis(500);
        tokio::spawn(conductor::bells::watch(store, bus, look, stop.clone()));
        Ok(Conductor {
            desk: desk.router(),
            worker,
            stop,
        })
    }

    /// Accepts the deletion of a server; `false` when there is none any more.
    pub async fn delete(&self, server: ServerId) -> bool {
        let write = move |tx: &mut Tx<'_>| accept::delete(tx, server, BY, Timestamp::now());
        let accepted: Result<bool, sql::Error> = self.store.write(write).await;
        self.bus.ring(Bell::Tasks);
        accepted.unwrap()
    }

    /// Accepts a start.
    pub async fn start(&self, server: ServerId) {
        self.act(server, accept::START, serde_json::json!({})).await;
    }

    /// Accepts a stop.
    pub async fn stop(&self, server: ServerId) {
        self.act(server, accept::STOP, serde_json::json!({})).await;
    }

    /// Accepts a reboot.
    pub async fn reboot(&self, server: ServerId, hard: bool) {
        let how = serde_json::json!({ "hard": hard });
        self.act(server, accept::REBOOT, how).await;
    }

    /// The first port of a server, and the server.
    pub fn port_of(&self, server: ServerId) -> (String, String) {
        let ports = self.network.ports();
        let mut of_server = ports
            .into_iter()
            .filter(|(_, device)| *device == server.to_string());
        of_server.next().expect("the server has a port")
    }

    /// What a flow's state begins with, beside what its story says: snapshots need an image to fill.
    pub fn first_state(&self, flow: &str, server: ServerId) -> serde_json::Value {
        if flow == accept::ATTACH_INTERFACE {
            let wanted = WantedInterface::Network {
                network_id: NETWORK.to_owned(),
                fixed_ip: None,
                tag: None,
            };
            return serde_json::json!({ "wanted": wanted });
        }
        if flow == accept::DETACH_INTERFACE {
            let (port, _) = self.port_of(server);
            return serde_json::json!({ "port": port });
        }
        if flow == accept::CHANGE_PASSWORD {
            return serde_json::json!({ "password": "sealed secret" });
        }
        if flow == accept::ADD_FIXED_IP {
            return serde_json::json!({ "network": NETWORK });
        }
        if flow == accept::REMOVE_FIXED_IP {
            let (port, _) = self.port_of(server);
            return serde_json::json!({ "address": self.network.addresses(&port)[0] });
        }
        if [accept::EVACUATE, accept::LIVE_MIGRATION].contains(&flow) {
            return serde_json::json!({ "migration": types::MigrationId::random() });
        }
        if flow == accept::SHELVE {
            let properties = serde_json::json!({ "image_type": "shelved", "name": "server-shelved",
                "disk_format": "qcow2", "container_format": "bare" });
            return serde_json::json!({ "image": self.images.make(&properties), "offload": true });
        }
        if flow == accept::SHELVE_OFFLOAD {
            return serde_json::json!({ "offload": true });
        }
        if flow == accept::ATTACH_VOLUME {
            return serde_json::json!({ "volume": self.volumes.make() });
        }
        if flow == accept::SNAPSHOT_VOLUMES {
            let properties = serde_json::json!({ "name": "copy" });
            return serde_json::json!({ "image": self.images.make(&properties) });
        }
        if [
            accept::DETACH_VOLUME,
            accept::EXTEND_VOLUME,
            accept::SWAP_VOLUME,
        ]
        .contains(&flow)
        {
            // One that was made for the server goes with it; the other one is its owner's.
            let (all, made) = (self.volumes.attachments(), self.volumes.made());
            let its = all.iter().find(|(volume, holder, _)| {
                *holder == server.to_string() && !made.iter().any(|(one, _)| one == volume)
            });
            let (volume, _, _) = its.expect("the server has a volume");
            return match flow {
                accept::SWAP_VOLUME => {
                    // What a volume service makes for its move.
                    let moves =
                        serde_json::json!({ "migration_status": format!("target:{volume}") });
                    serde_json::json!({ "old": volume, "new": self.volumes.make_with(&moves) })
                }
                _ => serde_json::json!({ "volume": volume }),
            };
        }
        if ![accept::SNAPSHOT, accept::BACKUP].contains(&flow) {
            return serde_json::json!({});
        }
        let properties = serde_json::json!({
            "instance_uuid": server.to_string(), "image_type": "backup", "backup_type": "daily",
            "owner": PROJECT,
        });
        let mut state = serde_json::json!({ "image": self.images.make(&properties) });
        if flow == accept::BACKUP {
            state["rotation"] = serde_json::json!({ "kind": "daily", "keep": 1, "owner": PROJECT });
        }
        state
    }

    /// Accepts an action whose flow begins with this state.
    pub async fn act(&self, server: ServerId, flow: &'static str, state: serde_json::Value) {
        let accepted = self.try_act(server, flow, state, |_| true).await;
        assert_eq!(accepted, Accepted::Yes);
    }

    /// Accepts an action if the server, as it is at that moment, is `fit` for it.
    pub async fn try_act(
        &self,
        server: ServerId,
        flow: &'static str,
        state: serde_json::Value,
        fit: impl Fn(&Instance) -> bool + Send + 'static,
    ) -> Accepted {
        let hard = state["hard"] == true;
        let hands = self.hands_passphrase();
        let write = move |tx: &mut Tx<'_>| -> Result<Accepted, sql::Error> {
            let Some(instance) = db::instances::get(tx, server)?.filter(|one| fit(one)) else {
                return Ok(Accepted::Changed);
            };
            let start = accept::Start {
                flow,
                state: state.clone(),
                action: flow,
                by: BY,
            };
            let now = Timestamp::now();
            let accepted = accept::action(tx, &instance, shown_while(flow, hard), &start, now)?;
            if flow == accept::ATTACH_VOLUME && accepted == Accepted::Yes {
                let new = given_volume(server, state["volume"].as_str().unwrap());
                db::block_devices::insert(tx, &new, now)?;
            }
            if accepted == Accepted::Yes {
                hands(tx, &instance)?;
            }
            Ok(accepted)
        };
        let accepted = self.store.write(write).await.unwrap();
        self.bus.ring(Bell::Tasks);
        accepted
    }

    /// Accepts a resize to twice the flavor, or (`cold`) a migration with the same; `state` is what the flow begins with.
    pub async fn resize(&self, server: ServerId, cold: bool, state: serde_json::Value) {
        let old = self.server(server).await.flavor;
        let flavor = if cold { old } else { Self::twice(&old) };
        self.resize_to(server, flavor, state).await;
    }

    /// A flavor of twice the size.
    pub fn twice(flavor: &Flavor) -> Flavor {
        Flavor {
            id: format!("{}-twice", flavor.id).into(),
            name: format!("{} twice", flavor.name),
            memory_mb: flavor.memory_mb * 2,
            vcpus: flavor.vcpus * 2,
            root_gb: flavor.root_gb * 2,
            ..flavor.clone()
        }
    }

    /// Accepts a resize, as the API would.
    pub async fn resize_to(&self, server: ServerId, flavor: Flavor, state: serde_json::Value) {
        let accepted = self.try_resize_to(server, flavor, state, |_| true).await;
        assert_eq!(accepted, Accepted::Yes);
    }

    /// Accepts a resize if the server, as it is at that moment, is `fit` for it.
    pub async fn try_resize_to(
        &self,
        server: ServerId,
        flavor: Flavor,
        state: serde_json::Value,
        fit: impl Fn(&Instance) -> bool + Send + 'static,
    ) -> Accepted {
        let hands = self.hands_passphrase();
        let write = move |tx: &mut Tx<'_>| -> Result<Accepted, sql::Error> {
            let Some(instance) = db::instances::get(tx, server)?.filter(|one| fit(one)) else {
                return Ok(Accepted::Changed);
            };
            let start = accept::Start {
                flow: accept::RESIZE,
                state: state.clone(),
                action: "resize",
                by: BY,
            };
            let (now, shown) = (Timestamp::now(), shown_while(accept::RESIZE, false));
            let accepted = accept::action(tx, &instance, shown, &start, now)?;
            if accepted == Accepted::Yes {
                db::moves::accept(tx, &instance, &flavor, USER, now)?;
                hands(tx, &instance)?;
            }
            Ok(accepted)
        };
        let accepted = self.store.write(write).await.unwrap();
        self.bus.ring(Bell::Tasks);
        accepted
    }

    /// Confirms what has waited for so long; returns how many.
    pub async fn confirm_due(&self, after: Duration) -> usize {
        conductor::confirmations::confirm(&self.store, &self.bus, after)
            .await
            .unwrap()
    }

    /// Accepts a soft deletion; where that would have to wait, a deletion for good.
    pub async fn soft_delete(&self, server: ServerId) {
        match self.try_soft_delete(server).await {
            Accepted::Busy => assert!(self.delete(server).await),
            accepted => assert_eq!(accepted, Accepted::Yes),
        }
    }

    /// Asks for a soft deletion of a server that there is.
    pub async fn try_soft_delete(&self, server: ServerId) -> Accepted {
        let write = move |tx: &mut Tx<'_>| accept::soft_delete(tx, server, BY, Timestamp::now());
        let accepted = self.store.write(write).await.unwrap();
        self.bus.ring(Bell::Tasks);
        accepted.unwrap()
    }

    /// Deletes what was soft-deleted so long ago; returns how many.
    pub async fn reclaim(&self, after: Duration) -> usize {
        conductor::reclaim::reclaim(&self.store, &self.bus, after)
            .await
            .unwrap()
    }

    /// What flows need from outside.
    pub fn neighbours(&self) -> &Neighbours {
        &self.with
    }

    /// Mends what should not be as it is; returns how much that was.
    pub async fn reconcile(&self) -> usize {
        let mending = conductor::reconcile::reconcile(&self.with, &self.bus);
        mending.await.unwrap()
    }

    /// Mends what an operator's audit finds; returns how much that was.
    pub async fn mend(&self) -> usize {
        self.mend_these(&self.findings().await).await
    }

    /// Mends what was found; returns how much of it was still so.
    pub async fn mend_these(&self, found: &[conductor::reconcile::Finding]) -> usize {
        let mending = conductor::reconcile::mend(&self.with, &self.bus, found);
        mending.await.unwrap()
    }

    /// Has servers follow their ports and addresses, as a conductor does when the network service has changed.
    pub async fn renew(
        &self,
        addresses: &mut conductor::addresses::Addresses,
    ) -> Result<usize, conductor::addresses::Error> {
        addresses.renew(&self.with, &self.bus).await
    }

    /// Says that there are new tasks, as whoever has accepted some does.
    pub fn ring_tasks(&self) {
        self.bus.ring(Bell::Tasks);
    }

    /// Tells guests that their volumes have grown, where that waited; returns how many.
    pub async fn tell_grown(&self) -> usize {
        conductor::grown::tell(&self.store, &self.bus)
            .await
            .unwrap()
    }

    /// Takes servers from their hosts that were shelved so long ago; returns how many.
    pub async fn offload(&self, after: Duration) -> usize {
        conductor::offload::offload(&self.store, &self.bus, after)
            .await
            .unwrap()
    }

    /// A server, gone ones included.
    pub async fn server(&self, server: ServerId) -> Instance {
        let found: Result<_, sql::Error> = self
            .store
            .read(move |tx| db::instances::find(tx, server))
            .await;
        found.unwrap().expect("the server was made")
    }

    /// The host of this name.
    pub fn host(&self, name: &types::HostName) -> &Host {
        self.hosts
            .iter()
            .find(|host| host.name == *name)
            .expect("a host of the cluster")
    }
}

/// A volume that exists, as a disk of a server.
fn given_volume(server: ServerId, volume: &str) -> BlockDevice {
    BlockDevice {
        volume_id: Some(volume.to_owned()),
        ..BlockDevice::new(server, Source::Volume, Destination::Volume)
    }
}
