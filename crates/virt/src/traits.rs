//! What a host can do for guests, by the names of os-traits, so that flavors and images can ask for it (`trait:NAME`).

use crate::{HostFacts, TpmKinds};

/// What every hypervisor here does.
const COMPUTE: &[&str] = &[
    "COMPUTE_DEVICE_TAGGING",
    "COMPUTE_FIRMWARE_BIOS",
    "COMPUTE_IMAGE_TYPE_QCOW2",
    "COMPUTE_IMAGE_TYPE_RAW",
    "COMPUTE_NET_ATTACH_INTERFACE",
    "COMPUTE_NET_ATTACH_INTERFACE_WITH_TAG",
    "COMPUTE_NET_VIF_MODEL_E1000",
    "COMPUTE_NET_VIF_MODEL_E1000E",
    "COMPUTE_NET_VIF_MODEL_NE2K_PCI",
    "COMPUTE_NET_VIF_MODEL_PCNET",
    "COMPUTE_NET_VIF_MODEL_RTL8139",
    "COMPUTE_NET_VIF_MODEL_VIRTIO",
    "COMPUTE_STORAGE_BUS_IDE",
    "COMPUTE_STORAGE_BUS_SATA",
    "COMPUTE_STORAGE_BUS_SCSI",
    "COMPUTE_STORAGE_BUS_USB",
    "COMPUTE_STORAGE_BUS_VIRTIO",
    "COMPUTE_VOLUME_ATTACH",
    "COMPUTE_VOLUME_ATTACH_WITH_TAG",
    "COMPUTE_VOLUME_MULTI_ATTACH",
];

/// Flags of x86 processors as libvirt or Linux call them (without `_`, `-` and `.`), and the trait, without `HW_CPU_X86_`.
const X86: &[(&str, &str)] = &[
    ("3dnow", "3DNOW"),
    ("abm", "ABM"),
    ("aes", "AESNI"),
    ("amxbf16", "AMXBF16"),
    ("amxint8", "AMXINT8"),
    ("amxtile", "AMXTILE"),
    ("avx", "AVX"),
    ("avx2", "AVX2"),
    ("avx512bitalg", "AVX512BITALG"),
    ("avx512bw", "AVX512BW"),
    ("avx512cd", "AVX512CD"),
    ("avx512dq", "AVX512DQ"),
    ("avx512er", "AVX512ER"),
    ("avx512f", "AVX512F"),
    ("avx512ifma", "AVX512IFMA"),
    ("avx512pf", "AVX512PF"),
    ("avx512vbmi", "AVX512VBMI"),
    ("avx512vbmi2", "AVX512VBMI2"),
    ("avx512vl", "AVX512VL"),
    ("avx512vnni", "AVX512VNNI"),
    ("avx512vpopcntdq", "AVX512VPOPCNTDQ"),
    ("bmi1", "BMI"),
    ("bmi2", "BMI2"),
    ("f16c", "F16C"),
    ("fma", "FMA3"),
    ("fma4", "FMA4"),
    ("gfni", "AVX512GFNI"),
    ("mmx", "MMX"),
    ("mpx", "MPX"),
    ("pclmulqdq", "CLMUL"),
    ("pdpe1gb", "PDPE1GB"),
    ("pni", "SSE3"),
    ("rtm", "TSX"),
    ("sgx", "SGX"),
    ("shani", "SHA"),
    ("sse", "SSE"),
    ("sse2", "SSE2"),
    ("sse41", "SSE41"),
    ("sse42", "SSE42"),
    ("sse4a", "SSE4A"),
    ("ssse3", "SSSE3"),
    ("stibp", "STIBP"),
    ("svm", "AMD_SVM"),
    ("svm", "SVM"),
    ("tbm", "TBM"),
    ("vaes", "AVX512VAES"),
    ("vmx", "INTEL_VMX"),
    ("vmx", "VMX"),
    ("vpclmulqdq", "AVX512VPCLMULQDQ"),
    ("xop", "XOP"),
];

/// The traits of a host, sorted.
pub fn of(facts: &HostFacts) -> Vec<String> {
    let mut all: Vec<String> = COMPUTE.iter().map(|&name| name.to_owned()).collect();
    let arch = facts.cpu_info.arch.to_ascii_uppercase();
    all.push(format!("HW_ARCH_{arch}"));
    let guests = facts.supported.iter().map(|(arch, ..)| arch);
    all.extend(guests.map(|arch| format!("COMPUTE_ARCH_{}", arch.to_ascii_uppercase())));
    let threads = facts.cpu_info.topology.threads;
    if threads > 1 {
        all.push("HW_CPU_HYPERTHREADING".to_owned());
    }
    for flag in &facts.cpu_info.for_guests {
        let plain: String = flag.chars().filter(|c| !"_-.".contains(*c)).collect();
        let named = X86.iter().filter(|(name, _)| *name == plain);
        all.extend(named.map(|(_, name)| format!("HW_CPU_X86_{name}")));
    }
    all.extend(tpm(&facts.tpm));
    all.retain(|name| types::standard::traits().any(|known| known == name));
    all.sort();
    all.dedup();
    all
}

