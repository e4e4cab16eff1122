//! The agent's loops: work, heartbeats, events of guests.

mod anew;
mod asked;
mod bases;
mod handed;
mod live;
mod repeats;
#[cfg(test)]
mod scripted;
mod told;

pub use live::{LiveAction, LiveLimit};

use crate::digests::Seen;
use crate::images::{Failure, ImageCache, upload};
use crate::ledger::Ledger;
use crate::passage::ToPeer;
use crate::peers::{self, Peers};
use futures_util::FutureExt;
use handed::{Handed, Place};
use http::{HeaderMap, Method};
use repeats::{Admitted, Repeats};
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tempfile::TempPath;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use types::agent::{
    FailureKind, GuestImage, GuestPlan, Poll, Quiesce, SERVICE_VERSION, Verb, Work, WorkOutcome,
    WorkReport,
};
use types::{HostName, ImageId, NodeId, PowerState, ServerId, Timestamp, Trace};
use virt::libvirt::image::BaseImage;
use virt::{
    BootFile, Disk, GuestInfo, GuestSpec, Hypervisor, HypervisorError, Luggage, Passage, Power,
};
use web::client::{Client, ClientError};

/// How long a poll is held open by a conductor that has no work.
const POLL: Duration = Duration::from_secs(20);
/// How long a conductor may take for anything else. One that takes longer stands still, and the next one is asked.
const ANSWER: Duration = Duration::from_secs(5);

/// Nova's `shutdown_retry_interval`.
const PRESS_AGAIN: Duration = Duration::from_secs(10);

/// Who the agent is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The host's name.
    pub host: HostName,
    /// The node's lasting id.
    pub node: NodeId,
    /// The address shown for the host.
    pub host_ip: String,
    /// How often it says that it lives.
    pub beat: Duration,
    /// How often all guests are named, not only those that changed; none is only at the start and when events were missed.
    pub guests: Option<Duration>,
    /// How old files without a guest must be to count as left over.
    pub strays: Duration,
    /// When a guest on its way to another host is not waited for any more; none waits for ever.
    pub live_limit: Option<LiveLimit>,
    /// How often base images are looked at, and for how long one that no guest needs is kept; none keeps all.
    pub unused_images: Option<(Duration, Duration)>,
}

/// A place in a server's queue; ready when it is its turn.
type Turn = Pin<Box<dyn Future<Output = tokio::sync::OwnedMutexGuard<()>> + Send>>;

/// The agent of one host.
pub struct Agent {
    pub(crate) settings: Settings,
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
    images: Option<ImageCache>,
    /// Images that were looked at for guests that need no files.
    seen: Seen,
    ledger: Ledger,
    repeats: Repeats,
    conductor: Client,
    peers: Arc<dyn Peers>,
    pub(crate) incarnation: u64,
    /// Whether a conductor has heard of all guests.
    pub(crate) listed: AtomicBool,
    /// Rings after each heartbeat.
    pub(crate) beaten: tokio::sync::watch::Sender<()>,
    locks: Mutex<HashMap<ServerId, Weak<tokio::sync::Mutex<()>>>>,
    handed: Arc<Handed>,
}

impl Agent {
    /// An agent. `images` is needed by hypervisors that want image files; `peers` are the ways to other hosts, from
    /// which guests come here.
    pub fn new(
        settings: Settings,
        hypervisor: Arc<dyn Hypervisor>,
        images: Option<ImageCache>,
        ledger: Ledger,
        conductor: Client,
        peers: Arc<dyn Peers>,
    ) -> Arc<Self> {
        let incarnation = u64::try_from(types::Timestamp::now().micros()).unwrap_or(1);
        Arc::new(Self {
            settings,
            hypervisor,
            images,
            seen: Seen::default(),
            ledger,
            repeats: Repeats::default(),
            conductor,
            peers,
            incarnation,
            listed: AtomicBool::new(false),
            beaten: tokio::sync::watch::Sender::new(()),
            locks: Mutex::default(),
            handed: Arc::default(),
        })
    }

