//! Disks of a guest beside the one made of its image.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use types::disks::{DiskKind, GuestDisk};

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its own id; names its file.
    pub id: String,
    /// `vdb`: the name by which the API calls it. Guests choose names themselves.
    pub device: Option<String>,
    /// virtio, scsi, ide, sata, usb; none takes the guest's.
    pub bus: Option<String>,
    /// `disk` or `cdrom`; none is a disk.
    pub device_type: Option<String>,
    /// The guest boots from it first.
    pub root: bool,
    /// Where its data is.
    pub source: DiskSource,
}

/// Where a disk's data is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case")]
pub enum DiskSource {
    /// An empty disk in the guest's folder.
    Ephemeral {
        /// GiB.
        size_gib: u64,
        /// The file system on it; none is the host's choice.
        format: Option<String>,
    },
    /// Swap space in the guest's folder.
    Swap {
        /// MiB.
        size_mib: u64,
    },
    /// A volume.
    Volume {
        /// Its id, which is the disk's serial number.
        volume_id: String,
        /// How to reach it.
        connection: Connection,
    },
}

/// How a host reaches a volume.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Connection {
    /// A Network Block Device.
    Nbd {
        /// The server.
        server: NbdServer,
        /// The export's name.
        export: String,
        /// The guest must not write.
        read_only: bool,
        /// Other guests have the volume, too (multiattach).
        #[serde(default)]
        shareable: bool,
    },
    /// Something that this program does not know.
    Unknown {
        /// Its `driver_volume_type`.
        kind: String,
    },
}

/// Where an NBD server listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NbdServer {
    /// A TCP port.
    Tcp {
        /// Name or address.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket.
    Unix {
        /// Its path.
        path: String,
    },
}

/// Who knows the export's name can read the volume: it does not go into logs.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nbd { read_only, .. } => f
                .debug_struct("Nbd")
                .field("read_only", read_only)
                .finish_non_exhaustive(),
            Self::Unknown { kind } => f.debug_struct("Unknown").field("kind", kind).finish(),
        }
    }
}

impl Connection {
    /// Reads `connection_info` of the volume service.
    pub fn read(info: &Value) -> Self {
        let kind = info["driver_volume_type"].as_str().unwrap_or_default();
        // Some services nest it under `data`, some give its fields at the top.
        let data = if info["data"].is_object() {
            &info["data"]
        } else {
            info
        };
        let text = |name: &str| data[name].as_str().filter(|text| !text.is_empty());
        let port = || {
            let port = data["port"].as_u64();
            port.or_else(|| text("port")?.parse().ok())
                .and_then(|port| u16::try_from(port).ok())
        };
        let server = match (text("path"), text("host")) {
            (Some(path), _) => Some(NbdServer::Unix {
                path: path.to_owned(),
            }),
            (None, Some(host)) => port().map(|port| NbdServer::Tcp {
                host: host.to_owned(),
                port,
            }),
            (None, None) => None,
        };
        match server {
            Some(server) if kind == "nbd" => Self::Nbd {
                server,
                export: text("export").unwrap_or_default().to_owned(),
                read_only: text("access_mode") == Some("ro"),
                shareable: info["multiattach"] == true,
            },
            _ => Self::Unknown {
                kind: kind.to_owned(),
            },
        }
    }
}

impl Disk {
    /// A disk as the agent protocol describes it.
    pub fn from_plan(disk: &GuestDisk) -> Self {
        let source = match &disk.kind {
            DiskKind::Ephemeral { size_gib, format } => DiskSource::Ephemeral {
                size_gib: *size_gib,
                format: format.clone(),
            },
            DiskKind::Swap { size_mib } => DiskSource::Swap {
                size_mib: *size_mib,
            },
            DiskKind::Volume {
                volume_id,
                connection,
            } => DiskSource::Volume {
                volume_id: volume_id.clone(),
                connection: Connection::read(connection),
            },
        };
        Self {
            id: disk.id.clone(),
            device: disk.device.clone(),
            bus: disk.bus.clone(),
            device_type: disk.device_type.clone(),
            root: disk.boot_index == Some(0) && disk.volume_id().is_some(),
            source,
        }
    }

    /// The volume, if it is one.
    pub fn volume_id(&self) -> Option<&str> {
        match &self.source {
            DiskSource::Volume { volume_id, .. } => Some(volume_id),
            _ => None,
        }
    }

    /// GiB that it takes on the host.
    pub fn local_gib(&self) -> u64 {
        match self.source {
            DiskSource::Ephemeral { size_gib, .. } => size_gib,
            DiskSource::Swap { size_mib } => size_mib.div_ceil(1024),
            DiskSource::Volume { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn connections_are_read() {
        let tcp = |host: &str, port| NbdServer::Tcp {
            host: host.to_owned(),
            port,
        };
        let nbd = |server, export: &str, read_only| Connection::Nbd {
            server,
            export: export.to_owned(),
            read_only,
            shareable: false,
        };
        let unknown = |kind: &str| Connection::Unknown {
            kind: kind.to_owned(),
        };
        let unix = NbdServer::Unix {
            path: "/run/n.sock".to_owned(),
        };
        let table = [
            (
                json!({ "driver_volume_type": "nbd", "data": { "host": "h", "port": 10809, "export": "e" } }),
                nbd(tcp("h", 10809), "e", false),
            ),
            (
                json!({ "driver_volume_type": "nbd", "host": "h", "port": "9", "export": "e", "access_mode": "ro" }),
                nbd(tcp("h", 9), "e", true),
            ),
            (
                json!({ "driver_volume_type": "nbd", "data": { "path": "/run/n.sock", "export": "e" } }),
                nbd(unix, "e", false),
            ),
            (
                json!({ "driver_volume_type": "nbd", "data": { "host": "h", "port": 70000 } }),
                unknown("nbd"),
            ),
            (
                json!({ "driver_volume_type": "rbd", "data": {} }),
                unknown("rbd"),
            ),
            (Value::Null, unknown("")),
        ];
        for (info, wanted) in table {
            assert_eq!(Connection::read(&info), wanted, "{info}");
        }
    }

    /// OSSA-2016-002.
    #[test]
    fn no_log_can_show_how_a_volume_is_reached() {
        for kind in ["nbd", "iscsi"] {
            let info = json!({ "driver_volume_type": kind, "data": {
                "host": "h", "port": 1, "export": "s3cret", "auth_username": "u", "auth_password": "s3cret",
            } });
            let read = Connection::read(&info);
            assert_eq!(matches!(read, Connection::Nbd { .. }), kind == "nbd");
            let shown = format!("{read:?}");
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }
}
