//! Real guests on a real libvirt. Needs root, libvirt and QEMU, and is asked for by name:
//!
//! ```text
//! KILONOVA_TEST_LIBVIRT=1 KILONOVA_TEST_IMAGE=/path/guest.qcow2 cargo test -p kilonova-virt --test real_libvirt
//! ```
//!
//! The image is any small guest that writes to its serial console and powers off by its button. A libvirt that
//! answers is used (and then not restarted); otherwise one is started and stopped again.

#![allow(clippy::unwrap_used)]

use kilonova_virt as virt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use types::agent::Quiesce;
use types::tpm::{Model, Passphrase, Security, Tpm, Version, Wanted};
use types::{PowerState, ServerId};
use virt::libvirt::daemon::{Daemon, DaemonConfig};
use virt::libvirt::folder::Instances;
use virt::libvirt::{Libvirt, LibvirtConfig};
use virt::{
    ConfigFile, GuestEventKind, GuestMetadata, GuestSpec, Hardware, Hypervisor, HypervisorError,
    Power, RootDisk, Vif,
};

/// Emulated guests on a busy machine take their time.
const BOOT: Duration = Duration::from_secs(180);

fn image() -> Option<PathBuf> {
    if std::env::var("KILONOVA_TEST_LIBVIRT").is_err() {
        eprintln!("skipped: KILONOVA_TEST_LIBVIRT is not set");
        return None;
    }
    Some(
        std::env::var("KILONOVA_TEST_IMAGE")
            .expect("KILONOVA_TEST_IMAGE names a guest image")
            .into(),
    )
}

/// The daemon's sockets are the machine's own.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct Bench {
    _alone: tokio::sync::MutexGuard<'static, ()>,
    _outer: tempfile::TempDir,
    home: PathBuf,
    config: LibvirtConfig,
    daemon: Daemon,
    hypervisor: Arc<Libvirt>,
}

impl Bench {
    /// A home that only root may enter.
    async fn open() -> Self {
        let alone = ONE_AT_A_TIME.lock().await;
        let outer = tempfile::tempdir().unwrap();
        let home = outer.path().join("home");
        std::fs::create_dir(&home).unwrap();
        std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o700)).unwrap();
        let daemon = Daemon::ensure(DaemonConfig::system(home.join("libvirt")))
            .await
            .unwrap();
        let config = LibvirtConfig {
            swtpm: true,
            ..LibvirtConfig::system(home.join("instances"))
        };
        let hypervisor = Libvirt::open(config.clone()).await.unwrap();
        Self {
            _alone: alone,
            _outer: outer,
            home,
            config,
            daemon,
            hypervisor,
        }
    }

    async fn close(self) {
        drop(self.hypervisor);
        Instances::withdraw(&self.config.instances, &self.config.run).unwrap();
        self.daemon.stop(false).await;
    }
}

fn spec(base: &Path, number: u32, vifs: Vec<Vif>) -> GuestSpec {
    GuestSpec {
        id: ServerId::random(),
        // Beyond the numbers that a cloud on this machine would have reached.
        instance_name: format!(
            "instance-{:08x}",
            0xfe00_0000_u32 + (std::process::id() << 4) + number
        ),
        metadata: GuestMetadata {
            display_name: "a <test> & more".into(),
            ..GuestMetadata::default()
        },
        vcpus: 1,
        memory_mib: 128,
        root: RootDisk::Image {
            base: base.into(),
            format: virt::DiskFormat::Raw,
            size_gib: 1,
        },
        config_drive: Some(vec![ConfigFile {
            path: "openstack/latest/meta_data.json".into(),
            content: br#"{"uuid": "u", "hostname": "from-the-drive"}"#.to_vec(),
        }]),
        vifs,
        hardware: Hardware::default(),
        serial_number: "s-1".into(),
        rescue: None,
        disks: Vec::new(),
        tpm: None,
        kernel: None,
    }
}

