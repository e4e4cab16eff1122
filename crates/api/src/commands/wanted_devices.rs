//! The disks that a request names, in either of its two forms, and those that image and flavor add (Nova's block device
//! mappings). Pure.

use crate::call::Call;
use crate::devices::with_folder;
use crate::faults::Fault;
use crate::schemas::{is_true, number};
use db::block_devices::BlockDevice;
use serde_json::Value;
use types::ServerId;
use types::disks::{Destination, Source};
use types::server::Flavor;

/// Disks on the host that a server can have (`max_local_block_devices`).
const MOST_LOCAL: usize = 3;
/// Buses that Nova knows.
const BUSES: &[&str] = &[
    "fdc", "ide", "sata", "scsi", "usb", "virtio", "xen", "lxc", "uml",
];

/// The disks of a request, as it says them.
#[derive(Clone, Debug, Default)]
pub struct WantedDevices {
    /// Said in the form of the first version, which says nothing about booting.
    legacy: bool,
    devices: Vec<Named>,
}

/// A disk of a request, or the wish that an image's disk of this name is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    device: BlockDevice,
    none: bool,
}

fn format(details: &str) -> Fault {
    Fault::bad_request(format!("Block Device Mapping is Invalid: {details}"))
}

fn blank(size: Option<u64>, guest_format: Option<&str>) -> BlockDevice {
    BlockDevice {
        volume_size: size,
        guest_format: guest_format.map(str::to_owned),
        device_type: Some("disk".to_owned()),
        delete_on_termination: true,
        boot_index: Some(-1),
        ..BlockDevice::new(
            ServerId(uuid::Uuid::nil()),
            Source::Blank,
            Destination::Local,
        )
    }
}

fn of_image(image: &str) -> BlockDevice {
    BlockDevice {
        image_id: Some(image.to_owned()),
        device_type: Some("disk".to_owned()),
        delete_on_termination: true,
        boot_index: Some(0),
        ..BlockDevice::new(
            ServerId(uuid::Uuid::nil()),
            Source::Image,
            Destination::Local,
        )
    }
}

impl Named {
    fn text(value: &Value, name: &str) -> Option<String> {
        let text = value[name].as_str().filter(|text| !text.is_empty());
        text.map(str::to_owned)
    }

    /// The parts that both forms share.
    fn plain(value: &Value, source: Source, destination: Destination) -> Result<Self, Fault> {
        let size = value.get("volume_size").and_then(number);
        let name = Self::text(value, "device_name");
        Ok(Self {
            none: false,
            device: BlockDevice {
                device_name: name.as_deref().map(with_folder),
                volume_size: size.and_then(|size| u64::try_from(size).ok()),
                delete_on_termination: is_true(&value["delete_on_termination"]),
                volume_id: Self::text(value, "volume_id"),
                snapshot_id: Self::text(value, "snapshot_id"),
                ..BlockDevice::new(ServerId(uuid::Uuid::nil()), source, destination)
            },
        })
    }

    fn left_out(value: &Value) -> Result<Self, Fault> {
        let named = Self::plain(value, Source::Blank, Destination::Local)?;
        Ok(Self {
            none: true,
            ..named
        })
    }

