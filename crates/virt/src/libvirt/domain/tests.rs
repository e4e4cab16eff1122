#![allow(clippy::unwrap_used)]
use super::*;
use crate::sim::tests::spec;
use crate::spec::{BootFile, GuestMetadata, Hardware, Kernel, RescueDisk, StableRescue};
use quick_xml::Reader;
use quick_xml::events::Event;
use std::path::PathBuf;

/// Flattens a document into sorted lines `path@attribute=value` and `path=text`, so that two documents compare by
/// structure: the order of attributes and of different elements does not matter.
fn flat(xml: &str) -> Vec<String> {
    let mut reader = Reader::from_str(xml);
    let mut stack: Vec<String> = Vec::new();
    let mut lines = Vec::new();
    loop {
        let event = reader.read_event().unwrap();
        let closes = matches!(event, Event::Empty(_));
        match event {
            Event::Start(tag) | Event::Empty(tag) => {
                let mut name = tag.name().as_ref().to_owned();
                let attributes: Vec<(String, String)> = tag
                    .attributes()
                    .map(|attribute| {
                        let attribute = attribute.unwrap();
                        let key = attribute.key.as_ref().to_owned();
                        (key, attribute.value.to_string())
                    })
                    .collect();
                let label = attributes
                    .iter()
                    .find(|(key, _)| ["device", "name"].contains(&key.as_str()));
                if let Some((_, value)) = label {
                    name = format!("{name}[{value}]");
                }
                stack.push(name);
                let path = stack.join("/");
                lines.push(path.clone());
                lines.extend(
                    attributes
                        .iter()
                        .map(|(key, value)| format!("{path}@{key}={value}")),
                );
                if closes {
                    stack.pop();
                }
            }
            Event::End(_) => {
                stack.pop();
            }
            Event::Text(text) => {
                let text = text.to_string();
                if !text.trim().is_empty() {
                    lines.push(format!("{}={}", stack.join("/"), text.trim()));
                }
            }
            Event::Eof => break,
            _ => {}
        }
    }
    lines.sort();
    lines
}

fn render(spec: &GuestSpec, config_drive: bool, host: &HostChoices) -> String {
    let drive = PathBuf::from("/i/x/disk.config");
    let local: Vec<(String, PathBuf)> = spec
        .disks
        .iter()
        .filter(|disk| disk.volume_id().is_none())
        .map(|disk| {
            (
                disk.id.clone(),
                PathBuf::from(format!("/i/x/disk.{}", disk.id)),
            )
        })
        .collect();
    let files = GuestFiles {
        disk: (spec.root != RootDisk::Volume).then_some(Path::new("/i/x/disk")),
        local: &local,
        base: Some((Path::new("/i/_base/b"), DiskFormat::Raw)),
        rescue: spec.rescue.as_ref().map(|_| {
            let base = (Path::new("/i/_base/r"), DiskFormat::Raw);
            (Path::new("/i/x/disk.rescue"), Some(base))
        }),
        config_drive: config_drive.then_some(drive.as_path()),
        console: Path::new("/i/x/console.log"),
        kernel: spec.kernel.as_ref().map(|kernel| BootFiles {
            kernel: &kernel.image.base,
            ramdisk: kernel.ramdisk.as_ref().map(|file| file.base.as_path()),
        }),
    };
    domain_xml(spec, &files, host).unwrap()
}

/// Nothing is said of processors.
const ANY: CpuChoice = CpuChoice {
    mode: None,
    models: Vec::new(),
    flags: Vec::new(),
};
const TCG: HostChoices = HostChoices {
    kvm: false,
    direct_io: true,
    cpu: ANY,
};
const KVM: HostChoices = HostChoices {
    kvm: true,
    direct_io: false,
    cpu: ANY,
};

