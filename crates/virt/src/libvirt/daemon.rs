//! The libvirt daemon: the system's when it answers, else one that this process starts.
//!
//! `libvirtd` is a child that dies with its parent (guests survive that and the next start finds them). `virtlogd`
//! writes the consoles of running guests through pipes that no second one could take over, so it is started apart,
//! outlives this process, and is stopped only when no guest runs.

use super::calls;
use super::rpc::Connection;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;

/// What to use and what to start.
#[derive(Clone, Debug)]
pub struct DaemonConfig {
    /// Sockets of a daemon, the first that answers is used.
    pub sockets: Vec<PathBuf>,
    /// virtlogd's socket.
    pub log_socket: PathBuf,
    /// `qemu:///system`.
    pub uri: String,
    /// Where pid files and logs of started daemons go.
    pub state: PathBuf,
}

impl DaemonConfig {
    /// The places of a system-wide libvirt.
    pub fn system(state: impl Into<PathBuf>) -> Self {
        Self {
            sockets: vec![
                "/run/libvirt/libvirt-sock".into(),
                "/run/libvirt/virtqemud-sock".into(),
            ],
            log_socket: "/run/libvirt/virtlogd-sock".into(),
            uri: "qemu:///system".into(),
            state: state.into(),
        }
    }
}

/// Why there is no daemon.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A program is missing or a file cannot be written.
    #[error("{program} cannot be started: {error}")]
    Start {
        /// Which.
        program: &'static str,
        /// Why.
        error: io::Error,
    },
    /// It was started and does not answer.
    #[error("{program} was started and does not answer (see {}): {reason}", .log.display())]
    Silent {
        /// Which.
        program: &'static str,
        /// Its log.
        log: PathBuf,
        /// What was seen.
        reason: String,
    },
}

/// A daemon that answers. One that was started here is started again when it ends by itself.
#[derive(Debug)]
pub struct Daemon {
    config: DaemonConfig,
    keeper: Option<AbortHandle>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.abort();
        }
    }
}

/// The first start examines the QEMU binary, which takes seconds, more on a busy machine.
const START_TIME: Duration = Duration::from_secs(90);
const STOP_TIME: Duration = Duration::from_secs(10);
/// How long a predecessor may take to end.
const PREDECESSOR_TIME: Duration = Duration::from_secs(40);
const PREDECESSOR_PAUSE: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(30);
/// How often a started libvirtd is looked for.
const KEEPER_TICK: Duration = Duration::from_millis(500);
/// The longest pause before it is started once more.
const KEEPER_PAUSE: Duration = Duration::from_secs(30);

impl Daemon {
    /// Finds or starts the daemon.
    ///
    /// # Errors
    /// No daemon answers and none can be started.
    pub async fn ensure(config: DaemonConfig) -> Result<Self, DaemonError> {
        if answers(&config).await.is_ok() {
            let ours =
                read_pid(&config.state.join("libvirtd.pid")).filter(|pid| runs(*pid, "libvirtd"));
            tracing::info!(started_by_us = ours.is_some(), "libvirt answers");
            return Ok(Self::kept(config, ours));
        }
        let pid = start(&config).await?;
        Ok(Self::kept(config, Some(pid)))
    }

    fn kept(config: DaemonConfig, libvirtd: Option<Pid>) -> Self {
        let keeper = libvirtd.map(|pid| tokio::spawn(keep(config.clone(), pid)).abort_handle());
        Self { config, keeper }
    }

    /// Whether libvirtd was started by this process or by one before it with the same state folder.
    pub fn is_ours(&self) -> bool {
        self.keeper.is_some()
    }

    /// Stops what was started: libvirtd, and virtlogd unless `guests_run`.
    pub async fn stop(self, guests_run: bool) {
        if let Some(keeper) = &self.keeper {
            keeper.abort();
        }
        Self::stop_started(&self.config.state, guests_run).await;
    }

    /// The same without a handle, for `down`: goes by the pid files.
    pub async fn stop_started(state: &Path, guests_run: bool) {
        stop_by_pid_file(&state.join("libvirtd.pid"), "libvirtd").await;
        if !guests_run {
            stop_by_pid_file(&state.join("virtlogd.pid"), "virtlogd").await;
        }
    }
}