async fn base(hypervisor: &Libvirt, image: &Path) -> PathBuf {
    let bases = hypervisor.base_images().unwrap();
    let download = bases.download_path("image-1", "test");
    std::fs::copy(image, &download).unwrap();
    bases
        .adopt("image-1", &download, "qcow2", 10)
        .await
        .unwrap()
        .0
        .path
}

fn virsh(arguments: &[&str]) -> String {
    let output = Command::new("virsh")
        .args(["-c", "qemu:///system"])
        .args(arguments)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

async fn until_console_has(hypervisor: &Libvirt, id: ServerId, wanted: &str) -> String {
    let started = Instant::now();
    loop {
        let text = hypervisor.console_log(id, 1 << 20).await.unwrap();
        let text = String::from_utf8_lossy(&text).into_owned();
        if text.contains(wanted) {
            return text;
        }
        assert!(
            started.elapsed() < BOOT,
            "no '{wanted}' in the console: {text}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn ip(arguments: &[&str]) {
    assert!(
        Command::new("ip")
            .args(arguments)
            .status()
            .unwrap()
            .success(),
        "ip {arguments:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_from_definition_to_nothing() {
    let Some(image) = image() else { return };
    let bench = Bench::open().await;
    let hypervisor = &*bench.hypervisor;
    let tap = format!("kvt{}", std::process::id());
    ip(&["tuntap", "add", "dev", &tap, "mode", "tap"]);
    let vif = Vif {
        port_id: "p".into(),
        mac: "fa:16:3e:11:22:33".into(),
        tap: tap.clone(),
        mtu: 1450,
        model: None,
    };
    let guest = spec(&base(hypervisor, &image).await, 1, vec![vif]);

    let facts = hypervisor.host().await.unwrap();
    assert_eq!(facts.hypervisor_type, "QEMU");
    assert!(
        facts.hypervisor_version > 2_000_000 && facts.vcpus > 0 && facts.memory_mib > 512,
        "{facts:?}"
    );
    assert!(
        facts
            .supported
            .iter()
            .any(|(arch, _, mode)| arch == "x86_64" && mode == "hvm"),
        "{facts:?}"
    );

    let mut events = hypervisor.events();
    let started = Instant::now();
    let info = hypervisor.ensure_guest(&guest, Power::On).await.unwrap();
    println!("ensure_guest took {:?}", started.elapsed());
    assert_eq!((info.power, info.active), (PowerState::Running, true));
    assert_eq!(
        hypervisor
            .ensure_guest(&guest, Power::On)
            .await
            .unwrap()
            .power,
        PowerState::Running
    );
    let event = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let event = events.recv().await.unwrap();
            if event.id == guest.id && event.kind != GuestEventKind::Resumed {
                return event.kind;
            }
        }
    });
    assert_eq!(event.await.unwrap(), GuestEventKind::Started);
    until_console_has(hypervisor, guest.id, "login:").await;
    println!("booted after {:?}", started.elapsed());

    let xml = virsh(&["dumpxml", &guest.instance_name]);
    for wanted in [
        "OpenStack Nova",
        &tap,
        "disk.config",
        "org.qemu.guest_agent.0",
        "fa:16:3e:11:22:33",
    ] {
        assert!(xml.contains(wanted), "{wanted} is missing in {xml}");
    }
    // An emulated one can be emulated anywhere.
    let cpu = hypervisor.guest_cpu(guest.id).await.unwrap();
    assert_eq!(cpu.is_some(), hypervisor.kvm().is_usable(), "{cpu:?}");
    let model = if cpu.is_some() { "kvm64" } else { "qemu64" };
    let cpu = format!("<cpu mode='custom' match='exact'><model>{model}</model></cpu>");
    assert_eq!(hypervisor.lacks_cpu(&cpu).await.unwrap(), None);
    let more = cpu.replace("</cpu>", "<feature policy='require' name='ia64'/></cpu>");
    let missing = hypervisor.lacks_cpu(&more).await.unwrap().unwrap();
    assert!(missing.contains("ia64"), "{missing}");
    let diagnostics = hypervisor.diagnostics(guest.id).await.unwrap();
    assert_eq!(
        (
            diagnostics.cpus.len(),
            diagnostics.nics.len(),
            diagnostics.disks.len()
        ),
        (1, 1, 2)
    );
    assert_eq!(diagnostics.nics[0].mac, "fa:16:3e:11:22:33");
    assert!(
        diagnostics.disks[0].read_bytes > 0 && diagnostics.memory_maximum_mib == 128,
        "{diagnostics:?}"
    );

    let rebooted = hypervisor.reboot_soft(guest.id, BOOT).await.unwrap();
    assert_eq!(rebooted.power, PowerState::Running);
    let twice = |text: &str| text.matches("login:").count() >= 2;
    let rebooting = Instant::now();
    while !twice(&until_console_has(hypervisor, guest.id, "login:").await) {
        assert!(rebooting.elapsed() < BOOT, "no second login prompt");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let hard = hypervisor.reboot_hard(&guest.for_storage()).await.unwrap();
    assert_eq!(hard.power, PowerState::Running);

    hypervisor.stop_hard(guest.id).await.unwrap();
    hypervisor.stop_hard(guest.id).await.unwrap();
    hypervisor
        .wait_stopped(guest.id, Duration::from_secs(5))
        .await
        .unwrap();
    let off = hypervisor.guest(guest.id).await.unwrap().unwrap();
    assert_eq!(
        (off.power, off.active, off.vcpus, off.memory_mib),
        (PowerState::Shutdown, false, 1, 128)
    );
    assert_eq!(
        hypervisor.start(guest.id).await.unwrap().power,
        PowerState::Running
    );
    assert_eq!(hypervisor.guests().await.unwrap().len(), 1);

    let removing = Instant::now();
    hypervisor.ensure_absent(guest.id).await.unwrap();
    println!("ensure_absent took {:?}", removing.elapsed());
    hypervisor.ensure_absent(guest.id).await.unwrap();
    assert_eq!(hypervisor.guest(guest.id).await.unwrap(), None);
    assert!(hypervisor.guests().await.unwrap().is_empty());
    assert!(!virsh(&["list", "--all"]).contains(&guest.instance_name));
    assert!(
        !bench
            .home
            .join("instances")
            .join(guest.id.to_string())
            .exists()
    );
    assert!(matches!(
        hypervisor.start(guest.id).await,
        Err(HypervisorError::NotFound(_))
    ));
    ip(&["link", "del", &tap]);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemon_goes_and_comes_back_under_a_running_guest() {
    let Some(image) = image() else { return };
    let bench = Bench::open().await;
    if !bench.daemon.is_ours() {
        eprintln!("skipped: this libvirt is the system's and is not restarted");
        return bench.close().await;
    }
    let hypervisor = bench.hypervisor.clone();
    let guest = spec(&base(&hypervisor, &image).await, 2, Vec::new());
    hypervisor.ensure_guest(&guest, Power::On).await.unwrap();
    let mut events = hypervisor.events();

    let Bench {
        _alone,
        _outer,
        home,
        config,
        daemon,
        ..
    } = bench;
    daemon.stop(true).await;
    assert!(!hypervisor.alive().await);
    let down = hypervisor.guest(guest.id).await;
    assert!(
        matches!(down, Err(HypervisorError::Unavailable(_))),
        "{down:?}"
    );
    // The guest's process goes on and is ended while nobody looks.
    let pid =
        std::fs::read_to_string(format!("/run/libvirt/qemu/{}.pid", guest.instance_name)).unwrap();
    assert!(
        Command::new("kill")
            .args(["-9", pid.trim()])
            .status()
            .unwrap()
            .success()
    );

    let daemon = Daemon::ensure(DaemonConfig::system(home.join("libvirt")))
        .await
        .unwrap();
    let event = tokio::time::timeout(BOOT, async {
        while events.recv().await.unwrap().id != guest.id {}
    });
    event.await.expect("what happened meanwhile is announced");
    assert!(hypervisor.alive().await);
    assert!(!hypervisor.guest(guest.id).await.unwrap().unwrap().active);

    // A second driver on the same folder, as after a restart of the agent, finds the guest and its specification.
    let again = Libvirt::open(config.clone()).await.unwrap();
    assert_eq!(again.guests().await.unwrap().len(), 1);
    assert_eq!(
        again.stored_spec(guest.id).await.unwrap(),
        Some(guest.for_storage())
    );
    again.start(guest.id).await.unwrap();
    again.ensure_absent(guest.id).await.unwrap();
    Bench {
        _alone,
        _outer,
        home,
        config,
        daemon,
        hypervisor,
    }
    .close()
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_with_ports_have_some_to_spare() {
    let Some(image) = image() else { return };
    let bench = Bench::open().await;
    let hypervisor = &bench.hypervisor;
    let guest = GuestSpec {
        hardware: Hardware {
            machine: Some("q35".into()),
            windows: true,
            tablet: true,
            disk_bus: Some("scsi".into()),
            scsi_model: Some("lsisas1068".into()),
            ..Hardware::default()
        },
        ..spec(&base(hypervisor, &image).await, 3, Vec::new())
    };
    let started = hypervisor.ensure_guest(&guest, Power::On).await.unwrap();
    assert_eq!(started.power, PowerState::Running);
    let xml = virsh(&["dumpxml", &guest.instance_name]);
    let ports = xml.matches("model='pcie-root-port'").count();
    let used = xml.matches("bus='0x0").count() - xml.matches("bus='0x00'").count();
    assert!(ports >= used + 8, "{ports} ports, {used} in use: {xml}");
    for wanted in ["offset='localtime'", "type='tablet'", "model='lsisas1068'"] {
        assert!(xml.contains(wanted), "{wanted} is missing in {xml}");
    }
    hypervisor.ensure_absent(guest.id).await.unwrap();
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_is_refused_and_leaves_nothing() {
    let Some(image) = image() else { return };
    let bench = Bench::open().await;
    let hypervisor = &*bench.hypervisor;
    let base = base(hypervisor, &image).await;
    let absent = ServerId::random();
    for result in [
        hypervisor.start(absent).await.map(drop),
        hypervisor.stop_hard(absent).await,
        hypervisor.request_shutdown(absent).await,
        hypervisor.diagnostics(absent).await.map(drop),
        hypervisor.console_log(absent, 10).await.map(drop),
    ] {
        assert_eq!(result, Err(HypervisorError::NotFound(absent)));
    }
    // A machine type QEMU does not know; a tap that does not exist; a base from outside.
    let mut machine = spec(&base, 3, Vec::new());
    machine.hardware.machine = Some("no-such-machine".into());
    let tap = Vif {
        port_id: "p".into(),
        mac: "fa:16:3e:0:0:1".into(),
        tap: "kvt-none".into(),
        mtu: 0,
        model: None,
    };
    let missing_tap = spec(&base, 4, vec![tap]);
    let outside = spec(Path::new("/etc/passwd"), 5, Vec::new());
    for guest in [&machine, &missing_tap, &outside] {
        let result = hypervisor.ensure_guest(guest, Power::On).await;
        assert!(
            matches!(
                result,
                Err(HypervisorError::Rejected(_)
                    | HypervisorError::Image(_)
                    // It may be on its way.
                    | HypervisorError::Unavailable(_))
            ),
            "{}: {result:?}",
            guest.instance_name
        );
        hypervisor.ensure_absent(guest.id).await.unwrap();
        assert!(
            !bench
                .home
                .join("instances")
                .join(guest.id.to_string())
                .exists()
        );
    }
    assert!(hypervisor.guests().await.unwrap().is_empty());

    // A disk that was lost is not quietly made anew.
    let lost = spec(&base, 6, Vec::new());
    hypervisor.ensure_guest(&lost, Power::Off).await.unwrap();
    std::fs::remove_file(
        bench
            .home
            .join("instances")
            .join(lost.id.to_string())
            .join("disk"),
    )
    .unwrap();
    for result in [
        hypervisor.start(lost.id).await,
        hypervisor.ensure_guest(&lost, Power::On).await,
    ] {
        assert!(
            matches!(result, Err(HypervisorError::Disk { full: false, .. })),
            "{result:?}"
        );
    }
    hypervisor.ensure_absent(lost.id).await.unwrap();
    bench.close().await;
}

/// A copy that nobody waits for any more, be it that the call was given up or that its process was killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_disks_that_are_given_up_leave_nothing() {
    let Some(image) = image() else { return };
    let bench = Bench::open().await;
    let hypervisor = &*bench.hypervisor;
    let guest = spec(&base(hypervisor, &image).await, 8, Vec::new());
    hypervisor.ensure_guest(&guest, Power::On).await.unwrap();
    let folder = bench.config.instances.join(guest.id.to_string());
    let name = &guest.instance_name[..];
    let job = || virsh(&["blockjob", name, "vda", "--info"]);
    let copies = || {
        let entries = std::fs::read_dir(&folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".snapshot")).count()
    };
    let is_copied = async || {
        let began = Instant::now();
        while !job().contains("Block Copy") {
            assert!(began.elapsed() < BOOT, "no copy: {}", job());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let is_over = async || {
        let began = Instant::now();
        while job().contains("Block Copy") || copies() > 0 {
            assert!(began.elapsed() < BOOT, "{} copies, {}", copies(), job());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };

    let (driver, id) = (Arc::clone(&bench.hypervisor), guest.id);
    let given_up = tokio::spawn(async move { driver.snapshot(id, "given-up", Quiesce::No).await });
    is_copied().await;
    given_up.abort();
    let ended = given_up.await;
    // Had it been ready that soon, its file would be the caller's.
    if let Ok(Ok(copy)) = ended {
        std::fs::remove_file(copy).unwrap();
    }
    is_over().await;

    // As a process leaves it that is killed in the middle.
    let xml = virsh(&["dumpxml", name]);
    let disk = xml.split("<source file='").find(|rest| {
        rest.split('\'')
            .next()
            .is_some_and(|path| path.ends_with("/disk"))
    });
    let disk = disk.and_then(|rest| rest.split('\'').next()).unwrap();
    let left = format!("{disk}.snapshot");
    let copied = virsh(&[
        "blockcopy",
        name,
        "vda",
        "--dest",
        &left,
        "--format",
        "qcow2",
        "--transient-job",
    ]);
    is_copied().await;
    assert_eq!(copies(), 1, "{copied}");
    let again = Libvirt::open(bench.config.clone()).await.unwrap();
    again.recover().await;
    assert_eq!(copies(), 0);
    assert!(!job().contains("Block Copy"), "{}", job());

    // One that is wanted is made as ever.
    let copy = again
        .snapshot(guest.id, "wanted", Quiesce::No)
        .await
        .unwrap();
    assert!(std::fs::metadata(&copy).unwrap().len() > 1 << 20);
    again.ensure_absent(guest.id).await.unwrap();
    bench.close().await;
}

/// What swtpm keeps of a guest, where libvirt has it.
fn tpm_memory(id: ServerId) -> Option<Vec<u8>> {
    let path = format!("/var/lib/libvirt/swtpm/{id}/tpm2/tpm2-00.permall");
    std::fs::read(path).ok()
}

/// Whether libvirt has a secret for the guest.
fn has_secret(id: ServerId) -> bool {
    virsh(&["secret-list"]).contains(&id.to_string())
}

/// Needs swtpm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_with_a_tpm_starts_only_with_its_passphrase() {
    let Some(image) = image() else { return };
    let bench = Bench::open().await;
    let hypervisor = &*bench.hypervisor;
    let kinds = hypervisor.host().await.unwrap().tpm;
    assert!(kinds.versions.iter().any(|one| one == "2.0"), "{kinds:?}");
    assert!(kinds.models.iter().any(|one| one == "tpm-crb"), "{kinds:?}");
    let tpm = |security| Tpm {
        wanted: Wanted {
            version: Version::V2_0,
            model: Model::Crb,
            security,
        },
        secret: uuid::Uuid::new_v4(),
    };
    let guest = GuestSpec {
        tpm: Some(tpm(Security::User)),
        ..spec(&base(hypervisor, &image).await, 7, Vec::new())
    };
    let id = guest.id;
    let lend = |text: Option<&str>| {
        let passphrase = text.map(|text| Passphrase(text.to_owned()));
        hypervisor.lend_passphrase(id, passphrase);
    };
    let refused = |result: virt::Result<_>| {
        let refused = matches!(
            result,
            Err(HypervisorError::Rejected(_) | HypervisorError::Guest(_))
        );
        assert!(refused, "{result:?}");
    };
    refused(hypervisor.ensure_guest(&guest, Power::On).await);
    lend(Some("correct horse"));
    hypervisor.ensure_guest(&guest, Power::On).await.unwrap();
    assert!(!has_secret(id), "it is there only while the guest starts");
    let of_guest = format!("swtpm/{id}");
    let found = Command::new("pgrep").args(["-f", &of_guest]).output();
    let found = found.unwrap();
    assert!(!found.stdout.is_empty(), "no swtpm runs for the guest");
    until_console_has(hypervisor, id, "login:").await;
    hypervisor.stop_hard(id).await.unwrap();
    let memory = tpm_memory(id).unwrap();

    lend(Some("another horse"));
    refused(hypervisor.start(id).await);
    assert!(!has_secret(id));
    lend(None);
    refused(hypervisor.start(id).await);

    // Off the list, its memory is in its own folder.
    hypervisor.put_away(id).await.unwrap();
    assert_eq!(tpm_memory(id), None);
    lend(Some("correct horse"));
    hypervisor.start(id).await.unwrap();
    hypervisor.suspend(id).await.unwrap();
    hypervisor.resume(id).await.unwrap();
    assert!(!has_secret(id));

    // Aside and back again, and on to what the host keeps.
    hypervisor.put_aside(id, 0).await.unwrap();
    assert_eq!(tpm_memory(id), None);
    hypervisor.put_back(id, Power::On).await.unwrap();
    hypervisor.put_aside(id, 0).await.unwrap();
    let files = hypervisor.aside_files(id).await.unwrap();
    assert!(files.iter().any(|file| file.ends_with("tpm2-00.permall")));
    let kept = GuestSpec {
        tpm: Some(tpm(Security::Host)),
        ..guest.clone()
    };
    let landed = hypervisor
        .land(&kept, virt::Luggage::Aside, Power::On)
        .await;
    landed.unwrap();
    hypervisor.forget_aside(id).await.unwrap();
    assert!(has_secret(id), "the guest is still here");
    lend(None);
    hypervisor.reboot_hard(&kept.for_storage()).await.unwrap();
    hypervisor.stop_hard(id).await.unwrap();
    hypervisor.start(id).await.unwrap();
    assert_eq!(tpm_memory(id).unwrap().len(), memory.len());

    hypervisor.ensure_absent(id).await.unwrap();
    assert!(!has_secret(id));
    assert_eq!(tpm_memory(id), None);
    assert!(!Path::new(&format!("/var/lib/libvirt/swtpm/{id}")).exists());
    bench.close().await;
}
