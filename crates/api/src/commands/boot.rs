//! What a server boots from: an image, or a volume. Images, volumes and snapshots are looked at before the server is
//! accepted, so that what cannot work is refused at once.

use super::create_server::CreateServer;
use super::resolve::fits;
use crate::call::Call;
use crate::devices;
use crate::faults::Fault;
use crate::handlers::server_volumes::{must_be_free, version_knows};
use crate::neighbours::unavailable;
use clients::ImageRecord;
use clients::volumes::VolumeRecord;
use db::block_devices::BlockDevice;
use db::instances::BootVolume;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use types::disks::Source;
use types::server::{Flavor, ImageRef};

const GIB: u64 = 1 << 30;

/// What a server boots from, and its disks.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The image of its root disk; none when that is a volume.
    pub image: Option<ImageRef>,
    /// What is known of the volume it boots from.
    pub volume: Option<BootVolume>,
    /// The name of its root disk.
    pub root_device_name: String,
    /// Its disks.
    pub devices: Vec<BlockDevice>,
    /// Volumes among them that several servers may have.
    pub shared: Vec<String>,
}

/// What says what the machine is like: an image, or what a volume keeps of one.
struct Meta {
    properties: Value,
    min_ram: u32,
    min_disk: u32,
}

impl Meta {
    fn of_image(image: &ImageRecord) -> Self {
        Self {
            properties: clients::properties(&image.document).into(),
            min_ram: image.image.min_ram,
            min_disk: image.image.min_disk,
        }
    }

    fn of_volume(volume: &VolumeRecord) -> Self {
        let number = |name: &str| {
            let text = volume.image_metadata.get(name);
            text.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        Self {
            properties: json!(volume.image_metadata),
            min_ram: number("min_ram"),
            min_disk: number("min_disk"),
        }
    }

    fn texts(&self) -> BTreeMap<String, String> {
        let all = self.properties.as_object().into_iter().flatten();
        all.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect()
    }
}

fn not_got(what: &str, id: &str) -> Fault {
    Fault::bad_request(format!(
        "Block Device Mapping is Invalid: failed to get {what} {id}."
    ))
}

impl CreateServer {
    /// Looks at everything that the server is to be made of.
    pub(super) async fn boot(&self, call: &Call, flavor: &Flavor) -> Result<Boot, Fault> {
        let image = match &self.image {
            Some(id) => Some(image(call, id).await?),
            None => None,
        };
        let meta = match (&image, self.devices.boots_from()) {
            (Some(image), _) => Some(Meta::of_image(image)),
            (None, Some(device)) => meta_of(call, device).await?,
            (None, None) => None,
        };
        let properties = meta.as_ref().map(|meta| &meta.properties);
        let properties = properties.unwrap_or(&Value::Null);
        let root = properties["root_device_name"].as_str();
        let root_device_name = root.map_or_else(|| devices::ROOT.to_owned(), devices::with_folder);
        let mut all = self.devices.complete(
            self.image.as_deref(),
            properties,
            flavor,
            &root_device_name,
            self.max_count > 1,
        )?;
        let root = all.iter().find(|device| device.is_root()).cloned();
        let from_volume = root.as_ref().filter(|root| root.is_volume());
        match (from_volume, &image, &meta) {
            (None, Some(image), _) => fits(call, flavor, image)?,
            (None, None, _) => return Err(Fault::bad_request("Invalid image metadata.")),
            (Some(root), image, Some(meta)) => {
                if let Some(inactive) = image.as_ref().filter(|image| image.status != "active") {
                    let id = inactive.image.id;
                    return Err(Fault::bad_request(format!("Image {id} is not active.")));
                }
                fits_volume(meta, flavor, root.volume_size)?;
            }
            (Some(_), _, None) => {}
        }
        let shared = self.look_at(call, &mut all).await?;
        name(&mut all, &root_device_name);
        let volume = from_volume.is_some().then(|| BootVolume {
            properties: meta.as_ref().map(Meta::texts).unwrap_or_default(),
            min_ram: meta.as_ref().map_or(0, |meta| meta.min_ram),
            min_disk: meta.as_ref().map_or(0, |meta| meta.min_disk),
        });
        let image = image.map(|found| found.image);
        Ok(Boot {
            image: image.filter(|_| volume.is_none()),
            volume,
            root_device_name,
            devices: all,
            shared,
        })
    }

