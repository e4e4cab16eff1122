//! The switches by which a test makes the simulated hypervisor slow, broken or dead at a chosen point.

use crate::hypervisor::{HypervisorError, Result};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use types::ServerId;

/// The verbs of [`crate::Hypervisor`] that can be disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// [`crate::Hypervisor::host`].
    Host,
    /// [`crate::Hypervisor::ensure_guest`].
    EnsureGuest,
    /// [`crate::Hypervisor::ensure_absent`] and [`crate::Hypervisor::ensure_undefined`].
    EnsureAbsent,
    /// [`crate::Hypervisor::start`].
    Start,
    /// [`crate::Hypervisor::stop_hard`].
    StopHard,
    /// [`crate::Hypervisor::request_shutdown`].
    RequestShutdown,
    /// [`crate::Hypervisor::wait_stopped`].
    WaitStopped,
    /// [`crate::Hypervisor::reboot_soft`].
    RebootSoft,
    /// [`crate::Hypervisor::reboot_hard`].
    RebootHard,
    /// [`crate::Hypervisor::pause`].
    Pause,
    /// [`crate::Hypervisor::unpause`].
    Unpause,
    /// [`crate::Hypervisor::suspend`].
    Suspend,
    /// [`crate::Hypervisor::resume`].
    Resume,
    /// [`crate::Hypervisor::interrupt`].
    Interrupt,
    /// [`crate::Hypervisor::rescue`].
    Rescue,
    /// [`crate::Hypervisor::unrescue`].
    Unrescue,
    /// [`crate::Hypervisor::snapshot`].
    Snapshot,
    /// A snapshot asks the guest to let its file systems stand still.
    Freeze,
    /// They go on.
    Thaw,
    /// [`crate::Hypervisor::attach`].
    Attach,
    /// [`crate::Hypervisor::detach`].
    Detach,
    /// [`crate::Hypervisor::set_password`].
    SetPassword,
    /// [`crate::Hypervisor::put_aside`].
    PutAside,
    /// [`crate::Hypervisor::put_back`].
    PutBack,
    /// [`crate::Hypervisor::forget_aside`].
    ForgetAside,
    /// [`crate::Hypervisor::land`].
    Land,
    /// [`crate::Hypervisor::attach_disk`].
    AttachDisk,
    /// [`crate::Hypervisor::detach_disk`].
    DetachDisk,
    /// [`crate::Hypervisor::swap_disk`].
    SwapDisk,
    /// [`crate::Hypervisor::resize_disk`].
    ResizeDisk,
    /// [`crate::Hypervisor::migrate_live`].
    MigrateLive,
    /// [`crate::Hypervisor::guest_cpu`].
    GuestCpu,
    /// [`crate::Hypervisor::adopt`].
    Adopt,
    /// [`crate::Hypervisor::guest`].
    Guest,
    /// [`crate::Hypervisor::guests`].
    Guests,
    /// [`crate::Hypervisor::console_log`].
    ConsoleLog,
    /// [`crate::Hypervisor::diagnostics`].
    Diagnostics,
}

/// Where in a verb a [`Hook`] is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Moment {
    /// Nothing has happened yet.
    Before,
    /// The effect is there, the caller has not heard of it.
    After,
}

/// Called at both moments of every verb; an error it returns becomes the verb's answer. A test that plays a crash
/// drops the worker when it sees the error (or does so from inside the hook).
pub type Hook = Arc<dyn Fn(Verb, Moment, ServerId) -> Option<HypervisorError> + Send + Sync>;

/// Shared handle; clones act on the same hypervisor.
#[derive(Clone, Default)]
pub struct Controls(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    delays: HashMap<Verb, Duration>,
    failures: HashMap<Verb, (HypervisorError, Option<u32>)>,
    hook: Option<Hook>,
    down: bool,
    disk_full: bool,
    ignore_shutdown: bool,
    consoles: HashMap<ServerId, Vec<u8>>,
    passwords: HashMap<ServerId, (String, String)>,
    live_time: Duration,
    live_ends: bool,
    post_copy: Option<(Duration, bool)>,
    restless: bool,
}

impl Controls {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each call of the verb takes this long before it does anything.
    pub fn set_delay(&self, verb: Verb, delay: Duration) {
        self.state().delays.insert(verb, delay);
    }

