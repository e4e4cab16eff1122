//! Servers: the rows of `instances`, and the one writer of their states.

mod standing;

pub use standing::{Standing, standing_among, standing_on};

use crate::unfinished::Unfinished;
use crate::{cut, document, outbox, to_document};
use serde::{Deserialize, Serialize};
use sql::{Error, Row, Tx, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use types::agent::GuestImage;
use types::server::{Flavor, ImageRef, WantedNetworks};
use types::{
    HostName, ImageId, NodeId, PowerState, ProjectId, ServerId, TaskId, TaskState, Timestamp,
    UserId, VmState,
};
use uuid::Uuid;

/// A fault shown with a server in ERROR (`fault` in the API).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// HTTP-like code.
    pub code: u16,
    /// For everyone.
    pub message: String,
    /// For administrators.
    pub details: Option<String>,
    /// When it happened.
    pub created: Timestamp,
}

/// One address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub ip: String,
    /// 4 or 6.
    pub version: u8,
    /// `fixed` or `floating`.
    pub kind: String,
}

/// What is known of one interface, kept with the server so that lists need not ask the network service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The port.
    pub port_id: String,
    /// Its network.
    pub network_id: String,
    /// The network's name, under which the API shows the addresses.
    pub network_name: String,
    /// MAC address.
    pub mac: String,
    /// Bytes.
    pub mtu: u32,
    /// Fixed addresses, each followed by its floating ones.
    pub addresses: Vec<Address>,
    /// Whether the port existed before and outlives the server.
    pub preexisting: bool,
    /// Device tag.
    pub tag: Option<String>,
}

/// What a server remembers between two actions. Fields may be added with defaults, never removed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// When it was soft-deleted, while it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_deleted_at: Option<Timestamp>,
    /// The administrator's password while it is rescued, encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rescue_pass: Option<String>,
    /// What is kept of it elsewhere, from shelving until it runs again and that is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shelved: Option<Shelved>,
    /// `OS-DCF:diskConfig` is `AUTO`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub auto_disk_config: bool,
    /// Its resize or cold migration, until that is confirmed, taken back or has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsettled: Option<crate::moves::Unsettled>,
    /// What is known of the volume it boots from; none means that its root disk is on its host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_volume: Option<BootVolume>,
    /// `trusted_image_certificates`: to which certificates the one must lead up that an image of it was signed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trusted_certs: Option<Vec<String>>,
    /// Where the key manager has the passphrase of its TPM, from when it first had one until it is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vtpm_secret: Option<VtpmSecret>,
    /// `OS-EXT-SRV-ATTR:kernel_id`: what it is booted with, as its image wants it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<GuestImage>,
    /// `OS-EXT-SRV-ATTR:ramdisk_id`. Without a kernel it is of no use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ramdisk: Option<GuestImage>,
    /// What was begun with it and is still to be taken back, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unfinished: Vec<Unfinished>,
}

/// The secret with the passphrase of a server's TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VtpmSecret {
    /// Its id in the key manager.
    pub id: Uuid,
    /// It is the cloud's, not its user's.
    #[serde(default)]
    pub of_cloud: bool,
}

/// A shelved server's belongings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shelved {
    /// The image of its disk; none when its disk is a volume.
    #[serde(default)]
    pub image: Option<ImageId>,
    /// When it was shelved.
    pub at: Timestamp,
}

/// What the volume that a server boots from says of the image it was made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BootVolume {
    /// The image's properties such as `hw_disk_bus`.
    pub properties: BTreeMap<String, String>,
    /// MiB that a server must have at least.
    pub min_ram: u32,
    /// GiB that a disk must have at least.
    pub min_disk: u32,
}

impl Instance {
    /// Whether its root disk is a volume.
    pub fn is_volume_backed(&self) -> bool {
        self.kept.boot_volume.is_some()
    }

    /// Where it is, if it is anywhere.
    pub fn place(&self) -> Option<Place> {
        Some(Place {
            host: self.host.clone()?,
            node_id: self.node_id?,
            node: self.node.clone()?,
            zone: self.availability_zone.clone().unwrap_or_default(),
        })
    }

