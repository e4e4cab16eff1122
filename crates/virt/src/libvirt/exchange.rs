//! Another volume under a disk of a running guest. QEMU copies the old one onto the new one; once both hold the same, no
//! write of the guest is done before both have it. Then the stored specification names the new volume, and then the guest
//! goes on with it: whenever the guest ends and starts again, what it starts from has all that was written.
//!
//! Each turn looks at what is there and does what comes next, so the repeat of a call that was cut off finds the copy that is
//! under way and goes on with it. The way back is the same with the volumes the other way round.

use super::calls::DomainRef;
use super::described::{Place, Seen, of_places};
use super::disks::reachable;
use super::rpc::RpcError;
use super::snapshot::Mirror;
use super::{Libvirt, explain};
use crate::disks::Disk;
use crate::facts::GuestInfo;
use crate::hypervisor::{HypervisorError, Result};
use crate::spec::GuestSpec;
use std::time::Duration;
use types::ServerId;

/// How often a copy is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// How far an exchange is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    /// The stored specification names the wanted volume.
    stored: bool,
    /// The guest uses the wanted volume; none: it is off.
    live: Option<bool>,
    /// The copy that is being made of the disk.
    copy: Option<Copied>,
}

/// A copy that is being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copied {
    /// Not onto the wanted volume.
    Elsewhere,
    /// Not whole yet.
    Running,
    /// Both hold the same.
    Ready,
}

/// What comes next, in the order in which it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    /// It cannot be done while the guest is off.
    Refuse,
    /// The specification names the volume that the guest uses: the wanted one no longer gets what is written.
    StoreBack,
    /// The copy is called off.
    CallOff,
    /// A copy is begun.
    Copy,
    /// The copy becomes whole.
    Wait,
    /// The specification names the wanted volume.
    Store,
    /// The guest goes on with the copy.
    Pivot,
    /// Nothing is left to do.
    Done,
}

fn next(standing: Standing) -> Next {
    use Copied::{Elsewhere, Ready, Running};
    match (standing.live, standing.stored, standing.copy) {
        (None, true, _) | (Some(true), true, None) => Next::Done,
        (None, false, _) => Next::Refuse,
        // Before a copy is called off: the copy may be what the specification names.
        (Some(true), false, _) | (Some(false), false, Some(Ready)) => Next::Store,
        (Some(true), true, Some(_)) | (Some(false), false, Some(Elsewhere)) => Next::CallOff,
        (Some(false), true, None | Some(Elsewhere)) => Next::StoreBack,
        (Some(false), false, None) => Next::Copy,
        (Some(false), _, Some(Running)) => Next::Wait,
        (Some(false), true, Some(Ready)) => Next::Pivot,
    }
}

/// What was found.
struct Found {
    guest: GuestInfo,
    spec: GuestSpec,
    /// Which of its disks.
    slot: usize,
    /// The domain's description; empty when the guest is off.
    description: String,
    /// The disk's name there.
    target: String,
    /// The volume that the guest uses.
    place: Option<Place>,
    standing: Standing,
}

impl Found {
    /// The specification with the volume that the guest uses.
    fn as_it_is(&self, disk: &Disk, old: &str) -> Result<GuestSpec> {
        let place = self.place.as_ref().ok_or_else(|| {
            HypervisorError::Rejected(format!("the guest has no volume in the place of {old}"))
        })?;
        Ok(self.with(place.disk(disk, old)))
    }

    fn with(&self, disk: Disk) -> GuestSpec {
        let mut spec = self.spec.clone();
        if let Some(slot) = spec.disks.get_mut(self.slot) {
            *slot = disk;
        }
        spec
    }
}

