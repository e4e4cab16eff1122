//! Whether a server's state allows an action: the states that Nova's `compute.api` wants for each, as a table.
//!
//! Everything is looked at in Nova's order: the lock, the host where one is needed, the stable state, the task state,
//! whether the server ever ran.

use crate::call::Call;
use crate::faults::Fault;
use db::instances::Instance;
use types::{TaskState, VmState};

/// Which task states allow an action.
#[derive(Clone, Copy, Debug)]
pub enum Tasks {
    /// None: nobody works on the server.
    Idle,
    /// None, or one of these.
    IdleOr(&'static [TaskState]),
    /// This one.
    Only(TaskState),
    /// None, or any but these.
    Not(&'static [TaskState]),
    /// Any.
    Any,
}

/// What an action wants of a server.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The action's name in refusals.
    pub name: &'static str,
    /// The stable states that allow it; none means all.
    pub vm_states: Option<&'static [VmState]>,
    /// The task states that allow it.
    pub tasks: Tasks,
    /// The server must have run once.
    pub launched: bool,
    /// The server must be on a host; looked at before the states.
    pub host: bool,
    /// A lock stops those who are no administrators.
    pub lock: bool,
}

impl Rule {
    const fn new(name: &'static str, vm_states: &'static [VmState]) -> Self {
        Self {
            name,
            vm_states: Some(vm_states),
            tasks: Tasks::Idle,
            launched: true,
            host: false,
            lock: true,
        }
    }

    const fn anytime(name: &'static str) -> Self {
        Self {
            name,
            vm_states: None,
            tasks: Tasks::Any,
            launched: false,
            host: false,
            lock: true,
        }
    }

    /// Whatever the stable state, while nobody works on the server.
    const fn of_disk(name: &'static str) -> Self {
        Self {
            name,
            vm_states: None,
            tasks: Tasks::Idle,
            launched: true,
            host: true,
            lock: false,
        }
    }

    /// A look at the screen of a server that is on a host and stays there.
    const fn of_console(name: &'static str) -> Self {
        Self {
            tasks: Tasks::Not(&[TaskState::Deleting, TaskState::Migrating]),
            ..Self::anytime(name).on_host().unlocked()
        }
    }

    const fn on_host(mut self) -> Self {
        self.host = true;
        self
    }

    const fn unlocked(mut self) -> Self {
        self.lock = false;
        self
    }

    const fn whatever_task(mut self) -> Self {
        self.tasks = Tasks::Any;
        self
    }

