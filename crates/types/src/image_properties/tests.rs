#![allow(clippy::unwrap_used)]

use super::table::{KNOWN, OLD_NAMES};
use super::*;
use serde_json::json;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn parse(pairs: &[(&str, &str)]) -> Result<ImageProperties, String> {
    ImageProperties::parse(&map(pairs)).map_err(|wrong| wrong.problem)
}

#[test]
fn the_table_is_one_of_different_names() {
    let names: BTreeSet<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
    // Beside hw_numa_cpus, hw_numa_mem and traits_required these are the 86 of Nova.
    assert_eq!((names.len(), KNOWN.len()), (83, 83));
    for (_, now) in OLD_NAMES {
        assert!(names.contains(now), "{now}");
    }
}

#[test]
fn values_are_read_as_nova_reads_them() {
    let texts = [
        ("hw_vif_model", "igb", "igb"),
        ("hw_vif_model", "VirtualE1000", "e1000"),
        ("hw_vif_model", "Virtio", "virtio"),
        ("hw_scsi_model", "paraVirtual", "vmpvscsi"),
        ("os_type", "Linux", "linux"),
        ("hw_architecture", "AMD64", "x86_64"),
        ("hw_vm_mode", "HV", "hvm"),
        ("img_hv_type", "XAPI", "xen"),
        ("hw_machine_type", "anything goes", "anything goes"),
        ("img_hv_requested_version", ">=2.6, <3", ">=2.6, <3"),
        ("img_hv_requested_version", "!=v2.6rc1", "!=v2.6rc1"),
        ("img_signature_certificate_uuid", "no id", "no id"),
    ];
    for (name, value, wanted) in texts {
        let image = parse(&[(name, value)]).unwrap();
        assert_eq!(image.text(name), Some(wanted), "{name}={value}");
    }
    for (value, wanted) in [
        ("on", true),
        ("Yes", true),
        ("TRUE", true),
        ("t", true),
        ("y", true),
        (" 1 ", true),
        ("no", false),
        ("0", false),
        ("", false),
        ("perhaps", false),
    ] {
        let image = parse(&[("hw_qemu_guest_agent", value)]).unwrap();
        assert_eq!(image.flag("hw_qemu_guest_agent"), Some(wanted), "{value}");
    }
    for (value, wanted) in [
        ("4", 4),
        (" 4 ", 4),
        ("+4", 4),
        ("-4", -4),
        ("1_000", 1000),
        ("99999999999999999999", i64::MAX),
    ] {
        let image = parse(&[("hw_cpu_cores", value)]).unwrap();
        assert_eq!(image.number("hw_cpu_cores"), Some(wanted), "{value}");
    }
    let image = parse(&[("hw_disk_type", ""), ("anything", "else")]).unwrap();
    assert_eq!(image.text("hw_disk_type"), None);
}

