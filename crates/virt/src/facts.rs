//! What a hypervisor tells of itself and of its guests.

use serde::{Deserialize, Serialize};
use types::{PowerState, ServerId};

/// What a host is and has (Compute API, `os-hypervisors`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// `QEMU` or `fake`.
    pub hypervisor_type: String,
    /// Major * 1,000,000 + minor * 1,000 + micro: 7002022 for 7.2.22.
    pub hypervisor_version: u64,
    /// The host's name as the hypervisor knows it.
    pub hypervisor_hostname: String,
    /// Physical CPUs.
    pub vcpus: u32,
    /// Memory of the host in MiB.
    pub memory_mib: u64,
    /// Memory in use on the host in MiB (caches do not count).
    pub memory_used_mib: u64,
    /// Size in GiB of the file system that holds the guests' disks.
    pub disk_gib: u64,
    /// Space in GiB left there for unprivileged users.
    pub disk_free_gib: u64,
    /// The host's processors.
    pub cpu_info: CpuInfo,
    /// `(architecture, hypervisor type, machine mode)` that guests may have: `("x86_64", "qemu", "hvm")`.
    pub supported: Vec<(String, String, String)>,
    /// Guests that run.
    pub running_guests: u32,
    /// Names the file system of guests' files: hosts with the same one share them.
    pub storage: Option<String>,
    /// The emulated TPMs that guests may have.
    pub tpm: TpmKinds,
}

/// The emulated TPMs that a host can give to guests; empty where it can give none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TpmKinds {
    /// Models by libvirt's names.
    pub models: Vec<String>,
    /// Versions.
    pub versions: Vec<String>,
}

impl TpmKinds {
    /// Every kind that Nova knows.
    pub fn all() -> Self {
        let texts = |texts: [&str; 2]| texts.map(str::to_owned).to_vec();
        Self {
            models: texts(["tpm-tis", "tpm-crb"]),
            versions: texts(["1.2", "2.0"]),
        }
    }
}

/// Processors of a host, in the shape of the API's `cpu_info`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuInfo {
    /// `x86_64`.
    pub arch: String,
    /// Model by libvirt's name.
    pub model: String,
    /// `AMD`, `Intel`.
    pub vendor: String,
    /// How they are put together.
    pub topology: CpuTopology,
    /// Feature flags, sorted.
    pub features: Vec<String>,
    /// The flags that guests find, by any of their names; none where processors are emulated. Not shown.
    #[serde(skip)]
    pub for_guests: Vec<String>,
}

/// Counts of each level; the next lower level is counted per member of the higher one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuTopology {
    /// NUMA cells.
    pub cells: u32,
    /// Sockets per cell.
    pub sockets: u32,
    /// Cores per socket.
    pub cores: u32,
    /// Threads per core.
    pub threads: u32,
}

/// A guest as the hypervisor has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestInfo {
    /// The server.
    pub id: ServerId,
    /// The hypervisor's name of it.
    pub instance_name: String,
    /// What the API shows.
    pub power: PowerState,
    /// Whether a process of the hypervisor still holds the guest's disks. A guest that is shutting down is `Shutdown`
    /// and active until its process ended.
    pub active: bool,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// MiB.
    pub memory_mib: u64,
}

/// Something that happened to a guest by itself or by a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestEvent {
    /// The guest.
    pub id: ServerId,
    /// What happened.
    pub kind: GuestEventKind,
}

/// What can happen to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestEventKind {
    /// It runs.
    Started,
    /// It is off and its process is gone.
    Stopped,
    /// Its processors stand still.
    Paused,
    /// Its processors run again.
    Resumed,
    /// The guest's system panicked, or its process died.
    Crashed,
    /// Saved to disk or sleeping.
    Suspended,
}

impl GuestEventKind {
    /// The power state after the event.
    pub fn power(self) -> PowerState {
        match self {
            Self::Started | Self::Resumed => PowerState::Running,
            Self::Stopped => PowerState::Shutdown,
            Self::Paused => PowerState::Paused,
            Self::Crashed => PowerState::Crashed,
            Self::Suspended => PowerState::Suspended,
        }
    }
}

/// Counters of a guest (Compute API, "Show Server Diagnostics"). All of them count since the guest was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostics {
    /// Power state now.
    pub power: PowerState,
    /// `libvirt`, also for simulated guests: the API knows a closed list.
    pub driver: String,
    /// `qemu`, `kvm` or `fake`.
    pub hypervisor: String,
    /// Memory given to the guest in MiB.
    pub memory_maximum_mib: u64,
    /// Memory the guest uses in MiB, when it tells.
    pub memory_used_mib: Option<u64>,
    /// Processors.
    pub cpus: Vec<CpuDiagnostics>,
    /// Network interfaces.
    pub nics: Vec<NicDiagnostics>,
    /// Disks.
    pub disks: Vec<DiskDiagnostics>,
}

/// One virtual CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuDiagnostics {
    /// Its number.
    pub id: u32,
    /// Nanoseconds it ran.
    pub time_ns: u64,
}

/// One network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicDiagnostics {
    /// The tap device.
    pub device: String,
    /// MAC address.
    pub mac: String,
    /// Bytes the guest received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Received and dropped.
    pub rx_drop: u64,
    /// Bytes the guest sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Send errors.
    pub tx_errors: u64,
    /// Sent and dropped.
    pub tx_drop: u64,
}

/// One disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskDiagnostics {
    /// `vda`.
    pub device: String,
    /// Bytes read.
    pub read_bytes: u64,
    /// Read requests.
    pub read_requests: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Write requests.
    pub write_requests: u64,
    /// Errors, when counted.
    pub errors: u64,
}