#[test]
fn a_whole_emulated_guest() {
    let guest = GuestSpec {
        root: RootDisk::Image {
            base: "/i/_base/b".into(),
            format: DiskFormat::Raw,
            size_gib: 1,
        },
        metadata: GuestMetadata {
            display_name: "web & <db>".into(),
            project_id: "p1".into(),
            project_name: "demo".into(),
            user_id: "u1".into(),
            user_name: "alice".into(),
            flavor_name: "m1.nano".into(),
            flavor_disk_gib: 1,
            image_id: Some("img".into()),
            created_at: "2026-11-20 12:00:00".into(),
            ..GuestMetadata::default()
        },
        ..spec(0x2a)
    };
    let expected = r#"
<domain type="qemu">
  <name>instance-0000002a</name>
  <uuid>10000000-0000-4000-8000-00000000002a</uuid>
  <metadata>
    <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
      <nova:package version="VERSION"/>
      <nova:name>web &amp; &lt;db&gt;</nova:name>
      <nova:creationTime>2026-11-20 12:00:00</nova:creationTime>
      <nova:flavor name="m1.nano">
        <nova:memory>128</nova:memory><nova:disk>1</nova:disk><nova:swap>0</nova:swap>
        <nova:ephemeral>0</nova:ephemeral><nova:vcpus>1</nova:vcpus>
      </nova:flavor>
      <nova:owner><nova:user uuid="u1">alice</nova:user><nova:project uuid="p1">demo</nova:project></nova:owner>
      <nova:root type="image" uuid="img"/>
    </nova:instance>
  </metadata>
  <memory unit="MiB">128</memory>
  <vcpu>1</vcpu>
  <sysinfo type="smbios"><system>
    <entry name="manufacturer">OpenStack Foundation</entry>
    <entry name="product">OpenStack Nova</entry>
    <entry name="version">VERSION</entry>
    <entry name="serial">serial-42</entry>
    <entry name="uuid">10000000-0000-4000-8000-00000000002a</entry>
    <entry name="family">Virtual Machine</entry>
  </system></sysinfo>
  <os><type machine="pc">hvm</type><boot dev="hd"/><smbios mode="sysinfo"/></os>
  <features><acpi/><apic/></features>
  <cpu><topology sockets="1" cores="1" threads="1"/></cpu>
  <clock offset="utc"/>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2" cache="none"/>
      <source file="/i/x/disk"/>
      <backingStore type="file">
        <format type="raw"/><source file="/i/_base/b"><seclabel model="dac" relabel="no"/></source><backingStore/>
      </backingStore>
      <target dev="vda" bus="virtio"/>
    </disk>
    <disk type="file" device="cdrom">
      <driver name="qemu" type="raw" cache="writeback"/>
      <source file="/i/x/disk.config"/><backingStore/><target dev="hda" bus="ide"/><readonly/>
    </disk>
    <controller type="usb" model="none"/>
    <interface type="ethernet">
      <mac address="fa:16:3e:00:00:01"/><target dev="tap42" managed="no"/><model type="virtio"/><mtu size="1450"/>
    </interface>
    <serial type="pty"><log file="/i/x/console.log" append="on"/><target port="0"/></serial>
    <channel type="unix"><target type="virtio" name="org.qemu.guest_agent.0"/></channel>
    <graphics type="vnc" autoport="yes" listen="127.0.0.1"/>
    <video><model type="vga"/></video>
    <rng model="virtio"><backend model="random">/dev/urandom</backend></rng>
    <memballoon model="virtio"><stats period="10"/></memballoon>
  </devices>
</domain>"#
        .replace("VERSION", env!("CARGO_PKG_VERSION"));
    let xml = render(&guest, true, &TCG);
    let (got, wanted) = (flat(&xml), flat(&expected));
    let difference = |a: &[String], b: &[String]| {
        a.iter()
            .filter(|x| !b.contains(x))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        difference(&got, &wanted),
        Vec::<String>::new(),
        "unexpected in {xml}"
    );
    assert_eq!(
        difference(&wanted, &got),
        Vec::<String>::new(),
        "missing in {xml}"
    );
    assert_eq!(got.len(), wanted.len());
}

/// nova.conf's `[libvirt] cpu_mode`, `cpu_models` and `cpu_model_extra_flags`, as Nova writes them into domains.
#[test]
fn guests_get_the_processor_that_the_operator_wants() {
    use crate::libvirt::CpuMode as M;
    const TOPOLOGY: &str = "<topology sockets=\"1\" cores=\"1\" threads=\"1\"/>";
    const FEATURES: &str =
        "<feature policy=\"disable\" name=\"mtrr\"/><feature policy=\"require\" name=\"pcid\"/>";
    let model = format!("mode=\"host-model\" check=\"partial\">{TOPOLOGY}");
    let passthrough = format!("mode=\"host-passthrough\">{TOPOLOGY}");
    let named = format!("mode=\"custom\" match=\"exact\"><model>Haswell-noTSX</model>{TOPOLOGY}");
    for (host, mode, wanted) in [
        (&KVM, None, Some(&model)),
        (&TCG, None, None),
        (&KVM, Some(M::None), None),
        (&KVM, Some(M::HostModel), Some(&model)),
        (&TCG, Some(M::HostModel), Some(&model)),
        (&KVM, Some(M::HostPassthrough), Some(&passthrough)),
        (&KVM, Some(M::Custom), Some(&named)),
        (&TCG, Some(M::Custom), Some(&named)),
    ] {
        for flags in [false, true] {
            let custom = mode == Some(M::Custom);
            let models = ["Haswell-noTSX", "Skylake-Client"].map(str::to_owned);
            let extra = ["PCID", "-mtrr", "+pcid"].map(str::to_owned);
            let host = HostChoices {
                cpu: CpuChoice {
                    mode,
                    models: models.into_iter().filter(|_| custom).collect(),
                    flags: extra.into_iter().filter(|_| flags).collect(),
                },
                ..host.clone()
            };
            let xml = render(&spec(1), false, &host);
            let features = if flags { FEATURES } else { "" };
            let wanted = match wanted {
                Some(wanted) => format!("<cpu {wanted}{features}</cpu>"),
                None => format!("<cpu>{TOPOLOGY}</cpu>"),
            };
            assert!(xml.contains(&wanted), "{host:?}: no {wanted} in {xml}");
        }
    }
}

