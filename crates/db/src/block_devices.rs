//! Disks of servers: what was asked for, and how the volumes among them are attached (Nova's block device mappings).

use sql::{Error, Row, Tx, Value};
use types::disks::{Destination, Source};
use types::server::Flavor;
use types::{ServerId, Timestamp};
use uuid::Uuid;

/// One disk of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// Its own id (`bdm_uuid`).
    pub id: Uuid,
    /// The server.
    pub server: ServerId,
    /// What it is made of.
    pub source: Source,
    /// Where its data is.
    pub destination: Destination,
    /// `/dev/vda`: the name by which the API calls it; guests choose names themselves.
    pub device_name: Option<String>,
    /// The place in the order of booting; none and negative ones do not boot.
    pub boot_index: Option<i64>,
    /// The image it is made of.
    pub image_id: Option<String>,
    /// The volume, as soon as there is one.
    pub volume_id: Option<String>,
    /// The snapshot it is made of.
    pub snapshot_id: Option<String>,
    /// GiB; MiB for swap.
    pub volume_size: Option<u64>,
    /// Whether the volume goes with the server.
    pub delete_on_termination: bool,
    /// The device tag.
    pub tag: Option<String>,
    /// `virtio`, `scsi`, ...
    pub disk_bus: Option<String>,
    /// `disk`, `cdrom`, ...
    pub device_type: Option<String>,
    /// `swap`, or the file system of an ephemeral disk.
    pub guest_format: Option<String>,
    /// The type of a volume that is made.
    pub volume_type: Option<String>,
    /// The attachment in the volume service.
    pub attachment_id: Option<String>,
    /// How the host reaches the volume, a JSON object of the volume service.
    pub connection_info: Option<String>,
}

impl BlockDevice {
    /// A disk with everything unsaid.
    pub fn new(server: ServerId, source: Source, destination: Destination) -> Self {
        Self {
            id: Uuid::new_v4(),
            server,
            source,
            destination,
            device_name: None,
            boot_index: None,
            image_id: None,
            volume_id: None,
            snapshot_id: None,
            volume_size: None,
            delete_on_termination: false,
            tag: None,
            disk_bus: None,
            device_type: None,
            guest_format: None,
            volume_type: None,
            attachment_id: None,
            connection_info: None,
        }
    }

    /// Whether the server boots from it first.
    pub fn is_root(&self) -> bool {
        self.boot_index == Some(0)
    }

    /// Whether its data is in the volume service.
    pub fn is_volume(&self) -> bool {
        self.destination == Destination::Volume
    }

    /// Whether the volume is made for the server, rather than given.
    pub fn makes_volume(&self) -> bool {
        self.is_volume() && self.source != Source::Volume
    }

    /// Whether it is swap space on the host.
    pub fn is_swap(&self) -> bool {
        self.is_local_blank() && self.guest_format.as_deref() == Some("swap")
    }

    /// Whether it is an empty disk on the host.
    pub fn is_ephemeral(&self) -> bool {
        self.is_local_blank() && !self.is_swap()
    }

    fn is_local_blank(&self) -> bool {
        self.source == Source::Blank && self.destination == Destination::Local
    }
}

const COLUMNS: &str = "uuid, instance_uuid, source_type, destination_type, device_name, boot_index, image_id, volume_id, \
    snapshot_id, volume_size, delete_on_termination, tag, disk_bus, device_type, guest_format, volume_type, attachment_id, \
    connection_info";

pub(crate) fn from_row(mut row: Row) -> Result<BlockDevice, Error> {
    let (source, destination): (String, String) = (row.get(2)?, row.get(3)?);
    let unknown = |text: &str| Error::Column(format!("'{text}' is no kind of disk"));
    Ok(BlockDevice {
        id: row.get(0)?,
        server: row.get(1)?,
        source: Source::parse(&source).ok_or_else(|| unknown(&source))?,
        destination: Destination::parse(&destination).ok_or_else(|| unknown(&destination))?,
        device_name: row.take_string(4)?,
        boot_index: row.get(5)?,
        image_id: row.take_string(6)?,
        volume_id: row.take_string(7)?,
        snapshot_id: row.take_string(8)?,
        volume_size: row.get(9)?,
        delete_on_termination: row.get(10)?,
        tag: row.take_string(11)?,
        disk_bus: row.take_string(12)?,
        device_type: row.take_string(13)?,
        guest_format: row.take_string(14)?,
        volume_type: row.take_string(15)?,
        attachment_id: row.take_string(16)?,
        connection_info: row.take_string(17)?,
    })
}

