//! Which properties there are. The order is Nova's: of several wrong ones the first is told.

use super::kinds::{Kind, Names};

use Kind::{Choice, Documents, Flag, Number, Text, Version};

/// Exactly one of these.
const fn one_of(values: &'static [&'static str]) -> Kind {
    Choice(values, Names::Exact)
}

/// One of these in small or large letters, or what these stand for.
const fn folded(
    values: &'static [&'static str],
    aliases: &'static [(&'static str, &'static str)],
) -> Kind {
    Choice(values, Names::Folded(aliases))
}

const BUSES: Kind = one_of(&[
    "fdc", "ide", "sata", "scsi", "usb", "virtio", "xen", "lxc", "uml",
]);

const ARCHITECTURES: Kind = Choice(
    &[
        "alpha",
        "armv6",
        "armv7l",
        "armv7b",
        "aarch64",
        "cris",
        "i686",
        "ia64",
        "lm32",
        "m68k",
        "microblaze",
        "microblazeel",
        "mips",
        "mipsel",
        "mips64",
        "mips64el",
        "openrisc",
        "parisc",
        "parisc64",
        "ppc",
        "ppcle",
        "ppc64",
        "ppc64le",
        "ppcemb",
        "s390",
        "s390x",
        "sh4",
        "sh4eb",
        "sparc",
        "sparc64",
        "unicore32",
        "x86_64",
        "xtensa",
        "xtensaeb",
    ],
    Names::Said(
        "Architecture name",
        &[
            ("i386", "i686"),
            ("i486", "i686"),
            ("i586", "i686"),
            ("x86_32", "i686"),
            ("x86_32p", "i686"),
            ("amd64", "x86_64"),
        ],
    ),
);

const HYPERVISORS: Kind = Choice(
    &[
        "baremetal",
        "bhyve",
        "docker",
        "fake",
        "hyperv",
        "ironic",
        "kqemu",
        "kvm",
        "lxc",
        "lxd",
        "openvz",
        "parallels",
        "phyp",
        "qemu",
        "test",
        "uml",
        "vbox",
        "vz",
        "vmware",
        "xen",
        "zvm",
        "prsm",
    ],
    Names::Said("Hypervisor virt type", &[("xapi", "xen")]),
);

const MODES: Kind = Choice(
    &["hvm", "xen", "uml", "exe"],
    Names::Said(
        "Virtual machine mode",
        &[("pv", "xen"), ("hv", "hvm"), ("baremetal", "hvm")],
    ),
);

const SCSI_MODELS: Kind = folded(
    &[
        "buslogic",
        "ibmvscsi",
        "lsilogic",
        "lsisas1068",
        "lsisas1078",
        "virtio-scsi",
        "vmpvscsi",
    ],
    &[("lsilogicsas", "lsisas1068"), ("paravirtual", "vmpvscsi")],
);

const VIF_MODELS: Kind = folded(
    &[
        "virtio",
        "ne2k_pci",
        "pcnet",
        "rtl8139",
        "e1000",
        "e1000e",
        "netfront",
        "spapr-vlan",
        "lan9118",
        "sriov",
        "vmxnet",
        "vmxnet3",
        "igb",
    ],
    &[
        ("virtuale1000", "e1000"),
        ("virtuale1000e", "e1000e"),
        ("virtualpcnet32", "pcnet"),
        ("virtualsriovethernetcard", "sriov"),
        ("virtualvmxnet", "vmxnet"),
        ("virtualvmxnet3", "vmxnet3"),
    ],
);

