//! From the disks that a server has on record to those that its host shall give the guest. Pure.

use db::block_devices::BlockDevice;
use serde_json::Value;
use types::disks::{DiskKind, GuestDisk};

/// The disks beside the one made of the server's image.
pub fn of_guest<'a>(devices: impl IntoIterator<Item = &'a BlockDevice>) -> Vec<GuestDisk> {
    devices.into_iter().filter_map(of_device).collect()
}

/// One of them; none for the image's, for a volume that is not connected, and for swap space of no size.
pub fn of_device(device: &BlockDevice) -> Option<GuestDisk> {
    let size = device.volume_size.unwrap_or(0);
    let kind = if device.is_volume() {
        DiskKind::Volume {
            volume_id: device.volume_id.clone()?,
            connection: serde_json::from_str(device.connection_info.as_ref()?)
                .unwrap_or(Value::Null),
        }
    } else if device.is_swap() {
        if size == 0 {
            return None;
        }
        DiskKind::Swap { size_mib: size }
    } else if device.is_ephemeral() {
        DiskKind::Ephemeral {
            size_gib: size,
            format: device.guest_format.clone(),
        }
    } else {
        return None;
    };
    let name = device.device_name.as_deref();
    Some(GuestDisk {
        id: device.id.to_string(),
        kind,
        device: name.map(|name| name.strip_prefix("/dev/").unwrap_or(name).to_owned()),
        bus: device.disk_bus.clone(),
        device_type: device.device_type.clone(),
        boot_index: device
            .boot_index
            .and_then(|index| u32::try_from(index).ok()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use types::ServerId;
    use types::disks::{Destination, Source};

    #[test]
    fn what_the_host_makes() {
        let server = ServerId::random();
        let device = |source, destination| BlockDevice::new(server, source, destination);
        let image = BlockDevice {
            boot_index: Some(0),
            ..device(Source::Image, Destination::Local)
        };
        let swap = BlockDevice {
            guest_format: Some("swap".to_owned()),
            volume_size: Some(64),
            ..device(Source::Blank, Destination::Local)
        };
        let waiting = BlockDevice {
            volume_id: Some("v1".to_owned()),
            ..device(Source::Volume, Destination::Volume)
        };
        let connected = BlockDevice {
            connection_info: Some("{\"driver_volume_type\": \"nbd\"}".to_owned()),
            device_name: Some("/dev/vdc".to_owned()),
            boot_index: Some(-1),
            ..waiting.clone()
        };
        let disks = of_guest(&[image, swap, waiting, connected]);
        assert_eq!(disks.len(), 2);
        assert_eq!(disks[0].kind, DiskKind::Swap { size_mib: 64 });
        assert_eq!(disks[1].volume_id(), Some("v1"));
        assert_eq!(disks[1].device.as_deref(), Some("vdc"));
        assert_eq!(disks[1].boot_index, None);
    }
}