    /// Works until `stop`. Guests go on when the agent stops.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        self.hypervisor.recover().await;
        let work = Arc::clone(&self).work_loop();
        let beats = Arc::clone(&self).beat_loop();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = work => {}
            () = beats => {}
            () = self.image_loop() => {}
        }
    }

    pub(crate) async fn post<T: Serialize>(
        &self,
        what: &str,
        message: &T,
    ) -> Result<Value, ClientError> {
        self.post_within(ANSWER, what, message).await
    }

    async fn post_within<T: Serialize>(
        &self,
        limit: Duration,
        what: &str,
        message: &T,
    ) -> Result<Value, ClientError> {
        let service = "the conductor";
        let body = serde_json::to_value(message).map_err(|error| ClientError::Unexpected {
            service,
            reason: error.to_string(),
        })?;
        let path = format!("/agent/{}/{what}", self.settings.host);
        let answer = self
            .conductor
            .call_within(limit, Method::POST, &path, HeaderMap::new(), Some(&body))
            .await?;
        if answer.status.is_success() {
            return Ok(answer.json());
        }
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        Err(ClientError::Unexpected {
            service,
            reason: format!("{what}: {} {text}", answer.status),
        })
    }

    /// Asks for work, and waits for some. A conductor that stands still is left as soon as a heartbeat has found that out.
    async fn poll(&self, incarnation: u64) -> Result<Value, ClientError> {
        let ask = Poll {
            incarnation,
            wait_ms: u64::try_from(POLL.as_millis()).unwrap_or(u64::MAX),
            version: SERVICE_VERSION,
        };
        let place = self.conductor.place();
        let mut beats = self.beaten.subscribe();
        let left =
            async { while self.conductor.place() == place && beats.changed().await.is_ok() {} };
        tokio::select! {
            polled = self.post_within(POLL + ANSWER, "poll", &ask) => polled,
            () = left => Err(ClientError::Unreachable {
                service: "the conductor",
                reason: "another one answers instead".to_owned(),
            }),
        }
    }

    async fn work_loop(self: Arc<Self>) {
        let mut pause = Duration::from_millis(50);
        // Under a new number the conductor hands over everything again: what a lost answer held is not lost.
        let mut incarnation = self.incarnation;
        loop {
            let polled = self.poll(incarnation).await;
            let parsed = polled.and_then(|answer| {
                told::read(answer, &self.settings.host).map_err(|error| ClientError::Unexpected {
                    service: "the conductor",
                    reason: error.to_string(),
                })
            });
            match parsed {
                Ok(told) => {
                    pause = Duration::from_millis(50);
                    for refusal in told.refused {
                        tokio::spawn(Arc::clone(&self).report(refusal));
                    }
                    for answer in told.unanswered {
                        tokio::spawn(Arc::clone(&self).give(answer));
                    }
                    for (work, stored) in told.work {
                        if self.is_repeated(&work, stored) {
                            continue;
                        }
                        if matches!(
                            work.verb,
                            Verb::EnsureAbsent | Verb::EnsureUndefined | Verb::EnsureStayed { .. }
                        ) {
                            // It must not wait until the guest has gone.
                            let _ = self.hypervisor.abort_live(work.server).await;
                        }
                        let place = self.handed.queue(&work);
                        let turn = self.queue(work.server).await;
                        let trace = work.trace.clone();
                        let trace = trace.unwrap_or_else(|| Trace::of_request(&work.request));
                        let span = tracing::info_span!("work", verb = work.verb.name(), request_id = work.request,
                            trace_id = %trace.id, global_request_id = %trace.request);
                        let working = Arc::clone(&self)
                            .carry_out(work, place, turn)
                            .instrument(span);
                        tokio::spawn(types::trace::within(Arc::new(trace), working));
                    }
                    for asked in told.asked {
                        tokio::spawn(Arc::clone(&self).answer(asked));
                    }
                }
                Err(error) => {
                    tracing::warn!(host = %self.settings.host, %error, "no work can be had; trying again");
                    incarnation = incarnation.wrapping_add(1);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
            }
        }
    }

    /// Removes base images that nobody needs, now and then.
    async fn image_loop(&self) {
        let (Some(cache), Some((pause, age))) = (&self.images, self.settings.unused_images) else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(pause).await;
            if let Err((_, reason)) = cache.remove_unused(age).await {
                tracing::warn!(host = %self.settings.host, reason, "no base image is removed");
            }
        }
    }

    fn lock(&self, server: ServerId) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if locks.len() > 1024 {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        let known = locks.get(&server).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let fresh = Arc::new(tokio::sync::Mutex::new(()));
            locks.insert(server, Arc::downgrade(&fresh));
            fresh
        })
    }

    /// Takes the next place in a server's queue, so that work is done in the order it was handed over.
    async fn queue(&self, server: ServerId) -> Turn {
        let mut turn: Turn = Box::pin(self.lock(server).lock_owned());
        let mut first = None;
        // Polled once, the lock's future has its place; who spawned it first no longer matters.
        std::future::poll_fn(|cx| {
            if let std::task::Poll::Ready(held) = turn.as_mut().poll(cx) {
                first = Some(held);
            }
            std::task::Poll::Ready(())
        })
        .await;
        match first {
            Some(held) => Box::pin(std::future::ready(held)),
            None => turn,
        }
    }

    async fn carry_out(self: Arc<Self>, work: Work, place: Place, turn: Turn) {
        let outcome = {
            let _turn = turn.await;
            // It ends before the next one has its turn.
            let place = place;
            match place.is_called_off() {
                true => called_off(),
                false => self.outcome_or_panic(&work).await,
            }
        };
        let failed = matches!(outcome, WorkOutcome::Failed { .. });
        if failed {
            tracing::warn!(host = %self.settings.host, server = %work.server, request_id = work.request, verb = work.verb.name(),
                step = work.key.step, ?outcome, "work failed");
        } else {
            tracing::debug!(host = %self.settings.host, server = %work.server, request_id = work.request, verb = work.verb.name(),
                step = work.key.step, "work done");
        }
        let report = WorkReport {
            key: work.key,
            epoch: work.epoch,
            outcome,
        };
        self.repeats.ended(&report);
        self.report(report).await;
    }

    /// How work ended, also where it ran into what cannot be: whoever waits for it is told.
    async fn outcome_or_panic(&self, work: &Work) -> WorkOutcome {
        let working = AssertUnwindSafe(self.outcome(work)).catch_unwind();
        working.await.unwrap_or_else(|_| {
            let words =
                "the host's agent found itself in a state that cannot be; its log says more";
            WorkOutcome::failed(FailureKind::Host, words)
        })
    }

    /// Whether work is a copy of what was handed over before. If that has ended, the conductor is told once more how.
    fn is_repeated(self: &Arc<Self>, work: &Work, stored: Option<Timestamp>) -> bool {
        let outcome = match self.repeats.admit(work, stored) {
            Admitted::New => return false,
            Admitted::UnderWay => return true,
            Admitted::Ended(outcome) => outcome,
        };
        let report = WorkReport {
            key: work.key.clone(),
            epoch: work.epoch,
            outcome,
        };
        tokio::spawn(Arc::clone(self).report(report));
        true
    }

    async fn report(self: Arc<Self>, report: WorkReport) {
        let mut pause = Duration::from_millis(50);
        while let Err(error) = self.post("report", &report).await {
            tracing::warn!(host = %self.settings.host, %error, "a report was not taken; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
        self.repeats.taken(&report);
    }

    async fn outcome(&self, work: &Work) -> WorkOutcome {
        match self.ledger.admit(work.key.task, work.epoch) {
            Ok(true) => {}
            Ok(false) => return WorkOutcome::Fenced,
            Err(error) => return WorkOutcome::failed(FailureKind::Host, error.to_string()),
        }
        let deadline = Duration::from_secs(work.deadline_seconds.max(1));
        if let Some(passphrase) = &work.passphrase {
            let lent = Some(passphrase.clone());
            self.hypervisor.lend_passphrase(work.server, lent);
        }
        let ended = tokio::time::timeout(deadline, self.effect(work)).await;
        if work.passphrase.is_some() {
            self.hypervisor.lend_passphrase(work.server, None);
        }
        let late = || (FailureKind::Timeout, "the host took too long".to_owned());
        match ended.unwrap_or_else(|_| Err(late())) {
            Ok(power) => WorkOutcome::done(power),
            Err((kind, message)) => WorkOutcome::Failed {
                kind,
                message,
                power: self.power_since(work).await.map(PowerState::code),
            },
        }
    }

    /// What a guest does after work that failed. One that is not there any more does nothing.
    async fn power_since(&self, work: &Work) -> Option<PowerState> {
        if !work.verb.changes_power() {
            return None;
        }
        let looking = self.hypervisor.guest(work.server);
        let guest = tokio::time::timeout(ANSWER, looking).await.ok()?.ok()?;
        Some(guest.map_or(PowerState::NoState, power))
    }

    async fn effect(&self, work: &Work) -> Result<PowerState, Failure> {
        let id = work.server;
        match &work.verb {
            Verb::EnsureGuest(plan) => self.ensure_guest(id, plan).await,
            Verb::EnsureAbsent => {
                self.hypervisor.ensure_absent(id).await.map_err(failure)?;
                Ok(PowerState::NoState)
            }
            Verb::EnsureUndefined => {
                let undefined = self.hypervisor.ensure_undefined(id).await;
                undefined.map_err(failure)?;
                Ok(PowerState::NoState)
            }
            Verb::EnsureRunning => {
                // Whoever had them last.
                self.hypervisor.claim(id).await.map_err(failure)?;
                self.ensure_running(id).await
            }
            Verb::EnsureStopped { grace_seconds } => self.ensure_stopped(id, *grace_seconds).await,
            Verb::RebootOnce {
                hard,
                grace_seconds,
                plan,
            } => {
                if self.ledger.is_done(&work.key) {
                    return self.power_of(id).await;
                }
                if *hard {
                    // A move that was given up may have left them as the other host's.
                    self.hypervisor.claim(id).await.map_err(failure)?;
                }
                let power = match plan.as_deref().filter(|_| *hard) {
                    Some(plan) => self.reboot_hard(id, plan).await?,
                    None => self.reboot(id, *hard, *grace_seconds).await?,
                };
                self.is_done(work)?;
                Ok(power)
            }
            Verb::EnsurePaused => self.hypervisor.pause(id).await.map(power).map_err(failure),
            Verb::EnsureUnpaused => self
                .hypervisor
                .unpause(id)
                .await
                .map(power)
                .map_err(failure),
            Verb::EnsureSuspended => self
                .hypervisor
                .suspend(id)
                .await
                .map(power)
                .map_err(failure),
            Verb::EnsureResumed => self.hypervisor.resume(id).await.map(power).map_err(failure),
            Verb::EnsureRescued {
                plan,
                grace_seconds,
            } => self.ensure_rescued(id, plan, *grace_seconds).await,
            Verb::EnsureUnrescued => self
                .hypervisor
                .unrescue(id)
                .await
                .map(power)
                .map_err(failure),
            Verb::RebuildOnce {
                plan,
                on,
                grace_seconds,
                from,
            } => {
                if self.ledger.is_done(&work.key) {
                    return self.power_of(id).await;
                }
                let spec = match from {
                    Some(from) => self.spec_of_coming(id, plan, from).await?,
                    None => self.spec(id, plan).await?,
                };
                let power = self.rebuild(&spec, *on, *grace_seconds).await?;
                self.is_done(work)?;
                Ok(power)
            }
            Verb::SnapshotOnce { image, quiesce } => {
                if !self.ledger.is_done(&work.key) {
                    self.snapshot(id, *image, *quiesce).await?;
                    self.is_done(work)?;
                }
                self.power_of(id).await
            }
            Verb::EnsureStill { quiesce, seconds } => {
                let most = Duration::from_secs(*seconds);
                let still = self.hypervisor.stand_still(id, *quiesce, most);
                still.await.map_err(failure)?;
                self.power_of(id).await
            }
            Verb::EnsureGoingOn => {
                self.hypervisor.go_on(id).await.map_err(failure)?;
                self.power_of(id).await
            }
            Verb::EnsureInterface(vif) => {
                let attached = self.hypervisor.attach(id, &virt::plan::vif(vif)).await;
                attached.map(power).map_err(failure)
            }
            Verb::EnsureNoInterface { port_id } => {
                let detached = self.unless_called_off(id, self.hypervisor.detach(id, port_id));
                detached.await.map(power).map_err(failure)
            }
            Verb::MigrateLiveOnce { to, shared } => {
                if self.ledger.is_done(&work.key) {
                    return self.power_of(id).await;
                }
                let peer = self.peers.reach(to).await;
                let way =
                    peer.map(|peer| Arc::new(ToPeer { peer, server: id }) as Arc<dyn Passage>);
                let most = Duration::from_secs(work.deadline_seconds);
                let gone = self.send_live(id, to, way, (most, *shared)).await?;
                self.is_done(work)?;
                Ok(gone.power)
            }
            // One that has gone comes back from its own disks; whoever asks for that knows that nobody has it.
            Verb::EnsureArrived { paused } => {
                self.hypervisor.claim(id).await.map_err(failure)?;
                self.go_on(id, *paused).await
            }
            Verb::EnsureStayed { look: true, .. } => {
                let guest = self.hypervisor.guest(id).await.map_err(failure)?;
                Ok(guest.map_or(PowerState::NoState, power))
            }
            Verb::EnsureStayed { paused, .. } => {
                self.hypervisor.claim(id).await.map_err(failure)?;
                match self.go_on(id, *paused).await {
                    // What is left of its memory here must never run.
                    Err((FailureKind::PostCopy, _)) => self.ensure_stopped(id, 0).await,
                    stayed => stayed,
                }
            }
            Verb::EnsureShared {
                plan,
                on,
                from,
                take,
            } => {
                let plan = with_its_drive(plan);
                let spec = self.spec_of_present(id, &plan).await?;
                let adopted = self.hypervisor.adopt(&spec, wanted_power(*on), from, *take);
                adopted.await.map(power).map_err(failure)
            }
            Verb::EnsurePassword { user, password } => {
                let set = self.hypervisor.set_password(id, user, password).await;
                set.map(power).map_err(failure)
            }
            Verb::EnsureVolume { disk, .. } => {
                let disk = disk.as_deref().map(Disk::from_plan);
                let disk = disk.ok_or((FailureKind::Host, "no disk was named".to_owned()))?;
                let attached = self.hypervisor.attach_disk(id, &disk).await;
                attached.map(power).map_err(failure)
            }
            Verb::EnsureNoVolume { volume_id } => {
                let detached =
                    self.unless_called_off(id, self.hypervisor.detach_disk(id, volume_id));
                detached.await.map(power).map_err(failure)
            }
            Verb::EnsureSwapped {
                old_volume_id,
                disk,
            } => {
                let disk = Disk::from_plan(disk);
                let swapped = self.hypervisor.swap_disk(id, old_volume_id, &disk).await;
                swapped.map(power).map_err(failure)
            }
            Verb::EnsureVolumeSize {
                volume_id,
                size_gib,
            } => {
                let grown = self.hypervisor.resize_disk(id, volume_id, *size_gib).await;
                grown.map(power).map_err(failure)
            }
            Verb::InterruptOnce => {
                if self.ledger.is_done(&work.key) {
                    return self.power_of(id).await;
                }
                let guest = self.hypervisor.interrupt(id).await.map_err(failure)?;
                self.is_done(work)?;
                Ok(guest.power)
            }
            Verb::EnsureReady(plan) => self.prepare(id, plan).await,
            Verb::EnsurePutAside {
                grace_seconds,
                root_gb,
            } => {
                self.hypervisor.claim(id).await.map_err(failure)?;
                self.put_aside(id, *grace_seconds, *root_gb).await
            }
            Verb::EnsureLanded { plan, from, on } => self.land(id, plan, from, *on).await,
            Verb::EnsurePutBack { on } => {
                let back = self.hypervisor.put_back(id, wanted_power(*on)).await;
                back.map(power).map_err(failure)
            }
            Verb::EnsureAsideForgotten => {
                self.hypervisor.forget_aside(id).await.map_err(failure)?;
                Ok(PowerState::NoState)
            }
        }
    }

    /// Notes that an effect that must not happen twice has happened.
    fn is_done(&self, work: &Work) -> Result<(), Failure> {
        self.ledger
            .set_done(&work.key)
            .map_err(|error| (FailureKind::Host, error.to_string()))
    }

    /// The specification of a plan, its image fetched.
    async fn spec(&self, id: ServerId, plan: &GuestPlan) -> Result<GuestSpec, Failure> {
        let base = self.base_of_image(id, plan).await?;
        self.spec_on(id, plan, base).await
    }

    async fn base_of_image(
        &self,
        id: ServerId,
        plan: &GuestPlan,
    ) -> Result<Option<BaseImage>, Failure> {
        match (&self.images, &plan.image) {
            (Some(cache), Some(image)) if self.hypervisor.needs_image_files() => {
                let base = self.fetch_for(id, cache, image, plan.root_gb).await?;
                Ok(Some(base))
            }
            (_, Some(image)) if image.check.is_some() => {
                self.verify_for(id, image).await?;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    async fn spec_on(
        &self,
        id: ServerId,
        plan: &GuestPlan,
        base: Option<BaseImage>,
    ) -> Result<GuestSpec, Failure> {
        let mut spec = GuestSpec::from_plan(id, plan, base.as_ref())
            .map_err(|error| (FailureKind::Request, error.to_string()))?;
        if let Some(kernel) = &plan.kernel {
            let image = self.boot_file(id, &kernel.image).await?;
            let ramdisk = match &kernel.ramdisk {
                Some(ramdisk) => Some(self.boot_file(id, ramdisk).await?),
                None => None,
            };
            spec.kernel = Some(virt::Kernel { image, ramdisk });
        }
        Ok(spec)
    }

    /// A kernel or a RAM disk, fetched as it is.
    async fn boot_file(&self, id: ServerId, image: &GuestImage) -> Result<BootFile, Failure> {
        if !["raw", "aki", "ari", "ami"].contains(&image.disk_format.as_str()) {
            let words = format!(
                "image {} is no kernel and no RAM disk: its disk format is '{}', not 'aki', 'ari' or 'raw'",
                image.id, image.disk_format
            );
            return Err((FailureKind::Request, words));
        }
        if let Some(cache) = self
            .images
            .as_ref()
            .filter(|_| self.hypervisor.needs_image_files())
        {
            let base = self.fetch_for(id, cache, image, 0).await?;
            return Ok(BootFile { base: base.path });
        }
        if image.check.is_some() {
            self.verify_for(id, image).await?;
        }
        Ok(BootFile {
            base: image.id.to_string().into(),
        })
    }

    /// The image of a server, unless the server is deleted before it is here.
    async fn fetch_for(
        &self,
        id: ServerId,
        cache: &ImageCache,
        image: &GuestImage,
        root_gb: u32,
    ) -> Result<BaseImage, Failure> {
        let stop = self.handed.waits(id);
        let host = &self.settings.host.0;
        cache
            .ensure(&self.conductor, host, image, root_gb, &stop)
            .await
    }

    /// Verifies the signature of the image of a server that needs no files, unless the server is deleted meanwhile.
    async fn verify_for(&self, id: ServerId, image: &GuestImage) -> Result<(), Failure> {
        let stop = self.handed.waits(id);
        let host = &self.settings.host.0;
        let looked = stop
            .run_until_cancelled(self.seen.hold(&self.conductor, host, image))
            .await;
        looked.unwrap_or_else(|| Err(failure(HypervisorError::Cancelled)))
    }

    /// What a guest must do its part in, unless that is called off: it may never do it.
    async fn unless_called_off<T>(
        &self,
        id: ServerId,
        done: impl Future<Output = virt::Result<T>>,
    ) -> virt::Result<T> {
        let stop = self.handed.waits(id);
        let done = stop.run_until_cancelled(done).await;
        done.unwrap_or(Err(HypervisorError::Cancelled))
    }

    /// The specification that was stored for a guest.
    async fn stored(&self, id: ServerId) -> Result<GuestSpec, Failure> {
        self.hypervisor
            .stored_spec(id)
            .await
            .map_err(failure)?
            .ok_or_else(|| failure(HypervisorError::NotFound(id)))
    }

    async fn go_on(&self, id: ServerId, paused: bool) -> Result<PowerState, Failure> {
        let guest = self.hypervisor.guest(id).await.map_err(failure)?;
        if guest.as_ref().is_none_or(|guest| !guest.active) {
            self.hypervisor.start(id).await.map_err(failure)?;
        }
        if paused {
            return self.hypervisor.pause(id).await.map(power).map_err(failure);
        }
        // A move that was forced has made it stand still.
        if guest.is_some_and(|guest| guest.power == PowerState::Paused) {
            let went_on = self.hypervisor.unpause(id).await;
            return went_on.map(power).map_err(failure);
        }
        self.power_of(id).await
    }

    /// A start is from the guest's own disks, whatever a failed rescue left.
    async fn ensure_running(&self, id: ServerId) -> Result<PowerState, Failure> {
        let started = if self.stored(id).await?.rescue.is_some() {
            self.hypervisor.unrescue(id).await
        } else {
            self.hypervisor.start(id).await
        };
        started.map(power).map_err(failure)
    }

    /// A guest that must stay as it is is not asked to go down first; one that is aside already is not there to be asked.
    async fn put_aside(
        &self,
        id: ServerId,
        grace_seconds: u64,
        root_gb: u32,
    ) -> Result<PowerState, Failure> {
        let root_gib = u64::from(root_gb);
        let guest = self.hypervisor.guest(id).await.map_err(failure)?;
        let is_aside = self.hypervisor.aside_files(id).await.is_ok();
        if guest.is_some_and(|guest| guest.active) && !is_aside {
            if !self.has_room_for(id, root_gib).await? {
                return Err(failure(HypervisorError::DiskTooSmall));
            }
            self.ensure_stopped(id, grace_seconds).await?;
        }
        self.hypervisor
            .put_aside(id, root_gib)
            .await
            .map_err(failure)?;
        Ok(PowerState::Shutdown)
    }

    /// Whether a root disk of this size can hold the guest's.
    async fn has_room_for(&self, id: ServerId, root_gib: u64) -> Result<bool, Failure> {
        let size_gib = self.stored(id).await?.root.local_gib();
        Ok(root_gib == 0 || root_gib >= size_gib)
    }

    async fn land(
        &self,
        id: ServerId,
        plan: &GuestPlan,
        from: &HostName,
        on: bool,
    ) -> Result<PowerState, Failure> {
        let plan = with_its_drive(plan);
        let here = *from == self.settings.host || self.hypervisor.is_aside_of(id, from).await;
        let has_landed = self
            .hypervisor
            .stored_spec(id)
            .await
            .map_err(failure)?
            .is_some();
        let spec = if here || has_landed {
            self.spec_of_present(id, &plan).await?
        } else {
            self.spec_of_coming(id, &plan, from).await?
        };
        let luggage = if here { Luggage::Aside } else { Luggage::Inbox };
        if !here && !has_landed {
            let peer = self.peers.reach(from).await.ok_or_else(|| {
                let words = format!("this host knows no way to {from}");
                (FailureKind::Host, words)
            })?;
            let inbox = self.hypervisor.inbox(id).await.map_err(failure)?;
            let stop = self.handed.waits(id);
            let fetched = stop
                .run_until_cancelled(peers::fetch(&peer, id, &inbox))
                .await;
            let fetched = fetched.ok_or_else(|| failure(HypervisorError::Cancelled))?;
            fetched.map_err(|(kind, words)| {
                let host = &self.settings.host;
                (
                    kind,
                    format!("host {host} fetched the guest from {from}: {words}"),
                )
            })?;
        }
        self.hypervisor
            .land(&spec, luggage, wanted_power(on))
            .await
            .map(power)
            .map_err(failure)
    }

    /// The copy is removed whatever becomes of it, also where nobody waits for it any more.
    async fn snapshot(
        &self,
        id: ServerId,
        image: ImageId,
        quiesce: Quiesce,
    ) -> Result<(), Failure> {
        let name = image.to_string();
        let made = self.hypervisor.snapshot(id, &name, quiesce).await;
        let copy = TempPath::try_from_path(made.map_err(failure)?)
            .map_err(|error| (FailureKind::Host, error.to_string()))?;
        let sent = upload(&self.conductor, &self.settings.host.0, image, &copy).await;
        if let Err(error) = copy.close() {
            tracing::warn!(%error, "a copy of a disk cannot be removed");
        }
        sent
    }

    async fn ensure_guest(&self, id: ServerId, plan: &GuestPlan) -> Result<PowerState, Failure> {
        let spec = self.spec(id, plan).await?;
        let made = self.hypervisor.ensure_guest(&spec, Power::On).await;
        let made = made.map_err(failure)?;
        // Where hosts share them, another host that is lost may have made its files before.
        self.hypervisor.claim(id).await.map_err(failure)?;
        Ok(made.power)
    }

    async fn ensure_stopped(
        &self,
        id: ServerId,
        grace_seconds: u64,
    ) -> Result<PowerState, Failure> {
        if grace_seconds > 0 {
            let stop = self.handed.waits(id);
            let asked = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    tracing::info!(server = %id, "its guest is not waited for any more; switching it off");
                    Ok(false)
                }
                asked = self.ask_down(id, Duration::from_secs(grace_seconds)) => asked,
            };
            if asked? {
                return Ok(PowerState::Shutdown);
            }
        }
        self.hypervisor.stop_hard(id).await.map_err(failure)?;
        Ok(PowerState::Shutdown)
    }

    /// Asks the guest to go down; whether it is. One that is early in its boot misses its button, so that is pressed again.
    async fn ask_down(&self, id: ServerId, grace: Duration) -> Result<bool, Failure> {
        let until = tokio::time::Instant::now() + grace;
        loop {
            match self.hypervisor.request_shutdown(id).await {
                Ok(()) => {}
                Err(error @ (HypervisorError::NotFound(_) | HypervisorError::Unavailable(_))) => {
                    return Err(failure(error));
                }
                Err(error) => {
                    tracing::info!(server = %id, %error, "the guest cannot be asked to shut down; switching it off");
                    return Ok(false);
                }
            }
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            match self
                .hypervisor
                .wait_stopped(id, left.min(PRESS_AGAIN))
                .await
            {
                Ok(()) => return Ok(true),
                Err(HypervisorError::Timeout(_)) if left > PRESS_AGAIN => {}
                Err(HypervisorError::Timeout(_)) => {
                    let seconds = grace.as_secs();
                    tracing::info!(server = %id, seconds, "the guest did not shut down; switching it off");
                    return Ok(false);
                }
                Err(error) => return Err(failure(error)),
            }
        }
    }

    async fn reboot(
        &self,
        id: ServerId,
        hard: bool,
        grace_seconds: u64,
    ) -> Result<PowerState, Failure> {
        if !hard {
            let grace = Duration::from_secs(grace_seconds);
            let soft = self.hypervisor.reboot_soft(id, grace);
            match self.unless_called_off(id, soft).await {
                Ok(info) => return Ok(power(info)),
                Err(error @ (HypervisorError::NotFound(_) | HypervisorError::Cancelled)) => {
                    return Err(failure(error));
                }
                // As Nova: whatever libvirt says of it, the server's owner wants it to come up again.
                Err(error) => {
                    tracing::info!(server = %id, %error, "a soft reboot came to nothing; rebooting the guest hard");
                }
            }
        }
        let spec = GuestSpec {
            rescue: None,
            ..self.stored(id).await?
        };
        self.hypervisor
            .reboot_hard(&spec)
            .await
            .map(power)
            .map_err(failure)
    }

    async fn power_of(&self, id: ServerId) -> Result<PowerState, Failure> {
        let guest = self.hypervisor.guest(id).await.map_err(failure)?;
        guest
            .map(power)
            .ok_or_else(|| failure(HypervisorError::NotFound(id)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What becomes of work that nobody wants any more before it has begun.
fn called_off() -> WorkOutcome {
    let (kind, words) = failure(HypervisorError::Cancelled);
    WorkOutcome::failed(kind, words)
}

/// The plan of a guest that has its config drive already.
fn with_its_drive(plan: &GuestPlan) -> GuestPlan {
    GuestPlan {
        config_drive: plan.config_drive.as_ref().map(|_| Vec::new()),
        ..plan.clone()
    }
}

fn wanted_power(on: bool) -> Power {
    if on { Power::On } else { Power::Off }
}

fn power(info: GuestInfo) -> PowerState {
    info.power
}

fn failure(error: HypervisorError) -> Failure {
    (error.kind(), error.to_string())
}

#[cfg(test)]
mod tests;
