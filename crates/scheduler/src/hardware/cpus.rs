//! CPUs of a guest's own: policies and masks.

use super::{Checked, Demand, Guest, wrong, yes};
use std::collections::BTreeSet;
use types::cpu_set::{self, MOST_CPUS};

/// Whose the CPUs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Shared,
    Dedicated,
    Mixed,
}

impl Policy {
    fn of(text: Option<&str>, source: &str) -> Checked<Option<Self>> {
        Ok(Some(match text {
            None => return Ok(None),
            Some("shared") => Self::Shared,
            Some("dedicated") => Self::Dedicated,
            Some("mixed") => Self::Mixed,
            Some(other) => {
                return wrong(format!(
                    "CPU policy requested from '{source}' is invalid, given: '{other}', available: \
                     '('dedicated', 'shared', 'mixed')'."
                ));
            }
        }))
    }
}

/// What is known of a guest's CPUs.
pub(super) struct Cpus {
    pub policy: Option<Policy>,
    pub demand: Option<Demand>,
}

/// The checks of Nova's `numa_get_constraints` that are about CPUs, in its order.
pub(super) fn constraints(guest: Guest<'_>) -> Checked<Cpus> {
    let (policy, spec) = policy(guest)?;
    let threads = thread_policy(guest)?;
    let emulator = emulator_policy(guest)?;
    let realtime = realtime(guest, emulator.is_some())?;
    let dedicated = dedicated_mask(guest)?;
    explicit_resources(guest, policy, emulator == Some("isolate"))?;
    if threads.is_some() && hyperthreading(guest) {
        return wrong(
            "It is not possible to use the 'trait:HW_CPU_HYPERTHREADING' extra spec in combination with the \
             'hw:cpu_thread_policy' extra spec or 'hw_cpu_thread_policy' image metadata property; use one or the other",
        );
    }
    together(guest, policy, threads, emulator, (realtime, dedicated))?;
    let demand = matches!(policy, Some(Policy::Dedicated | Policy::Mixed)).then(|| Demand {
        spec,
        what: "CPUs for one guest alone",
    });
    Ok(Cpus { policy, demand })
}

/// The policy, and what says so.
fn policy(guest: Guest<'_>) -> Checked<(Option<Policy>, String)> {
    let (flavor_text, image_text) = guest.both("cpu_policy");
    let flavor = Policy::of(flavor_text, "flavor extra specs")?;
    let image = Policy::of(image_text, "image properties")?;
    let overridden = match flavor {
        Some(Policy::Mixed) => image == Some(Policy::Dedicated),
        Some(Policy::Shared) => matches!(image, Some(Policy::Mixed | Policy::Dedicated)),
        _ => false,
    };
    if overridden {
        return wrong(
            "Image property 'hw_cpu_policy' is not permitted to override CPU pinning policy set against the flavor",
        );
    }
    let spec = match (flavor_text, image_text) {
        (Some(text), _) => format!("hw:cpu_policy={text}"),
        (None, Some(text)) => format!("hw_cpu_policy={text}"),
        (None, None) => String::new(),
    };
    Ok((flavor.or(image), spec))
}

fn thread_policy<'a>(guest: Guest<'a>) -> Checked<Option<&'a str>> {
    let (flavor, image) = guest.both("cpu_thread_policy");
    for (text, source) in [(flavor, "flavor extra specs"), (image, "image properties")] {
        if let Some(text) = text.filter(|text| !["prefer", "isolate", "require"].contains(text)) {
            return wrong(format!(
                "CPU thread policy requested from '{source}' is invalid, given: '{text}', available: \
                 '('prefer', 'isolate', 'require')'."
            ));
        }
    }
    match (flavor, image) {
        (None | Some("prefer"), image) => Ok(flavor.or(image)),
        (Some(flavor), Some(image)) if image != flavor => wrong(
            "Image property 'hw_cpu_thread_policy' is not permitted to override CPU thread pinning policy set against the flavor",
        ),
        _ => Ok(flavor),
    }
}

fn emulator_policy<'a>(guest: Guest<'a>) -> Checked<Option<&'a str>> {
    match guest.spec("hw:emulator_threads_policy") {
        Some(other) if !["share", "isolate"].contains(&other) => wrong(format!(
            "CPU emulator threads option requested is invalid, given: '{other}', available: '('share', 'isolate')'."
        )),
        policy => Ok(policy),
    }
}

fn all_cpus(guest: Guest<'_>) -> BTreeSet<u32> {
    (0..guest.flavor.vcpus.min(MOST_CPUS)).collect()
}

/// The CPUs of a mask; one that only leaves CPUs out means the others.
fn mask(guest: Guest<'_>, text: &str) -> Checked<BTreeSet<u32>> {
    if !text.starts_with('^') {
        return Ok(cpu_set::parse(text)?);
    }
    let last = guest.flavor.vcpus.saturating_sub(1);
    Ok(cpu_set::parse(&format!("0-{last},{text}"))?)
}