/// Starts virtlogd if it is missing, and libvirtd.
async fn start(config: &DaemonConfig) -> Result<Pid, DaemonError> {
    let cannot = |error| DaemonError::Start {
        program: "libvirtd",
        error,
    };
    std::fs::create_dir_all(&config.state).map_err(cannot)?;
    give_kvm_its_group();
    start_virtlogd(config).await?;
    let started = Instant::now();
    let pid = loop {
        let pid = start_libvirtd(config).map_err(cannot)?;
        match wait_until_it_answers(config, pid).await {
            Ok(()) => break pid,
            // One of a killed predecessor may still be ending and hold its locks.
            Err(_) if !runs(pid, "libvirtd") && started.elapsed() < PREDECESSOR_TIME => {
                tokio::time::sleep(PREDECESSOR_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    };
    tracing::info!(took_ms = started.elapsed().as_millis(), "libvirtd started");
    Ok(pid)
}

/// Starts libvirtd again whenever it has ended; guests do not notice, and its connections come back by themselves.
async fn keep(config: DaemonConfig, mut pid: Pid) {
    let mut pause = KEEPER_TICK;
    loop {
        tokio::time::sleep(pause).await;
        if runs(pid, "libvirtd") {
            pause = KEEPER_TICK;
            continue;
        }
        tracing::warn!("libvirtd ended by itself; starting it again");
        if answers(&config).await.is_ok() {
            tracing::info!("another libvirtd answers already; it is left alone");
            return;
        }
        match start(&config).await {
            Ok(started) => pid = started,
            Err(error) => {
                pause = (pause * 2).min(KEEPER_PAUSE);
                tracing::error!(%error, "libvirtd cannot be started again; trying on");
            }
        }
    }
}

/// Does what udev's rule does where nothing else would: without a device manager, as in a container, `/dev/kvm` may
/// belong to a group number that this system does not know, or to root alone, as the kernel makes it. libvirt then finds
/// KVM enabled when it examines QEMU and not usable when it looks at its cache, and examines QEMU again for every
/// question, seconds each.
fn give_kvm_its_group() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    const DEVICE: &str = "/dev/kvm";
    if Path::new("/run/udev/control").exists() {
        return;
    }
    let (Ok(node), Ok(groups)) = (
        std::fs::metadata(DEVICE),
        std::fs::read_to_string("/etc/group"),
    ) else {
        return;
    };
    let mode = node.permissions().mode();
    let Some(kvm) = kvm_without_owner(&groups, node.gid(), mode) else {
        return;
    };
    let given = std::os::unix::fs::chown(DEVICE, None, Some(kvm)).and_then(|()| {
        let mode = PermissionsExt::from_mode((mode & 0o777) | GROUP_USES);
        std::fs::set_permissions(DEVICE, mode)
    });
    match given {
        Ok(()) => tracing::info!(
            group = kvm,
            "/dev/kvm was nobody's and was given to group kvm"
        ),
        Err(error) => {
            tracing::warn!(%error, "/dev/kvm does not belong to group kvm, which makes libvirt slow")
        }
    }
}

/// Read and write for a group.
const GROUP_USES: u32 = 0o060;

/// The number of group `kvm` when no other group of this system has the device: `present` is unknown, is root's without
/// any right, or is `kvm` itself without any.
fn kvm_without_owner(groups: &str, present: u32, mode: u32) -> Option<u32> {
    let numbers = groups.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        Some((name, fields.nth(1)?.parse::<u32>().ok()?))
    });
    let known: Vec<(&str, u32)> = numbers.collect();
    let (_, kvm) = *known.iter().find(|(name, _)| *name == "kvm")?;
    let has_group = known.iter().any(|(_, number)| *number == present);
    let usable = mode & GROUP_USES == GROUP_USES;
    let unclaimed = !has_group || (!usable && (present == 0 || present == kvm));
    unclaimed.then_some(kvm)
}

async fn answers(config: &DaemonConfig) -> Result<(), super::rpc::RpcError> {
    let connection = Connection::open(&config.sockets, None).await?;
    calls::greet(&connection, &config.uri).await
}

async fn start_virtlogd(config: &DaemonConfig) -> Result<(), DaemonError> {
    if tokio::net::UnixStream::connect(&config.log_socket)
        .await
        .is_ok()
    {
        return Ok(());
    }
    let fail = |error| DaemonError::Start {
        program: "virtlogd",
        error,
    };
    let pid_file = config.state.join("virtlogd.pid");
    let log = config.state.join("virtlogd.log");
    let output = File::options()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(fail)?;
    let mut command = tokio::process::Command::new("virtlogd");
    command.arg("--daemon").arg("--pid-file").arg(&pid_file);
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(fail)?)
        .stderr(output)
        .current_dir("/");
    let status = command.status().await.map_err(fail)?;
    let until = Instant::now() + STOP_TIME;
    while tokio::net::UnixStream::connect(&config.log_socket)
        .await
        .is_err()
    {
        if !status.success() || Instant::now() > until {
            return Err(DaemonError::Silent {
                program: "virtlogd",
                log,
                reason: status.to_string(),
            });
        }
        tokio::time::sleep(TICK).await;
    }
    Ok(())
}

