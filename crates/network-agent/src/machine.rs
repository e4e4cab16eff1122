//! The agent's hands: commands with arguments (never a shell), network namespaces, `/proc/sys`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns` keeps namespaces.
pub const NETNS_DIR: &str = "/run/netns";

/// Something on the machine that did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A command could not be started.
    #[error("cannot run {program}: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A command ended with an error.
    #[error("{command} failed: {stderr}")]
    Failed {
        /// Program and arguments.
        command: String,
        /// What it said, cut to a bearable length.
        stderr: String,
    },
    /// A command took too long and was killed.
    #[error("{command} did not end within {seconds} s and was killed")]
    Timeout {
        /// Program and arguments.
        command: String,
        /// The limit.
        seconds: u64,
    },
    /// A namespace could not be entered.
    #[error("cannot enter network namespace {path}: {source}")]
    Namespace {
        /// Its file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Its path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The machine lacks something that nothing works without.
    #[error("{0}")]
    Missing(String),
    /// Output could not be understood.
    #[error(transparent)]
    Output(#[from] crate::observe::BadOutput),
}

impl Error {
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::File {
            path: path.display().to_string(),
            source,
        }
    }
}

/// The longest error text kept of a command.
const MAX_STDERR: usize = 4096;
/// The most output read of a command.
const MAX_STDOUT: u64 = 256 << 20;

/// What a command left behind.
#[derive(Debug)]
pub struct Output {
    /// Whether it ended with 0.
    pub success: bool,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

/// A network namespace to work in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Space {
    /// The host's own.
    Host,
    /// One made by `ip netns add`.
    Named(String),
}

/// Runs things on one host.
#[derive(Debug, Clone)]
pub struct Machine {
    root_netns: Option<PathBuf>,
    timeout: Duration,
}

impl Machine {
    /// A machine whose host namespace is `root_netns` (none: the agent's own) and whose commands
    /// may take `timeout`.
    #[must_use]
    pub fn new(root_netns: Option<PathBuf>, timeout: Duration) -> Self {
        Self {
            root_netns,
            timeout,
        }
    }

    fn path(&self, space: &Space) -> Option<PathBuf> {
        match space {
            Space::Host => self.root_netns.clone(),
            Space::Named(name) => Some(Path::new(NETNS_DIR).join(name)),
        }
    }

    /// Runs `work` inside a namespace, on a thread of its own (a thread that has changed its
    /// namespace must not be used for anything else).
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn within<T: Send>(
        &self,
        space: &Space,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, Error> {
        let Some(path) = self.path(space) else {
            return Ok(work());
        };
        std::thread::scope(|scope| {
            let inside = std::thread::Builder::new()
                .name("netns".into())
                .spawn_scoped(scope, || enter(&path).map(|()| work()))
                .map_err(|source| Error::Start {
                    program: "thread".into(),
                    source,
                })?;
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a command in a namespace and demands success.
    ///
    /// # Errors
    /// When it cannot be started, fails or takes too long.
    pub fn run(&self, space: &Space, argv: &[&str], stdin: &str) -> Result<Vec<u8>, Error> {
        let output = self.try_run(space, argv, stdin)?;
        if output.success {
            return Ok(output.stdout);
        }
        Err(Error::Failed {
            command: argv.join(" "),
            stderr: output.stderr,
        })
    }

    /// Runs a command in a namespace; a failure of the command is an [`Output`] too.
    ///
    /// # Errors
    /// When it cannot be started or takes too long.
    pub fn try_run(&self, space: &Space, argv: &[&str], stdin: &str) -> Result<Output, Error> {
        self.within(space, || run(argv, stdin, self.timeout))?
    }

    /// Writes a file below `/proc/sys/net` as seen from a namespace, if it has another value.
    ///
    /// # Errors
    /// When it is not there or cannot be written.
    pub fn sysctl(&self, space: &Space, name: &str, value: &str) -> Result<(), Error> {
        // The kernel shows each thread the settings of its own namespace.
        let path = Path::new("/proc/sys/net").join(name);
        self.within(space, || {
            let now = std::fs::read_to_string(&path).map_err(Error::file(&path))?;
            if now.trim() == value {
                return Ok(());
            }
            std::fs::write(&path, value).map_err(Error::file(&path))
        })?
    }

    /// The names of all namespaces.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn spaces(&self) -> Result<Vec<String>, Error> {
        let dir = Path::new(NETNS_DIR);
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::file(dir)(error)),
        };
        Ok(entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect())
    }
}

fn enter(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Namespace {
        path: path.display().to_string(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|errno| failed(errno.into()))
}

fn run(argv: &[&str], stdin: &str, timeout: Duration) -> Result<Output, Error> {
    let Some((program, args)) = argv.split_first() else {
        return Err(Error::Start {
            program: String::new(),
            source: io::ErrorKind::InvalidInput.into(),
        });
    };
    let start = |source| Error::Start {
        program: (*program).to_owned(),
        source,
    };
    let mut child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let input = child.stdin.take();
    let (out_pipe, err_pipe) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A command that ends early closes its input; its exit status tells.
            input.map(|mut pipe| pipe.write_all(stdin.as_bytes()))
        });
        let (done, ended) = mpsc::channel();
        let also_done = done.clone();
        let out = scope.spawn(move || read_all(out_pipe, done));
        let err = scope.spawn(move || read_all(err_pipe, also_done));
        let closed = (0..2).all(|_| ended.recv_timeout(timeout).is_ok());
        if !closed {
            // Already gone is as good.
            let _ = child.kill();
        }
        let status = child.wait().map_err(start)?;
        let (stdout, stderr) = (
            out.join().unwrap_or_default(),
            err.join().unwrap_or_default(),
        );
        if !closed {
            return Err(Error::Timeout {
                command: argv.join(" "),
                seconds: timeout.as_secs(),
            });
        }
        let mut stderr = String::from_utf8_lossy(&stderr).trim().to_owned();
        if stderr.len() > MAX_STDERR {
            stderr.truncate(stderr.floor_char_boundary(MAX_STDERR));
        }
        Ok(Output {
            success: status.success(),
            stdout,
            stderr,
        })
    })
}

fn read_all(pipe: Option<impl Read>, done: mpsc::Sender<()>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What could be read counts; the exit status says whether it is complete.
        let _ = pipe.take(MAX_STDOUT).read_to_end(&mut bytes);
    }
    let _ = done.send(());
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn machine(timeout: Duration) -> Machine {
        Machine::new(None, timeout)
    }

    #[test]
    fn input_output_and_failure() {
        let machine = machine(Duration::from_secs(60));
        assert_eq!(
            machine.run(&Space::Host, &["cat"], "hello").unwrap(),
            b"hello"
        );
        let failed = machine
            .run(&Space::Host, &["ls", "/nowhere"], "")
            .unwrap_err();
        assert!(failed.to_string().contains("/nowhere"), "{failed}");
        assert!(matches!(
            machine.run(&Space::Host, &["no-such-program"], ""),
            Err(Error::Start { .. })
        ));
    }

    #[test]
    fn a_command_that_hangs_is_killed() {
        let started = std::time::Instant::now();
        let result = machine(Duration::from_millis(100)).run(&Space::Host, &["sleep", "300"], "");
        assert!(matches!(result, Err(Error::Timeout { .. })), "{result:?}");
        assert!(
            started.elapsed() < Duration::from_secs(200),
            "it was waited for"
        );
    }
}
