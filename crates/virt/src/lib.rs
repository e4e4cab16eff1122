//! Guests on a host.
//!
//! * [`Hypervisor`] is the seam: what the compute agent asks of whatever runs guests. Every verb may be repeated
//!   and re-reads the truth before it acts.
//! * [`libvirt`] runs real guests on QEMU through libvirt's wire protocol.
//! * [`sim`] keeps simulated guests as files, with delays, faults and crash points, for load and tests.
//! * [`config_drive`] builds the disk that carries a guest's metadata, [`kvm`] finds out whether hardware
//!   virtualization really works here.

pub mod config_drive;
pub mod disks;
pub mod facts;
pub mod hypervisor;
pub mod kvm;
pub mod libvirt;
pub mod passage;
pub mod plan;
pub mod sim;
pub mod spec;
pub mod traits;

pub use disks::{Connection, Disk, DiskSource, NbdServer};
pub use facts::{
    CpuInfo, CpuTopology, Diagnostics, GuestEvent, GuestEventKind, GuestInfo, HostFacts, TpmKinds,
};
pub use hypervisor::{Hypervisor, HypervisorError, Luggage, Result};
pub use passage::{Berth, Channel, Door, LiveChoices, Passage};
pub use spec::{
    BootFile, ConfigFile, DiskFormat, GuestMetadata, GuestSpec, Hardware, Kernel, Power,
    RescueDisk, RootDisk, StableRescue, Vif,
};