    /// What image properties say about its machine.
    pub fn image_properties(&self) -> Option<&BTreeMap<String, String>> {
        match (&self.kept.boot_volume, &self.image) {
            (Some(volume), _) => Some(&volume.properties),
            (None, Some(image)) => Some(&image.properties),
            (None, None) => None,
        }
    }

    /// The administrator's password for the guest as it runs now, encrypted.
    pub fn sealed_password(&self) -> Option<&str> {
        let rescued = self.kept.rescue_pass.as_deref();
        rescued.or(self.admin_pass.as_deref())
    }
}

/// A server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Counts servers; `instance-%08x` is made of it.
    pub number: i64,
    /// The id.
    pub id: ServerId,
    /// Owner.
    pub project_id: ProjectId,
    /// Creator.
    pub user_id: UserId,
    /// `name`.
    pub display_name: String,
    /// `description`.
    pub description: Option<String>,
    /// `OS-EXT-SRV-ATTR:hostname`.
    pub hostname: String,
    /// Stable state.
    pub vm_state: VmState,
    /// What is being done, if anything.
    pub task_state: Option<TaskState>,
    /// What the hypervisor said last.
    pub power_state: PowerState,
    /// Grows with each change of state.
    pub generation: i64,
    /// The journal's task that works on it.
    pub task_id: Option<TaskId>,
    /// The host it is on.
    pub host: Option<HostName>,
    /// `OS-EXT-SRV-ATTR:hypervisor_hostname`.
    pub node: Option<String>,
    /// The compute node, which is the resource provider.
    pub node_id: Option<NodeId>,
    /// Zone of its host, or the one asked for.
    pub availability_zone: Option<String>,
    /// The zone asked for (2.96).
    pub pinned_zone: Option<String>,
    /// The first host.
    pub launched_on: Option<HostName>,
    /// The flavor as it was.
    pub flavor: Flavor,
    /// The image; none for volume-backed servers.
    pub image: Option<ImageRef>,
    /// Name of the key pair.
    pub key_name: Option<String>,
    /// Its public key.
    pub key_data: Option<String>,
    /// Base64.
    pub user_data: Option<String>,
    /// Whether it has a config drive.
    pub config_drive: bool,
    /// `accessIPv4`.
    pub access_ip_v4: Option<String>,
    /// `accessIPv6`.
    pub access_ip_v6: Option<String>,
    /// `metadata`.
    pub metadata: BTreeMap<String, String>,
    /// What was asked for.
    pub networks: WantedNetworks,
    /// What it has.
    pub network_info: Vec<Interface>,
    /// Ids of security groups asked for, and names shown.
    pub security_groups: Vec<SecurityGroupRef>,
    /// `os:scheduler_hints`, a JSON object.
    pub scheduler_hints: serde_json::Value,
    /// The administrator's password for the guest, encrypted.
    pub admin_pass: Option<String>,
    /// Locked against changes.
    pub locked: bool,
    /// `owner` or `admin`.
    pub locked_by: Option<String>,
    /// Why.
    pub locked_reason: Option<String>,
    /// `r-xxxxxxxx`, shared by servers of one request.
    pub reservation_id: String,
    /// Position in that request.
    pub launch_index: i64,
    /// `/dev/vda`.
    pub root_device_name: Option<String>,
    /// Percent.
    pub progress: i64,
    /// The latest fault.
    pub fault: Option<Fault>,
    /// Accepted.
    pub created_at: Timestamp,
    /// Last changed.
    pub updated_at: Option<Timestamp>,
    /// First became active.
    pub launched_at: Option<Timestamp>,
    /// Was deleted.
    pub terminated_at: Option<Timestamp>,
    /// Whether the row only remains for the record.
    pub deleted: bool,
    /// What it remembers between two actions.
    #[serde(default)]
    pub kept: Kept,
}

/// A security group of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroupRef {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// The columns in the order [`from_row`] reads them.
pub const COLUMNS: &str = "id, uuid, project_id, user_id, display_name, display_description, hostname, vm_state, task_state, \
    power_state, generation, task_id, host, node, node_id, availability_zone, pinned_zone, launched_on, flavor, image, \
    key_name, key_data, user_data, config_drive, access_ip_v4, access_ip_v6, metadata, networks, network_info, \
    security_groups, scheduler_hints, admin_pass, locked, locked_by, locked_reason, reservation_id, launch_index, \
    root_device_name, progress, fault_code, fault_message, fault_details, fault_at, created_at, updated_at, launched_at, \
    terminated_at, deleted, kept";