    const fn during(mut self, tasks: &'static [TaskState]) -> Self {
        self.tasks = Tasks::IdleOr(tasks);
        self
    }
}

use VmState as V;

/// `os-start`.
pub const START: Rule = Rule::new("start", &[V::Stopped]).on_host();
/// `os-stop`.
pub const STOP: Rule = Rule::new("stop", &[V::Active, V::Error]).on_host();
/// `reboot` of type `SOFT`.
pub const REBOOT_SOFT: Rule = Rule::new("reboot", &[V::Active]);
/// `reboot` of type `HARD`.
pub const REBOOT_HARD: Rule = Rule::new(
    "reboot",
    &[V::Active, V::Stopped, V::Paused, V::Suspended, V::Error],
)
.during(&[
    TaskState::Rebooting,
    TaskState::RebootPending,
    TaskState::RebootStarted,
    TaskState::RebootingHard,
    TaskState::Pausing,
    TaskState::Unpausing,
    TaskState::Suspending,
    TaskState::Resuming,
]);
/// `pause`.
pub const PAUSE: Rule = Rule::new("pause", &[V::Active]);
/// `unpause`.
pub const UNPAUSE: Rule = Rule::new("unpause", &[V::Paused]);
/// `suspend`.
pub const SUSPEND: Rule = Rule::new("suspend", &[V::Active]);
/// `resume`.
pub const RESUME: Rule = Rule::new("resume", &[V::Suspended]);
/// `trigger_crash_dump`.
pub const CRASH_DUMP: Rule = Rule::new(
    "trigger_crash_dump",
    &[V::Active, V::Paused, V::Rescued, V::Resized, V::Error],
)
.on_host();
/// `injectNetworkInfo`.
pub const INJECT_NETWORK_INFO: Rule = Rule::anytime("injectNetworkInfo").on_host();
/// `DELETE /servers/{id}` and `forceDelete`.
pub const DELETE: Rule = Rule::anytime("delete");
/// `restore`.
pub const RESTORE: Rule = Rule::new("restore", &[V::SoftDelete]);

/// `rescue`.
pub const RESCUE: Rule = Rule::new("rescue", &[V::Active, V::Stopped, V::Error]);
/// `unrescue`.
pub const UNRESCUE: Rule = Rule::new("unrescue", &[V::Rescued]);
/// `rebuild`.
pub const REBUILD: Rule = Rule::new("rebuild", &[V::Active, V::Stopped, V::Error]);

/// `createImage`.
pub const CREATE_IMAGE: Rule = Rule::new("createImage", COPIED).unlocked();
/// `createBackup`.
pub const CREATE_BACKUP: Rule = Rule::new("createBackup", COPIED).unlocked();
const COPIED: &[VmState] = &[V::Active, V::Stopped, V::Paused, V::Suspended];

/// `changePassword`.
pub const CHANGE_PASSWORD: Rule = Rule::new("changePassword", &[V::Active]);
/// `addFixedIp`.
pub const ADD_FIXED_IP: Rule = Rule::anytime("addFixedIp").on_host();
/// `removeFixedIp`.
pub const REMOVE_FIXED_IP: Rule = Rule::anytime("removeFixedIp").on_host();
/// `lock`.
pub const LOCK: Rule = Rule::anytime("lock").unlocked();
/// `unlock`; who may take an administrator's lock away is a policy of its own.
pub const UNLOCK: Rule = Rule::anytime("unlock").unlocked();

/// `POST` and `PUT` below `/servers/{id}/metadata`.
pub const UPDATE_METADATA: Rule = Rule::new("update metadata", COPIED).whatever_task();
/// `DELETE` there.
pub const DELETE_METADATA: Rule = Rule::new("delete metadata", COPIED).whatever_task();
/// `PUT /servers/{id}/tags/{tag}`.
pub const UPDATE_TAG: Rule = tagged("update tag");
/// `PUT /servers/{id}/tags`.
pub const UPDATE_TAGS: Rule = tagged("update tags");
/// `DELETE /servers/{id}/tags/{tag}`.
pub const DELETE_TAG: Rule = tagged("delete tag");
/// `DELETE /servers/{id}/tags`.
pub const DELETE_TAGS: Rule = tagged("delete tags");

const fn tagged(name: &'static str) -> Rule {
    Rule {
        launched: false,
        ..Rule::new(name, COPIED).whatever_task().unlocked()
    }
}

/// `evacuate`: whatever worked on the server died with its host.
pub const EVACUATE: Rule = Rule::new("evacuate", &[V::Active, V::Stopped, V::Error])
    .whatever_task()
    .unlocked();
/// `resize`; it must also be on a host that is up, which is looked at later.
pub const RESIZE: Rule = Rule::new("resize", MOVED);
/// `migrate`; likewise.
pub const MIGRATE: Rule = Rule::new("migrate", MOVED);
const MOVED: &[VmState] = &[V::Active, V::Stopped];
/// `confirmResize`.
pub const CONFIRM_RESIZE: Rule = Rule::new("confirmResize", &[V::Resized]);
/// `revertResize`.
pub const REVERT_RESIZE: Rule = Rule::new("revertResize", &[V::Resized]);

/// `os-migrateLive`.
pub const MIGRATE_LIVE: Rule = Rule::new("os-migrateLive", &[V::Active, V::Paused]);
/// `force_complete` of a live migration.
pub const FORCE_COMPLETE: Rule = Rule {
    tasks: Tasks::Only(TaskState::Migrating),
    ..Rule::new("force_complete", &[V::Active])
};
/// `DELETE` of a live migration.
pub const ABORT_LIVE_MIGRATION: Rule = Rule {
    vm_states: None,
    tasks: Tasks::Only(TaskState::Migrating),
    ..Rule::new("abort live migration", &[])
};
/// `shelve`.
pub const SHELVE: Rule = Rule::new("shelve", COPIED);
/// `shelveOffload`.
pub const SHELVE_OFFLOAD: Rule = Rule::new("shelveOffload", &[V::Shelved]);
/// `unshelve`.
pub const UNSHELVE: Rule = Rule::new("unshelve", &[V::Shelved, V::ShelvedOffloaded]);

/// `POST /servers/{id}/os-interface`.
pub const ATTACH_INTERFACE: Rule = Rule::new("attach_interface", PLUGGED);
/// `DELETE /servers/{id}/os-interface/{port}`.
pub const DETACH_INTERFACE: Rule = Rule::new("detach_interface", PLUGGED);
const PLUGGED: &[VmState] = &[V::Active, V::Paused, V::Stopped];

/// `POST /servers/{id}/os-volume_attachments`.
pub const ATTACH_VOLUME: Rule = Rule::new("attach_volume", WITH_VOLUMES);
/// `DELETE /servers/{id}/os-volume_attachments/{volume}`.
pub const DETACH_VOLUME: Rule = Rule::new("detach_volume", WITH_VOLUMES);
const WITH_VOLUMES: &[VmState] = &[
    V::Active,
    V::Paused,
    V::Stopped,
    V::Resized,
    V::SoftDelete,
    V::Shelved,
    V::ShelvedOffloaded,
];
/// `PUT /servers/{id}/os-volume_attachments/{volume}` with another volume.
pub const SWAP_VOLUME: Rule = Rule::new("swap_volume", &[V::Active, V::Paused, V::Resized]);
/// `POST /os-assisted-volume-snapshots`.
pub const VOLUME_SNAPSHOT_CREATE: Rule = Rule::of_disk("volume_snapshot_create");
/// `DELETE /os-assisted-volume-snapshots/{id}`.
pub const VOLUME_SNAPSHOT_DELETE: Rule = Rule::of_disk("volume_snapshot_delete");

/// `os-getVNCConsole`, and `remote-consoles` of protocol `vnc`.
pub const VNC_CONSOLE: Rule = Rule::of_console("get_vnc_console");
/// `os-getSPICEConsole`, and `remote-consoles` of protocol `spice`.
pub const SPICE_CONSOLE: Rule = Rule::of_console("get_spice_console");
/// `os-getSerialConsole`, and `remote-consoles` of protocol `serial`.
pub const SERIAL_CONSOLE: Rule = Rule::of_console("get_serial_console");
/// `remote-consoles` of protocol `mks`.
pub const MKS_CONSOLE: Rule = Rule::of_console("get_mks_console");

/// Every rule with the name of its action, for the test of the whole matrix.
#[cfg(test)]
pub const ALL: &[(&str, Rule)] = &[
    ("os-start", START),
    ("os-stop", STOP),
    ("reboot SOFT", REBOOT_SOFT),
    ("reboot HARD", REBOOT_HARD),
    ("pause", PAUSE),
    ("unpause", UNPAUSE),
    ("suspend", SUSPEND),
    ("resume", RESUME),
    ("trigger_crash_dump", CRASH_DUMP),
    ("injectNetworkInfo", INJECT_NETWORK_INFO),
    ("forceDelete", DELETE),
    ("restore", RESTORE),
    ("rescue", RESCUE),
    ("unrescue", UNRESCUE),
    ("rebuild", REBUILD),
    ("createImage", CREATE_IMAGE),
    ("createBackup", CREATE_BACKUP),
    ("changePassword", CHANGE_PASSWORD),
    ("addFixedIp", ADD_FIXED_IP),
    ("removeFixedIp", REMOVE_FIXED_IP),
    ("lock", LOCK),
    ("unlock", UNLOCK),
    ("update metadata", UPDATE_METADATA),
    ("delete metadata", DELETE_METADATA),
    ("update tag", UPDATE_TAG),
    ("update tags", UPDATE_TAGS),
    ("delete tag", DELETE_TAG),
    ("delete tags", DELETE_TAGS),
    ("evacuate", EVACUATE),
    ("resize", RESIZE),
    ("migrate", MIGRATE),
    ("confirmResize", CONFIRM_RESIZE),
    ("revertResize", REVERT_RESIZE),
    ("os-migrateLive", MIGRATE_LIVE),
    ("force_complete", FORCE_COMPLETE),
    ("abort live migration", ABORT_LIVE_MIGRATION),
    ("shelve", SHELVE),
    ("shelveOffload", SHELVE_OFFLOAD),
    ("unshelve", UNSHELVE),
    ("attach interface", ATTACH_INTERFACE),
    ("detach interface", DETACH_INTERFACE),
    ("attach volume", ATTACH_VOLUME),
    ("detach volume", DETACH_VOLUME),
    ("swap volume", SWAP_VOLUME),
    ("create assisted snapshot", VOLUME_SNAPSHOT_CREATE),
    ("delete assisted snapshot", VOLUME_SNAPSHOT_DELETE),
    ("VNC console", VNC_CONSOLE),
    ("SPICE console", SPICE_CONSOLE),
    ("serial console", SERIAL_CONSOLE),
    ("MKS console", MKS_CONSOLE),
];

/// What keeps an action from a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody locked it.
    Locked,
    /// It is on no host.
    NoHost,
    /// Its stable state.
    VmState,
    /// Its task state.
    TaskState(TaskState),
    /// Nobody works on it.
    Idle,
    /// It never ran.
    NeverRan,
}

