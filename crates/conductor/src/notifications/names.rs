//! Which notification tells of which action: Nova's event types, versioned and of old (Nova documentation,
//! "Notifications in Nova").

/// The names of the notifications about an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// `instance.NAME.start`.
    pub start: &'static str,
    /// `instance.NAME.end` and `.error`.
    pub end: &'static str,
    /// `compute.instance.NAME.start` and so on; none where there was none.
    pub old: Option<&'static str>,
    /// Told once, without start and end.
    pub at_once: bool,
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

/// The names for an action as `os-instance-actions` shows it; none: no notification tells of it.
pub fn of_action(action: &str, softly: bool) -> Option<Names> {
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
        "evacuate" => of("evacuate", "evacuate"),
        "shelve" => of("shelve", "shelve"),
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