/// Columns that [`BRIEF`] reads as NULL.
const LONG: [&str; 11] = [
    "image",
    "key_data",
    "user_data",
    "metadata",
    "networks",
    "network_info",
    "security_groups",
    "scheduler_hints",
    "admin_pass",
    "fault_details",
    "kept",
];

/// [`COLUMNS`] with NULL for documents and long texts, for lists of names.
pub(crate) static BRIEF: LazyLock<String> = LazyLock::new(|| {
    let all = COLUMNS.split(", ");
    let brief: Vec<&str> = all
        .map(|column| {
            if LONG.contains(&column) {
                "NULL"
            } else {
                column
            }
        })
        .collect();
    brief.join(", ")
});

/// Documents of earlier rows: most servers of a list have flavors and images that others have, too.
#[derive(Default)]
pub(crate) struct Known {
    flavor: Option<(String, Flavor)>,
    image: Option<(String, ImageRef)>,
}

/// The document, read anew only if its text is not the one read before.
fn known<T: Clone + serde::de::DeserializeOwned>(
    before: &mut Option<(String, T)>,
    text: String,
) -> Result<T, Error> {
    match before {
        Some((known, value)) if *known == text => Ok(value.clone()),
        _ => {
            let value: T = document(&text)?;
            Ok(before.insert((text, value)).1.clone())
        }
    }
}

/// A document that may be missing in a brief row.
fn document_or_default<T: Default + serde::de::DeserializeOwned>(
    row: &mut Row,
    index: usize,
) -> Result<T, Error> {
    match row.take_string(index)? {
        Some(text) => document(&text),
        None => Ok(T::default()),
    }
}

/// Reads a server from a row of [`COLUMNS`].
pub fn from_row(mut row: Row) -> Result<Instance, Error> {
    from_row_knowing(&mut row, &mut Known::default())
}

/// Reads a server from a row of [`COLUMNS`] or [`BRIEF`].
pub(crate) fn from_row_knowing(row: &mut Row, before: &mut Known) -> Result<Instance, Error> {
    let (vm_state, task_state) = states(row.get(7)?, row.get(8)?)?;
    let text = |row: &mut Row, index: usize| row.take_string(index).map(Option::unwrap_or_default);
    let fault_code: Option<u16> = row.get(39)?;
    let fault = match fault_code {
        Some(code) => Some(Fault {
            code,
            message: text(row, 40)?,
            details: row.take_string(41)?,
            created: row.get(42)?,
        }),
        None => None,
    };
    Ok(Instance {
        number: row.get(0)?,
        id: row.get(1)?,
        project_id: row.get(2)?,
        user_id: row.get(3)?,
        display_name: text(row, 4)?,
        description: row.take_string(5)?,
        hostname: text(row, 6)?,
        vm_state,
        task_state,
        power_state: PowerState::from_code(row.get(9)?),
        generation: row.get(10)?,
        task_id: row.get(11)?,
        host: row.get(12)?,
        node: row.take_string(13)?,
        node_id: row.get(14)?,
        availability_zone: row.take_string(15)?,
        pinned_zone: row.take_string(16)?,
        launched_on: row.get(17)?,
        flavor: known(&mut before.flavor, text(row, 18)?)?,
        image: match row.take_string(19)? {
            Some(image) => Some(known(&mut before.image, image)?),
            None => None,
        },
        key_name: row.take_string(20)?,
        key_data: row.take_string(21)?,
        user_data: row.take_string(22)?,
        config_drive: row.get(23)?,
        access_ip_v4: row.take_string(24)?,
        access_ip_v6: row.take_string(25)?,
        metadata: document_or_default(row, 26)?,
        networks: match row.take_string(27)? {
            Some(networks) => document(&networks)?,
            None => WantedNetworks::None,
        },
        network_info: document_or_default(row, 28)?,
        security_groups: document_or_default(row, 29)?,
        scheduler_hints: document_or_default(row, 30)?,
        admin_pass: row.take_string(31)?,
        locked: row.get(32)?,
        locked_by: row.take_string(33)?,
        locked_reason: row.take_string(34)?,
        reservation_id: text(row, 35)?,
        launch_index: row.get(36)?,
        root_device_name: row.take_string(37)?,
        progress: row.get(38)?,
        fault,
        created_at: row.get(43)?,
        updated_at: row.get(44)?,
        launched_at: row.get(45)?,
        terminated_at: row.get(46)?,
        deleted: row.get::<i64>(47)? != 0,
        kept: document_or_default(row, 48)?,
    })
}