impl Rule {
    /// What keeps the action from a server, if anything does. Pure.
    pub fn refusal(&self, server: &Instance, may_override_lock: bool) -> Option<Refusal> {
        if self.lock && server.locked && !may_override_lock {
            return Some(Refusal::Locked);
        }
        if self.host && server.host.is_none() {
            return Some(Refusal::NoHost);
        }
        if let Some(allowed) = self.vm_states
            && !allowed.contains(&server.vm_state)
        {
            return Some(Refusal::VmState);
        }
        if let (Tasks::Only(_), None) = (self.tasks, server.task_state) {
            return Some(Refusal::Idle);
        }
        let busy = match (self.tasks, server.task_state) {
            (Tasks::Any, _) | (_, None) => None,
            (Tasks::Only(allowed), Some(task)) if allowed == task => None,
            (Tasks::IdleOr(allowed), Some(task)) if allowed.contains(&task) => None,
            (Tasks::Not(refused), Some(task)) if !refused.contains(&task) => None,
            (_, Some(task)) => Some(task),
        };
        if let Some(task) = busy {
            return Some(Refusal::TaskState(task));
        }
        (self.launched && server.launched_at.is_none()).then_some(Refusal::NeverRan)
    }

    /// Refuses an action in Nova's words.
    pub fn check(&self, call: &Call, server: &Instance) -> Result<(), Fault> {
        self.check_as(server, call.is_admin())
    }

    /// The same where the request itself is not at hand.
    pub fn check_as(&self, server: &Instance, may_override_lock: bool) -> Result<(), Fault> {
        match self.refusal(server, may_override_lock) {
            Some(refusal) => Err(self.fault(server, &refusal)),
            None => Ok(()),
        }
    }

    fn fault(&self, server: &Instance, refusal: &Refusal) -> Fault {
        let (name, id) = (self.name, server.id);
        let state = |what: &str, state: &str| {
            format!("Cannot '{name}' instance {id} while it is in {what} {state}")
        };
        Fault::conflict(match refusal {
            Refusal::Locked => format!("Instance {id} is locked"),
            Refusal::NoHost => format!("Instance {id} is not ready"),
            Refusal::VmState => state("vm_state", server.vm_state.as_str()),
            Refusal::TaskState(task) => state("task_state", task.as_str()),
            Refusal::Idle => state("task_state", "None"),
            Refusal::NeverRan => format!("Instance {id} is in an invalid state for '{name}'"),
        })
    }
}
