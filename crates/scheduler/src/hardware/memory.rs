//! Memory: the size of its pages, whether it is locked, kept, or encrypted.

use super::{Checked, Demand, Guest, in_words, wrong};

/// The size of pages that every host has.
const SMALL_KIB: u64 = 4;

/// Pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pages {
    Small,
    Any,
    Large,
    Kib(u64),
}

/// Bytes of a text such as `2MiB`; bare numbers are KiB.
fn kib(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok();
    }
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    let number: u64 = number.parse().ok()?;
    let (unit, bits) = match unit.strip_suffix("bit").or(unit.strip_suffix('b')) {
        Some(unit) => (unit, 8),
        None => (unit.strip_suffix('B').unwrap_or(unit), 1),
    };
    let power = match unit.trim_end_matches('i') {
        "" => 0,
        "k" | "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        _ => return None,
    };
    let bytes = number.checked_mul(1024_u64.checked_pow(power)?)? / bits;
    Some(bytes / 1024)
}

fn pages(text: &str) -> Checked<Pages> {
    Ok(match text {
        "small" => Pages::Small,
        "any" => Pages::Any,
        "large" => Pages::Large,
        other => match kib(other) {
            Some(size) => Pages::Kib(size),
            None => return wrong(format!("Invalid memory page size '{other}'")),
        },
    })
}

/// The pages asked for, and what asks.
fn page_size(guest: Guest<'_>) -> Checked<Option<(Pages, String)>> {
    match guest.both("mem_page_size") {
        (None, None) => Ok(None),
        (None, Some(image)) => wrong(format!("Page size {image} forbidden against '<empty>'")),
        (Some(flavor), None) => Ok(Some((pages(flavor)?, format!("hw:mem_page_size={flavor}")))),
        (Some(flavor), Some(image)) => match pages(flavor)? {
            Pages::Any | Pages::Large => {
                Ok(Some((pages(image)?, format!("hw_mem_page_size={image}"))))
            }
            _ => wrong(format!("Page size {image} forbidden against '{flavor}'")),
        },
    }
}

/// Whether the memory must not be swapped; only with a page size.
fn locked(guest: Guest<'_>) -> Checked<Option<String>> {
    let (flavor, image) = guest.flags("locked_memory");
    if let (Some(flavor), Some(image)) = (flavor, image)
        && flavor != image
    {
        let (flavor, image) = (in_words(flavor), in_words(image));
        return wrong(format!(
            "locked_memory value in image ({image}) and flavor ({flavor}) conflict. A consistent value is expected if both specified."
        ));
    }
    if flavor.or(image) != Some(true) {
        return Ok(None);
    }
    if guest.both("mem_page_size") == (None, None) {
        return wrong(
            "locked_memory value in image or flavor is forbidden when mem_page_size is not set.",
        );
    }
    let name = if flavor.is_some() { "hw:" } else { "hw_" };
    Ok(Some(format!("{name}locked_memory=true")))
}

/// What is asked of memory, but for its encryption.
pub(super) fn demands(guest: Guest<'_>) -> Checked<Vec<Demand>> {
    let mut all = Vec::new();
    match page_size(guest)? {
        None | Some((Pages::Small | Pages::Any | Pages::Kib(SMALL_KIB), _)) => {}
        Some((_, spec)) => all.push(Demand {
            spec,
            what: "large memory pages",
        }),
    }
    if let Some(spec) = locked(guest)? {
        all.push(Demand {
            spec,
            what: "locked memory",
        });
    }
    if let Some(names) = guest.spec("hw:pmem") {
        all.push(Demand {
            spec: format!("hw:pmem={names}"),
            what: "persistent memory",
        });
    }
    all.extend(encryption(guest)?);
    Ok(all)
}

/// Whether the memory is encrypted, which needs UEFI and a machine of the family q35.
pub(super) fn encryption(guest: Guest<'_>) -> Checked<Option<Demand>> {
    let (flavor, image) = guest.flags("mem_encryption");
    if flavor != Some(true) && image != Some(true) {
        return Ok(None);
    }
    let Some((_, spec)) = guest.switch("mem_encryption")? else {
        return Ok(None);
    };
    let model = guest.unique("hw", "mem_encryption_model")?;
    let model = model.map_or("amd-sev", |(model, _)| model);
    if !["amd-sev", "amd-sev-es", "amd-sev-snp", "intel-tdx"].contains(&model) {
        return wrong(format!(
            "Invalid memory encryption model '{model}'. Allowed values: amd-sev, amd-sev-es, amd-sev-snp, intel-tdx."
        ));
    }
    if guest.image.text("hw_firmware_type") != Some("uefi") {
        let mut asking = Vec::new();
        if flavor == Some(true) {
            asking.push(format!(
                "hw:mem_encryption extra spec in {} flavor",
                guest.flavor.name
            ));
        }
        if image == Some(true) {
            asking.push("hw_mem_encryption property of image".to_owned());
        }
        return wrong(format!(
            "Memory encryption is requested by {} but the image metadata doesn't have the 'hw_firmware_type' property set to 'uefi'",
            asking.join(" and ")
        ));
    }
    if let Some(machine) = guest
        .image
        .text("hw_machine_type")
        .filter(|name| !name.contains("q35"))
    {
        return wrong(format!(
            "Machine type '{machine}' is not compatible with image: q35 type is required for {model} to work"
        ));
    }
    if ["amd-sev-snp", "intel-tdx"].contains(&model)
        && guest.image.flag("hw_firmware_stateless") != Some(true)
    {
        return wrong(format!(
            "The {model} memory encryption model requires stateless firmware but the image metadata doesn't have the \
             'hw_firmware_stateless' property set to True"
        ));
    }
    Ok(Some(Demand {
        spec,
        what: "memory encryption",
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let table = [
            ("4", Some(4)),
            ("2048", Some(2048)),
            ("2MB", Some(2048)),
            ("2MiB", Some(2048)),
            ("1G", Some(1_048_576)),
            ("4KB", Some(4)),
            ("16384b", Some(2)),
            ("8Mbit", Some(1024)),
            ("2XB", None),
            ("MB", None),
            ("99999999999999T", None),
        ];
        for (text, wanted) in table {
            assert_eq!(kib(text), wanted, "{text}");
        }
    }
}