/// A server, deleted ones included.
pub fn find(tx: &mut Tx<'_>, id: ServerId) -> Result<Option<Instance>, Error> {
    let row = tx.query_opt(&select(), &[id.into()])?;
    row.map(from_row).transpose()
}

/// The query for one server, whose row is for [`from_row`].
pub(crate) fn select() -> String {
    format!("SELECT {COLUMNS} FROM instances WHERE uuid = ?")
}

/// A server that is not deleted.
pub fn get(tx: &mut Tx<'_>, id: ServerId) -> Result<Option<Instance>, Error> {
    Ok(find(tx, id)?.filter(|instance| !instance.deleted))
}

/// Stores a new server and returns its number; `instance.number` is ignored.
pub fn insert(tx: &mut Tx<'_>, instance: &Instance) -> Result<i64, Error> {
    let i = instance;
    let columns = "uuid, project_id, user_id, display_name, display_description, hostname, vm_state, task_state, power_state, \
        generation, task_id, host, node, node_id, availability_zone, pinned_zone, launched_on, flavor_id, flavor, vcpus, \
        memory_mb, image_id, image, key_name, key_data, user_data, config_drive, access_ip_v4, access_ip_v6, metadata, \
        networks, network_info, security_groups, scheduler_hints, admin_pass, locked, locked_by, locked_reason, \
        reservation_id, launch_index, root_device_name, progress, created_at, updated_at, launched_at, terminated_at, deleted, kept";
    let params: Vec<Value> = vec![
        i.id.into(),
        (&i.project_id).into(),
        (&i.user_id).into(),
        (&i.display_name).into(),
        i.description.clone().into(),
        (&i.hostname).into(),
        i.vm_state.as_str().into(),
        i.task_state.map(TaskState::as_str).into(),
        i.power_state.code().into(),
        i.generation.into(),
        i.task_id.into(),
        i.host.clone().into(),
        i.node.clone().into(),
        i.node_id.into(),
        i.availability_zone.clone().into(),
        i.pinned_zone.clone().into(),
        i.launched_on.clone().into(),
        (&i.flavor.id).into(),
        to_document(&i.flavor)?.into(),
        i.flavor.vcpus.into(),
        i.flavor.memory_mb.into(),
        i.image.as_ref().map(|image| image.id).into(),
        i.image.as_ref().map(to_document).transpose()?.into(),
        i.key_name.clone().into(),
        i.key_data.clone().into(),
        i.user_data.clone().into(),
        i.config_drive.into(),
        i.access_ip_v4.clone().into(),
        i.access_ip_v6.clone().into(),
        to_document(&i.metadata)?.into(),
        to_document(&i.networks)?.into(),
        to_document(&i.network_info)?.into(),
        to_document(&i.security_groups)?.into(),
        to_document(&i.scheduler_hints)?.into(),
        i.admin_pass.clone().into(),
        i.locked.into(),
        i.locked_by.clone().into(),
        i.locked_reason.clone().into(),
        (&i.reservation_id).into(),
        i.launch_index.into(),
        i.root_device_name.clone().into(),
        i.progress.into(),
        i.created_at.into(),
        i.updated_at.into(),
        i.launched_at.into(),
        i.terminated_at.into(),
        i.deleted.into(),
        to_document(&i.kept)?.into(),
    ];
    let sql = format!(
        "INSERT INTO instances ({columns}) VALUES ({})",
        sql::placeholders(params.len())
    );
    tx.insert_id(&sql, &params)
}