    /// Every image, volume, snapshot and type that a disk names must be there and usable. Answers the volumes that several
    /// servers may have.
    async fn look_at(
        &self,
        call: &Call,
        devices: &mut [BlockDevice],
    ) -> Result<Vec<String>, Fault> {
        let mut shared = Vec::new();
        let scope = call.volume_scope();
        let volumes = &call.api.deps.volumes;
        let mut types = None;
        let mut seen: HashMap<String, ()> = self.image.iter().map(|id| (id.clone(), ())).collect();
        for device in devices {
            if let Some(wanted) = device.volume_type.clone() {
                let known = match &types {
                    Some(known) => known,
                    None => types.insert(volumes.types(&scope).await.map_err(unavailable)?),
                };
                let found = known
                    .iter()
                    .find(|(id, name)| *id == wanted || *name == wanted);
                let (_, name) = found.ok_or_else(|| {
                    Fault::bad_request(format!("Volume type {wanted} could not be found."))
                })?;
                device.volume_type = Some(name.clone());
            }
            if let Some(id) = device.image_id.clone() {
                if seen.insert(id.clone(), ()).is_none() {
                    let found = call.api.deps.images.get(&call.token, &id).await;
                    found
                        .map_err(unavailable)?
                        .ok_or_else(|| not_got("image", &id))?;
                }
            } else if let Some(id) = device.volume_id.clone() {
                let volume = call
                    .volume(&id)
                    .await?
                    .ok_or_else(|| not_got("volume", &id))?;
                version_knows(call, &volume)?;
                must_be_free(&volume).map_err(|fault| {
                    Fault::bad_request(format!("Invalid volume: {}", fault.message))
                })?;
                device.volume_size = Some(volume.size);
                if volume.multiattach {
                    shared.push(id);
                }
            } else if let Some(id) = device.snapshot_id.clone() {
                let found = volumes.snapshot(&scope, &id).await.map_err(unavailable)?;
                let snapshot = found.ok_or_else(|| not_got("snapshot", &id))?;
                device.volume_size = device.volume_size.or(Some(snapshot.size));
            }
        }
        Ok(shared)
    }
}

async fn image(call: &Call, id: &str) -> Result<ImageRecord, Fault> {
    let found = call.api.deps.images.get(&call.token, id).await;
    found
        .map_err(unavailable)?
        .ok_or_else(|| Fault::bad_request("Can not find requested image"))
}

/// What a disk to boot from says of the machine.
async fn meta_of(call: &Call, device: &BlockDevice) -> Result<Option<Meta>, Fault> {
    if let Some(id) = &device.image_id {
        let found = call.api.deps.images.get(&call.token, id).await;
        let image = found
            .map_err(unavailable)?
            .ok_or_else(|| not_got("image", id))?;
        return Ok(Some(Meta::of_image(&image)));
    }
    let volume = match (&device.volume_id, &device.snapshot_id) {
        (Some(volume), _) => volume.clone(),
        (None, Some(id)) => {
            let found = call
                .api
                .deps
                .volumes
                .snapshot(&call.volume_scope(), id)
                .await;
            let snapshot = found
                .map_err(unavailable)?
                .ok_or_else(|| not_got("snapshot", id))?;
            snapshot.volume_id
        }
        (None, None) => return Ok(None),
    };
    let found = call.volume(&volume).await?;
    let found = match (found, device.source) {
        (Some(found), _) => found,
        // The volume that a snapshot was made of need not be there any more.
        (None, Source::Snapshot) => return Ok(None),
        (None, _) => return Err(not_got("volume", &volume)),
    };
    if !found.bootable && device.source == Source::Volume {
        return Err(Fault::bad_request(format!(
            "Block Device {volume} is not bootable."
        )));
    }
    Ok(Some(Meta::of_volume(&found)))
}

/// Whether a server of this flavor can boot from a volume that is made, as far as its size is known.
fn fits_volume(meta: &Meta, flavor: &Flavor, size: Option<u64>) -> Result<(), Fault> {
    if flavor.memory_mb < meta.min_ram {
        return Err(Fault::bad_request(
            "Flavor's memory is too small for requested image.",
        ));
    }
    let least = u64::from(meta.min_disk) * GIB;
    match size.map(|size| size * GIB) {
        Some(bytes) if least > bytes => Err(Fault::bad_request(format!(
            "Volume is smaller than the minimum size specified in image metadata. Volume size is {bytes} bytes, minimum \
             size is {least} bytes."
        ))),
        _ => Ok(()),
    }
}

/// What is known of a volume once it has another image, which must fit it and the flavor.
pub fn reimaged(image: &ImageRecord, flavor: &Flavor, size: u64) -> Result<BootVolume, Fault> {
    if image.status != "active" {
        let id = image.image.id;
        return Err(Fault::bad_request(format!("Image {id} is not active.")));
    }
    let meta = Meta::of_image(image);
    fits_volume(&meta, flavor, Some(size))?;
    Ok(BootVolume {
        properties: meta.texts(),
        min_ram: meta.min_ram,
        min_disk: meta.min_disk,
    })
}

/// Gives every disk a name: the root disk its own, others the one that was wished if it is free, or the next.
fn name(all: &mut [BlockDevice], root: &str) {
    let mut taken: Vec<String> = Vec::new();
    for device in all {
        let named = if device.is_root() {
            Some(root.to_owned())
        } else {
            let there = || taken.iter().map(String::as_str);
            let wish = device.device_name.as_deref();
            devices::name(Some(root), there(), wish)
                .or_else(|_| devices::name(Some(root), there(), None))
                .ok()
        };
        taken.extend(named.clone());
        device.device_name = named;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::ServerId;
    use types::disks::Destination;

    #[test]
    fn names_are_given_in_order() {
        let device = |name: Option<&str>, boot_index| BlockDevice {
            device_name: name.map(str::to_owned),
            boot_index,
            ..BlockDevice::new(ServerId::random(), Source::Volume, Destination::Volume)
        };
        let mut all = [
            device(Some("/dev/sdq"), Some(0)),
            device(None, None),
            device(Some("/dev/vdb"), None),
            device(Some("/dev/vdf"), None),
        ];
        name(&mut all, "/dev/vda");
        let names: Vec<&str> = all
            .iter()
            .filter_map(|device| device.device_name.as_deref())
            .collect();
        assert_eq!(names, ["/dev/vda", "/dev/vdb", "/dev/vdc", "/dev/vdf"]);
    }
}