impl Libvirt {
    /// The guest's disk is this one, which takes the place of the volume `old`.
    pub(super) async fn exchange_disk(
        &self,
        id: ServerId,
        old: &str,
        disk: &Disk,
    ) -> Result<GuestInfo> {
        reachable(disk)?;
        let wanted = Place::of(disk).ok_or_else(|| {
            HypervisorError::Rejected("only a volume takes the place of a volume".into())
        })?;
        let domain = self.reference(id);
        let mut lock = Some(self.exclusive(id).await);
        // Given up before the specification names the new volume, the copy is called off.
        let mut mirror: Option<Mirror> = None;
        let mut copied = false;
        let mut failed: Option<(Next, HypervisorError)> = None;
        loop {
            let found = self.look_at(id, old, disk, &wanted).await?;
            let step = next(found.standing);
            // What failed may have been done all the same; only its answer is lost then.
            if let Some((did, error)) = failed.take()
                && step <= did
            {
                if let Err(error) = self.take_back(&domain, &found, disk, old).await {
                    tracing::warn!(guest = %id, %error, "an exchange of volumes stays as it is");
                }
                return Err(error);
            }
            let target = found.target.as_str();
            let done = match step {
                Next::Done => return Ok(found.guest),
                Next::Refuse => {
                    return Err(HypervisorError::Guest(format!(
                        "the guest is off; start it, and volume {old} can be exchanged"
                    )));
                }
                Next::StoreBack => self.write_spec(found.as_it_is(disk, old)?).await,
                Next::CallOff => {
                    let ended = self.jobs.abort_block_job(&domain, target).await;
                    ended.map_err(explain)
                }
                Next::Copy if copied => {
                    return Err(HypervisorError::Rejected(
                        "the copy of the volume broke off".into(),
                    ));
                }
                Next::Copy => {
                    copied = true;
                    let onto = self.disk_xml(&found.spec, disk, &found.description)?;
                    mirror = lock
                        .take()
                        .map(|lock| Mirror::new(&self.jobs, &domain, target, lock));
                    let begun = self.jobs.copy_block_onto(&domain, target, &onto).await;
                    begun.map_err(explain)
                }
                Next::Wait => {
                    copied = true;
                    if !found.standing.stored
                        && let Some(lock) = lock.take()
                    {
                        mirror = Some(Mirror::new(&self.jobs, &domain, target, lock));
                    }
                    let whole = self.mirrored(&domain, target).await;
                    tokio::time::sleep(LOOK).await;
                    whole
                }
                Next::Store => {
                    // From here on the copy may be what the guest starts from the next time.
                    if let Some(mirror) = mirror.take() {
                        lock = mirror.keep();
                    }
                    self.write_spec(found.with(disk.clone())).await
                }
                Next::Pivot => {
                    let pivoted = self.jobs.pivot_block_job(&domain, target).await;
                    pivoted.map_err(explain)
                }
            };
            if let Err(error) = done {
                failed = Some((step, error));
            }
        }
    }

    async fn look_at(&self, id: ServerId, old: &str, disk: &Disk, wanted: &Place) -> Result<Found> {
        let missing = || {
            HypervisorError::Guest(format!(
                "the guest does not have the volume {old} as a disk"
            ))
        };
        let spec = self.read_spec(id)?.ok_or(HypervisorError::NotFound(id))?;
        let its = |one: &Disk| {
            let volume = one.volume_id();
            one.id == disk.id || (volume.is_some() && volume == Some(old))
        };
        let slot = spec.disks.iter().position(its).ok_or_else(missing)?;
        let stored = Place::of(&spec.disks[slot]);
        let guest = self.must_look(id).await?;
        let mut found = Found {
            standing: Standing {
                stored: stored.as_ref() == Some(wanted),
                live: None,
                copy: None,
            },
            guest,
            spec,
            slot,
            description: String::new(),
            target: String::new(),
            place: None,
        };
        if !found.guest.active {
            return Ok(found);
        }
        let description = self.describe(id).await?;
        let places: Vec<Place> = stored.into_iter().chain([wanted.clone()]).collect();
        let serials: Vec<&str> = [Some(old), disk.volume_id()]
            .into_iter()
            .flatten()
            .collect();
        let seen = of_places(&description, &places, &serials).ok_or_else(missing)?;
        found.standing.live = Some(seen.place.as_ref() == Some(wanted));
        found.standing.copy = copy_of(&seen, wanted);
        found.target = seen.target;
        found.place = seen.place;
        found.description = description;
        Ok(found)
    }

    /// The guest keeps the volume that it uses, also at its next start, and no copy is made of it.
    async fn take_back(
        &self,
        domain: &DomainRef,
        found: &Found,
        disk: &Disk,
        old: &str,
    ) -> Result<()> {
        if found.standing.live != Some(false) {
            return Ok(());
        }
        if found.standing.stored {
            self.write_spec(found.as_it_is(disk, old)?).await?;
        }
        match self.jobs.abort_block_job(domain, &found.target).await {
            // None is under way.
            Ok(()) | Err(RpcError::Refused { .. }) => Ok(()),
            Err(error) => Err(explain(error)),
        }
    }
}