/// Chooses where the numbers of a fresh cloud's servers begin: `instance-%08x` names a domain of the hypervisor, and two
/// clouds that share one must not use the same names. Does nothing once there was a server.
pub fn begin_numbers(tx: &mut Tx<'_>) -> Result<(), Error> {
    if tx
        .query_opt("SELECT id FROM instances LIMIT 1", &[])?
        .is_some()
    {
        return Ok(());
    }
    let chance = i64::from(uuid::Uuid::new_v4().as_fields().0 % 0x7fff) + 1;
    tx.start_ids_at("instances", (chance << 16) + 1)
}

/// Of servers that are named by their ids, those that are not deleted. The plus keeps `deleted` out of the choice of an
/// index: a database that has counted nothing yet would as soon read all servers that are not deleted.
pub(crate) const ALIVE: &str = "+deleted = 0";

/// A change of a server's states and place. Only what is `Some` is written.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The stable state.
    pub vm_state: Option<VmState>,
    /// The task state; `Some(None)` clears it.
    pub task_state: Option<Option<TaskState>>,
    /// The power state.
    pub power_state: Option<PowerState>,
    /// The journal's task; `Some(None)` clears it.
    pub task_id: Option<Option<TaskId>>,
    /// The place, with its zone; `Some(None)` clears both.
    pub place: Option<Option<Place>>,
    /// First became active.
    pub launched_at: Option<Timestamp>,
    /// A new fault; `Some(None)` clears it.
    pub fault: Option<Option<Fault>>,
    /// Percent.
    pub progress: Option<i64>,
    /// What it remembers.
    pub kept: Option<Kept>,
    /// What is known of its interfaces.
    pub network_info: Option<Vec<Interface>>,
    /// Its host, if it had none before.
    pub launched_on: Option<HostName>,
}

impl Change {
    /// Whether others than the one who makes it hear of it.
    fn is_told(&self) -> bool {
        self.vm_state.is_some()
            || self.task_state.is_some()
            || self.power_state.is_some()
            || self.place.is_some()
    }
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The host.
    pub host: HostName,
    /// Its compute node.
    pub node_id: NodeId,
    /// The node's name.
    pub node: String,
    /// Its availability zone.
    pub zone: String,
}

/// Who may change a server's state.
#[derive(Clone, Copy, Debug)]
pub enum Expected {
    /// The server is at this generation: the API, after it looked.
    Generation(i64),
    /// The server is worked on by this task: the journal.
    Task(TaskId),
}

/// The one writer of states: applies `change` if the server is as expected, and says whether it was.
pub fn transition(
    tx: &mut Tx<'_>,
    id: ServerId,
    expected: Expected,
    change: &Change,
    now: Timestamp,
) -> Result<bool, Error> {
    let mut set = vec![
        "generation = generation + 1".to_owned(),
        "updated_at = ?".to_owned(),
    ];
    let mut params: Vec<Value> = vec![now.into()];
    let mut add = |column: &str, value: Value| {
        set.push(format!("{column} = ?"));
        params.push(value);
    };
    if let Some(state) = change.vm_state {
        add("vm_state", state.as_str().into());
    }
    if let Some(state) = change.task_state {
        add("task_state", state.map(TaskState::as_str).into());
    }
    if let Some(state) = change.power_state {
        add("power_state", state.code().into());
    }
    if let Some(task) = change.task_id {
        add("task_id", task.into());
    }
    if let Some(place) = &change.place {
        add(
            "host",
            place.as_ref().map(|place| place.host.clone()).into(),
        );
        add(
            "node",
            place.as_ref().map(|place| place.node.clone()).into(),
        );
        add("node_id", place.as_ref().map(|place| place.node_id).into());
        // A server that is on no host is in no zone, as in Nova.
        add(
            "availability_zone",
            place.as_ref().map(|place| place.zone.clone()).into(),
        );
    }
    if let Some(at) = change.launched_at {
        add("launched_at", at.into());
    }
    if let Some(percent) = change.progress {
        add("progress", percent.into());
    }
    if let Some(kept) = &change.kept {
        add("kept", to_document(kept)?.into());
    }
    if let Some(info) = &change.network_info {
        add("network_info", to_document(info)?.into());
    }
    if let Some(fault) = &change.fault {
        add("fault_code", fault.as_ref().map(|fault| fault.code).into());
        add(
            "fault_message",
            fault.as_ref().map(|fault| cut(&fault.message, 255)).into(),
        );
        add(
            "fault_details",
            fault
                .as_ref()
                .and_then(|fault| fault.details.clone())
                .into(),
        );
        add("fault_at", fault.as_ref().map(|fault| fault.created).into());
    }
    if let Some(host) = &change.launched_on {
        set.push("launched_on = COALESCE(launched_on, ?)".to_owned());
        params.push(host.into());
    }
    let condition = match expected {
        Expected::Generation(generation) => {
            params.extend([id.into(), generation.into()]);
            "generation = ?"
        }
        Expected::Task(task) => {
            params.extend([id.into(), task.into()]);
            "task_id = ?"
        }
    };
    let sql = format!(
        "UPDATE instances SET {} WHERE uuid = ? AND {ALIVE} AND {condition}",
        set.join(", ")
    );
    match change.is_told() {
        true => outbox::changing(tx, (&sql, &params), id, now),
        false => tx.execute_one(&sql, &params),
    }
}

