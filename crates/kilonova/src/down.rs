//! `kilonova down`: nothing of the cloud runs or is set up on the machine any more; disks and data stay.

use crate::home::{Home, RUN};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::time::Duration;
use virt::Hypervisor;
use virt::libvirt::daemon::{Daemon, DaemonConfig};
use virt::libvirt::folder::Instances;
use virt::libvirt::{Libvirt, LibvirtConfig};

/// How long the cloud may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Stops the cloud in `path`, its guests and its networks.
pub(crate) async fn down(path: &Path) -> Result<()> {
    if !path.is_dir() {
        println!("there is no cloud in {}", path.display());
        return Ok(());
    }
    let home = Home::open(path)?;
    stop_process(&home).await?;
    home.wait_for_parts(PATIENCE * 2).await?;
    crate::credentials::withdraw(&home);
    let instances = home.path.join("instances");
    if !instances.is_dir() {
        println!("the cloud in {} is down", home.path.display());
        return Ok(());
    }
    let state = home.path.join("libvirt");
    let daemon = Daemon::ensure(DaemonConfig::system(&state))
        .await
        .context("libvirt is needed to stop the guests")?;
    let libvirt = Libvirt::open(LibvirtConfig::system(&instances)).await?;
    for guest in libvirt.guests().await? {
        libvirt.put_away(guest.id).await?;
        println!("stopped {}", guest.instance_name);
    }
    drop(libvirt);
    daemon.stop(false).await;
    stop_serving_volumes(&home)?;
    let cloud = network_agent::CloudId::new(&home.cloud_id())?;
    let config = network_agent::Config::new(cloud, "", network_agent::Secret::new(Vec::new()));
    let removed = tokio::task::spawn_blocking(move || network_agent::teardown(&config)).await??;
    println!(
        "removed {} interfaces, {} namespaces, {} packet filter tables",
        removed.links.len(),
        removed.spaces.len(),
        removed.tables.len()
    );
    tracing::debug!(?removed);
    Instances::withdraw(&instances, Path::new(RUN))?;
    Instances::withdraw(&home.path.join("control"), Path::new(RUN))?;
    println!(
        "the cloud in {} is down; disks and data are kept",
        home.path.display()
    );
    Ok(())
}

async fn stop_process(home: &Home) -> Result<()> {
    let Some(raw) = home.running()? else {
        return Ok(());
    };
    let Some(pid) = Pid::from_raw(raw) else {
        bail!("the running cloud's pid is not known")
    };
    for signal in [Signal::TERM, Signal::KILL] {
        // A process that is gone already is what is wanted.
        let _ = kill_process(pid, signal);
        let until = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < until {
            if home.running()?.is_none() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    bail!("process {raw} does not end")
}

/// Ends the storage daemon, which outlives the cloud as guests do. Guests are gone by now.
fn stop_serving_volumes(home: &Home) -> Result<()> {
    let file = home.path.join("control/volumes/nbd/daemon.pid");
    let Ok(text) = std::fs::read_to_string(&file) else {
        return Ok(());
    };
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    // A number in a file may be another process's by now, and its owner has no privileges: it must be that program.
    let is_daemon = |pid: &Pid| {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
        name.is_ok_and(|name| "qemu-storage-daemon".starts_with(name.trim_end()))
    };
    if let Some(pid) = pid.filter(is_daemon) {
        kill_process(pid, Signal::TERM).context("the storage daemon cannot be ended")?;
        println!("volumes are no longer served");
    }
    Ok(())
}