#[test]
fn choices_show_in_the_definition() {
    let base = spec(1);
    let with = |hardware: Hardware| GuestSpec {
        hardware,
        ..base.clone()
    };
    let text = |text: &str| Some(text.to_owned());
    type Case<'a> = (
        &'a str,
        GuestSpec,
        &'a HostChoices,
        bool,
        &'a [&'a str],
        &'a [&'a str],
    );
    let table: &[Case<'_>] = &[
        (
            "kvm",
            base.clone(),
            &KVM,
            false,
            &[
                "domain@type=kvm",
                "domain/cpu@mode=host-model",
                "domain/clock/timer[hpet]@present=no",
                "domain/devices/disk[disk]/driver[qemu]@cache=writeback",
            ],
            &[
                "domain/devices/disk[cdrom]",
                "domain/devices/disk[disk]/backingStore@type=file",
            ],
        ),
        (
            "q35",
            with(Hardware {
                machine: text("q35"),
                ..Hardware::default()
            }),
            &TCG,
            true,
            &[
                "domain/os/type@machine=q35",
                "domain/devices/disk[cdrom]/target@bus=sata",
                "domain/devices/disk[cdrom]/target@dev=sda",
            ],
            &[],
        ),
        (
            "scsi",
            with(Hardware {
                disk_bus: text("scsi"),
                cdrom_bus: text("scsi"),
                ..Hardware::default()
            }),
            &TCG,
            true,
            &[
                "domain/devices/controller@model=virtio-scsi",
                "domain/devices/disk[disk]/target@dev=sda",
                "domain/devices/disk[cdrom]/target@dev=sdb",
            ],
            &[],
        ),
        (
            "virtio drive",
            with(Hardware {
                cdrom_bus: text("virtio"),
                ..Hardware::default()
            }),
            &TCG,
            true,
            &[
                "domain/devices/disk[disk]/target@dev=vdb",
                "domain/devices/disk[disk]/readonly",
            ],
            &["domain/devices/disk[cdrom]"],
        ),
        (
            "usb",
            with(Hardware {
                disk_bus: text("usb"),
                ..Hardware::default()
            }),
            &TCG,
            false,
            &[],
            &["domain/devices/controller@model=none"],
        ),
        (
            "models",
            with(Hardware {
                vif_model: text("e1000"),
                video: text("cirrus"),
                guest_agent: Some(false),
                ..Hardware::default()
            }),
            &TCG,
            false,
            &[
                "domain/devices/interface/model@type=e1000",
                "domain/devices/video/model@type=cirrus",
            ],
            &["domain/devices/channel"],
        ),
        (
            "windows",
            with(Hardware {
                windows: true,
                ..Hardware::default()
            }),
            &KVM,
            false,
            &[
                "domain/clock@offset=localtime",
                "domain/clock/timer[hypervclock]@present=yes",
                "domain/features/hyperv/relaxed@state=on",
                "domain/features/hyperv/spinlocks@retries=8191",
                "domain/features/hyperv/synic@state=on",
            ],
            &[
                "domain/features/hyperv/vendor_id@state=on",
                "domain/features/kvm/hidden@state=on",
            ],
        ),
        (
            "windows, emulated",
            with(Hardware {
                windows: true,
                hide_hypervisor: true,
                ..Hardware::default()
            }),
            &TCG,
            false,
            &["domain/clock@offset=localtime"],
            &[
                "domain/features/hyperv/relaxed@state=on",
                "domain/features/kvm/hidden@state=on",
            ],
        ),
        (
            "unseen",
            with(Hardware {
                hide_hypervisor: true,
                hpet: true,
                ..Hardware::default()
            }),
            &KVM,
            false,
            &[
                "domain/features/kvm/hidden@state=on",
                "domain/features/hyperv/vendor_id@value=1234567890ab",
                "domain/clock@offset=utc",
                "domain/clock/timer[hpet]@present=yes",
            ],
            &["domain/features/hyperv/relaxed@state=on"],
        ),
        (
            "pointer and controller",
            with(Hardware {
                tablet: true,
                disk_bus: text("scsi"),
                scsi_model: text("lsisas1068"),
                machine: text("q35"),
                ..Hardware::default()
            }),
            &TCG,
            false,
            &[
                "domain/devices/input@type=tablet",
                "domain/devices/controller@model=lsisas1068",
                "domain/devices/controller@model=pcie-root-port",
            ],
            &["domain/devices/controller@model=none"],
        ),
    ];
    for (name, guest, host, drive, present, absent) in table {
        let lines = flat(&render(guest, *drive, host));
        for line in *present {
            assert!(
                lines.iter().any(|l| l == line),
                "{name}: {line} is missing in {lines:#?}"
            );
        }
        for line in *absent {
            assert!(
                !lines.iter().any(|l| l == line),
                "{name}: {line} is unexpected"
            );
        }
    }
}