    /// One of `block_device_mapping`.
    fn first_form(value: &Value) -> Result<Self, Fault> {
        let virtual_name = Self::text(value, "virtual_name").unwrap_or_default();
        let number = virtual_name.strip_prefix("ephemeral");
        let is_ephemeral = number.is_some_and(|number| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        });
        if virtual_name == "swap" || is_ephemeral {
            let mut named = Self::plain(value, Source::Blank, Destination::Local)?;
            named.device.delete_on_termination = true;
            named.device.guest_format = (!is_ephemeral).then(|| "swap".to_owned());
            return Ok(named);
        }
        if value["snapshot_id"].is_string() {
            return Self::plain(value, Source::Snapshot, Destination::Volume);
        }
        if value["volume_id"].is_string() {
            return Self::plain(value, Source::Volume, Destination::Volume);
        }
        if said(value, "no_device") {
            return Self::left_out(value);
        }
        Err(format("Unrecognized legacy format."))
    }

    /// One of `block_device_mapping_v2`, or of an image's properties if `stored`.
    fn second_form(value: &Value, image_given: bool, stored: bool) -> Result<Self, Fault> {
        if said(value, "no_device") {
            return Self::left_out(value);
        }
        let source = Self::text(value, "source_type");
        let source = source.as_deref().and_then(Source::parse);
        let id = Self::text(value, "uuid");
        let id = id.or_else(|| {
            let name = source.map(|source| format!("{}_id", source.as_str()))?;
            Self::text(value, &name).filter(|_| stored)
        });
        let source = source.ok_or_else(|| format("Missing source type."))?;
        match (source, &id) {
            (Source::Blank, Some(_)) => return Err(format("Invalid device UUID.")),
            (Source::Image | Source::Volume | Source::Snapshot, None) => {
                return Err(format("Missing device UUID."));
            }
            _ => {}
        }
        let destination = Self::text(value, "destination_type");
        let destination = destination.as_deref().and_then(Destination::parse);
        let destination = destination.unwrap_or(match source {
            Source::Volume | Source::Snapshot => Destination::Volume,
            Source::Image | Source::Blank => Destination::Local,
        });
        let boot_index = match &value["boot_index"] {
            Value::Null => None,
            said => Some(number(said).ok_or_else(|| format("Boot index is invalid."))?),
        };
        let from_image = source == Source::Image && destination == Destination::Local;
        if from_image && !stored && !(image_given && boot_index == Some(0)) {
            return Err(format("Mapping image to local is not supported."));
        }
        let volume_type = Self::text(value, "volume_type");
        if volume_type.is_some() && destination == Destination::Local {
            return Err(format(
                "Specifying a volume_type with destination_type=local is not supported.",
            ));
        }
        if volume_type.is_some() && source == Source::Volume {
            return Err(format(
                "Specifying volume type to existing volume is not supported.",
            ));
        }
        let mut named = Self::plain(value, source, destination)?;
        let device = &mut named.device;
        let its = |wanted| id.clone().filter(|_| source == wanted);
        device.image_id = its(Source::Image);
        device.volume_id = its(Source::Volume);
        device.snapshot_id = its(Source::Snapshot);
        device.boot_index = boot_index;
        device.volume_type = volume_type;
        device.guest_format = Self::text(value, "guest_format");
        device.device_type = Self::text(value, "device_type");
        device.disk_bus = Self::text(value, "disk_bus");
        device.tag = Self::text(value, "tag");
        Ok(named)
    }
}

