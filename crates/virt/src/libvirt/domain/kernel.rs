//! A kernel outside of a guest's disk.

use super::{Devices, HostChoices, clean};
use crate::spec::GuestSpec;
use std::path::Path;

/// Its files, by the paths that QEMU uses.
#[derive(Clone, Copy, Debug)]
pub struct BootFiles<'a> {
    /// The kernel.
    pub kernel: &'a Path,
    /// The first RAM disk.
    pub ramdisk: Option<&'a Path>,
}

/// What it is told; Nova's words, unless the image has its own. A guest that is rescued has its
/// root elsewhere than those say.
pub(super) fn command_line(spec: &GuestSpec, devices: &Devices, host: &HostChoices) -> String {
    let own = spec.hardware.command_line.as_deref();
    if let Some(own) = own.filter(|_| spec.rescue.is_none()) {
        return clean(own);
    }
    let booted = devices.disk.iter().find(|disk| disk.boot.is_some());
    let root = booted.or(devices.disk.first());
    let root = root.map_or("vda", |disk| disk.target.dev.as_str());
    let consoles = "console=tty0 console=ttyS0 console=hvc0";
    let timer = if host.kvm { "" } else { " no_timer_check" };
    format!("root=/dev/{root} {consoles}{timer}")
}
