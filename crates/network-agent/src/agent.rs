//! The agent's loop: ask what is wanted, do it, tell.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use types::network_wanted::{
    AgentKind, AgentStatus, HostReport, HostWanted, LOOKS, Look, Looked, ObjectStatus, Status,
};

use crate::config::Config;
use crate::executor::{Executor, Outcome};
use crate::machine;
use crate::metadata::{BadUrl, Proxies};
use crate::source::WantedSource;

/// The network agent of a host.
#[derive(Debug)]
pub struct Agent;

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Bad configuration.
    #[error(transparent)]
    Config(#[from] BadUrl),
    /// The working thread died.
    #[error("the network agent's worker ended: {0}")]
    Worker(#[from] tokio::task::JoinError),
}

/// First and longest pause after a failure.
pub(crate) const RETRY: (Duration, Duration) =
    (Duration::from_millis(250), Duration::from_secs(15));

/// For how long the service is told what a look has found, while it does not take it: nobody waits for it longer.
const TOLD: Duration = Duration::from_secs(20);

impl Agent {
    /// Runs until `stop`. What was realised stays: guests keep their network while no agent runs,
    /// and the next one goes on from what it finds.
    ///
    /// # Errors
    /// Only when the configuration is unusable or its worker panicked; failures on the machine and
    /// of the network service are retried and reported.
    pub async fn run(
        config: Config,
        source: Arc<dyn WantedSource>,
        stop: CancellationToken,
    ) -> Result<(), RunError> {
        let proxies = Proxies::new(&config)?;
        let (figures, shown) = watch::channel(BTreeMap::new());
        let beats = heartbeat(Arc::clone(&source), config.heartbeat, shown, stop.clone());
        let heartbeat = tokio::spawn(beats);
        let worker = Worker {
            resync: config.resync,
            machine: machine::Machine::new(config.root_netns.clone(), config.command_timeout),
            executor: Some(Executor::new(config)),
            proxies,
            source,
            known: HostWanted::default(),
            looked: 0,
            figures,
        };
        let result = worker.run(&stop).await;
        heartbeat.abort();
        result
    }
}

/// Tells the service that the agents are alive, however long the other work takes.
pub(crate) async fn heartbeat(
    source: Arc<dyn WantedSource>,
    every: Duration,
    figures: watch::Receiver<BTreeMap<String, u64>>,
    stop: CancellationToken,
) {
    loop {
        let pause = tokio::time::sleep(every);
        if stop.run_until_cancelled(pause).await.is_none() {
            return;
        }
        let report = HostReport {
            partial: true,
            agents: agents(&figures.borrow()),
            ..HostReport::default()
        };
        if let Err(error) = source.report(report).await {
            tracing::debug!(%error, "heartbeat was not taken");
        }
    }
}

pub(crate) fn agents(figures: &BTreeMap<String, u64>) -> Vec<AgentStatus> {
    let mut figures = figures.clone();
    figures.insert(LOOKS.to_owned(), 1);
    AgentKind::ALL
        .map(|kind| AgentStatus {
            kind,
            configurations: figures.clone(),
        })
        .into()
}

/// Figures about a wanted state for the agents' `configurations`.
pub(crate) fn figures(wanted: &HostWanted) -> BTreeMap<String, u64> {
    let counts = [
        ("networks", wanted.networks.len()),
        ("ports", wanted.ports.len()),
        ("routers", wanted.routers.len()),
        (
            "floating_ips",
            wanted
                .routers
                .iter()
                .map(|router| router.floating_ips.len())
                .sum(),
        ),
    ];
    counts
        .map(|(name, count)| (name.to_owned(), u64::try_from(count).unwrap_or(u64::MAX)))
        .into()
}

struct Worker {
    resync: Duration,
    machine: machine::Machine,
    /// Away while a blocking task works with it.
    executor: Option<Executor>,
    proxies: Proxies,
    source: Arc<dyn WantedSource>,
    known: HostWanted,
    /// The last look that the service has been told of.
    looked: u64,
    /// What heartbeats show.
    figures: watch::Sender<BTreeMap<String, u64>>,
}

impl Worker {
    async fn run(mut self, stop: &CancellationToken) -> Result<(), RunError> {
        let mut pause = RETRY.0;
        let mut look_again = Instant::now() + self.resync;
        // The service's answer may come while the last state is still being retried.
        let mut question = self.ask();
        loop {
            let news = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(look_again), if self.known.revision > 0 => None,
                answer = &mut question => Some(answer?),
            };
            let mut again = self.resync;
            let (changes, look) = match news {
                Some(Ok(None)) => {
                    question = self.ask();
                    continue;
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "cannot learn the wanted network state");
                    // A service that was replaced may count anew; ask for everything.
                    if stop
                        .run_until_cancelled(tokio::time::sleep(pause))
                        .await
                        .is_none()
                    {
                        return Ok(());
                    }
                    pause = (pause * 2).min(Duration::from_secs(2));
                    question = self.ask();
                    continue;
                }
                // The same again, from a service that does not wait.
                Some(Ok(Some(news))) if news == self.known => {
                    tokio::time::sleep(RETRY.0).await;
                    question = self.ask();
                    continue;
                }
                Some(Ok(Some(news))) => {
                    let look = news.look.filter(|look| look.number != self.looked);
                    // Nothing changes only because somebody looks.
                    let changes = news.look.is_none() || !news.changes_nothing();
                    self.known.update(news);
                    question = self.ask();
                    if changes {
                        pause = RETRY.0;
                    }
                    (changes, look)
                }
                None => {
                    self.forget();
                    (true, None)
                }
            };
            let mut good = match changes {
                true => Some(self.apply().await?),
                false => None,
            };
            // What was new is no difference.
            if let Some(look) = look
                && self.look(look).await?
            {
                good = Some(self.apply().await?);
            }
            match good {
                None => continue,
                Some(true) => {}
                Some(false) => {
                    again = (pause * 4).min(RETRY.1);
                    pause = (pause * 2).min(RETRY.1);
                }
            }
            look_again = Instant::now() + again;
        }
    }

    fn ask(
        &self,
    ) -> tokio::task::JoinHandle<Result<Option<HostWanted>, crate::source::SourceError>> {
        let (source, since) = (Arc::clone(&self.source), self.known.revision);
        tokio::spawn(async move { source.wanted(since).await })
    }

    fn forget(&mut self) {
        if let Some(executor) = &mut self.executor {
            executor.forget();
        }
    }

    /// Tells what would have to be done; true if it shall be done.
    async fn look(&mut self, look: Look) -> Result<bool, RunError> {
        let Some(mut executor) = self.executor.take() else {
            return Ok(false);
        };
        let wanted = std::mem::take(&mut self.known);
        let worked = tokio::task::spawn_blocking(move || {
            let found = executor.look(&wanted);
            (executor, wanted, found)
        });
        let (executor, wanted, found) = worked.await?;
        self.executor = Some(executor);
        self.known = wanted;
        let differences =
            found.unwrap_or_else(|error| vec![format!("the machine cannot be looked at: {error}")]);
        let report = HostReport {
            revision: self.known.revision,
            partial: true,
            look: Some(Looked {
                number: look.number,
                differences,
            }),
            ..HostReport::default()
        };
        // Nobody asks again before something else changes.
        let telling = async {
            while let Err(error) = self.source.report(report.clone()).await {
                tracing::warn!(%error, "the network service did not take what a look has found");
                tokio::time::sleep(RETRY.0 * 4).await;
            }
        };
        if tokio::time::timeout(TOLD, telling).await.is_ok() {
            self.looked = look.number;
        }
        if look.mend {
            self.forget();
        }
        Ok(look.mend)
    }

    /// Realises the known state and reports; false if something is to be tried again.
    async fn apply(&mut self) -> Result<bool, RunError> {
        let Some(mut executor) = self.executor.take() else {
            return Ok(false);
        };
        let wanted = std::mem::take(&mut self.known);
        let started = Instant::now();
        let worked = tokio::task::spawn_blocking(move || {
            let result = executor.apply(&wanted);
            (executor, wanted, result)
        });
        let (executor, wanted, result) = worked.await?;
        self.executor = Some(executor);
        self.known = wanted;
        self.figures.send_replace(figures(&self.known));
        let took = started.elapsed();
        let (report, good) = match result {
            Ok(outcome) => {
                tracing::debug!(
                    revision = self.known.revision,
                    ?took,
                    failed = outcome.failed,
                    "applied"
                );
                self.finish(outcome)
            }
            Err(error) => {
                tracing::error!(%error, revision = self.known.revision, "cannot realise the network state");
                self.forget();
                (all_failed(&self.known, &error.to_string()), false)
            }
        };
        let reported = self.source.report(report).await;
        if let Err(error) = &reported {
            tracing::warn!(%error, "the network service did not take the report");
        }
        Ok(good && reported.is_ok())
    }

    fn finish(&mut self, mut outcome: Outcome) -> (HostReport, bool) {
        for (object, error) in self
            .proxies
            .update(&self.machine, &outcome.metadata, &self.known)
        {
            tracing::warn!(%object, %error, "cannot start a metadata proxy");
            outcome.failed = true;
        }
        if outcome.failed {
            self.forget();
        }
        let report = HostReport {
            revision: self.known.revision,
            partial: false,
            ports: outcome.ports,
            routers: outcome.routers,
            floating_ips: outcome.floating_ips,
            agents: agents(&figures(&self.known)),
            look: None,
        };
        (report, !outcome.failed)
    }
}

fn all_failed(wanted: &HostWanted, why: &str) -> HostReport {
    let failed = |id| ObjectStatus {
        id,
        status: Status::Error,
        detail: Some(why.to_owned()),
    };
    HostReport {
        revision: wanted.revision,
        partial: true,
        ports: wanted.ports.iter().map(|port| failed(port.id)).collect(),
        routers: wanted
            .routers
            .iter()
            .map(|router| failed(router.id))
            .collect(),
        floating_ips: Vec::new(),
        agents: agents(&figures(wanted)),
        look: None,
    }
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