/// Stores a new disk.
pub fn insert(tx: &mut Tx<'_>, device: &BlockDevice, now: Timestamp) -> Result<(), Error> {
    let d = device;
    let params: Vec<Value> = vec![
        d.id.into(),
        d.server.into(),
        d.source.as_str().into(),
        d.destination.as_str().into(),
        d.device_name.clone().into(),
        d.boot_index.into(),
        d.image_id.clone().into(),
        d.volume_id.clone().into(),
        d.snapshot_id.clone().into(),
        d.volume_size.into(),
        d.delete_on_termination.into(),
        d.tag.clone().into(),
        d.disk_bus.clone().into(),
        d.device_type.clone().into(),
        d.guest_format.clone().into(),
        d.volume_type.clone().into(),
        d.attachment_id.clone().into(),
        d.connection_info.clone().into(),
        now.into(),
    ];
    let sql = format!(
        "INSERT INTO block_device_mappings ({COLUMNS}, created_at) VALUES ({})",
        sql::placeholders(params.len())
    );
    tx.post(&sql, &params)?;
    Ok(())
}

/// Writes what changes of a disk while it exists; `false`: it is gone.
pub fn update(tx: &mut Tx<'_>, device: &BlockDevice) -> Result<bool, Error> {
    let d = device;
    let sql = "UPDATE block_device_mappings SET device_name = ?, image_id = ?, volume_id = ?, volume_size = ?, \
        delete_on_termination = ?, attachment_id = ?, connection_info = ? WHERE uuid = ?";
    let params: Vec<Value> = vec![
        d.device_name.clone().into(),
        d.image_id.clone().into(),
        d.volume_id.clone().into(),
        d.volume_size.into(),
        d.delete_on_termination.into(),
        d.attachment_id.clone().into(),
        d.connection_info.clone().into(),
        d.id.into(),
    ];
    Ok(tx.execute(sql, &params)? == 1)
}

/// Writes whether the volume of a disk goes with the server, and nothing else: a flow may be changing the rest. `false`:
/// the disk is gone.
pub fn set_delete_on_termination(tx: &mut Tx<'_>, id: Uuid, goes: bool) -> Result<bool, Error> {
    let sql = "UPDATE block_device_mappings SET delete_on_termination = ? WHERE uuid = ?";
    Ok(tx.execute(sql, &[goes.into(), id.into()])? == 1)
}

/// The swap space of a server that goes from one flavor to another: where it is as large as the one's it becomes as large
/// as the other's. (One that was asked for in another size stays as it is. Without swap space the disk's size is 0.)
pub fn fit_swap(
    tx: &mut Tx<'_>,
    server: ServerId,
    (from, to): (&Flavor, &Flavor),
    now: Timestamp,
) -> Result<(), Error> {
    if from.swap_mb == to.swap_mb {
        return Ok(());
    }
    let size = Some(u64::from(to.swap_mb));
    let devices = of_server(tx, server)?;
    if let Some(swap) = devices.into_iter().find(BlockDevice::is_swap) {
        if swap.volume_size.unwrap_or(0) != u64::from(from.swap_mb) {
            return Ok(());
        }
        let fitting = BlockDevice {
            volume_size: size,
            ..swap
        };
        return update(tx, &fitting).map(drop);
    }
    if from.swap_mb > 0 {
        return Ok(());
    }
    let added = BlockDevice {
        volume_size: size,
        guest_format: Some("swap".to_owned()),
        device_type: Some("disk".to_owned()),
        delete_on_termination: true,
        boot_index: Some(-1),
        ..BlockDevice::new(server, Source::Blank, Destination::Local)
    };
    insert(tx, &added, now)
}

/// Forgets a disk.
pub fn remove(tx: &mut Tx<'_>, id: Uuid) -> Result<bool, Error> {
    let sql = "DELETE FROM block_device_mappings WHERE uuid = ?";
    Ok(tx.execute(sql, &[id.into()])? == 1)
}

/// Forgets all disks of a server.
pub fn remove_of_server(tx: &mut Tx<'_>, server: ServerId) -> Result<(), Error> {
    let sql = "DELETE FROM block_device_mappings WHERE instance_uuid = ?";
    tx.post(sql, &[server.into()])?;
    Ok(())
}

/// The disks of a server, in the order in which it got them.
pub fn of_server(tx: &mut Tx<'_>, server: ServerId) -> Result<Vec<BlockDevice>, Error> {
    of_servers(tx, &[server])
}