/// Whether there are realtime CPUs.
fn realtime(guest: Guest<'_>, emulator_elsewhere: bool) -> Checked<bool> {
    if !guest.spec("hw:cpu_realtime").is_some_and(yes) {
        return Ok(false);
    }
    let (flavor, image) = guest.both("cpu_realtime_mask");
    let all = all_cpus(guest);
    let wanted = match image.or(flavor) {
        Some(text) => mask(guest, text)?,
        None => all.clone(),
    };
    if wanted.is_empty() || (wanted == all && !emulator_elsewhere) {
        return wrong(
            "Use of realtime CPUs requires either one or more non-realtime CPU(s) or offloaded emulator threads.",
        );
    }
    if !wanted.is_subset(&all) {
        return wrong(
            "Realtime policy vCPU(s) mask is configured with RT vCPUs that are not a subset of the vCPUs in the flavor. See \
             hw:cpu_realtime_mask or hw_cpu_realtime_mask",
        );
    }
    Ok(true)
}

/// Whether some CPUs are named that shall be the guest's own.
fn dedicated_mask(guest: Guest<'_>) -> Checked<bool> {
    let Some(text) = guest.spec("hw:cpu_dedicated_mask") else {
        return Ok(false);
    };
    let (wanted, all) = (mask(guest, text)?, all_cpus(guest));
    if wanted.is_empty() || all.is_subset(&wanted) {
        return wrong(
            "Mixed instance must have at least 1 pinned vCPU and 1 unpinned vCPU. See 'hw:cpu_dedicated_mask'.",
        );
    }
    if !wanted.is_subset(&all) {
        return wrong(
            "Mixed instance dedicated vCPU(s) mask is not a subset of vCPUs in the flavor. See \"hw:cpu_dedicated_mask\"",
        );
    }
    Ok(true)
}

/// `resources:VCPU` and `resources:PCPU`, also with the number of a group.
fn explicit(guest: Guest<'_>, class: &str) -> u64 {
    let asks = |name: &str| {
        let of = name
            .strip_prefix("resources")
            .and_then(|rest| rest.split_once(':'));
        of.is_some_and(|(group, asked)| {
            asked == class && group.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    let specs = guest.flavor.extra_specs.iter();
    specs
        .filter(|(name, _)| asks(name))
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}

fn explicit_resources(
    guest: Guest<'_>,
    policy: Option<Policy>,
    isolated_emulator: bool,
) -> Checked<()> {
    let (shared, own) = (explicit(guest, "VCPU"), explicit(guest, "PCPU"));
    if policy.is_some() && (shared > 0 || own > 0) {
        return wrong(
            "It is not possible to use the 'resources:VCPU' or 'resources:PCPU' extra specs in combination with the 'hw:cpu_policy' \
             extra spec or 'hw_cpu_policy' image metadata property; use one or the other",
        );
    }
    if shared > 0 && own > 0 {
        return wrong(
            "It is not possible to specify both 'resources:VCPU' and 'resources:PCPU' extra specs; use one or the other",
        );
    }
    let vcpus = u64::from(guest.flavor.vcpus);
    if own > 0 && isolated_emulator && own != vcpus + 1 {
        return wrong(
            "You have requested 'hw:emulator_threads_policy=isolate' but have not requested sufficient PCPUs to handle this policy; \
             you must allocate exactly flavor.vcpus + 1 PCPUs.",
        );
    }
    if own > 0 && !isolated_emulator && own != vcpus {
        return wrong(
            "There is a mismatch between the number of PCPUs requested via 'resourcesNN:PCPU' and the flavor); you must allocate \
             exactly flavor.vcpus PCPUs",
        );
    }
    Ok(())
}

fn hyperthreading(guest: Guest<'_>) -> bool {
    let mut specs = guest.flavor.extra_specs.keys();
    specs.any(|name| name.starts_with("trait") && name.ends_with(":HW_CPU_HYPERTHREADING"))
        || guest.image.traits.contains("HW_CPU_HYPERTHREADING")
}

/// What only some policies allow.
fn together(
    guest: Guest<'_>,
    policy: Option<Policy>,
    threads: Option<&str>,
    emulator: Option<&str>,
    (realtime, dedicated): (bool, bool),
) -> Checked<()> {
    // Whoever asks for the resource asks for the policy.
    let policy = match policy {
        None if explicit(guest, "PCPU") > 0 => Some(Policy::Dedicated),
        policy => policy,
    };
    match policy {
        None | Some(Policy::Shared) if threads.is_some() => {
            wrong("Cannot set cpu thread pinning policy in a non dedicated cpu pinning policy")
        }
        None | Some(Policy::Shared) if emulator == Some("isolate") => {
            wrong("An isolated CPU emulator threads option requires a dedicated CPU policy option.")
        }
        None | Some(Policy::Shared | Policy::Dedicated) if dedicated => {
            wrong("Cannot specify 'hw:cpu_dedicated_mask' without the 'mixed' policy.")
        }
        None | Some(Policy::Shared) if realtime => {
            wrong("Cannot set realtime policy in a non dedicated cpu pinning policy")
        }
        Some(Policy::Mixed) if realtime == dedicated => wrong(
            "Dedicated CPU set can be specified from either 'hw:cpu_dedicated_mask' or 'hw:cpu_realtime_mask' when using 'mixed' CPU \
             policy. 'hw:cpu_dedicated_mask' and 'hw:cpu_realtime_mask' can not be specified at the same time, or be specified with \
             none of them.",
        ),
        _ => Ok(()),
    }
}
