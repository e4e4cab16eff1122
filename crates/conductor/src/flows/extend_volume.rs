//! A volume that has grown in the volume service: its guest is told.

use super::idle;
use super::on_host::{Act, Came, at_rest};
use crate::neighbours::{Neighbours, retry};
use async_trait::async_trait;
use db::accept;
use db::block_devices;
use db::instances::{Change, Instance};
use journal::{Context, Failure, StepError};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::time::Duration;
use types::agent::Verb;
use types::{PowerState, Timestamp, VmState};

/// Tells a guest that its volume has grown.
pub struct ExtendVolume;

/// Which, and how large it is now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Grown {
    volume: String,
    #[serde(default)]
    size_gib: u64,
}

#[async_trait]
impl Act for ExtendVolume {
    const NAME: &'static str = accept::EXTEND_VOLUME;
    const EVENT: &'static str = "compute_extend_volume";
    const SETTLED: Option<VmState> = None;
    type Wanted = Grown;

    fn deadline(_: &Self::Wanted) -> Duration {
        Duration::from_secs(60)
    }

    async fn prepare(
        with: &Neighbours,
        _: &Context,
        server: &Instance,
        grown: &mut Grown,
    ) -> Result<(), StepError> {
        let scope = with.scope(server).await?;
        let found = with.volumes.volume(&scope, &grown.volume).await;
        let volume = found.map_err(retry)?.ok_or_else(|| {
            let words = format!("Volume {} could not be found.", grown.volume);
            StepError::Fail(Failure::new(404, words))
        })?;
        grown.size_gib = volume.size;
        Ok(())
    }

    fn verb(grown: &Grown) -> Option<Verb> {
        Some(Verb::EnsureVolumeSize {
            volume_id: grown.volume.clone(),
            size_gib: grown.size_gib,
        })
    }

    fn done(
        tx: &mut Tx<'_>,
        server: &Instance,
        grown: &Grown,
        power: PowerState,
        _: Timestamp,
    ) -> Result<Change, sql::Error> {
        note(tx, server, grown)?;
        Ok(at_rest(power))
    }

    /// It has grown whether its guest sees that now or after its next start.
    fn left(tx: &mut Tx<'_>, server: &Instance, grown: &Grown) -> Result<(), sql::Error> {
        note(tx, server, grown)
    }

    fn failed(_: &Instance, _: &Grown, _: Came) -> Change {
        idle()
    }
}

/// The size is on record, once the volume service has told it.
fn note(tx: &mut Tx<'_>, server: &Instance, grown: &Grown) -> Result<(), sql::Error> {
    if grown.size_gib == 0 {
        return Ok(());
    }
    if let Some(mut device) = block_devices::of_volume(tx, server.id, &grown.volume)? {
        device.volume_size = Some(grown.size_gib);
        block_devices::update(tx, &device)?;
    }
    Ok(())
}
