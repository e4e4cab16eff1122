//! Hardware virtualization or emulation.

use super::blocking;
use crate::hypervisor::{HypervisorError, Result};
use crate::kvm::{self, Kvm};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A machine that is busy, as when it comes up, may fail the probe's times once.
const PROBES: usize = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// How guests run (nova.conf's `[libvirt] virt_type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Acceleration {
    /// On hardware if the probe proves it, else by emulation.
    #[default]
    Probe,
    /// On hardware; as long as the probe does not prove it the host takes no guests.
    Kvm,
    /// By QEMU's emulation.
    Emulation,
}

impl Acceleration {
    /// The word in nova.conf; none for what finds out by itself.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "",
            Self::Kvm => "kvm",
            Self::Emulation => "qemu",
        }
    }

    /// Reads that word.
    ///
    /// # Errors
    /// Another word.
    pub fn read(word: &str) -> std::result::Result<Self, String> {
        let all = [Self::Probe, Self::Kvm, Self::Emulation];
        let found = all.into_iter().find(|one| one.as_str() == word);
        found.ok_or_else(|| {
            format!("{word:?} is neither kvm nor qemu (nothing finds out which of them works)")
        })
    }
}

/// Runs the probe off the async threads and says in the log what guests will use and why.
pub(super) async fn decide(acceleration: Acceleration) -> Result<Kvm> {
    let kvm = match acceleration {
        Acceleration::Emulation => Kvm::Unusable("emulation is configured".into()),
        Acceleration::Probe | Acceleration::Kvm => probe(PROBES).await?,
    };
    let guests = match (acceleration, kvm.is_usable()) {
        (Acceleration::Kvm, _) | (_, true) => "kvm",
        _ => "qemu (emulation)",
    };
    tracing::info!(guests, kvm = %kvm, "how guests run");
    if acceleration == Acceleration::Probe && !kvm.is_usable() && crate::kvm::is_there() {
        tracing::warn!(kvm = %kvm, "there is hardware virtualization that does not work: guests are emulated, which is slow; \
             [libvirt] virt_type = kvm keeps guests from such a host");
    }
    Ok(kvm)
}

async fn probe(times: usize) -> Result<Kvm> {
    let mut found = blocking(|| Ok(kvm::probe())).await?;
    for _ in 1..times {
        if found.is_usable() || !kvm::is_there() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
        found = blocking(|| Ok(kvm::probe())).await?;
    }
    Ok(found)
}

/// Fails as long as guests are to run on hardware and cannot. A module that is loaded late is found.
pub(super) async fn check(acceleration: Acceleration, known: &Kvm) -> Result<()> {
    if acceleration != Acceleration::Kvm || known.is_usable() {
        return Ok(());
    }
    match probe(1).await? {
        Kvm::Usable => Ok(()),
        Kvm::Unusable(reason) => Err(HypervisorError::Unavailable(format!(
            "[libvirt] virt_type is kvm, and hardware virtualization does not work here: {reason}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_words_are_novas() {
        for (word, means) in [
            ("", Acceleration::Probe),
            ("kvm", Acceleration::Kvm),
            ("qemu", Acceleration::Emulation),
        ] {
            assert_eq!(Acceleration::read(word).unwrap(), means);
            assert_eq!(means.as_str(), word);
        }
        assert!(Acceleration::read("lxc").is_err());
    }

    #[tokio::test]
    async fn a_host_whose_hardware_is_wanted_and_does_not_work_is_told() {
        let broken = Kvm::Unusable("no module".into());
        for free in [Acceleration::Probe, Acceleration::Emulation] {
            check(free, &broken).await.unwrap();
        }
        check(Acceleration::Kvm, &Kvm::Usable).await.unwrap();
        let now = kvm::probe();
        let checked = check(Acceleration::Kvm, &broken).await;
        assert_eq!(checked.is_ok(), now.is_usable(), "{checked:?}");
    }
}