/// Every property by its name of today. NUMA nodes are said under numbered names, required traits under their own.
pub(super) const KNOWN: &[(&str, Kind)] = &[
    ("hw_architecture", ARCHITECTURES),
    ("hw_emulation_architecture", ARCHITECTURES),
    ("hw_auto_disk_config", Text),
    ("hw_boot_menu", Flag),
    ("hw_cdrom_bus", BUSES),
    ("hw_cpu_cores", Number),
    ("hw_cpu_sockets", Number),
    ("hw_cpu_max_cores", Number),
    ("hw_cpu_max_sockets", Number),
    ("hw_cpu_max_threads", Number),
    ("hw_cpu_policy", one_of(&["dedicated", "shared", "mixed"])),
    (
        "hw_cpu_thread_policy",
        one_of(&["prefer", "isolate", "require"]),
    ),
    ("hw_cpu_realtime_mask", Text),
    ("hw_cpu_threads", Number),
    ("hw_device_id", Number),
    ("hw_disk_bus", BUSES),
    ("hw_disk_type", Text),
    ("hw_floppy_bus", BUSES),
    ("hw_firmware_type", one_of(&["uefi", "bios"])),
    ("hw_firmware_stateless", Flag),
    ("hw_input_bus", one_of(&["usb", "virtio"])),
    ("hw_ipxe_boot", Flag),
    ("hw_locked_memory", Flag),
    ("hw_machine_type", Text),
    ("hw_mem_encryption", Flag),
    (
        "hw_mem_encryption_model",
        one_of(&["amd-sev", "amd-sev-es", "amd-sev-snp", "intel-tdx"]),
    ),
    ("hw_mem_page_size", Text),
    ("hw_numa_nodes", Number),
    (
        "hw_pci_numa_affinity_policy",
        one_of(&["required", "legacy", "preferred", "socket"]),
    ),
    ("hw_pointer_model", one_of(&["usbtablet"])),
    ("hw_pmu", Flag),
    ("hw_qemu_guest_agent", Flag),
    ("hw_rescue_bus", BUSES),
    (
        "hw_rescue_device",
        one_of(&["cdrom", "disk", "floppy", "fs", "lun"]),
    ),
    ("hw_rng_model", one_of(&["virtio"])),
    ("hw_time_hpet", Flag),
    ("hw_serial_port_count", Number),
    ("hw_scsi_model", SCSI_MODELS),
    (
        "hw_video_model",
        one_of(&[
            "cirrus", "qxl", "vga", "vmvga", "xen", "virtio", "gop", "none", "bochs",
        ]),
    ),
    ("hw_video_ram", Number),
    ("hw_vif_model", VIF_MODELS),
    (
        "hw_viommu_model",
        one_of(&["intel", "smmuv3", "virtio", "auto"]),
    ),
    ("hw_vm_mode", MODES),
    (
        "hw_watchdog_action",
        one_of(&["none", "pause", "poweroff", "reset", "disabled"]),
    ),
    ("hw_vif_multiqueue_enabled", Flag),
    ("hw_tpm_model", one_of(&["tpm-tis", "tpm-crb"])),
    ("hw_tpm_version", one_of(&["1.2", "2.0"])),
    ("hw_ephemeral_encryption", Flag),
    (
        "hw_ephemeral_encryption_format",
        one_of(&["plain", "luks", "luksv2"]),
    ),
    // Ids are not looked at, as in Nova.
    ("hw_ephemeral_encryption_secret_uuid", Text),
    ("hw_virtio_packed_ring", Flag),
    ("hw_maxphysaddr_mode", one_of(&["passthrough", "emulate"])),
    ("hw_maxphysaddr_bits", Number),
    (
        "hw_sound_model",
        one_of(&[
            "sb16", "es1370", "pcspk", "ac97", "ich6", "ich9", "usb", "virtio",
        ]),
    ),
    ("hw_usb_model", one_of(&["none", "nec-xhci", "qemu-xhci"])),
    ("hw_redirected_usb_ports", Number),
    ("img_bittorrent", Flag),
    ("img_bdm_v2", Flag),
    ("img_block_device_mapping", Documents),
    ("img_cache_in_nova", Flag),
    ("img_compression_level", Number),
    ("img_hv_requested_version", Version),
    ("img_hv_type", HYPERVISORS),
    ("img_config_drive", one_of(&["optional", "mandatory"])),
    ("img_linked_clone", Flag),
    ("img_mappings", Documents),
    ("img_owner_id", Text),
    ("img_root_device_name", Text),
    ("img_use_agent", Flag),
    ("img_version", Number),
    ("img_signature", Text),
    (
        "img_signature_hash_method",
        one_of(&["SHA-224", "SHA-256", "SHA-384", "SHA-512"]),
    ),
    ("img_signature_certificate_uuid", Text),
    (
        "img_signature_key_type",
        one_of(&[
            "DSA",
            "ECC_SECP384R1",
            "ECC_SECP521R1",
            "ECC_SECT409K1",
            "ECC_SECT409R1",
            "ECC_SECT571K1",
            "ECC_SECT571R1",
            "RSA-PSS",
        ]),
    ),
    ("img_hide_hypervisor_id", Flag),
    ("os_admin_user", Text),
    ("os_command_line", Text),
    ("os_distro", Text),
    ("os_require_quiesce", Flag),
    (
        "os_secure_boot",
        one_of(&["required", "disabled", "optional"]),
    ),
    ("os_skip_agent_inject_files_at_boot", Flag),
    ("os_skip_agent_inject_ssh", Flag),
    ("os_type", folded(&["linux", "windows"], &[])),
];

/// Names of old, and those of today.
pub(super) const OLD_NAMES: &[(&str, &str)] = &[
    ("architecture", "hw_architecture"),
    ("owner_id", "img_owner_id"),
    ("vmware_disktype", "hw_disk_type"),
    ("vmware_image_version", "img_version"),
    ("vmware_ostype", "os_distro"),
    ("auto_disk_config", "hw_auto_disk_config"),
    ("ipxe_boot", "hw_ipxe_boot"),
    ("xenapi_device_id", "hw_device_id"),
    ("xenapi_image_compression_level", "img_compression_level"),
    ("vmware_linked_clone", "img_linked_clone"),
    ("xenapi_use_agent", "img_use_agent"),
    ("xenapi_skip_agent_inject_ssh", "os_skip_agent_inject_ssh"),
    (
        "xenapi_skip_agent_inject_files_at_boot",
        "os_skip_agent_inject_files_at_boot",
    ),
    ("cache_in_nova", "img_cache_in_nova"),
    ("vm_mode", "hw_vm_mode"),
    ("bittorrent", "img_bittorrent"),
    ("mappings", "img_mappings"),
    ("block_device_mapping", "img_block_device_mapping"),
    ("bdm_v2", "img_bdm_v2"),
    ("root_device_name", "img_root_device_name"),
    ("hypervisor_version_requires", "img_hv_requested_version"),
    ("hypervisor_type", "img_hv_type"),
];

/// Whether there is such a property.
pub(super) fn is_known(name: &str) -> bool {
    KNOWN.iter().any(|(known, _)| *known == name)
}
