#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Worlds of several conductors, hosts, a database and a bus in one thread, in virtual time, in which everything goes
//! wrong that can: bells, requests and answers are late, lost, repeated; steps fail; processes die, or stand still for
//! longer than their lease; hosts are cut off; services are away. At every commit and at the end of each world all
//! invariants must hold. A seed is a world: an odd one has the same course each time, an even one, in which disks are
//! copied, nearly so.
//!
//! `KILONOVA_TEST_SEED` is the first seed, `KILONOVA_TEST_SEEDS` how many worlds there are; with 1, that one again.
//! `KILONOVA_TEST_TRACE=1` prints what the programs log.

mod nature;
mod watch;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use world::{Chaos, Ended, Lived};

/// Worlds in every run of the tests.
const WORLDS: u64 = 80;
/// Every so many of those that are repeatable one is lived through twice.
const TWICE: u64 = 12;

/// Whether disks are copied in this world.
fn copies(seed: u64) -> bool {
    seed.is_multiple_of(2)
}

/// Whether the hosts of a world share the disks of their guests.
fn shared(seed: u64) -> bool {
    seed.is_multiple_of(3)
}

/// One world, in a thread of its own; `Err` is what went wrong and what had happened.
fn live(seed: u64) -> Result<Lived, String> {
    let world = move || {
        // Events have no time of their own there: the story has.
        let tells = number("KILONOVA_TEST_TRACE") == Some(1);
        let told = tells.then(|| {
            let format = tracing_subscriber::fmt().without_time().with_ansi(false);
            let format = format.with_max_level(tracing::Level::DEBUG);
            tracing::subscriber::set_default(format.with_writer(std::io::stderr).finish())
        });
        let _told = told;
        nature::begin(seed);
        let chaos = Arc::new(Chaos::default());
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(world::live(Arc::clone(&chaos), copies(seed), shared(seed)))
        };
        let lived = catch_unwind(AssertUnwindSafe(run));
        let panics = testkit::take_panics();
        let lived = match (lived, panics.is_empty()) {
            // The journal goes on after a panic of a flow.
            (Ok(_), false) => Err(Box::new(panics.join("\n")) as Box<dyn std::any::Any + Send>),
            (lived, _) => lived,
        };
        lived.map_err(|panic| {
            let owned = panic.downcast_ref::<String>().cloned();
            let text =
                owned.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let text = text.unwrap_or_default();
            format!(
                "KILONOVA_TEST_SEED={seed} KILONOVA_TEST_SEEDS=1\n{}\n{text}",
                chaos.told()
            )
        })
    };
    let thread = std::thread::Builder::new().stack_size(64 << 20);
    thread.spawn(world).unwrap().join().unwrap()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn invariants_hold_whatever_happens() {
    testkit::keep_panics();
    let first = number("KILONOVA_TEST_SEED").unwrap_or(1);
    let usual = match number("KILONOVA_TEST_LONG") {
        Some(1) => 20 * WORLDS,
        _ => WORLDS,
    };
    let count = number("KILONOVA_TEST_SEEDS").unwrap_or(usual);
    let (start, next) = (Instant::now(), AtomicU64::new(0));
    let failed = Mutex::new(Vec::new());
    let sums = Mutex::new((0, 0, 0));
    let ended = Mutex::new(Ended::new());
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::SeqCst);
            if index >= count || failed.lock().unwrap().len() >= 3 {
                return;
            }
            let seed = first + index;
            match live(seed) {
                Err(story) => failed.lock().unwrap().push(story),
                Ok(Lived {
                    course,
                    seen,
                    ended: its,
                }) => {
                    for (action, (well, badly)) in its {
                        let mut all = ended.lock().unwrap();
                        let sum = all.entry(action).or_default();
                        *sum = (sum.0 + well, sum.1 + badly);
                    }
                    let mut sums = sums.lock().unwrap();
                    *sums = (sums.0 + seen.0, sums.1 + seen.1, sums.2 + seen.2);
                    drop(sums);
                    if (index / 2).is_multiple_of(TWICE) && !copies(seed) {
                        let again = live(seed).map(|lived| lived.course);
                        if again.as_ref() != Ok(&course) {
                            let told =
                                format!("seed {seed} is not repeatable: {course}, {again:?}");
                            failed.lock().unwrap().push(told);
                        }
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism()
            .map_or(2, usize::from)
            .min(8)
        {
            scope.spawn(work);
        }
    });
    let (commits, claims, taken) = sums.into_inner().unwrap();
    testkit::tell(format_args!(
        "simulation: {count} worlds from seed {first}, {commits} commits, {claims} claims, {taken} of them of what \
         another ran, {:.1} s",
        start.elapsed().as_secs_f64()
    ));
    assert!(claims >= count, "hardly anything happened");
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "{} worlds went wrong:\n{}",
        failed.len(),
        failed.join("\n\n")
    );
    let ended = ended.into_inner().unwrap();
    // In few worlds some happen hardly ever.
    if count >= 20 * WORLDS {
        // What fails in every world has proved nothing.
        let well = |action: &&str| ended.get(*action).is_some_and(|(well, _)| *well > 0);
        let never: Vec<_> = world::actions()
            .into_iter()
            .filter(|one| !well(one))
            .collect();
        assert_eq!(never, [""; 0], "never went well: {ended:?}");
    }
}