/// Of emulated TPMs. Every host that has them can handle their passphrases in each of the three ways.
fn tpm(kinds: &TpmKinds) -> Vec<String> {
    if kinds.models.is_empty() || kinds.versions.is_empty() {
        return Vec::new();
    }
    let named = |name: &str| format!("COMPUTE_SECURITY_TPM_{name}");
    let models = kinds.models.iter();
    let models = models.map(|model| model.trim_start_matches("tpm-").to_ascii_uppercase());
    let versions = kinds.versions.iter();
    let versions = versions.map(|version| version.replace('.', "_"));
    let secrets = ["USER", "HOST", "DEPLOYMENT"].map(|who| format!("SECRET_SECURITY_{who}"));
    let all = models.chain(versions).chain(secrets);
    all.map(|name| named(&name)).collect()
}

/// The flags of the first processor in `/proc/cpuinfo`.
pub fn flags(cpuinfo: &str) -> Vec<String> {
    let line = cpuinfo.lines().find_map(|line| {
        let (name, flags) = line.split_once(':')?;
        (name.trim() == "flags").then_some(flags)
    });
    let flags = line.unwrap_or_default().split_whitespace();
    flags.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CpuInfo;

    fn facts(for_guests: Vec<String>) -> HostFacts {
        HostFacts {
            hypervisor_type: "QEMU".into(),
            hypervisor_version: 1,
            hypervisor_hostname: "h".into(),
            vcpus: 1,
            memory_mib: 1,
            memory_used_mib: 0,
            disk_gib: 1,
            disk_free_gib: 1,
            cpu_info: CpuInfo {
                arch: "x86_64".into(),
                for_guests,
                ..CpuInfo::default()
            },
            supported: vec![
                ("x86_64".into(), "qemu".into(), "hvm".into()),
                ("i686".into(), "qemu".into(), "hvm".into()),
            ],
            running_guests: 0,
            storage: None,
            tpm: TpmKinds::default(),
        }
    }

    #[test]
    fn names_are_those_of_os_traits() {
        let known: Vec<&str> = types::standard::traits().collect();
        let flags = X86.iter().map(|(_, name)| format!("HW_CPU_X86_{name}"));
        for name in COMPUTE.iter().map(|&name| name.to_owned()).chain(flags) {
            assert!(known.contains(&name.as_str()), "{name}");
        }
    }

    #[test]
    fn emulated_tpms_become_traits() {
        let of_tpm = |tpm| {
            let facts = HostFacts {
                tpm,
                ..facts(Vec::new())
            };
            let all = of(&facts).into_iter();
            let of_tpm = all.filter_map(|name| {
                let name = name.strip_prefix("COMPUTE_SECURITY_TPM_")?;
                Some(name.to_owned())
            });
            of_tpm.collect::<Vec<_>>()
        };
        assert_eq!(of_tpm(TpmKinds::default()), [""; 0]);
        let secrets = [
            "SECRET_SECURITY_DEPLOYMENT",
            "SECRET_SECURITY_HOST",
            "SECRET_SECURITY_USER",
        ];
        let all = ["1_2", "2_0", "CRB"].into_iter().chain(secrets);
        let all: Vec<&str> = all.chain(["TIS"]).collect();
        assert_eq!(of_tpm(TpmKinds::all()), all);
        let old = TpmKinds {
            models: vec!["tpm-tis".into(), "tpm-spapr".into()],
            versions: vec!["2.0".into()],
        };
        let some = ["2_0"].into_iter().chain(secrets);
        let some: Vec<&str> = some.chain(["TIS"]).collect();
        assert_eq!(of_tpm(old), some);
    }

    #[test]
    fn flags_of_processors_become_traits() {
        let text =
            "processor\t: 0\nvmx flags\t: vnmi\nflags\t\t: fpu mmx pni sse4_1 avx2 sha_ni abc\n";
        let traits = of(&facts(flags(text)));
        let cpu: Vec<&str> = traits
            .iter()
            .filter_map(|name| name.strip_prefix("HW_CPU_X86_"))
            .collect();
        assert_eq!(cpu, ["AVX2", "MMX", "SHA", "SSE3", "SSE41"]);
        for name in [
            "HW_ARCH_X86_64",
            "COMPUTE_ARCH_X86_64",
            "COMPUTE_STORAGE_BUS_VIRTIO",
        ] {
            assert!(traits.iter().any(|one| one == name), "{name}");
        }
        // os-traits knows no such guests.
        assert!(!traits.iter().any(|name| name.ends_with("I686")));
        let emulated = of(&facts(flags("no such line")));
        assert!(!emulated.iter().any(|name| name.starts_with("HW_CPU")));
    }
}
