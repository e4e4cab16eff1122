//! What a conductor does besides flows and agents.

use bus::{Bell, Bus};
use conductor::Neighbours;
use conductor::addresses::Addresses;
use sql::Store;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use types::HostName;

/// The longest pause between two looks at what has waited long enough.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often guests are looked for that do not know yet that a volume has grown.
const GROWN_LOOK: Duration = Duration::from_secs(1);
/// How long changes of the network service gather before servers' addresses are renewed.
const ADDRESS_PAUSE: Duration = Duration::from_millis(100);
/// A renewal that took long (it lists all ports) is followed by a pause that is so many times as long.
const ADDRESS_REST: u32 = 9;
/// How often addresses are renewed where nobody tells of changes, or where something waits.
const ADDRESS_LOOK: Duration = Duration::from_secs(10);

/// Deletes for good what was soft-deleted long enough ago.
pub(crate) async fn reclaim_deleted(
    store: Store,
    bus: Bus,
    after: Duration,
    stop: CancellationToken,
) {
    let words = (
        "soft-deleted servers are deleted for good",
        "soft-deleted servers cannot be reclaimed now",
    );
    let look = || conductor::reclaim::reclaim(&store, &bus, after);
    now_and_then(after, &stop, words, look).await;
}

/// Confirms resizes that nobody has confirmed for long enough.
pub(crate) async fn confirm_resizes(
    store: Store,
    bus: Bus,
    after: Duration,
    stop: CancellationToken,
) {
    let words = ("resizes are confirmed", "resizes cannot be confirmed now");
    let look = || conductor::confirmations::confirm(&store, &bus, after);
    now_and_then(after, &stop, words, look).await;
}

/// Takes servers from their hosts that were shelved long enough ago.
pub(crate) async fn offload_shelved(
    store: Store,
    bus: Bus,
    after: Duration,
    stop: CancellationToken,
) {
    let words = (
        "shelved servers leave their hosts",
        "shelved servers cannot be offloaded now",
    );
    let look = || conductor::offload::offload(&store, &bus, after);
    now_and_then(after, &stop, words, look).await;
}

/// Tells guests that their volumes have grown, once nobody works on their servers.
pub(crate) async fn tell_grown(store: Store, bus: Bus, stop: CancellationToken) {
    let words = (
        "guests are told that their volumes have grown",
        "guests cannot be told now that their volumes have grown",
    );
    let look = || conductor::grown::tell(&store, &bus);
    now_and_then(GROWN_LOOK, &stop, words, look).await;
}

/// Looks at once, and again and again, for what has waited that long. The words are for what was found, and for a look that
/// failed.
async fn now_and_then<F: Future<Output = Result<usize, sql::Error>>>(
    after: Duration,
    stop: &CancellationToken,
    (done, failed): (&str, &str),
    look: impl Fn() -> F,
) {
    let pause = after.clamp(Duration::from_secs(1), LONGEST_PAUSE);
    while !stop.is_cancelled() {
        match look().await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "{done}"),
            Err(error) => tracing::warn!(%error, "{failed}"),
        }
        stop.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
}

/// Mends what should not be as it is, as `kilonova manage audit --fix` does.
pub(crate) async fn reconcile(
    with: Neighbours,
    bus: Bus,
    pause: Duration,
    stop: CancellationToken,
) {
    while stop
        .run_until_cancelled(tokio::time::sleep(pause))
        .await
        .is_some()
    {
        if let Err(error) = conductor::reconcile::reconcile(&with, &bus).await {
            tracing::warn!(%error, "what should not be there cannot be looked for now");
        }
    }
}

/// Says that the services in this process (`nova-conductor`, `nova-scheduler`) live, as `os-services` shows them.
pub(crate) async fn beat_control_services(
    store: Store,
    host: HostName,
    binaries: &'static [&'static str],
    beat: Duration,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        let host = host.clone();
        let beaten = store.write(move |tx| -> Result<(), sql::Error> {
            let now = types::Timestamp::now();
            for &binary in binaries {
                db::hosts::beat(tx, &host, binary, None, now)?;
            }
            Ok(())
        });
        if let Err(error) = beaten.await {
            tracing::warn!(%error, "the control services cannot say that they live");
        }
        tokio::select! {
            () = tokio::time::sleep(beat) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Has servers follow their ports and addresses whenever the network service has changed something; many changes at once
/// are one renewal.
pub(crate) async fn follow_addresses(
    with: Neighbours,
    bus: Bus,
    mut changes: Option<watch::Receiver<u64>>,
    mut told: bus::Listener,
    stop: CancellationToken,
) {
    let mut addresses = Addresses::default();
    loop {
        let begun = tokio::time::Instant::now();
        if let Err(error) = addresses.renew(&with, &bus).await {
            tracing::warn!(%error, "ports and addresses of servers are not renewed");
        }
        let pause = ADDRESS_PAUSE.max(begun.elapsed() * ADDRESS_REST);
        tokio::select! {
            () = changed(&mut changes) => {}
            () = told.rung() => {}
            () = tokio::time::sleep(ADDRESS_LOOK), if addresses.waits() => {}
            () = stop.cancelled() => return,
        }
        let rested = stop.run_until_cancelled(tokio::time::sleep(pause));
        if rested.await.is_none() {
            return;
        }
        if let Some(changes) = &mut changes {
            changes.mark_unchanged();
        }
    }
}

/// A change that the network service tells of; where it is another process, now and then.
async fn changed(changes: &mut Option<watch::Receiver<u64>>) {
    let heard = match changes {
        Some(changes) => changes.changed().await.is_ok(),
        None => false,
    };
    if !heard {
        tokio::time::sleep(ADDRESS_LOOK).await;
    }
}

/// Rings for servers' addresses whenever the network service in this process has changed something, for conductors in
/// other processes.
pub(crate) async fn tell_addresses(
    mut changes: watch::Receiver<u64>,
    bus: Bus,
    stop: CancellationToken,
) {
    while let Some(Ok(())) = stop.run_until_cancelled(changes.changed()).await {
        bus.ring(Bell::Addresses);
        tokio::time::sleep(ADDRESS_PAUSE).await;
    }
}
