#![allow(clippy::unwrap_used)]
use super::*;
use crate::spec::{GuestMetadata, Hardware, Vif};
use std::sync::atomic::{AtomicUsize, Ordering};
use uuid::Uuid;

/// A small guest whose ids derive from `n`.
pub(crate) fn spec(n: u32) -> GuestSpec {
    GuestSpec {
        id: ServerId::from(Uuid::from_u128(
            0x1000_0000_0000_4000_8000_0000_0000_0000 + u128::from(n),
        )),
        instance_name: format!("instance-{n:08x}"),
        metadata: GuestMetadata {
            display_name: format!("vm-{n}"),
            ..GuestMetadata::default()
        },
        vcpus: 1,
        memory_mib: 128,
        root: RootDisk::Blank { size_gib: 1 },
        config_drive: None,
        vifs: vec![Vif {
            port_id: "p".into(),
            mac: "fa:16:3e:00:00:01".into(),
            tap: format!("tap{n}"),
            mtu: 1450,
            model: None,
        }],
        hardware: Hardware::default(),
        serial_number: format!("serial-{n}"),
        rescue: None,
        disks: Vec::new(),
        tpm: None,
        kernel: None,
    }
}

fn sim(folder: &Path) -> Arc<Sim> {
    Sim::open(SimConfig::large(folder, "sim-1")).unwrap()
}