/// libvirtd in the foreground, ended by the kernel when the thread that started it ends: hence a thread of its own
/// that stays until the child is gone, and reaps it.
fn start_libvirtd(config: &DaemonConfig) -> io::Result<Pid> {
    let output = File::options()
        .create(true)
        .append(true)
        .open(config.state.join("libvirtd.log"))?;
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "TERM", "libvirtd", "--pid-file"])
        .arg(config.state.join("libvirtd.pid"));
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .current_dir("/");
    let (sender, started) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name("libvirtd".into())
        .spawn(move || match command.spawn() {
            Ok(mut child) => {
                sender.send(Ok(child.id())).ok();
                let status = child.wait();
                tracing::info!(?status, "libvirtd ended");
            }
            Err(error) => {
                sender.send(Err(error)).ok();
            }
        })?;
    let id = started.recv().map_err(io::Error::other)??;
    Pid::from_raw(id.cast_signed()).ok_or_else(|| io::Error::other("no process id"))
}

async fn wait_until_it_answers(config: &DaemonConfig, pid: Pid) -> Result<(), DaemonError> {
    let until = Instant::now() + START_TIME;
    loop {
        let reason = match answers(config).await {
            Ok(()) => return Ok(()),
            Err(error) => error.to_string(),
        };
        if test_kill_process(pid).is_err() || Instant::now() > until {
            let log = config.state.join("libvirtd.log");
            let reason = last_line(&log).unwrap_or(reason);
            return Err(DaemonError::Silent {
                program: "libvirtd",
                log,
                reason,
            });
        }
        tokio::time::sleep(TICK).await;
    }
}

fn last_line(log: &Path) -> Option<String> {
    let text = std::fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .map(str::to_owned)
}

fn read_pid(file: &Path) -> Option<Pid> {
    Pid::from_raw(std::fs::read_to_string(file).ok()?.trim().parse().ok()?)
}

/// A pid file may be old and its number taken by another program.
fn runs(pid: Pid, program: &str) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
    name.is_ok_and(|name| name.trim() == program)
}

async fn stop_by_pid_file(file: &Path, program: &str) {
    let Some(pid) = read_pid(file).filter(|pid| runs(*pid, program)) else {
        return;
    };
    kill_process(pid, Signal::TERM).ok();
    let until = Instant::now() + STOP_TIME;
    while runs(pid, program) && Instant::now() < until {
        tokio::time::sleep(TICK).await;
    }
    if runs(pid, program) {
        tracing::warn!(program, "does not end when asked, killed");
        kill_process(pid, Signal::KILL).ok();
    }
    std::fs::remove_file(file).ok();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn kvm_is_given_only_where_no_other_group_has_it() {
        let groups = "root:x:0:\nkvm:x:108:qemu\nusers:x:100:\n";
        let table = [
            (0, 0o600, Some(108)),
            (0, 0o660, None),
            (100, 0o660, None),
            (100, 0o600, None),
            (108, 0o660, None),
            (108, 0o600, Some(108)),
            (992, 0o660, Some(108)),
        ];
        for (present, mode, expected) in table {
            let given = kvm_without_owner(groups, present, mode);
            assert_eq!(given, expected, "{present} {mode:o}");
        }
        assert_eq!(kvm_without_owner("root:x:0:\n", 992, 0o660), None);
    }

    #[tokio::test]
    async fn only_the_program_in_the_pid_file_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("virtlogd.pid");
        let me = std::process::id().to_string();
        std::fs::write(&file, &me).unwrap();
        Daemon::stop_started(folder.path(), false).await;
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            me,
            "another program's number is left alone"
        );

        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        std::fs::write(&file, child.id().to_string()).unwrap();
        // The kernel lets a parent go on a moment before the child has its new name.
        while !runs(pid, "sleep") {
            tokio::time::sleep(TICK).await;
        }
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        stop_by_pid_file(&file, "sleep").await;
        assert!(!reaper.join().unwrap().success());
        assert!(!runs(pid, "sleep") && !file.exists());
    }
}
