//! Emulated TPMs of simulated guests: nothing but what they remember, which is locked with a passphrase as swtpm's files are.
//! A guest whose passphrase is not there does not start, nor does one with another than it began with.

use super::{Guest, Sim};
use crate::hypervisor::{HypervisorError, NO_PASSPHRASE, Result};
use crate::passage::Passage;
use crate::spec::GuestSpec;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use types::ServerId;
use types::tpm::{Passphrase, Tpm, Version};

/// What there is of a guest's TPM beside its specification.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    /// Locked: the version, and a number that tells passphrases apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    lock: Option<(Version, u64)>,
    /// The passphrase, of a guest whose host keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<Passphrase>,
}

impl Memory {
    /// The same on another host, which has not kept the passphrase.
    pub(super) fn moved(self) -> Self {
        Self { kept: None, ..self }
    }
}

/// FNV-1a: enough to tell two passphrases apart.
fn number(passphrase: &Passphrase) -> u64 {
    let bytes = passphrase.0.bytes();
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn is_missing() -> HypervisorError {
    HypervisorError::Guest(NO_PASSPHRASE.into())
}

impl Sim {
    pub(super) fn lent(&self) -> MutexGuard<'_, HashMap<ServerId, Passphrase>> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The passphrase as this host has it after a verb.
    fn known(&self, spec: &GuestSpec, was: &Memory) -> Option<Passphrase> {
        self.lent().get(&spec.id).or(was.kept.as_ref()).cloned()
    }

    /// The TPM of a guest that starts.
    pub(super) fn unlock(&self, spec: &GuestSpec, was: &Memory) -> Result<Memory> {
        let Some(tpm) = &spec.tpm else {
            return Ok(Memory::default());
        };
        let passphrase = self.known(spec, was).ok_or_else(is_missing)?;
        let lock = (tpm.wanted.version, number(&passphrase));
        if was.lock.is_some_and(|had| had.0 == lock.0 && had != lock) {
            return Err(HypervisorError::Rejected(
                "the TPM's memory cannot be decrypted with this passphrase".into(),
            ));
        }
        Ok(Memory {
            lock: Some(lock),
            kept: tpm.is_kept_by_host().then_some(passphrase),
        })
    }

    /// The TPM of a guest that is made or lands and does not start.
    pub(super) fn resting(&self, spec: &GuestSpec, was: Memory) -> Memory {
        let keeps = spec.tpm.as_ref().is_some_and(Tpm::is_kept_by_host);
        Memory {
            kept: self.known(spec, &was).filter(|_| keeps),
            ..was
        }
    }

    /// The passphrase that another host keeps comes before its guest.
    pub(super) fn keep(&self, id: ServerId, passphrase: &Passphrase) -> Result<()> {
        let mut guests = self.lock();
        let guest = guests.get(&id).ok_or(HypervisorError::NotFound(id))?;
        let kept = Guest {
            tpm: Memory {
                kept: Some(passphrase.clone()),
                ..guest.tpm.clone()
            },
            ..guest.clone()
        };
        self.store(&mut guests, kept).map(drop)
    }

    /// Sends the passphrase ahead of a guest that leaves.
    pub(super) async fn send_passphrase(
        &self,
        id: ServerId,
        way: Option<Arc<dyn Passage>>,
    ) -> Result<()> {
        let (tpm, kept) = {
            let guests = self.lock();
            let guest = guests.get(&id).ok_or(HypervisorError::NotFound(id))?;
            (guest.spec.tpm, guest.tpm.kept.clone())
        };
        if tpm.is_none() {
            return Ok(());
        }
        let no_way = || HypervisorError::Rejected("this host knows no way to the other one".into());
        let passphrase = kept.ok_or_else(is_missing)?;
        way.ok_or_else(no_way)?.carry_passphrase(&passphrase).await
    }
}