/// Writes what is known of the server's interfaces.
pub fn set_network_info(tx: &mut Tx<'_>, id: ServerId, info: &[Interface]) -> Result<(), Error> {
    tx.post(
        "UPDATE instances SET network_info = ? WHERE uuid = ?",
        &[to_document(&info)?.into(), id.into()],
    )?;
    Ok(())
}

/// Marks a server as gone. The row stays for the record; its secrets go.
pub fn mark_deleted(tx: &mut Tx<'_>, id: ServerId, now: Timestamp) -> Result<bool, Error> {
    let sql = format!(
        "UPDATE instances SET deleted = id, vm_state = 'deleted', task_state = NULL, task_id = NULL, terminated_at = ?, \
         network_info = '[]', admin_pass = NULL, power_state = 0, generation = generation + 1 WHERE uuid = ? AND {ALIVE}"
    );
    let changed = outbox::changing(tx, (&sql, &[now.into(), id.into()]), id, now)?;
    tx.post(
        "DELETE FROM instance_tags WHERE instance_uuid = ?",
        &[id.into()],
    )?;
    // A group shows and counts those of its servers that are not deleted, and never again has this one.
    tx.post(
        "DELETE FROM server_group_members WHERE instance_uuid = ?",
        &[id.into()],
    )?;
    crate::guest_passwords::remove(tx, id)?;
    crate::injected_files::remove(tx, id)?;
    Ok(changed)
}

/// Writes what the hypervisor says, for servers that nobody works on: the pair of states follows the guest.
pub fn follow_guest(
    tx: &mut Tx<'_>,
    id: ServerId,
    host: &HostName,
    power: PowerState,
    vm_state: Option<VmState>,
    now: Timestamp,
) -> Result<bool, Error> {
    let mut params: Vec<Value> = vec![power.code().into(), now.into()];
    let state = match vm_state {
        Some(state) => {
            params.push(state.as_str().into());
            ", vm_state = ?"
        }
        None => "",
    };
    params.extend([id.into(), host.into()]);
    let sql = format!(
        "UPDATE instances SET power_state = ?, updated_at = ?, generation = generation + 1{state} \
         WHERE uuid = ? AND COALESCE(host, '') = ? AND {ALIVE} AND task_state IS NULL"
    );
    outbox::changing(tx, (&sql, &params), id, now)
}

/// The servers on a host that are not deleted.
pub fn on_host(tx: &mut Tx<'_>, host: &HostName) -> Result<Vec<Instance>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM instances WHERE host = ? AND deleted = 0 ORDER BY id");
    tx.query(&sql, &[host.into()])?
        .into_iter()
        .map(from_row)
        .collect()
}

/// Reads the two states.
fn states(
    vm_state: String,
    task_state: Option<String>,
) -> Result<(VmState, Option<TaskState>), Error> {
    let unknown = |text: &str| Error::Column(format!("'{text}' is not a state"));
    let task_state = match task_state {
        Some(state) => Some(TaskState::parse(&state).ok_or_else(|| unknown(&state))?),
        None => None,
    };
    let vm_state = VmState::parse(&vm_state).ok_or_else(|| unknown(&vm_state))?;
    Ok((vm_state, task_state))
}

