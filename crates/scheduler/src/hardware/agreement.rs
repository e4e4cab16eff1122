//! What a flavor and an image say of devices and of the CPUs' topology must agree, whether or not hosts give it.

use super::{Checked, Guest, wrong};

/// The checks of Nova's API, in its order.
pub(super) fn check(guest: Guest<'_>) -> Checked<()> {
    packed_ring(guest)?;
    guest.switch("pmu")?;
    serial_ports(guest)?;
    topology(guest)?;
    // One CPU has one queue, whatever is said.
    if guest.flavor.vcpus >= 2 {
        guest.switch("vif_multiqueue_enabled")?;
    }
    Ok(())
}

fn packed_ring(guest: Guest<'_>) -> Checked<()> {
    match guest.switch("virtio_packed_ring") {
        Ok(_) => Ok(()),
        // Nova does not name the flavor here.
        Err(conflict) => {
            let words = conflict.to_string();
            let named = format!("Flavor {} has", guest.flavor.name);
            wrong(words.replacen(&named, "Flavor has", 1))
        }
    }
}

/// A number of the flavor, which the image may lower.
fn serial_ports(guest: Guest<'_>) -> Checked<()> {
    let Some(text) = guest.spec("hw:serial_port_count") else {
        return Ok(());
    };
    let Ok(flavor) = text.parse::<i64>() else {
        return wrong(format!(
            "Number of serial ports specified in flavor is invalid: expected an integer, got '{text}'"
        ));
    };
    let image = guest.image.number("hw_serial_port_count").unwrap_or(0);
    if flavor != 0 && image > flavor {
        return wrong(
            "Forbidden to exceed flavor value of number of serial ports passed in image meta.",
        );
    }
    Ok(())
}

/// Sockets, cores of each, threads of each; 0 says nothing.
type Topology = [i64; 3];

/// No limit.
const MOST: i64 = 65_536;

fn topology(guest: Guest<'_>) -> Checked<()> {
    let (flavor_max, image_max) = both(guest, "cpu_max_")?;
    if exceeds(image_max, flavor_max) {
        return wrong(format!(
            "Image vCPU topology limits ({}) exceeds the limits of the flavor ({})",
            told(image_max),
            told(flavor_max)
        ));
    }
    let (_, wanted) = both(guest, "cpu_")?;
    let mut most = [MOST; 3];
    for ((most, image), flavor) in most.iter_mut().zip(image_max).zip(flavor_max) {
        let mut limits = [image, flavor].into_iter();
        *most = limits.find(|limit| *limit != 0).unwrap_or(MOST);
    }
    if exceeds(wanted, most) {
        return wrong(format!(
            "Image vCPU topology ({}) exceeds the limits of the flavor or image ({})",
            told(wanted),
            told(most)
        ));
    }
    Ok(())
}

/// What the flavor and the image say under names that begin so.
fn both(guest: Guest<'_>, begin: &str) -> Checked<(Topology, Topology)> {
    let (mut flavor, mut image) = ([0; 3], [0; 3]);
    for (index, part) in ["sockets", "cores", "threads"].iter().enumerate() {
        if let Some(text) = guest.spec(&format!("hw:{begin}{part}")) {
            flavor[index] = text.parse().or_else(|_| {
                wrong(format!(
                    "Invalid flavor extra spec. Error: invalid literal for int() with base 10: '{text}'"
                ))
            })?;
        }
        let number = guest.image.number(&format!("hw_{begin}{part}"));
        image[index] = number.unwrap_or(0);
    }
    Ok((flavor, image))
}

/// Whether a number is above its limit, where there is one.
fn exceeds(wanted: Topology, limits: Topology) -> bool {
    let mut all = wanted.into_iter().zip(limits);
    all.any(|(wanted, limit)| limit != 0 && wanted > limit)
}

fn told([sockets, cores, threads]: Topology) -> String {
    format!("sockets={sockets}, cores={cores}, threads={threads}")
}