#[test]
fn what_cannot_be_is_told_in_novas_words() {
    let table: &[(&str, &str, &str)] = &[
        ("hw_disk_bus", "floppy", "Field value floppy is invalid"),
        ("hw_disk_bus", "VIRTIO", "Field value VIRTIO is invalid"),
        ("hw_disk_bus", "", "Field value  is invalid"),
        ("hw_vif_model", "Nic", "Field value nic is invalid"),
        ("os_type", "DOS", "Field value dos is invalid"),
        ("hw_rescue_device", "tape", "Field value tape is invalid"),
        (
            "img_signature_hash_method",
            "MD5",
            "Field value MD5 is invalid",
        ),
        (
            "hw_architecture",
            "Vax",
            "Architecture name 'Vax' is not valid",
        ),
        ("architecture", "x", "Architecture name 'x' is not valid"),
        ("vm_mode", "x", "Virtual machine mode 'x' is not valid"),
        (
            "hypervisor_type",
            "Hm",
            "Hypervisor virt type 'Hm' is not valid",
        ),
        (
            "hw_cpu_cores",
            "x",
            "invalid literal for int() with base 10: 'x'",
        ),
        (
            "hw_cpu_cores",
            "it's",
            "invalid literal for int() with base 10: \"it's\"",
        ),
        (
            "hw_video_ram",
            "1.5",
            "invalid literal for int() with base 10: '1.5'",
        ),
        (
            "hw_numa_nodes",
            "",
            "invalid literal for int() with base 10: ''",
        ),
        (
            "hw_numa_nodes",
            "1__0",
            "invalid literal for int() with base 10: '1__0'",
        ),
        (
            "hw_numa_mem.0",
            "x",
            "invalid literal for int() with base 10: 'x'",
        ),
        ("hw_numa_cpus.0", "3-1", "Invalid range expression '3-1'"),
        ("hw_numa_cpus.0", "^x", "Invalid exclusion expression '^x'"),
        (
            "img_hv_requested_version",
            "2.6",
            "Version 2.6 is not a valid predicate in field img_hv_requested_version",
        ),
        (
            "hypervisor_version_requires",
            ">=2.6.*",
            "Version >=2.6.* is not a valid predicate in field img_hv_requested_version",
        ),
        ("vmware_adaptertype", "foo", "Field value foo is invalid"),
        (
            "img_block_device_mapping",
            "[]",
            "A list is required in field img_block_device_mapping, not a str",
        ),
        (
            "block_device_mapping",
            "{}",
            "A list is required in field img_block_device_mapping, not a dict",
        ),
        (
            "block_device_mapping",
            "[1]",
            "A dict is required in field img_block_device_mapping[0], not a int",
        ),
        (
            "block_device_mapping",
            "[{}, null]",
            "Field `img_block_device_mapping[1]' cannot be None",
        ),
        ("mappings", "null", "Field `img_mappings' cannot be None"),
        (
            "mappings",
            r#"[{"a": [1]}]"#,
            "A string is required in field img_mappings[0][a], not a list",
        ),
    ];
    for (name, value, words) in table {
        let raw = map(&[(name, value)]);
        let wrong = ImageProperties::parse(&raw).unwrap_err();
        assert_eq!(wrong.problem, *words, "{name}={value}");
        assert_eq!((&wrong.name[..], &wrong.value[..]), (*name, *value));
        let told = format!("Invalid image metadata. Error: {words} (image property {name})");
        assert_eq!(wrong.to_string(), told);
        // Of servers that were there before anybody looked.
        let readable = ImageProperties::readable(&raw);
        assert_eq!(readable.number("hw_cpu_cores"), None);
        assert!(ImageProperties::only(&raw, &["os_distro"]).is_ok());
    }
}

#[test]
fn names_of_old_are_overruled() {
    let image = parse(&[
        ("architecture", "i386"),
        ("vmware_adaptertype", "lsiLogicsas"),
        ("hypervisor_type", "qemu"),
        ("img_hv_type", "kvm"),
    ])
    .unwrap();
    assert_eq!(image.text("hw_architecture"), Some("i686"));
    assert_eq!(image.text("hw_disk_bus"), Some("scsi"));
    assert_eq!(image.text("hw_scsi_model"), Some("lsisas1068"));
    assert_eq!(image.text("img_hv_type"), Some("kvm"));
    // Both are looked at.
    assert!(parse(&[("hypervisor_type", "?"), ("img_hv_type", "kvm")]).is_err());
}

#[test]
fn nodes_traits_and_documents() {
    let image = parse(&[
        ("hw_numa_cpus.0", "0-3,^1"),
        ("hw_numa_cpus.1", "1"),
        ("hw_numa_mem.0", "512"),
        // Behind a gap nobody looks.
        ("hw_numa_mem.2", "x"),
        ("trait:HW_CPU_X86_AVX", "required"),
        ("trait:CUSTOM_A", "forbidden"),
        (
            "block_device_mapping",
            r#"[{"volume_id": "v", "size": 1, "boot": true, "no": null}]"#,
        ),
        ("mappings", "[]"),
    ])
    .unwrap();
    assert_eq!(image.numa_cpus, [[0, 2, 3].into(), [1].into()]);
    assert_eq!(image.numa_mem, [512]);
    assert_eq!(image.traits, ["HW_CPU_X86_AVX".to_owned()].into());
    let devices = image.list("img_block_device_mapping");
    assert_eq!(devices[0]["volume_id"], json!("v"));
    assert!(image.list("img_mappings").is_empty());
}