/// Those of the servers that are deleted.
pub fn deleted_among(tx: &mut Tx<'_>, servers: &[ServerId]) -> Result<Vec<Instance>, Error> {
    let mut found = Vec::new();
    for some in servers.chunks(500) {
        let marks = vec!["?"; some.len()].join(", ");
        let sql = format!(
            "SELECT {COLUMNS} FROM instances WHERE deleted <> 0 AND uuid IN ({marks}) ORDER BY id"
        );
        let ids: Vec<Value> = some.iter().map(|id| (*id).into()).collect();
        for row in tx.query(&sql, &ids)? {
            found.push(from_row(row)?);
        }
    }
    Ok(found)
}

/// The projects that have deleted a server since then.
pub fn projects_of_deleted(tx: &mut Tx<'_>, since: Timestamp) -> Result<Vec<String>, Error> {
    // For DISTINCT, SQLite would go through an index of projects.
    let sql = "SELECT project_id FROM instances WHERE terminated_at >= ?";
    let rows = tx.query(sql, &[since.into()])?;
    let projects = rows.iter().map(|row| row.get(0));
    let projects: BTreeSet<String> = projects.collect::<Result<_, _>>()?;
    Ok(projects.into_iter().collect())
}

/// The servers in a stable state on which nobody works.
pub fn at_rest_in(tx: &mut Tx<'_>, state: VmState) -> Result<Vec<Instance>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM instances WHERE deleted = 0 AND vm_state = ? AND task_state IS NULL ORDER BY id"
    );
    tx.query(&sql, &[state.as_str().into()])?
        .into_iter()
        .map(from_row)
        .collect()
}

/// What a server shows of its interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The server.
    pub id: ServerId,
    /// Its generation.
    pub generation: i64,
    /// Whether nobody works on it.
    pub at_rest: bool,
    /// Its interfaces.
    pub interfaces: Vec<Interface>,
}

const SHOWN: &str = "SELECT uuid, generation, task_id, task_state, network_info FROM instances";

fn shown_from(row: &Row) -> Result<Shown, Error> {
    let task: Option<TaskId> = row.get(2)?;
    let state: Option<String> = row.get(3)?;
    Ok(Shown {
        id: row.get(0)?,
        generation: row.get(1)?,
        at_rest: task.is_none() && state.is_none(),
        interfaces: document(&row.get::<String>(4)?)?,
    })
}

/// The servers that have interfaces, with them.
pub fn with_interfaces(tx: &mut Tx<'_>) -> Result<Vec<Shown>, Error> {
    let sql = format!("{SHOWN} WHERE deleted = 0 AND network_info <> '[]'");
    tx.query(&sql, &[])?.iter().map(shown_from).collect()
}

/// What these servers show of their interfaces, as far as they are not deleted.
pub fn interfaces_of(tx: &mut Tx<'_>, servers: &[ServerId]) -> Result<Vec<Shown>, Error> {
    let mut found = Vec::new();
    for some in servers.chunks(500) {
        let sql = format!(
            "{SHOWN} WHERE uuid IN ({}) AND {ALIVE}",
            sql::placeholders(some.len())
        );
        let ids: Vec<Value> = some.iter().map(|id| (*id).into()).collect();
        for row in tx.query(&sql, &ids)? {
            found.push(shown_from(&row)?);
        }
    }
    Ok(found)
}

/// Writes the fields that their owner may edit (`PUT /servers/{id}`, metadata, lock).
pub fn update_editable(
    tx: &mut Tx<'_>,
    instance: &Instance,
    now: Timestamp,
) -> Result<bool, Error> {
    let i = instance;
    let params: Vec<Value> = vec![
        (&i.display_name).into(),
        i.description.clone().into(),
        (&i.hostname).into(),
        i.access_ip_v4.clone().into(),
        i.access_ip_v6.clone().into(),
        to_document(&i.metadata)?.into(),
        i.locked.into(),
        i.locked_by.clone().into(),
        i.locked_reason.clone().into(),
        i.pinned_zone.clone().into(),
        to_document(&i.kept)?.into(),
        now.into(),
        i.id.into(),
        i.generation.into(),
    ];
    let sql = format!(
        "UPDATE instances SET display_name = ?, display_description = ?, hostname = ?, access_ip_v4 = ?, access_ip_v6 = ?, \
        metadata = ?, locked = ?, locked_by = ?, locked_reason = ?, pinned_zone = ?, kept = ?, updated_at = ?, generation = generation + 1 \
        WHERE uuid = ? AND {ALIVE} AND generation = ?"
    );
    tx.execute_one(&sql, &params)
}