/// Whether a field says something that counts as true in Python.
fn said(value: &Value, name: &str) -> bool {
    match &value[name] {
        Value::Null => false,
        Value::Bool(yes) => *yes,
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

impl WantedDevices {
    /// The disks of `POST /servers`.
    pub fn read(call: &Call, image_given: bool) -> Result<Self, Fault> {
        let list = |name: &str| {
            let list = call.field("server", name).and_then(Value::as_array);
            list.filter(|list| !list.is_empty())
        };
        let (first, second) = (
            list("block_device_mapping"),
            list("block_device_mapping_v2"),
        );
        if first.is_some() && second.is_some() {
            return Err(Fault::bad_request(
                "Using different block_device_mapping syntaxes is not allowed in the same request.",
            ));
        }
        let read = |values: &Vec<Value>, one: &dyn Fn(&Value) -> Result<Named, Fault>| {
            values
                .iter()
                .map(one)
                .collect::<Result<Vec<Named>, Fault>>()
        };
        let devices = match (first, second) {
            (Some(values), _) => read(values, &Named::first_form)?,
            (_, Some(values)) => read(values, &|value| {
                Named::second_form(value, image_given, false)
            })?,
            (None, None) => Vec::new(),
        };
        if !devices.is_empty() {
            call.require("os_compute_api:servers:create:attach_volume")?;
        }
        Ok(Self {
            legacy: second.is_none(),
            devices,
        })
    }

    /// Whether the request names none.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// The disk whose image or volume says what the machine is like, when the request names no image.
    pub fn boots_from(&self) -> Option<&BlockDevice> {
        let all = || self.devices.iter().filter(|named| !named.none);
        let named = if self.legacy {
            all().find(|named| {
                let name = named.device.device_name.as_deref().unwrap_or_default();
                name.trim_end_matches(|c: char| c.is_ascii_digit())
                    .strip_prefix("/dev/")
                    .is_some_and(|name| ["a", "vda", "sda", "hda", "xvda"].contains(&name))
            })
        } else {
            all().find(|named| named.device.is_root())
        };
        named.map(|named| &named.device)
    }

    /// All disks of the server, with those that image and flavor add, root first; checked against each other, the flavor
    /// and Nova's limits. `image`: the id of the request's image. `properties`: the image's, also when it is a volume's.
    pub fn complete(
        &self,
        image: Option<&str>,
        properties: &Value,
        flavor: &Flavor,
        root_name: &str,
        several: bool,
    ) -> Result<Vec<BlockDevice>, Fault> {
        let root_short = root_name.strip_prefix("/dev/").unwrap_or(root_name);
        let clash = |named: &Named| {
            let name = named.device.device_name.as_deref();
            named.device.is_volume() && name == Some(root_name)
        };
        if image.is_some() && self.devices.iter().any(clash) {
            return Err(Fault::bad_request(format!(
                "The volume cannot be assigned the same device name as the root device {root_short}"
            )));
        }
        let of_image = image_devices(properties, root_name, flavor)?;
        let root_in_image = of_image.iter().any(|named| named.device.is_root());
        let mut named = if self.legacy {
            let image = image.filter(|_| !root_in_image);
            boot_order(self.devices.clone(), image, Some(root_name), root_in_image)
        } else {
            let mut devices = self.devices.clone();
            if root_in_image {
                devices.retain(|named| {
                    !(named.device.is_root() && named.device.source == Source::Image)
                });
            }
            devices
        };
        let overridden: Vec<String> = named
            .iter()
            .filter_map(|named| named.device.device_name.clone())
            .collect();
        named.extend(of_image.into_iter().filter(|named| {
            let name = named.device.device_name.as_ref();
            !name.is_some_and(|name| overridden.contains(name))
        }));
        let mut devices: Vec<BlockDevice> = named
            .into_iter()
            .filter(|named| !named.none)
            .map(|named| named.device)
            .collect();
        if several && devices.iter().any(|device| device.source == Source::Volume) {
            return Err(Fault::bad_request(
                "Cannot attach one or more volumes to multiple instances",
            ));
        }
        add_of_flavor(&mut devices, flavor);
        check(&devices, flavor)?;
        for device in &mut devices {
            size(device, flavor);
        }
        // As Nova names them: the root disk, empty disks, swap space, volumes.
        devices.sort_by_key(|device| {
            let kinds = [
                device.is_root(),
                device.is_ephemeral(),
                device.is_swap(),
                true,
            ];
            kinds.iter().position(|is_so| *is_so)
        });
        Ok(devices)
    }
}

/// Gives disks of the first form their order of booting: the one with the root disk's name, the image, or else the first
/// that is not empty.
fn boot_order(
    mut devices: Vec<Named>,
    image: Option<&str>,
    root_name: Option<&str>,
    no_root: bool,
) -> Vec<Named> {
    for named in &mut devices {
        named.device.boot_index = Some(-1);
    }
    if no_root {
        return devices;
    }
    let is_root = |named: &&mut Named| {
        !named.none
            && named.device.source != Source::Blank
            && root_name.is_some_and(|root| named.device.device_name.as_deref() == Some(root))
    };
    if let Some(root) = devices.iter_mut().find(is_root) {
        root.device.boot_index = Some(0);
        return devices;
    }
    if let Some(image) = image {
        devices.insert(
            0,
            Named {
                device: of_image(image),
                none: false,
            },
        );
    }
    devices
}

/// The disks that an image's properties name: `block_device_mapping` in either form, and empty ones in `mappings`.
fn image_devices(
    properties: &Value,
    root_name: &str,
    flavor: &Flavor,
) -> Result<Vec<Named>, Fault> {
    let list = |name: &str| match &properties[name] {
        Value::String(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        other => other.clone(),
    };
    let stored = list("block_device_mapping");
    let stored = stored.as_array().cloned().unwrap_or_default();
    let second = match &properties["bdm_v2"] {
        Value::Bool(yes) => *yes,
        other => is_true(other),
    };
    let mut devices = Vec::new();
    for value in &stored {
        devices.push(if second {
            Named::second_form(value, true, true)?
        } else {
            Named::first_form(value)?
        });
    }
    if !second && !devices.is_empty() {
        devices = boot_order(devices, None, Some(root_name), false);
    }
    let mappings = list("mappings");
    for mapping in mappings.as_array().into_iter().flatten() {
        let kind = mapping["virtual"].as_str().unwrap_or_default();
        let swap = kind == "swap";
        if !swap && !kind.starts_with("ephemeral") {
            continue;
        }
        let amount = if swap {
            flavor.swap_mb
        } else {
            flavor.ephemeral_gb
        };
        let name = mapping["device"].as_str().map(with_folder);
        let known = devices
            .iter()
            .any(|named: &Named| named.device.device_name == name && name.is_some());
        if amount > 0 && !known {
            let mut device = blank(Some(amount.into()), swap.then_some("swap"));
            device.device_name = name;
            devices.push(Named {
                device,
                none: false,
            });
        }
    }
    Ok(devices)
}

/// Adds the flavor's empty disk and swap space where none are named.
fn add_of_flavor(devices: &mut Vec<BlockDevice>, flavor: &Flavor) {
    if flavor.ephemeral_gb > 0 && !devices.iter().any(BlockDevice::is_ephemeral) {
        devices.push(blank(Some(flavor.ephemeral_gb.into()), None));
    }
    if flavor.swap_mb > 0 && !devices.iter().any(BlockDevice::is_swap) {
        devices.push(blank(Some(flavor.swap_mb.into()), Some("swap")));
    }
}

/// The size of an empty disk that says none.
fn size(device: &mut BlockDevice, flavor: &Flavor) {
    if device.volume_size.is_some() {
        return;
    }
    if device.is_swap() {
        device.volume_size = Some(flavor.swap_mb.into());
    } else if device.is_ephemeral() {
        device.volume_size = Some(flavor.ephemeral_gb.into());
    }
}

/// Nova's rules for all disks of a server, in its order.
fn check(devices: &[BlockDevice], flavor: &Flavor) -> Result<(), Fault> {
    let mut order: Vec<i64> = devices
        .iter()
        .filter_map(|device| device.boot_index)
        .filter(|index| *index >= 0)
        .collect();
    order.sort_unstable();
    let in_order = order
        .iter()
        .zip(0..)
        .all(|(index, wanted)| *index == wanted);
    if order.is_empty() || !in_order {
        return Err(format(
            "Boot sequence for the instance and image/block device mapping combination is not valid.",
        ));
    }
    for device in devices {
        let sized = device.volume_size.is_some_and(|size| size > 0);
        if device.makes_volume() && !sized {
            match device.source {
                Source::Image => {
                    return Err(Fault::bad_request(
                        "Images with destination_type 'volume' need to have a non-zero size specified",
                    ));
                }
                Source::Blank => {
                    return Err(Fault::bad_request(
                        "Blank volumes (source: 'blank', dest: 'volume') need to have non-zero size",
                    ));
                }
                Source::Snapshot | Source::Volume => {}
            }
        }
        let bus = device.disk_bus.as_deref();
        if bus.is_some_and(|bus| !BUSES.contains(&bus)) {
            return Err(Fault::bad_request("Block Device Mapping is Invalid."));
        }
    }
    let ephemeral: u64 = devices
        .iter()
        .filter(|device| device.is_ephemeral())
        .map(|device| device.volume_size.unwrap_or(flavor.ephemeral_gb.into()))
        .sum();
    if ephemeral > u64::from(flavor.ephemeral_gb) {
        return Err(Fault::bad_request(
            "Ephemeral disks requested are larger than the instance type allows. If no size is given in one block device \
             mapping, flavor ephemeral size will be used.",
        ));
    }
    let swaps: Vec<&BlockDevice> = devices.iter().filter(|device| device.is_swap()).collect();
    if swaps.len() > 1 {
        return Err(format("More than one swap drive requested."));
    }
    let swap = swaps.first().and_then(|device| device.volume_size);
    if swap.is_some_and(|size| size > u64::from(flavor.swap_mb)) {
        return Err(Fault::bad_request(
            "Swap drive requested is larger than instance type allows.",
        ));
    }
    let local = devices
        .iter()
        .filter(|device| device.destination == Destination::Local);
    if local.count() > MOST_LOCAL {
        return Err(format(
            "You specified more local devices than the limit allows",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn flavor() -> Flavor {
        Flavor {
            id: "1".into(),
            name: "f".to_owned(),
            memory_mb: 512,
            vcpus: 1,
            root_gb: 1,
            ephemeral_gb: 2,
            swap_mb: 64,
            rxtx_factor: 1.0,
            extra_specs: std::collections::BTreeMap::new(),
        }
    }

    fn read(values: &[Value], legacy: bool, image: bool) -> Result<WantedDevices, Fault> {
        let devices = values.iter().map(|value| {
            if legacy {
                Named::first_form(value)
            } else {
                Named::second_form(value, image, false)
            }
        });
        Ok(WantedDevices {
            legacy,
            devices: devices.collect::<Result<_, _>>()?,
        })
    }

    /// Source, destination, order of booting and size of each.
    fn told(devices: &[BlockDevice]) -> Vec<String> {
        let one = |d: &BlockDevice| {
            let index = d
                .boot_index
                .map_or("-".to_owned(), |index| index.to_string());
            let size = d.volume_size.unwrap_or(0);
            let format = d.guest_format.as_deref().unwrap_or("-");
            format!(
                "{}>{} {index} {size} {format}",
                d.source.as_str(),
                d.destination.as_str()
            )
        };
        devices.iter().map(one).collect()
    }

    fn complete(
        wanted: &WantedDevices,
        image: Option<&str>,
        properties: &Value,
    ) -> Result<Vec<String>, String> {
        let all = wanted.complete(image, properties, &flavor(), "/dev/vda", false);
        all.map(|all| told(&all)).map_err(|fault| fault.message)
    }

    const ID: &str = "11111111-2222-4333-8444-555555555555";

    #[test]
    fn a_plain_server_has_its_image_and_what_the_flavor_gives() {
        let all = complete(&read(&[], true, true).unwrap(), Some(ID), &Value::Null);
        assert_eq!(
            all.unwrap(),
            [
                "image>local 0 0 -",
                "blank>local -1 2 -",
                "blank>local -1 64 swap"
            ]
        );
    }

    #[test]
    fn both_forms() {
        let volume = json!({ "volume_id": ID, "device_name": "vdb" });
        let all = complete(
            &read(&[volume], true, true).unwrap(),
            Some(ID),
            &Value::Null,
        );
        assert_eq!(all.unwrap()[3], "volume>volume -1 0 -");
        let root = json!({ "volume_id": ID, "device_name": "vda" });
        let wanted = read(&[root], true, false).unwrap();
        assert_eq!(wanted.boots_from().unwrap().volume_id.as_deref(), Some(ID));
        let all = complete(&wanted, None, &Value::Null).unwrap();
        assert_eq!(all[0], "volume>volume 0 0 -");
        let second = json!({ "source_type": "image", "uuid": ID, "destination_type": "volume", "boot_index": "0",
            "volume_size": "3", "volume_type": "lvm" });
        let all = complete(&read(&[second], false, false).unwrap(), None, &Value::Null).unwrap();
        assert_eq!(all[0], "image>volume 0 3 -");
    }

    #[test]
    fn what_is_refused() {
        let v2 = |value: Value| {
            let wanted = read(&[value], false, true).map_err(|fault| fault.message)?;
            complete(&wanted, None, &Value::Null)
        };
        let invalid = "Block Device Mapping is Invalid: ";
        let table = [
            (
                json!({ "source_type": "blank", "uuid": ID }),
                format!("{invalid}Invalid device UUID."),
            ),
            (
                json!({ "source_type": "volume" }),
                format!("{invalid}Missing device UUID."),
            ),
            (
                json!({ "source_type": "image", "uuid": ID, "destination_type": "local", "boot_index": 1 }),
                format!("{invalid}Mapping image to local is not supported."),
            ),
            (
                json!({ "source_type": "blank", "destination_type": "local", "volume_type": "t" }),
                format!(
                    "{invalid}Specifying a volume_type with destination_type=local is not supported."
                ),
            ),
            (
                json!({ "source_type": "volume", "uuid": ID, "destination_type": "volume", "volume_type": "t" }),
                format!("{invalid}Specifying volume type to existing volume is not supported."),
            ),
            (
                json!({ "source_type": "volume", "uuid": ID, "destination_type": "volume", "boot_index": 1 }),
                format!(
                    "{invalid}Boot sequence for the instance and image/block device mapping combination is not valid."
                ),
            ),
            (
                json!({ "source_type": "image", "uuid": ID, "destination_type": "volume", "boot_index": 0 }),
                "Images with destination_type 'volume' need to have a non-zero size specified"
                    .to_owned(),
            ),
            (
                json!({ "source_type": "volume", "uuid": ID, "destination_type": "volume", "boot_index": 0, "disk_bus": "x" }),
                "Block Device Mapping is Invalid.".to_owned(),
            ),
        ];
        for (value, wanted) in table {
            assert_eq!(v2(value.clone()), Err(wanted), "{value}");
        }
        let root = json!({ "source_type": "volume", "uuid": ID, "destination_type": "volume", "boot_index": 0 });
        let more = |second: Value| {
            complete(
                &read(&[root.clone(), second], false, true).unwrap(),
                None,
                &Value::Null,
            )
        };
        let ephemeral =
            json!({ "source_type": "blank", "destination_type": "local", "volume_size": 3 });
        assert!(
            more(ephemeral)
                .unwrap_err()
                .starts_with("Ephemeral disks requested are larger")
        );
        let swap = json!({ "source_type": "blank", "destination_type": "local", "guest_format": "swap", "volume_size": 65 });
        assert!(
            more(swap)
                .unwrap_err()
                .starts_with("Swap drive requested is larger")
        );
        let several = read(&[root], false, true).unwrap();
        let several = several.complete(None, &Value::Null, &flavor(), "/dev/vda", true);
        assert_eq!(
            several.unwrap_err().message,
            "Cannot attach one or more volumes to multiple instances"
        );
    }

    #[test]
    fn images_of_servers_that_boot_from_volumes_name_their_disks() {
        let disks = json!([
            { "source_type": "snapshot", "destination_type": "volume", "snapshot_id": ID, "boot_index": 0, "volume_size": 1,
              "device_name": "/dev/vda", "delete_on_termination": false },
            { "source_type": "blank", "destination_type": "local", "guest_format": "swap", "boot_index": -1, "volume_size": 32 },
        ]);
        let properties = json!({ "bdm_v2": "True", "block_device_mapping": disks.to_string(), "root_device_name": "/dev/vda" });
        let inserted = json!({ "source_type": "image", "uuid": ID, "destination_type": "local", "boot_index": 0 });
        let wanted = read(&[inserted], false, true).unwrap();
        let all = complete(&wanted, Some(ID), &properties).unwrap();
        assert_eq!(
            all,
            [
                "snapshot>volume 0 1 -",
                "blank>local -1 2 -",
                "blank>local -1 32 swap"
            ]
        );
        let plain = read(&[], true, true).unwrap();
        assert_eq!(complete(&plain, Some(ID), &properties).unwrap(), all);
    }
}