/// The disks of these servers, in the order in which they got them.
pub fn of_servers(tx: &mut Tx<'_>, servers: &[ServerId]) -> Result<Vec<BlockDevice>, Error> {
    if servers.is_empty() {
        return Ok(Vec::new());
    }
    let sql = select(servers.len());
    let params: Vec<Value> = servers.iter().map(|server| (*server).into()).collect();
    tx.query(&sql, &params)?.into_iter().map(from_row).collect()
}

/// The query for the disks of so many servers, whose rows are for [`from_row`].
pub(crate) fn select(servers: usize) -> String {
    format!(
        "SELECT {COLUMNS} FROM block_device_mappings WHERE instance_uuid IN ({}) ORDER BY id",
        sql::placeholders(servers)
    )
}

/// The query for the disks of all servers that a host has open work for, whose rows are for [`from_row`].
pub(crate) fn select_awaited() -> String {
    format!(
        "SELECT {COLUMNS} FROM block_device_mappings WHERE instance_uuid IN \
         (SELECT instance_uuid FROM host_work WHERE host = ? AND outcome IS NULL) ORDER BY id"
    )
}

/// The volumes of these servers: `(server, volume, whether it goes with the server)`, in the order in which they got them.
pub fn volumes_of(
    tx: &mut Tx<'_>,
    servers: &[ServerId],
) -> Result<Vec<(ServerId, String, bool)>, Error> {
    if servers.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT instance_uuid, volume_id, delete_on_termination FROM block_device_mappings \
         WHERE instance_uuid IN ({}) AND volume_id IS NOT NULL ORDER BY id",
        sql::placeholders(servers.len())
    );
    let params: Vec<Value> = servers.iter().map(|server| (*server).into()).collect();
    let rows = tx.query(&sql, &params)?;
    rows.iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .collect()
}

/// The disk of a server that is this volume.
pub fn of_volume(
    tx: &mut Tx<'_>,
    server: ServerId,
    volume_id: &str,
) -> Result<Option<BlockDevice>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM block_device_mappings WHERE volume_id = ? AND instance_uuid = ? ORDER BY id"
    );
    let row = tx.query_opt(&sql, &[volume_id.into(), server.into()])?;
    row.map(from_row).transpose()
}

/// The servers that have a volume, or are about to. A server whose attempt to get it failed keeps the wish only.
pub fn holders(tx: &mut Tx<'_>, volume_id: &str) -> Result<Vec<ServerId>, Error> {
    let sql = "SELECT DISTINCT b.instance_uuid FROM block_device_mappings b JOIN instances i ON i.uuid = b.instance_uuid \
        WHERE b.volume_id = ? AND i.deleted = 0 AND (b.attachment_id IS NOT NULL OR i.task_id IS NOT NULL)";
    let rows = tx.query(sql, &[volume_id.into()])?;
    rows.iter().map(|row| row.get(0)).collect()
}

/// The server that has a volume, whichever it is; for questions of the volume service.
pub fn server_with(tx: &mut Tx<'_>, volume_id: &str) -> Result<Vec<BlockDevice>, Error> {
    let sql =
        format!("SELECT {COLUMNS} FROM block_device_mappings WHERE volume_id = ? ORDER BY id");
    let rows = tx.query(&sql, &[volume_id.into()])?;
    rows.into_iter().map(from_row).collect()
}

/// The projects whose servers have volumes.
pub fn projects(tx: &mut Tx<'_>) -> Result<Vec<String>, Error> {
    let sql = "SELECT DISTINCT i.project_id FROM block_device_mappings b JOIN instances i ON i.uuid = b.instance_uuid \
         WHERE b.attachment_id IS NOT NULL AND i.deleted = 0";
    let rows = tx.query(sql, &[])?;
    rows.iter().map(|row| row.get(0)).collect()
}

/// The attachments that servers of a project have on record: server, volume, attachment. Only those of servers that
/// nobody works on.
pub fn attached_in(
    tx: &mut Tx<'_>,
    project: &str,
) -> Result<Vec<(ServerId, String, String)>, Error> {
    let sql = "SELECT b.instance_uuid, b.volume_id, b.attachment_id \
         FROM block_device_mappings b JOIN instances i ON i.uuid = b.instance_uuid \
         WHERE i.project_id = ? AND i.deleted = 0 AND i.task_id IS NULL AND i.task_state IS NULL \
         AND b.volume_id IS NOT NULL AND b.attachment_id IS NOT NULL ORDER BY b.id";
    let rows = tx.query(sql, &[project.into()])?;
    rows.iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .collect()
}

/// Every disk there is, for audits.
pub fn all(tx: &mut Tx<'_>) -> Result<Vec<BlockDevice>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM block_device_mappings ORDER BY id");
    let rows = tx.query(&sql, &[])?;
    rows.into_iter().map(from_row).collect()
}
