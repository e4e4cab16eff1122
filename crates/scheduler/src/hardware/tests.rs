#![allow(clippy::unwrap_used)]

use super::*;
use types::FlavorId;

type Pairs = &'static [(&'static str, &'static str)];

fn map(pairs: Pairs) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// Four CPUs and 1024 MiB.
fn flavor(specs: Pairs) -> Flavor {
    Flavor {
        id: FlavorId("1".to_owned()),
        name: "f".to_owned(),
        memory_mb: 1024,
        vcpus: 4,
        root_gb: 1,
        ephemeral_gb: 0,
        swap_mb: 0,
        rxtx_factor: 1.0,
        extra_specs: map(specs),
    }
}

fn asked(specs: Pairs, image: Pairs) -> Result<Vec<String>, String> {
    match demands(&flavor(specs), &map(image)) {
        Ok(list) => Ok(list.into_iter().map(|demand| demand.spec).collect()),
        Err(wrong) => Err(wrong.to_string()),
    }
}

#[test]
fn harmless_wishes_are_no_demands() {
    let table: &[(Pairs, Pairs)] = &[
        (&[], &[]),
        (
            &[("hw:cpu_policy", "shared")],
            &[("hw_cpu_policy", "shared")],
        ),
        (&[("hw:mem_page_size", "small")], &[]),
        (&[("hw:mem_page_size", "any")], &[]),
        (&[("hw:mem_page_size", "4")], &[]),
        (&[("hw:mem_page_size", "4KiB")], &[]),
        (
            &[("hw:mem_page_size", "any")],
            &[("hw_mem_page_size", "small")],
        ),
        (&[("hw:numa_nodes", "1")], &[]),
        (&[], &[("hw_numa_nodes", "1")]),
        (
            &[
                ("hw:numa_nodes", "1"),
                ("hw:numa_cpus.0", "0-3"),
                ("hw:numa_mem.0", "1024"),
            ],
            &[],
        ),
        // Of no effect without nodes.
        (&[("hw:numa_cpus.0", "0-99")], &[]),
        (&[("hw:cpu_realtime", "no")], &[]),
        (&[("hw:emulator_threads_policy", "share")], &[]),
        (
            &[("hw:mem_encryption", "false")],
            &[("hw_mem_encryption", "no")],
        ),
        (&[("hw:locked_memory", "false")], &[]),
        (&[("os:secure_boot", "disabled")], &[]),
        (&[], &[("os_secure_boot", "optional")]),
        (&[], &[("hw_firmware_type", "bios")]),
        (&[("hw:ephemeral_encryption", "0")], &[]),
        (&[("hw:cpu_sockets", "2"), ("quota:cpu_shares", "10")], &[]),
        // Hosts may have one.
        (&[("hw:tpm_version", "2.0")], &[]),
    ];
    for (specs, image) in table {
        assert_eq!(asked(specs, image), Ok(vec![]), "{specs:?} {image:?}");
    }
}

