//! Which notification tells of which action: Nova's event types, versioned and of old (Nova documentation,
//! "Notifications in Nova").

use db::instances::Instance;
use db::outbox::{Entry, Kind};

/// The names of the notifications about an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Names {
    /// `instance.NAME.start`.
    start: &'static str,
    /// `instance.NAME.end` and `.error`.
    end: &'static str,
    /// `compute.instance.NAME.start` and so on; none where there was none.
    old: Option<&'static str>,
    /// Told once, without start and end.
    at_once: bool,
}

const fn of(name: &'static str, old: &'static str) -> Names {
    Names {
        start: name,
        end: name,
        old: Some(old),
        at_once: false,
    }
}

const fn new(name: &'static str) -> Names {
    Names {
        start: name,
        end: name,
        old: None,
        at_once: false,
    }
}

const fn at_once(name: &'static str) -> Names {
    Names {
        at_once: true,
        ..new(name)
    }
}

/// Who tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The API.
    Api,
    /// A conductor.
    Conductor,
    /// The host.
    Compute,
}

impl Source {
    /// The service's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "nova-api",
            Self::Conductor => "nova-conductor",
            Self::Compute => "nova-compute",
        }
    }
}

/// A notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Behind `instance.`.
    pub new: String,
    /// Behind `compute.instance.`; none where there was none.
    pub old: Option<String>,
    /// Who tells it.
    pub from: Source,
}

impl Name {
    fn of(from: Source, new: &str, old: &str) -> Self {
        Self {
            new: new.to_owned(),
            old: Some(old.to_owned()),
            from,
        }
    }

    fn by_host(name: &str) -> Self {
        Self::of(Source::Compute, name, name)
    }
}

impl Names {
    /// The notification of this part of the action.
    fn at(self, phase: &str) -> Vec<Name> {
        if self.at_once {
            let told = (phase == "start").then(|| Name {
                new: self.start.to_owned(),
                old: None,
                from: Source::Api,
            });
            return told.into_iter().collect();
        }
        let name = if phase == "start" {
            self.start
        } else {
            self.end
        };
        vec![Name {
            new: format!("{name}.{phase}"),
            old: self.old.map(|old| format!("{old}.{phase}")),
            from: Source::Compute,
        }]
    }
}

/// What is told of a part of an action, in its order.
pub fn told(server: &Instance, entry: &Entry, phase: &str) -> Vec<Name> {
    let (action, task) = (entry.action.as_deref(), entry.task_state.as_deref());
    match (action.unwrap_or_default(), entry.kind) {
        ("evacuate", _) => of_evacuation(entry, phase),
        // Parts of other actions are not told.
        (_, Kind::EventEnd) => Vec::new(),
        ("shelve", _) => of_shelving(server, entry, phase),
        (action, _) => {
            // One that was deleted softly goes for good with its last deletion.
            let softly = task == Some("soft-deleting")
                || (entry.vm_state.as_deref() == Some("soft-delete") && task != Some("deleting"));
            let names = of_action(action, softly);
            names.map(|names| names.at(phase)).unwrap_or_default()
        }
    }
}

/// The API tells that it was asked for; when a host is chosen the server is rebuilt there.
fn of_evacuation(entry: &Entry, phase: &str) -> Vec<Name> {
    let chosen = entry.event.as_deref() == Some("rebuild_server");
    match (entry.kind, phase) {
        (Kind::ActionStart, _) => vec![Name::of(Source::Api, "evacuate", "evacuate")],
        (Kind::EventEnd, "end") if chosen => vec![
            Name::of(Source::Conductor, "rebuild_scheduled", "rebuild.scheduled"),
            Name::by_host("rebuild.start"),
        ],
        (Kind::ActionEnd, phase) => vec![Name::by_host(&format!("rebuild.{phase}"))],
        _ => Vec::new(),
    }
}

/// A server that leaves its host at once tells that as well; one that boots from a volume tells nothing else.
fn of_shelving(server: &Instance, entry: &Entry, phase: &str) -> Vec<Name> {
    let offload = |phase: &str| Name::by_host(&format!("shelve_offload.{phase}"));
    if server.is_volume_backed() {
        return vec![offload(phase)];
    }
    let mut told = vec![Name::by_host(&format!("shelve.{phase}"))];
    if phase == "end" && entry.vm_state.as_deref() == Some("shelved_offloaded") {
        told.extend([offload("start"), offload("end")]);
    }
    told
}

/// The names for an action as `os-instance-actions` shows it; none: no notification tells of it, or in a way of its own.
fn of_action(action: &str, softly: bool) -> Option<Names> {
    Some(match action {
        "create" => of("create", "create"),
        "delete" if softly => of("soft_delete", "soft_delete"),
        "delete" | "forceDelete" => of("delete", "delete"),
        "restore" => of("restore", "restore"),
        "start" => of("power_on", "power_on"),
        "stop" => of("power_off", "power_off"),
        "reboot" => of("reboot", "reboot"),
        "pause" => of("pause", "pause"),
        "unpause" => of("unpause", "unpause"),
        "suspend" => of("suspend", "suspend"),
        "resume" => of("resume", "resume"),
        "rescue" => of("rescue", "rescue"),
        "unrescue" => of("unrescue", "unrescue"),
        "rebuild" => of("rebuild", "rebuild"),
        "resize" | "migrate" => of("resize", "resize"),
        "confirmResize" => of("resize_confirm", "resize.confirm"),
        "revertResize" => of("resize_revert", "resize.revert"),
        "live-migration" => Names {
            start: "live_migration_pre",
            end: "live_migration_post",
            old: Some("live_migration"),
            at_once: false,
        },
        "shelveOffload" => of("shelve_offload", "shelve_offload"),
        "unshelve" => of("unshelve", "unshelve"),
        "createImage" | "createBackup" => of("snapshot", "snapshot"),
        "attach_interface" => new("interface_attach"),
        "detach_interface" => new("interface_detach"),
        "attach_volume" => of("volume_attach", "volume.attach"),
        "detach_volume" => of("volume_detach", "volume.detach"),
        "swap_volume" => new("volume_swap"),
        "trigger_crash_dump" => new("trigger_crash_dump"),
        "lock" => at_once("lock"),
        "unlock" => at_once("unlock"),
        _ => return None,
    })
}