    /// The next `times` calls of the verb fail before their effect.
    pub fn fail_next(&self, verb: Verb, error: HypervisorError, times: u32) {
        self.state().failures.insert(verb, (error, Some(times)));
    }

    /// Every call of the verb fails before its effect, until [`Controls::heal`].
    pub fn fail_always(&self, verb: Verb, error: HypervisorError) {
        self.state().failures.insert(verb, (error, None));
    }

    /// The verb works again.
    pub fn heal(&self, verb: Verb) {
        self.state().failures.remove(&verb);
    }

    /// Installs or removes the crash points' hook.
    pub fn set_hook(&self, hook: Option<Hook>) {
        self.state().hook = hook;
    }

    /// The hypervisor's daemon is away (every verb answers `Unavailable`) or back.
    pub fn set_down(&self, down: bool) {
        self.state().down = down;
    }

    /// New guests find no space, nor do the files of guests that come from other hosts.
    pub fn set_disk_full(&self, full: bool) {
        self.state().disk_full = full;
    }

    /// Guests do not react to their power button.
    pub fn set_guests_ignore_shutdown(&self, ignore: bool) {
        self.state().ignore_shutdown = ignore;
    }

    /// What the guest's console shows.
    pub fn set_console(&self, id: ServerId, text: impl Into<Vec<u8>>) {
        self.state().consoles.insert(id, text.into());
    }

    /// How long live migrations take from now on.
    pub fn set_live_time(&self, time: Duration) {
        self.state().live_time = time;
    }

    /// Live migrations are over now: those that are under way, and later ones as soon as they begin.
    pub fn end_live(&self) {
        self.state().live_ends = true;
    }

    pub(super) fn live_ends(&self) -> bool {
        self.state().live_ends
    }

    /// Guests change their memory faster than it can be sent: live migrations do not end by themselves, but where guests
    /// may be slowed down ([`crate::LiveChoices::auto_converge`]).
    pub fn set_restless(&self, restless: bool) {
        self.state().restless = restless;
    }

    pub(super) fn restless(&self) -> bool {
        self.state().restless
    }

    pub(super) fn live_time(&self) -> Duration {
        self.state().live_time
    }

    /// Live migrations that are forced go on in post-copy mode: for so long, and then the guest has come, or its memory
    /// is lost.
    pub fn set_post_copy(&self, time: Duration, breaks: bool) {
        self.state().post_copy = Some((time, breaks));
    }

    pub(super) fn post_copy(&self) -> bool {
        self.state().post_copy.is_some()
    }

    pub(super) fn post_copy_time(&self) -> Duration {
        self.state()
            .post_copy
            .map_or(Duration::ZERO, |(time, _)| time)
    }

    pub(super) fn post_copy_breaks(&self) -> bool {
        self.state().post_copy.is_some_and(|(_, breaks)| breaks)
    }

    /// The user and the password that were set in a guest last.
    pub fn password(&self, id: ServerId) -> Option<(String, String)> {
        self.state().passwords.get(&id).cloned()
    }

    pub(super) fn note_password(&self, id: ServerId, user: &str, password: &str) {
        let set = (user.to_owned(), password.to_owned());
        self.state().passwords.insert(id, set);
    }

    pub(super) fn delay(&self, verb: Verb) -> Option<Duration> {
        self.state().delays.get(&verb).copied()
    }

    pub(super) fn is_down(&self) -> bool {
        self.state().down
    }

    pub(super) fn disk_is_full(&self) -> bool {
        self.state().disk_full
    }

    pub(super) fn guests_ignore_shutdown(&self) -> bool {
        self.state().ignore_shutdown
    }

    pub(super) fn console_text(&self, id: ServerId) -> Option<Vec<u8>> {
        self.state().consoles.get(&id).cloned()
    }

    pub(super) fn fail(&self, verb: Verb) -> Result<()> {
        let mut state = self.state();
        let Some((error, left)) = state.failures.get_mut(&verb) else {
            return Ok(());
        };
        let error = error.clone();
        if let Some(left) = left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                state.failures.remove(&verb);
            }
        }
        Err(error)
    }

    pub(super) fn meet(&self, verb: Verb, moment: Moment, id: ServerId) -> Result<()> {
        let hook = self.state().hook.clone();
        match hook.and_then(|hook| hook(verb, moment, id)) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