#[test]
fn what_no_host_has() {
    const UEFI: Pairs = &[("hw_firmware_type", "uefi")];
    let table: &[(Pairs, Pairs, &[&str])] = &[
        (
            &[("hw:cpu_policy", "dedicated")],
            &[],
            &["hw:cpu_policy=dedicated"],
        ),
        (
            &[],
            &[("hw_cpu_policy", "dedicated")],
            &["hw_cpu_policy=dedicated"],
        ),
        (
            &[("hw:cpu_policy", "mixed"), ("hw:cpu_dedicated_mask", "^0")],
            &[],
            &["hw:cpu_policy=mixed"],
        ),
        (
            &[
                ("hw:cpu_policy", "dedicated"),
                ("hw:cpu_realtime", "yes"),
                ("hw:cpu_realtime_mask", "^0-1"),
            ],
            &[],
            &["hw:cpu_policy=dedicated"],
        ),
        (&[("hw:numa_nodes", "2")], &[], &["hw:numa_nodes=2"]),
        (&[], &[("hw_numa_nodes", "4")], &["hw_numa_nodes=4"]),
        (
            &[
                ("hw:numa_nodes", "2"),
                ("hw:numa_cpus.0", "0,2-3"),
                ("hw:numa_cpus.1", "1"),
                ("hw:numa_mem.0", "1000"),
                ("hw:numa_mem.1", "24"),
            ],
            &[],
            &["hw:numa_nodes=2"],
        ),
        (
            &[("hw:mem_page_size", "large")],
            &[],
            &["hw:mem_page_size=large"],
        ),
        (
            &[("hw:mem_page_size", "2MB")],
            &[],
            &["hw:mem_page_size=2MB"],
        ),
        (
            &[("hw:mem_page_size", "any")],
            &[("hw_mem_page_size", "1GB")],
            &["hw_mem_page_size=1GB"],
        ),
        (
            &[("hw:mem_page_size", "small"), ("hw:locked_memory", "true")],
            &[],
            &["hw:locked_memory=true"],
        ),
        (&[("hw:pmem", "6GB")], &[], &["hw:pmem=6GB"]),
        (
            &[("accel:device_profile", "p")],
            &[],
            &["accel:device_profile=p"],
        ),
        (
            &[("os:secure_boot", "required")],
            &[],
            &["os:secure_boot=required"],
        ),
        (
            &[],
            &[("os_secure_boot", "required")],
            &["os_secure_boot=required"],
        ),
        (&[], UEFI, &["hw_firmware_type=uefi"]),
        (
            &[("hw:mem_encryption", "True")],
            UEFI,
            &["hw:mem_encryption=True", "hw_firmware_type=uefi"],
        ),
        (
            &[("hw:ephemeral_encryption", "yes")],
            &[],
            &["hw:ephemeral_encryption=yes"],
        ),
        (
            &[("hw:viommu_model", "auto")],
            &[],
            &["hw:viommu_model=auto"],
        ),
    ];
    for (specs, image, wanted) in table {
        let got = asked(specs, image).unwrap();
        assert_eq!(got, *wanted, "{specs:?} {image:?}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused_in_novas_words() {
    const DEDICATED: (&str, &str) = ("hw:cpu_policy", "dedicated");
    const MIXED: (&str, &str) = ("hw:cpu_policy", "mixed");
    const REALTIME: (&str, &str) = ("hw:cpu_realtime", "true");
    let table: &[(Pairs, Pairs, &str)] = &[
        (
            &[("pci_passthrough:alias", "gpu:1")],
            &[],
            "PCI alias gpu is not defined",
        ),
        (
            &[("pci_passthrough:alias", "a:1, b:2")],
            &[],
            "PCI alias a is not defined",
        ),
        (
            &[("hw:cpu_policy", "shared")],
            &[("hw_cpu_policy", "dedicated")],
            "Image property 'hw_cpu_policy' is not permitted to override CPU pinning policy set against the flavor",
        ),
        (
            &[MIXED, ("hw:cpu_dedicated_mask", "0")],
            &[("hw_cpu_policy", "dedicated")],
            "Image property 'hw_cpu_policy'",
        ),
        (
            &[("hw:cpu_policy", "mine")],
            &[],
            "CPU policy requested from 'flavor extra specs' is invalid, given: 'mine', available: '('dedicated', 'shared', 'mixed')'.",
        ),
        (
            &[],
            &[("hw_cpu_policy", "mine")],
            "Invalid image metadata. Error: Field value mine is invalid",
        ),
        (
            &[],
            &[("hw_cpu_max_cores", "many")],
            "Invalid image metadata. Error: invalid literal for int() with base 10: 'many'",
        ),
        (
            &[("hw:cpu_thread_policy", "prefer")],
            &[],
            "Cannot set cpu thread pinning policy in a non dedicated cpu pinning policy",
        ),
        (
            &[DEDICATED, ("hw:cpu_thread_policy", "x")],
            &[],
            "CPU thread policy requested from 'flavor extra specs' is invalid",
        ),
        (
            &[DEDICATED, ("hw:cpu_thread_policy", "isolate")],
            &[("hw_cpu_thread_policy", "require")],
            "Image property 'hw_cpu_thread_policy' is not permitted",
        ),
        (
            &[REALTIME],
            &[],
            "Use of realtime CPUs requires either one or more non-realtime CPU(s)",
        ),
        (
            &[REALTIME, ("hw:cpu_realtime_mask", "^0")],
            &[],
            "Cannot set realtime policy in a non dedicated cpu pinning policy",
        ),
        (
            &[DEDICATED, REALTIME, ("hw:cpu_realtime_mask", "4-7")],
            &[],
            "Realtime policy vCPU(s) mask is configured",
        ),
        (
            &[DEDICATED, REALTIME, ("hw:cpu_realtime_mask", "3-1")],
            &[],
            "Invalid range expression '3-1'",
        ),
        (
            &[DEDICATED, REALTIME, ("hw:cpu_realtime_mask", "0-99999999")],
            &[],
            "Invalid range expression",
        ),
        (
            &[DEDICATED, REALTIME, ("hw:cpu_realtime_mask", "x")],
            &[],
            "Invalid inclusion expression 'x'",
        ),
        (
            &[DEDICATED, REALTIME, ("hw:cpu_realtime_mask", "^x")],
            &[],
            "Invalid exclusion expression '^x'",
        ),
        (
            &[DEDICATED, ("hw:cpu_dedicated_mask", "0")],
            &[],
            "Cannot specify 'hw:cpu_dedicated_mask' without the 'mixed' policy.",
        ),
        (
            &[MIXED],
            &[],
            "Dedicated CPU set can be specified from either",
        ),
        (
            &[
                MIXED,
                REALTIME,
                ("hw:cpu_realtime_mask", "^0"),
                ("hw:cpu_dedicated_mask", "^0"),
            ],
            &[],
            "Dedicated CPU set can be specified from either",
        ),
        (
            &[MIXED, ("hw:cpu_dedicated_mask", "0-3")],
            &[],
            "Mixed instance must have at least 1 pinned vCPU",
        ),
        (
            &[MIXED, ("hw:cpu_dedicated_mask", "3-4")],
            &[],
            "Mixed instance dedicated vCPU(s) mask is not a subset",
        ),
        (
            &[("hw:emulator_threads_policy", "isolate")],
            &[],
            "An isolated CPU emulator threads option requires",
        ),
        (
            &[("hw:emulator_threads_policy", "x")],
            &[],
            "CPU emulator threads option requested is invalid, given: 'x'",
        ),
        (
            &[DEDICATED, ("resources:PCPU", "4")],
            &[],
            "It is not possible to use the 'resources:VCPU' or 'resources:PCPU'",
        ),
        (
            &[("resources:VCPU", "4"), ("resources1:PCPU", "4")],
            &[],
            "It is not possible to specify both",
        ),
        (
            &[("resources:PCPU", "3")],
            &[],
            "There is a mismatch between the number of PCPUs",
        ),
        (
            &[
                ("resources:PCPU", "4"),
                ("hw:emulator_threads_policy", "isolate"),
            ],
            &[],
            "You have requested 'hw:emulator_threads_policy=isolate'",
        ),
        (
            &[
                DEDICATED,
                ("hw:cpu_thread_policy", "isolate"),
                ("trait:HW_CPU_HYPERTHREADING", "forbidden"),
            ],
            &[],
            "It is not possible to use the 'trait:HW_CPU_HYPERTHREADING'",
        ),
        (
            &[("hw:numa_nodes", "0")],
            &[],
            "The property 'numa_nodes' cannot be '0'. It must be a number greater than 0",
        ),
        (
            &[("hw:numa_nodes", "x")],
            &[],
            "The property 'numa_nodes' cannot be 'x'.",
        ),
        (
            &[("hw:numa_nodes", "2")],
            &[("hw_numa_nodes", "2")],
            "Image property 'hw_numa_nodes' is not permitted to override NUMA",
        ),
        (
            &[("hw:numa_nodes", "3")],
            &[],
            "Instance CPUs and/or memory cannot be evenly distributed",
        ),
        (
            &[("hw:numa_nodes", "2"), ("hw:numa_cpus.0", "0-3")],
            &[],
            "CPU and memory allocation must be provided for all NUMA nodes",
        ),
        (
            &[
                ("hw:numa_nodes", "1"),
                ("hw:numa_cpus.0", "0-4"),
                ("hw:numa_mem.0", "1024"),
            ],
            &[],
            "CPU number 4 is larger than max 3",
        ),
        (
            &[
                ("hw:numa_nodes", "2"),
                ("hw:numa_cpus.0", "0-3"),
                ("hw:numa_cpus.1", "3"),
                ("hw:numa_mem.0", "512"),
                ("hw:numa_mem.1", "512"),
            ],
            &[],
            "CPU number 3 is assigned to two nodes",
        ),
        (
            &[
                ("hw:numa_nodes", "1"),
                ("hw:numa_cpus.0", "0-1"),
                ("hw:numa_mem.0", "1024"),
            ],
            &[],
            "CPU number {2, 3} is not assigned to any node",
        ),
        (
            &[
                ("hw:numa_nodes", "1"),
                ("hw:numa_cpus.0", "0-3"),
                ("hw:numa_mem.0", "1000"),
            ],
            &[],
            "1000 MB of memory assigned, but expected 1024 MB",
        ),
        (
            &[
                ("hw:numa_nodes", "1"),
                ("hw:numa_cpus.0", "0-3"),
                ("hw:numa_mem.0", "1024"),
            ],
            &[("hw_numa_cpus.0", "0-3")],
            "Image property 'hw_numa_cpus' is not permitted to override NUMA configuration set against the flavor",
        ),
        (
            &[("hw:mem_page_size", "huge")],
            &[],
            "Invalid memory page size 'huge'",
        ),
        (
            &[],
            &[("hw_mem_page_size", "2MB")],
            "Page size 2MB forbidden against '<empty>'",
        ),
        (
            &[("hw:mem_page_size", "small")],
            &[("hw_mem_page_size", "2MB")],
            "Page size 2MB forbidden against 'small'",
        ),
        (
            &[("hw:locked_memory", "true")],
            &[],
            "locked_memory value in image or flavor is forbidden when mem_page_size is not set.",
        ),
        (
            &[("hw:locked_memory", "true")],
            &[("hw_locked_memory", "no")],
            "locked_memory value in image (False) and flavor (True) conflict.",
        ),
        (
            &[("hw:mem_encryption", "true")],
            &[],
            "Memory encryption is requested by hw:mem_encryption extra spec in f flavor but the image",
        ),
        (
            &[("hw:mem_encryption", "true")],
            &[("hw_mem_encryption", "false")],
            "Flavor f has hw:mem_encryption extra spec explicitly set to True",
        ),
        (
            &[("hw:mem_encryption", "true")],
            &[("hw_firmware_type", "uefi"), ("hw_machine_type", "pc")],
            "Machine type 'pc' is not compatible with image",
        ),
        (
            &[
                ("hw:mem_encryption", "true"),
                ("hw:mem_encryption_model", "x"),
            ],
            &[("hw_firmware_type", "uefi")],
            "Invalid memory encryption model 'x'.",
        ),
        (
            &[("hw:mem_encryption", "true")],
            &[
                ("hw_firmware_type", "uefi"),
                ("hw_mem_encryption_model", "intel-tdx"),
            ],
            "The intel-tdx memory encryption model requires stateless firmware",
        ),
        (
            &[("hw:tpm_version", "3")],
            &[],
            "Invalid TPM version '3'. Allowed values: 1.2, 2.0.",
        ),
        (
            &[("hw:tpm_version", "1.2"), ("hw:tpm_model", "tpm-crb")],
            &[],
            "TPM model CRB is only valid with TPM version 2.0.",
        ),
        (
            &[("hw:tpm_version", "2.0"), ("hw:tpm_model", "spapr")],
            &[],
            "Invalid TPM model 'spapr'. Allowed values: tpm-tis, tpm-crb.",
        ),
        (
            &[
                ("hw:tpm_version", "2.0"),
                ("hw:tpm_secret_security", "nobody"),
            ],
            &[],
            "TPM secret security 'nobody' is not supported.",
        ),
        (
            &[("hw:tpm_version", "1.2")],
            &[("hw_tpm_version", "2.0")],
            "Flavor f has hw:tpm_version extra spec explicitly set to 1.2",
        ),
        (
            &[("os:secure_boot", "maybe")],
            &[],
            "Invalid secure boot policy 'maybe'. Allowed values: required, disabled, optional.",
        ),
    ];
    for (specs, image, wanted) in table {
        let got = asked(specs, image).unwrap_err();
        assert!(got.starts_with(wanted), "{specs:?} {image:?}: {got}");
    }
}

#[test]
fn flavors_and_images_agree() {
    // The words of the refusal; nothing where the two agree.
    let table: &[(Pairs, Pairs, &str)] = &[
        (&[("hw:pmu", "yes")], &[("hw_pmu", "1")], ""),
        (&[("hw:pmu", "yes")], &[], ""),
        (
            &[("hw:pmu", "yes")],
            &[("hw_pmu", "false")],
            "Flavor f has hw:pmu extra spec explicitly set to True, conflicting with image which has hw_pmu explicitly set to False.",
        ),
        (
            &[("hw:virtio_packed_ring", "false")],
            &[("hw_virtio_packed_ring", "on")],
            "Flavor has hw:virtio_packed_ring extra spec explicitly set to False, conflicting with image which has hw_virtio_packed_ring",
        ),
        (
            &[("hw:vif_multiqueue_enabled", "true")],
            &[("hw_vif_multiqueue_enabled", "false")],
            "Flavor f has hw:vif_multiqueue_enabled extra spec explicitly set to True, conflicting",
        ),
        (
            &[("hw:sound_model", "usb")],
            &[("hw_sound_model", "ac97")],
            "Flavor f has hw:sound_model extra spec explicitly set to usb, conflicting",
        ),
        (
            &[("hw:serial_port_count", "2")],
            &[("hw_serial_port_count", "2")],
            "",
        ),
        (&[], &[("hw_serial_port_count", "6")], ""),
        (
            &[("hw:serial_port_count", "0")],
            &[("hw_serial_port_count", "6")],
            "",
        ),
        (
            &[("hw:serial_port_count", "2")],
            &[("hw_serial_port_count", "3")],
            "Forbidden to exceed flavor value of number of serial ports passed in image meta.",
        ),
        (
            &[("hw:serial_port_count", "two")],
            &[],
            "Number of serial ports specified in flavor is invalid: expected an integer, got 'two'",
        ),
        (
            &[("hw:cpu_max_sockets", "4"), ("hw:cpu_max_threads", "1")],
            &[("hw_cpu_max_sockets", "4"), ("hw_cpu_sockets", "2")],
            "",
        ),
        (
            &[("hw:cpu_max_cores", "2")],
            &[("hw_cpu_max_cores", "3")],
            "Image vCPU topology limits (sockets=0, cores=3, threads=0) exceeds the limits of the flavor (sockets=0, cores=2, threads=0)",
        ),
        (
            &[("hw:cpu_max_threads", "1")],
            &[("hw_cpu_threads", "2")],
            "Image vCPU topology (sockets=0, cores=0, threads=2) exceeds the limits of the flavor or image (sockets=65536, cores=65536, threads=1)",
        ),
        (
            &[("hw:cpu_max_sockets", "4")],
            &[("hw_cpu_max_sockets", "2"), ("hw_cpu_sockets", "3")],
            "Image vCPU topology (sockets=3, cores=0, threads=0) exceeds the limits of the flavor or image (sockets=2,",
        ),
        // What the flavor prefers gives way to its image's limits.
        (
            &[("hw:cpu_sockets", "4")],
            &[("hw_cpu_max_sockets", "2")],
            "",
        ),
        (
            &[("hw:cpu_sockets", "many")],
            &[],
            "Invalid flavor extra spec. Error: invalid literal for int() with base 10: 'many'",
        ),
    ];
    for (specs, image, wanted) in table {
        match asked(specs, image) {
            Ok(_) => assert_eq!(*wanted, "", "{specs:?} {image:?}"),
            Err(words) => assert!(
                !wanted.is_empty() && words.starts_with(wanted),
                "{specs:?} {image:?}: {words}"
            ),
        }
    }
    let one_cpu = Flavor {
        vcpus: 1,
        ..flavor(&[("hw:vif_multiqueue_enabled", "true")])
    };
    let image = map(&[("hw_vif_multiqueue_enabled", "false")]);
    assert_eq!(demands(&one_cpu, &image), Ok(vec![]));
}

#[test]
fn devices_are_near_by_the_flavors_word() {
    const KEY: &str = "hw:pci_numa_affinity_policy";
    const IMAGE: Pairs = &[("hw_pci_numa_affinity_policy", "socket")];
    let asked = |specs, image| device_distance(&flavor(specs), &map(image));
    assert_eq!(asked(&[(KEY, "socket")], IMAGE), Ok(()));
    assert_eq!(asked(&[], IMAGE), Ok(()));
    let forbidden = asked(&[(KEY, "required")], IMAGE);
    assert!(matches!(forbidden, Err(WrongHardware::Forbidden(_))));
    let unmeant = asked(&[(KEY, "near")], &[]).unwrap_err();
    let words = "Invalid PCI NUMA affinity configured: near";
    assert_eq!(unmeant, WrongHardware::Unmeant(words.to_owned()));
}

#[test]
fn tpms_are_asked_for_by_traits() {
    let table: &[(Pairs, Pairs, &[&str])] = &[
        (&[], &[], &[]),
        // Of no effect without a version, as in Nova.
        (&[("hw:tpm_model", "tpm-crb")], &[], &[]),
        (
            &[],
            &[("hw_tpm_version", "1.2")],
            &["1_2", "SECRET_SECURITY_USER", "TIS"],
        ),
        (
            &[
                ("hw:tpm_model", "tpm-crb"),
                ("hw:tpm_secret_security", "host"),
            ],
            &[("hw_tpm_version", "2.0")],
            &["2_0", "CRB", "SECRET_SECURITY_HOST"],
        ),
        (
            &[
                ("hw:tpm_version", "2.0"),
                ("hw:tpm_secret_security", "deployment"),
            ],
            &[
                ("hw_tpm_version", "2.0"),
                ("hw_tpm_secret_security", "host"),
            ],
            &["2_0", "SECRET_SECURITY_DEPLOYMENT", "TIS"],
        ),
    ];
    for (specs, image, wanted) in table {
        let (flavor, image) = (flavor(specs), map(image));
        let tpm = tpm(&flavor, &image).unwrap();
        let traits = tpm.map(traits_for).into_iter().flatten();
        let mut traits: Vec<&str> = traits
            .filter_map(|name| name.strip_prefix("COMPUTE_SECURITY_TPM_"))
            .collect();
        traits.sort_unstable();
        assert_eq!(&traits, wanted, "{specs:?} {image:?}");
    }
}
