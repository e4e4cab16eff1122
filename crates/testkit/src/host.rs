//! One simulated host: a hypervisor that stays, and an agent that can be stopped and started.

use compute::peers::{Neighbourhood, Peers};
use compute::{Agent, Ledger, Settings};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use types::{HostName, NodeId, ServerId};
use virt::Hypervisor;
use virt::sim::{Sim, SimConfig};

/// A simulated host.
pub struct Host {
    /// Its name.
    pub name: HostName,
    /// Its hypervisor, with [`Sim::controls`] to disturb it.
    pub sim: Arc<Sim>,
    node: NodeId,
    beat: Duration,
    live_limit: Option<compute::LiveLimit>,
    ledger: PathBuf,
    folder: PathBuf,
    peers: Arc<Neighbourhood>,
    agent: Mutex<Option<JoinHandle<()>>>,
}

impl Host {
    pub(crate) fn new(
        folder: &Path,
        name: &str,
        options: &crate::Options,
        peers: &Arc<Neighbourhood>,
    ) -> Self {
        let mut config = SimConfig {
            vcpus: options.size.0,
            memory_mib: options.size.1,
            disk_gib: options.size.2,
            live: options.live,
            storage: options.shared.then(|| {
                let storage = folder.join("storage");
                std::fs::create_dir_all(&storage).unwrap();
                storage
            }),
            ..SimConfig::large(folder.join(name), name)
        };
        if let Some((_, version, features)) = options.unlike.iter().find(|one| one.0 == name) {
            config.version = *version;
            config.cpu_features = features.iter().map(|one| (*one).to_owned()).collect();
        }
        let sim = Sim::open(config).unwrap();
        peers.join(&name.into(), Arc::clone(&sim) as Arc<dyn Hypervisor>);
        Self {
            name: name.into(),
            sim,
            peers: Arc::clone(peers),
            node: NodeId::random(),
            beat: options.beat,
            live_limit: options.live_limit,
            ledger: folder.join(format!("{name}.ledger")),
            folder: folder.join(name),
            agent: Mutex::default(),
        }
    }

    /// Starts the agent anew, as a process that finds its ledger.
    pub fn start(&self, desk: axum::Router) {
        self.stop();
        let settings = Settings {
            host: self.name.clone(),
            node: self.node,
            host_ip: "127.0.0.1".to_owned(),
            beat: self.beat,
            guests: None,
            strays: Duration::ZERO,
            live_limit: self.live_limit,
            unused_images: None,
        };
        let agent = Agent::new(
            settings,
            Arc::clone(&self.sim) as Arc<dyn Hypervisor>,
            None,
            Ledger::open(&self.ledger).unwrap(),
            web::client::Client::in_process("the conductor", desk),
            Arc::clone(&self.peers) as Arc<dyn Peers>,
        );
        let running = tokio::spawn(async move {
            agent.introduce().await;
            agent.run(CancellationToken::new()).await;
        });
        *self.agent.lock().unwrap() = Some(running);
    }

    /// Stops the agent; its guests stay.
    pub fn stop(&self) {
        if let Some(agent) = self.agent.lock().unwrap().take() {
            agent.abort();
        }
    }

    /// Where the hypervisor keeps its guests.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the agent runs.
    pub fn runs(&self) -> bool {
        self.agent.lock().unwrap().is_some()
    }

    /// The guests on the host, with their power states.
    pub async fn guests(&self) -> Vec<(ServerId, types::PowerState)> {
        let guests = self.sim.guests().await.unwrap();
        guests
            .into_iter()
            .map(|guest| (guest.id, guest.power))
            .collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
    }
}