#[tokio::test]
async fn guests_survive_a_restart_and_delete_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let first = sim(folder.path());
    for n in 0..3 {
        first.ensure_guest(&spec(n), Power::On).await.unwrap();
    }
    first.stop_hard(spec(1).id).await.unwrap();
    drop(first);

    let again = sim(folder.path());
    let power = async |n: u32| {
        again
            .guest(spec(n).id)
            .await
            .unwrap()
            .map(|guest| guest.power)
    };
    assert_eq!(power(0).await, Some(PowerState::Running));
    assert_eq!(power(1).await, Some(PowerState::Shutdown));
    assert_eq!(again.stored_spec(spec(1).id).await.unwrap(), Some(spec(1)));
    assert_eq!(again.host().await.unwrap().running_guests, 2);
    assert_eq!(
        again.start(spec(1).id).await.unwrap().power,
        PowerState::Running
    );
    for n in 0..3 {
        again.ensure_absent(spec(n).id).await.unwrap();
        again.ensure_absent(spec(n).id).await.unwrap();
    }
    assert!(again.guests().await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn verbs_are_idempotent_and_events_follow() {
    let folder = tempfile::tempdir().unwrap();
    let sim = sim(folder.path());
    let mut events = sim.events();
    let guest = spec(7);
    let first = sim.ensure_guest(&guest, Power::Off).await.unwrap();
    assert_eq!((first.power, first.active), (PowerState::Shutdown, false));
    let on = sim.ensure_guest(&guest, Power::On).await.unwrap();
    assert_eq!(sim.ensure_guest(&guest, Power::On).await.unwrap(), on);
    assert_eq!(
        sim.ensure_guest(&guest, Power::Off).await.unwrap(),
        on,
        "off never stops"
    );
    sim.request_shutdown(guest.id).await.unwrap();
    sim.request_shutdown(guest.id).await.unwrap();
    sim.wait_stopped(guest.id, Duration::from_secs(60))
        .await
        .unwrap();
    sim.reboot_soft(guest.id, Duration::from_secs(60))
        .await
        .unwrap();
    sim.guest_crashes(guest.id).unwrap();
    sim.reboot_hard(&guest).await.unwrap();
    use GuestEventKind::*;
    for expected in [Started, Stopped, Started, Crashed, Stopped, Started] {
        assert_eq!(events.recv().await.unwrap().kind, expected);
    }
    assert!(events.try_recv().is_err(), "repeats announce nothing");
    for result in [
        sim.start(spec(8).id).await.map(drop),
        sim.stop_hard(spec(8).id).await,
    ] {
        assert_eq!(result, Err(HypervisorError::NotFound(spec(8).id)));
    }
}

#[tokio::test]
async fn a_guest_that_ignores_its_button_times_out() {
    let folder = tempfile::tempdir().unwrap();
    let sim = sim(folder.path());
    let guest = spec(1);
    sim.ensure_guest(&guest, Power::On).await.unwrap();
    sim.controls().set_guests_ignore_shutdown(true);
    let result = sim.reboot_soft(guest.id, Duration::from_millis(50)).await;
    assert!(
        matches!(result, Err(HypervisorError::Timeout(_))),
        "{result:?}"
    );
    assert_eq!(
        sim.guest(guest.id).await.unwrap().unwrap().power,
        PowerState::Running
    );

    let mut waiting = sim.wait_stopped(guest.id, Duration::from_secs(60));
    tokio::select! {
        biased;
        early = &mut waiting => panic!("it runs: {early:?}"),
        () = tokio::task::yield_now() => {}
    }
    sim.guest_powers_off(guest.id).unwrap();
    waiting.await.unwrap();
}

#[tokio::test]
async fn faults_delays_and_switches() {
    let folder = tempfile::tempdir().unwrap();
    let sim = sim(folder.path());
    let guest = spec(1);
    let controls = sim.controls().clone();
    let injected = HypervisorError::Injected("x".into());

    controls.fail_next(Verb::EnsureGuest, injected.clone(), 2);
    for _ in 0..2 {
        assert_eq!(
            sim.ensure_guest(&guest, Power::On).await,
            Err(injected.clone())
        );
    }
    assert!(
        sim.guest(guest.id).await.unwrap().is_none(),
        "failed before the effect"
    );
    controls.set_disk_full(true);
    let full = sim.ensure_guest(&guest, Power::On).await;
    assert!(matches!(
        full,
        Err(HypervisorError::Disk { full: true, .. })
    ));
    controls.set_disk_full(false);

    controls.set_delay(Verb::EnsureGuest, Duration::from_millis(50));
    let before = std::time::Instant::now();
    sim.ensure_guest(&guest, Power::On).await.unwrap();
    assert!(before.elapsed() >= Duration::from_millis(50));

    controls.set_down(true);
    assert!(!sim.alive().await);
    assert!(matches!(
        sim.guests().await,
        Err(HypervisorError::Unavailable(_))
    ));
    controls.set_down(false);
    controls.fail_always(Verb::StopHard, injected.clone());
    assert!(sim.stop_hard(guest.id).await.is_err() && sim.stop_hard(guest.id).await.is_err());
    controls.heal(Verb::StopHard);
    sim.stop_hard(guest.id).await.unwrap();

    controls.set_console(guest.id, "0123456789");
    assert_eq!(sim.console_log(guest.id, 4).await.unwrap(), b"6789");
}

#[tokio::test]
async fn crash_points_come_before_and_after_the_effect() {
    let folder = tempfile::tempdir().unwrap();
    let sim = sim(folder.path());
    for (moment, there) in [(Moment::Before, false), (Moment::After, true)] {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        sim.controls().set_hook(Some(Arc::new(move |verb, now, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            (verb == Verb::EnsureGuest && now == moment)
                .then(|| HypervisorError::Injected("crash".into()))
        })));
        assert!(sim.ensure_guest(&spec(1), Power::On).await.is_err());
        assert!(calls.load(Ordering::SeqCst) >= 1);
        sim.controls().set_hook(None);
        assert_eq!(
            sim.guest(spec(1).id).await.unwrap().is_some(),
            there,
            "{moment:?}"
        );
    }
}

#[tokio::test]
async fn a_broken_file_is_left_alone_and_room_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("broken.json"), "{").unwrap();
    let config = SimConfig {
        disk_gib: 1,
        ..SimConfig::large(folder.path(), "small")
    };
    let sim = Sim::open(config).unwrap();
    sim.ensure_guest(&spec(1), Power::Off).await.unwrap();
    let second = sim.ensure_guest(&spec(2), Power::Off).await;
    assert!(matches!(
        second,
        Err(HypervisorError::Disk { full: true, .. })
    ));
    assert!(folder.path().join("broken.json").exists());
}