/// Writes what a rebuild gives a server anew, beside what its owner may edit.
pub fn rewrite(tx: &mut Tx<'_>, instance: &Instance) -> Result<(), Error> {
    let i = instance;
    let sql = format!(
        "UPDATE instances SET image_id = ?, image = ?, key_name = ?, key_data = ?, user_data = ?, admin_pass = ?, \
        display_name = ?, display_description = ?, hostname = ?, access_ip_v4 = ?, access_ip_v6 = ?, metadata = ?, config_drive = ?, kept = ?, progress = 0 \
        WHERE uuid = ? AND {ALIVE}"
    );
    let params: Vec<Value> = vec![
        i.image.as_ref().map(|image| image.id).into(),
        i.image.as_ref().map(to_document).transpose()?.into(),
        i.key_name.clone().into(),
        i.key_data.clone().into(),
        i.user_data.clone().into(),
        i.admin_pass.clone().into(),
        (&i.display_name).into(),
        i.description.clone().into(),
        (&i.hostname).into(),
        i.access_ip_v4.clone().into(),
        i.access_ip_v6.clone().into(),
        to_document(&i.metadata)?.into(),
        i.config_drive.into(),
        to_document(&i.kept)?.into(),
        i.id.into(),
    ];
    tx.post(&sql, &params)?;
    Ok(())
}

/// Writes the networks that the server was asked to have.
pub fn set_networks(tx: &mut Tx<'_>, id: ServerId, wanted: &WantedNetworks) -> Result<(), Error> {
    let params = [to_document(wanted)?.into(), id.into()];
    tx.post("UPDATE instances SET networks = ? WHERE uuid = ?", &params)?;
    Ok(())
}

/// Writes how far what works on the server is.
pub fn set_progress(tx: &mut Tx<'_>, id: ServerId, percent: i64) -> Result<(), Error> {
    let sql = "UPDATE instances SET progress = ? WHERE uuid = ? AND task_state IS NOT NULL";
    tx.post(sql, &[percent.into(), id.into()])?;
    Ok(())
}

/// Writes the zone in which the server must be.
pub fn set_pinned_zone(tx: &mut Tx<'_>, id: ServerId, zone: Option<&str>) -> Result<(), Error> {
    let params = [zone.into(), id.into()];
    let sql = "UPDATE instances SET pinned_zone = ? WHERE uuid = ?";
    tx.post(sql, &params)?;
    Ok(())
}

/// Writes the security groups that the server shows.
pub fn set_security_groups(
    tx: &mut Tx<'_>,
    id: ServerId,
    groups: &[SecurityGroupRef],
) -> Result<(), Error> {
    let params = [to_document(&groups)?.into(), id.into()];
    let sql = "UPDATE instances SET security_groups = ? WHERE uuid = ?";
    tx.post(sql, &params)?;
    Ok(())
}

/// Writes the flavor of a server, and the vCPUs and MiB that it counts as.
pub fn set_flavor(
    tx: &mut Tx<'_>,
    id: ServerId,
    flavor: &Flavor,
    counted: (i64, i64),
) -> Result<(), Error> {
    let params: [Value; 5] = [
        (&flavor.id).into(),
        to_document(flavor)?.into(),
        counted.0.into(),
        counted.1.into(),
        id.into(),
    ];
    let sql =
        "UPDATE instances SET flavor_id = ?, flavor = ?, vcpus = ?, memory_mb = ? WHERE uuid = ?";
    tx.post(sql, &params)?;
    Ok(())
}

/// Writes what a server remembers, whoever works on it.
pub fn set_kept(tx: &mut Tx<'_>, id: ServerId, kept: &Kept) -> Result<(), Error> {
    let params = [to_document(kept)?.into(), id.into()];
    tx.post("UPDATE instances SET kept = ? WHERE uuid = ?", &params)?;
    Ok(())
}