fn copy_of(seen: &Seen<'_>, wanted: &Place) -> Option<Copied> {
    let mirror = seen.mirror.as_ref()?;
    if mirror.place.as_ref() != Some(wanted) {
        return Some(Copied::Elsewhere);
    }
    Some(if mirror.ready {
        Copied::Ready
    } else {
        Copied::Running
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::described::tests::{COPIED, nbd};
    use super::*;
    use Copied::{Elsewhere, Ready, Running};

    fn standing(stored: bool, live: Option<bool>, copy: Option<Copied>) -> Standing {
        Standing { stored, live, copy }
    }

    #[test]
    fn what_comes_next() {
        const OFF: Option<bool> = None;
        const OLD: Option<bool> = Some(false);
        const NEW: Option<bool> = Some(true);
        for (stored, live, copy, wanted) in [
            (false, OLD, None, Next::Copy),
            (false, OLD, Some(Running), Next::Wait),
            (false, OLD, Some(Ready), Next::Store),
            // Cut off between the specification and the pivot.
            (true, OLD, Some(Ready), Next::Pivot),
            (true, OLD, Some(Running), Next::Wait),
            (true, NEW, None, Next::Done),
            // The copy is gone: the new volume has not got the last writes.
            (true, OLD, None, Next::StoreBack),
            (true, OLD, Some(Elsewhere), Next::StoreBack),
            (false, OLD, Some(Elsewhere), Next::CallOff),
            // The way back from before the pivot: the specification first.
            (false, NEW, Some(Elsewhere), Next::Store),
            (true, NEW, Some(Elsewhere), Next::CallOff),
            (false, NEW, None, Next::Store),
            (true, OFF, None, Next::Done),
            (false, OFF, None, Next::Refuse),
        ] {
            let found = next(standing(stored, live, copy));
            assert_eq!(found, wanted, "{stored} {live:?} {copy:?}");
        }
    }

    /// What each step leaves behind, done over and over, from wherever a call was cut off.
    fn carried_out(mut at: Standing) -> Vec<Next> {
        let mut steps = Vec::new();
        loop {
            let step = next(at);
            steps.push(step);
            match step {
                Next::Done | Next::Refuse => return steps,
                Next::StoreBack => at.stored = false,
                Next::CallOff => at.copy = None,
                Next::Copy => at.copy = Some(Running),
                Next::Wait => at.copy = Some(Ready),
                Next::Store => at.stored = true,
                Next::Pivot => (at.live, at.copy) = (Some(true), None),
            }
            assert!(steps.len() < 9, "{steps:?}");
        }
    }

    #[test]
    fn it_comes_to_its_end_from_everywhere() {
        for stored in [false, true] {
            for live in [None, Some(false), Some(true)] {
                for copy in [None, Some(Elsewhere), Some(Running), Some(Ready)] {
                    let steps = carried_out(standing(stored, live, copy));
                    let wanted = match (live, stored) {
                        (None, false) => Next::Refuse,
                        _ => Next::Done,
                    };
                    assert_eq!(steps.last(), Some(&wanted), "{stored} {live:?} {copy:?}");
                    let place = |one: Next| steps.iter().position(|step| *step == one);
                    if let (Some(pivot), Some(store)) = (place(Next::Pivot), place(Next::Store)) {
                        assert!(store < pivot, "{steps:?}");
                    }
                }
            }
        }
        let whole = [Next::Copy, Next::Wait, Next::Store, Next::Pivot, Next::Done];
        assert_eq!(carried_out(standing(false, Some(false), None)), whole);
    }

    #[test]
    fn a_copy_is_judged_by_where_it_goes() {
        let place = |disk: &Disk| Place::of(disk).unwrap();
        let (old, new) = (
            place(&nbd("v-1", "old & secret")),
            place(&nbd("v-2", "new")),
        );
        let places = [old.clone(), new.clone()];
        let judged = |description: &str, wanted: &Place| {
            let seen = of_places(description, &places, &[]).unwrap();
            (seen.place.as_ref() == Some(wanted), copy_of(&seen, wanted))
        };
        assert_eq!(judged(COPIED, &new), (false, Some(Ready)));
        assert_eq!(judged(COPIED, &old), (true, Some(Elsewhere)));
        let begun = COPIED.replace(" ready='yes'", "");
        assert_eq!(judged(&begun, &new), (false, Some(Running)));
        // The guest is about to go on with it, or to lose it.
        let ending = COPIED.replace("ready='yes'", "ready='pivot'");
        assert_eq!(judged(&ending, &new), (false, Some(Running)));
    }
}