#[tokio::test]
async fn a_file_switches_faults_on_and_off() {
    let folder = tempfile::tempdir().unwrap();
    let sim = sim(folder.path());
    let file = folder.path().join("faults.json");
    let say = |text: &str| {
        // A new file, so that its time of change differs even within one tick of the clock.
        let part = folder.path().join("faults.part");
        std::fs::write(&part, text).unwrap();
        let later = std::time::SystemTime::now() + Duration::from_secs(text.len() as u64);
        std::fs::File::open(&part)
            .unwrap()
            .set_modified(later)
            .unwrap();
        std::fs::rename(&part, &file).unwrap();
    };
    say(r#"{"disk_full": true}"#);
    let full = sim.ensure_guest(&spec(1), Power::On).await;
    assert!(
        matches!(full, Err(HypervisorError::Disk { full: true, .. })),
        "{full:?}"
    );
    say(r#"{"fail": {"ensure_guest": "because"}}"#);
    let failed = sim.ensure_guest(&spec(1), Power::On).await;
    assert_eq!(failed, Err(HypervisorError::Injected("because".into())));
    say(r#"{"down": true}"#);
    assert!(!sim.alive().await);
    say(r#"{"delay_after_ms": {"ensure_guest": 60000}, "delay_ms": {"stop_hard": 60000}}"#);
    let guest = spec(1);
    let made = tokio::time::timeout(
        Duration::from_millis(50),
        sim.ensure_guest(&guest, Power::On),
    );
    assert!(made.await.is_err(), "the answer is late");
    assert!(
        sim.guest(spec(1).id).await.unwrap().is_some(),
        "the effect is there"
    );
    let stopped = tokio::time::timeout(Duration::from_millis(50), sim.stop_hard(spec(1).id));
    assert!(stopped.await.is_err());
    assert!(sim.guest(spec(1).id).await.unwrap().unwrap().active);
    say("no JSON");
    sim.stop_hard(spec(1).id).await.unwrap();
    std::fs::remove_file(&file).unwrap();
    sim.start(spec(1).id).await.unwrap();
    let again = Sim::open(SimConfig::large(folder.path(), "again")).unwrap();
    assert_eq!(again.guests().await.unwrap().len(), 1);
}

#[test]
fn a_copy_of_a_disk_that_nobody_sent_is_gone_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let left = folder.path().join("image.snapshot");
    std::fs::write(&left, "half").unwrap();
    let _sim = Sim::open(SimConfig::large(folder.path(), "h")).unwrap();
    assert!(!left.exists());
}

fn with_tpm(security: types::tpm::Security) -> GuestSpec {
    use types::tpm::{Model, Tpm, Version, Wanted};
    let wanted = Wanted {
        version: Version::V1_2,
        model: Model::Tis,
        security,
    };
    let secret = Uuid::nil();
    GuestSpec {
        tpm: Some(Tpm { wanted, secret }),
        ..spec(1)
    }
}

#[tokio::test]
async fn only_what_a_host_keeps_of_a_passphrase_is_in_its_files() {
    use types::tpm::{Passphrase, Security};
    for (security, kept) in [
        (Security::User, false),
        (Security::Host, true),
        (Security::Deployment, false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let guest = with_tpm(security);
        let id = guest.id;
        let first = sim(folder.path());
        let lend = |sim: &Sim, text: Option<&str>| {
            sim.lend_passphrase(id, text.map(|text| Passphrase(text.to_owned())));
        };
        assert!(first.ensure_guest(&guest, Power::On).await.is_err());
        lend(&first, Some("correct horse"));
        first.ensure_guest(&guest, Power::On).await.unwrap();
        lend(&first, None);
        first.stop_hard(id).await.unwrap();
        drop(first);
        let text = std::fs::read_to_string(folder.path().join(format!("{id}.json"))).unwrap();
        assert_eq!(text.contains("correct horse"), kept, "{security:?}");
        let again = sim(folder.path());
        assert_eq!(again.start(id).await.is_ok(), kept, "{security:?}");
        if !kept {
            lend(&again, Some("another horse"));
            assert!(again.start(id).await.is_err());
            lend(&again, Some("correct horse"));
            again.start(id).await.unwrap();
        }
        let none = Passphrase(String::new());
        let kept = again.keep_passphrase(spec(2).id, &none).await;
        assert!(kept.is_err(), "no such guest was made ready");
    }
}
