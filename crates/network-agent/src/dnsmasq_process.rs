//! dnsmasq as a process: its files, starting, stopping. It outlives the agent, so that guests keep
//! their addresses while the agent is away.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::config::Config;
use crate::dnsmasq::{Dnsmasq, FOLDERS};
use crate::machine::{Error, Machine, NETNS_DIR, Space};

const CONFIG: &str = "dnsmasq.conf";
/// How long a server may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(2);

/// Makes a network's server run with the configuration and guests it should have.
///
/// # Errors
/// When files cannot be written or the server does not start.
pub(crate) fn ensure(machine: &Machine, space: &str, wanted: &Dnsmasq) -> Result<(), Error> {
    make_folders(&wanted.dir)?;
    let config = wanted.dir.join(CONFIG);
    let running = running_pid(&wanted.dir);
    let mut restart = running.is_none_or(|pid| !is_in_space(pid, space))
        || fs::read_to_string(&config).ok().as_deref() != Some(&wanted.config);
    // A record that dnsmasq has read stays until it restarts, so only additions are free.
    restart |= sync_files(wanted)?;
    if !restart {
        return Ok(());
    }
    write(&config, &wanted.config)?;
    if let Some(pid) = running {
        stop(pid);
    }
    let argument = format!("--conf-file={}", config.display());
    machine
        .run(&Space::Named(space.to_owned()), &["dnsmasq", &argument], "")
        .map(drop)
}

/// Stops whatever dnsmasq runs in a namespace.
pub(crate) fn stop_in_space(machine: &Machine, space: &str) {
    let Ok(pids) = machine.run(&Space::Host, &["ip", "netns", "pids", space], "") else {
        return;
    };
    for pid in String::from_utf8_lossy(&pids)
        .split_whitespace()
        .filter_map(|pid| pid.parse::<i32>().ok())
    {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.trim() == "dnsmasq"
            && let Some(pid) = Pid::from_raw(pid)
        {
            stop(pid);
        }
    }
}

/// Stops the servers of networks that are not among `keep` and removes their folders. (A server
/// can outlive its namespace's name.)
///
/// # Errors
/// When a folder cannot be removed.
pub(crate) fn stop_others(config: &Config, keep: &BTreeSet<PathBuf>) -> Result<(), Error> {
    let Ok(folders) = fs::read_dir(config.state_dir.join("dhcp")) else {
        return Ok(());
    };
    for dir in folders.flatten().map(|entry| entry.path()) {
        if keep.contains(&dir) {
            continue;
        }
        if let Some(pid) = running_pid(&dir) {
            stop(pid);
        }
        remove_dir(&dir)?;
    }
    Ok(())
}

/// Removes a folder, if it is there, and all that is in it.
pub(crate) fn remove_dir(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file(dir)(error)),
        _ => Ok(()),
    }
}

fn make_folders(dir: &Path) -> Result<(), Error> {
    FOLDERS
        .iter()
        .try_for_each(|name| make_folder(&dir.join(name)))
}

/// Makes a folder and those above it.
pub(crate) fn make_folder(folder: &Path) -> Result<(), Error> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|dir| !dir.exists()).collect();
    fs::create_dir_all(folder).map_err(Error::file(folder))?;
    for made in missing {
        // dnsmasq reads them without root's rights, whatever the agent's umask is.
        fs::set_permissions(made, fs::Permissions::from_mode(0o755)).map_err(Error::file(made))?;
    }
    Ok(())
}

/// Writes new host files; true if one was changed or removed.
fn sync_files(wanted: &Dnsmasq) -> Result<bool, Error> {
    let mut stale = false;
    for (name, text) in &wanted.files {
        let path = wanted.dir.join(name);
        match fs::read_to_string(&path) {
            Ok(now) if now == *text => continue,
            Ok(_) => stale = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::file(&path)(error)),
        }
        write(&path, text)?;
    }
    let keep: BTreeSet<&str> = wanted.files.keys().map(String::as_str).collect();
    for folder in FOLDERS {
        let dir = wanted.dir.join(folder);
        for entry in fs::read_dir(&dir).map_err(Error::file(&dir))?.flatten() {
            let name = entry.file_name();
            if name
                .to_str()
                .is_some_and(|name| keep.contains(format!("{folder}/{name}").as_str()))
            {
                continue;
            }
            fs::remove_file(entry.path()).map_err(Error::file(&entry.path()))?;
            stale = true;
        }
    }
    Ok(stale)
}

/// Writes a file whole or not at all. dnsmasq does not read names that begin with a dot.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let temporary = path.with_file_name(format!(".{name}"));
    fs::write(&temporary, text).map_err(Error::file(&temporary))?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o644))
        .map_err(Error::file(&temporary))?;
    fs::rename(&temporary, path).map_err(Error::file(path))
}

/// The server of a folder, if it runs.
fn running_pid(dir: &Path) -> Option<Pid> {
    let pid: i32 = fs::read_to_string(dir.join("pid"))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let config = dir.join(CONFIG);
    // The number may be another process's by now.
    String::from_utf8_lossy(&command)
        .contains(config.to_str()?)
        .then(|| Pid::from_raw(pid))
        .flatten()
}

/// Whether a process is in the namespace that has the name now (one that was deleted and made anew
/// is another one, and a server in the old one serves nobody).
fn is_in_space(pid: Pid, space: &str) -> bool {
    let inode = |path: &Path| fs::metadata(path).map(|file| file.ino()).ok();
    let own = inode(Path::new(&format!("/proc/{}/ns/net", pid.as_raw_nonzero())));
    own.is_some() && own == inode(&Path::new(NETNS_DIR).join(space))
}

/// Ends a process and waits until it has ended.
fn stop(pid: Pid) {
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    for signal in [Signal::TERM, Signal::KILL] {
        if pidfd_send_signal(&process, signal).is_err() {
            return;
        }
        let limit = Timespec {
            tv_sec: GRACE.as_secs().try_into().unwrap_or(2),
            tv_nsec: 0,
        };
        let mut ended = [PollFd::new(&process, PollFlags::IN)];
        if poll(&mut ended, Some(&limit)).is_ok_and(|n| n > 0) {
            return;
        }
    }
}