#[test]
fn hostile_names_cannot_leave_their_element() {
    let mut guest = spec(1);
    guest.metadata.display_name = "\u{0}\u{1b}</nova:name><devices/>\u{fffe}ok".into();
    guest.metadata.flavor_name = "a' b=\"c".into();
    let lines = flat(&render(&guest, false, &TCG));
    let devices = lines
        .iter()
        .filter(|line| line.ends_with("/devices") || *line == "domain/devices")
        .count();
    assert_eq!(devices, 1);
    assert!(
        lines
            .iter()
            .any(|line| line.contains("ok") && line.starts_with("domain/metadata"))
    );
}

#[test]
fn a_rescued_guest_boots_from_the_rescue_disk_and_sees_its_own() {
    let disks = |stable: Option<(&str, &str)>| {
        let stable = stable.map(|(device, bus)| crate::spec::StableRescue {
            device: device.into(),
            bus: Some(bus.into()),
        });
        let root = RootDisk::Blank { size_gib: 0 };
        let guest = GuestSpec {
            rescue: Some(crate::spec::RescueDisk { root, stable }),
            ..spec(1)
        };
        let xml = render(&guest, true, &TCG);
        assert!(!xml.contains("<boot dev="), "{xml}");
        let disks = xml.split("<disk ").skip(1).map(|disk| {
            let between = |from: &str, to: &str| {
                let rest = disk.split_once(from).map_or("", |(_, rest)| rest);
                rest.split_once(to)
                    .map_or("", |(found, _)| found)
                    .to_owned()
            };
            let file = between("file=\"/i/x/", "\"");
            let name = between("<target dev=\"", "\"");
            let order = between("<boot order=\"", "\"");
            format!("{file} {name} {order}").trim().to_owned()
        });
        disks.collect::<Vec<_>>()
    };
    assert_eq!(
        disks(None),
        ["disk.rescue vda 1", "disk vdb", "disk.config hda"]
    );
    assert_eq!(
        disks(Some(("disk", "virtio"))),
        ["disk vda", "disk.config hda", "disk.rescue vdb 1"]
    );
    assert_eq!(
        disks(Some(("cdrom", "ide"))),
        ["disk vda", "disk.config hda", "disk.rescue hdb 1"]
    );
}

#[test]
fn a_stable_rescue_disk_is_on_a_bus_that_its_machine_has() {
    for (machine, device, bus) in [
        (None, "cdrom", "ide"),
        (Some("q35"), "cdrom", "sata"),
        (Some("q35"), "disk", "virtio"),
    ] {
        let stable = Some(StableRescue {
            device: device.to_owned(),
            bus: None,
        });
        let root = RootDisk::Blank { size_gib: 0 };
        let guest = GuestSpec {
            rescue: Some(RescueDisk { root, stable }),
            hardware: Hardware {
                machine: machine.map(str::to_owned),
                ..Hardware::default()
            },
            ..spec(1)
        };
        let xml = render(&guest, false, &TCG);
        let behind = xml.rsplit_once("disk.rescue").unwrap().1;
        let said = format!("bus=\"{bus}\"");
        assert!(behind.contains(&said), "{machine:?} {device}: {xml}");
    }
}

