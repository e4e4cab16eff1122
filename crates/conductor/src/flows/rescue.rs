//! Rescue and unrescue: the guest boots from another image and sees its own disks behind it, so that somebody can
//! mend them.

use super::build::guest_plan;
use super::grace::Grace;
use super::idle;
use super::on_host::{Act, Came, Plain, at_rest};
use crate::neighbours::Neighbours;
use async_trait::async_trait;
use db::accept;
use db::instances::{Change, Instance, Kept};
use journal::{Context, StepError};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::time::Duration;
use types::agent::{GuestPlan, Verb};
use types::server::ImageRef;
use types::{PowerState, Timestamp, VmState};

/// An image may have to be fetched.
const FETCHING: Duration = Duration::from_secs(1800);

/// Boots a server from another image.
pub struct Rescue;
/// Boots it from its own disks again.
pub struct Unrescue;

/// What to boot from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct From {
    image: Option<ImageRef>,
    #[serde(default)]
    plan: Option<GuestPlan>,
    #[serde(default)]
    grace: Grace,
}

fn without_password(server: &Instance) -> Option<Kept> {
    Some(Kept {
        rescue_pass: None,
        ..server.kept.clone()
    })
}

#[async_trait]
impl Act for Rescue {
    const NAME: &'static str = accept::RESCUE;
    const EVENT: &'static str = "compute_rescue_instance";
    const SETTLED: Option<VmState> = Some(VmState::Rescued);
    const STARTS: bool = true;
    type Wanted = From;

    fn deadline(from: &From) -> Duration {
        from.grace.and(FETCHING)
    }

    async fn prepare(
        with: &Neighbours,
        _: &Context,
        server: &Instance,
        from: &mut From,
    ) -> Result<(), StepError> {
        let mut plan = guest_plan(
            &Instance {
                image: from.image.clone(),
                ..server.clone()
            },
            &server.network_info,
        );
        // The rescue disk is as large as its image.
        plan.root_gb = 0;
        from.plan = Some(plan);
        // The guest that goes down is the server's own.
        from.grace = Grace::of(with, server);
        Ok(())
    }

    fn verb(from: &From) -> Option<Verb> {
        Some(Verb::EnsureRescued {
            plan: Box::new(from.plan.clone()?),
            grace_seconds: from.grace.seconds(),
        })
    }

    fn done(
        _: &mut Tx<'_>,
        _: &Instance,
        _: &From,
        power: PowerState,
        now: Timestamp,
    ) -> Result<Change, sql::Error> {
        Ok(Change {
            vm_state: Some(VmState::Rescued),
            launched_at: Some(now),
            ..at_rest(power)
        })
    }

    fn failed(server: &Instance, _: &From, came: Came) -> Change {
        Change {
            vm_state: (came != Came::Nowhere).then_some(VmState::Error),
            kept: without_password(server),
            ..idle()
        }
    }
}

#[async_trait]
impl Act for Unrescue {
    const NAME: &'static str = accept::UNRESCUE;
    const EVENT: &'static str = "compute_unrescue_instance";
    const SETTLED: Option<VmState> = Some(VmState::Active);
    const STARTS: bool = true;
    type Wanted = Plain;

    fn verb(_: &Plain) -> Option<Verb> {
        Some(Verb::EnsureUnrescued)
    }

    fn done(
        _: &mut Tx<'_>,
        server: &Instance,
        _: &Plain,
        power: PowerState,
        _: Timestamp,
    ) -> Result<Change, sql::Error> {
        Ok(Change {
            vm_state: Some(VmState::Active),
            kept: without_password(server),
            ..at_rest(power)
        })
    }

    fn failed(_: &Instance, _: &Plain, came: Came) -> Change {
        Change {
            vm_state: (came != Came::Nowhere).then_some(VmState::Error),
            ..idle()
        }
    }
}
