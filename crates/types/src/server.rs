//! What a server is made of, as its owner asked for it: the part of a request that outlives the request.

use crate::ids::{FlavorId, ImageId};
use crate::image_check::ImageCheck;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The resources of a flavor, kept with the server so that a changed or deleted flavor does not change servers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flavor {
    /// The public id.
    pub id: FlavorId,
    /// Shown as `original_name` in servers from 2.47.
    pub name: String,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Root disk in GiB; 0 means "as large as the image".
    pub root_gb: u32,
    /// Ephemeral disk in GiB.
    pub ephemeral_gb: u32,
    /// Swap in MiB.
    pub swap_mb: u32,
    /// Legacy network share; shown only.
    pub rxtx_factor: f64,
    /// Extra specs, for example `hw:cpu_policy`.
    pub extra_specs: BTreeMap<String, String>,
}

impl Flavor {
    /// What a server of this flavor claims on a host.
    pub fn resources(&self) -> Resources {
        Resources {
            vcpus: u64::from(self.vcpus),
            memory_mb: u64::from(self.memory_mb),
            disk_gb: u64::from(self.root_gb)
                + u64::from(self.ephemeral_gb)
                + u64::from(self.swap_mb).div_ceil(1024),
        }
    }

    /// The amounts of all resource classes that a server of this flavor claims: an extra spec `resources:CLASS = n`
    /// replaces the flavor's amount, and 0 leaves the class out. The error is an extra spec whose value is no number.
    pub fn claims(&self) -> Result<BTreeMap<String, u64>, &str> {
        let own = self.resources().by_class().into_iter();
        let mut amounts: BTreeMap<String, u64> = own
            .map(|(class, amount)| (class.to_owned(), amount))
            .collect();
        for (name, value) in &self.extra_specs {
            let Some(class) = name.strip_prefix("resources:") else {
                continue;
            };
            match value.parse().map_err(|_| name.as_str())? {
                0 => amounts.remove(class),
                amount => amounts.insert(class.to_owned(), amount),
            };
        }
        Ok(amounts)
    }
}

/// Amounts of the three resource classes every server uses (os-resource-classes VCPU, MEMORY_MB, DISK_GB).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Virtual CPUs.
    pub vcpus: u64,
    /// MiB of memory.
    pub memory_mb: u64,
    /// GiB of local disk.
    pub disk_gb: u64,
}

impl Resources {
    /// The amounts by resource class name, zero amounts left out.
    pub fn by_class(&self) -> Vec<(&'static str, u64)> {
        [
            ("VCPU", self.vcpus),
            ("MEMORY_MB", self.memory_mb),
            ("DISK_GB", self.disk_gb),
        ]
        .into_iter()
        .filter(|&(_, amount)| amount > 0)
        .collect()
    }
}

/// The image a server boots from, with what the image service said of it when the server was accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageRef {
    /// The image's id.
    pub id: ImageId,
    /// Its name.
    pub name: String,
    /// `qcow2`, `raw`, ...
    pub disk_format: String,
    /// `bare`, `ami`, ...
    pub container_format: String,
    /// Bytes of the uploaded file.
    pub size: u64,
    /// GiB a disk must have at least.
    pub min_disk: u32,
    /// MiB a server must have at least.
    pub min_ram: u32,
    /// The content hash the download is checked against (`sha512`, hex), if the image service knows one.
    pub sha512: Option<String>,
    /// Properties such as `hw_disk_bus`.
    pub properties: BTreeMap<String, String>,
    /// What its bytes are held against beside that; none where signatures are not verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<ImageCheck>,
}

/// One network interface a server asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WantedInterface {
    /// A new port on this network, perhaps with a fixed address.
    Network {
        /// The network.
        network_id: String,
        /// The IPv4 or IPv6 address asked for.
        fixed_ip: Option<String>,
        /// The device tag (2.32).
        tag: Option<String>,
    },
    /// An existing port, which outlives the server.
    Port {
        /// The port.
        port_id: String,
        /// The device tag (2.32).
        tag: Option<String>,
    },
}

/// The networks a server asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WantedNetworks {
    /// No interface at all (`networks: "none"`, 2.37).
    None,
    /// The one network that the project can use, if there is one (`networks: "auto"`, or no networks named).
    Auto,
    /// These, in this order.
    These(Vec<WantedInterface>),
}