#[test]
fn a_tpm_is_emulated_and_encrypted() {
    use types::tpm::{Model, Security, Tpm, Version, Wanted};
    let with = |tpm| render(&GuestSpec { tpm, ..spec(1) }, false, &TCG);
    assert!(!with(None).contains("tpm"));
    for (version, model, wanted) in [
        (
            Version::V1_2,
            Model::Tis,
            "<tpm model=\"tpm-tis\"><backend type=\"emulator\" version=\"1.2\">",
        ),
        (
            Version::V2_0,
            Model::Crb,
            "<tpm model=\"tpm-crb\"><backend type=\"emulator\" version=\"2.0\">",
        ),
    ] {
        let security = Security::User;
        let wanted_kind = Wanted {
            version,
            model,
            security,
        };
        let tpm = Tpm {
            wanted: wanted_kind,
            secret: uuid::Uuid::from_u128(5),
        };
        let encrypted =
            "<encryption secret=\"00000000-0000-0000-0000-000000000005\"/></backend></tpm>";
        let text = with(Some(tpm));
        assert!(text.contains(&format!("{wanted}{encrypted}")), "{text}");
    }
}

/// OSSA-2013-037 and OSSA-2014-003: QEMU opens an empty disk as it is, and looks for no layer below it.
#[test]
fn disks_beside_the_root_are_raw() {
    let empty = crate::disks::DiskSource::Ephemeral {
        size_gib: 1,
        format: Some("windows".into()),
    };
    let disks = [empty, crate::disks::DiskSource::Swap { size_mib: 8 }]
        .into_iter()
        .enumerate()
        .map(|(number, source)| crate::disks::Disk {
            id: format!("d{number}"),
            device: None,
            bus: None,
            device_type: None,
            root: false,
            source,
        });
    let guest = GuestSpec {
        root: RootDisk::Image {
            base: "/i/_base/b".into(),
            format: DiskFormat::Raw,
            size_gib: 1,
        },
        disks: disks.collect(),
        ..spec(1)
    };
    let text = render(&guest, false, &TCG);
    for name in ["d0", "d1"] {
        let source = text.find(&format!("file=\"/i/x/disk.{name}\"")).unwrap();
        let begin = text[..source].rfind("<disk ").unwrap();
        let disk = &text[begin..source + text[source..].find("</disk>").unwrap()];
        assert!(
            disk.contains("type=\"raw\"") && !disk.contains("backingStore"),
            "{disk}"
        );
    }
}

#[test]
fn kernels_outside_of_the_disk() {
    let file = |name: &str| BootFile {
        base: format!("/i/_base/{name}").into(),
    };
    let kernel = Kernel {
        image: file("k"),
        ramdisk: Some(file("r")),
    };
    let guest = GuestSpec {
        kernel: Some(kernel.clone()),
        ..spec(1)
    };
    let with = |line: &str| GuestSpec {
        hardware: Hardware {
            command_line: Some(line.to_owned()),
            ..Hardware::default()
        },
        ..guest.clone()
    };
    let rescue = |stable| RescueDisk {
        root: RootDisk::Blank { size_gib: 1 },
        stable,
    };
    let behind = StableRescue {
        device: "disk".to_owned(),
        bus: Some("scsi".to_owned()),
    };
    const USUAL: &str = "console=tty0 console=ttyS0 console=hvc0";
    let table = [
        (
            guest.clone(),
            &TCG,
            format!("root=/dev/vda {USUAL} no_timer_check"),
        ),
        (guest.clone(), &KVM, format!("root=/dev/vda {USUAL}")),
        (
            with("quiet <a> & b"),
            &TCG,
            "quiet &lt;a&gt; &amp; b".to_owned(),
        ),
        // What the image says is about its own disk.
        (
            GuestSpec {
                rescue: Some(rescue(None)),
                ..with("quiet")
            },
            &KVM,
            format!("root=/dev/vda {USUAL}"),
        ),
        (
            GuestSpec {
                rescue: Some(rescue(Some(behind))),
                ..with("quiet")
            },
            &KVM,
            format!("root=/dev/sda {USUAL}"),
        ),
    ];
    for (guest, host, line) in table {
        let xml = render(&guest, false, host);
        let wanted = format!(
            "<kernel>/i/_base/k</kernel><initrd>/i/_base/r</initrd><cmdline>{line}</cmdline><smbios"
        );
        assert!(xml.contains(&wanted), "{wanted} in {xml}");
    }
    let bare = GuestSpec {
        kernel: Some(Kernel {
            ramdisk: None,
            ..kernel
        }),
        ..spec(1)
    };
    assert!(!render(&bare, false, &TCG).contains("<initrd>"));
    // Without a kernel its line is nobody's.
    let own = GuestSpec {
        kernel: None,
        ..with("quiet")
    };
    let xml = render(&own, false, &TCG);
    assert!(
        !xml.contains("cmdline") && xml.contains("<boot dev=\"hd\"/>"),
        "{xml}"
    );
}
