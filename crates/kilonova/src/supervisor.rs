//! `kilonova up`: a process that starts the parts of the cloud, starts a part again that ends, and ends them.
//!
//! Real guests: the APIs, the conductor and the databases are in a process without privileges (`control`), the agents
//! of the host in one with them (`host`), and this one only watches. Simulated guests need no privileges, so there all
//! of it is this process.

use crate::arguments::{Hypervisor, Up};
use crate::cloud::Control;
use crate::credentials::{self, Logins};
use crate::home::{Home, LONGEST_FOLDER, RUN};
use crate::hosts::Hosts;
use crate::part::{self, Orders, Secrets};
use crate::settings::{self, Settings};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio_util::sync::CancellationToken;
use virt::libvirt::folder;

/// How long a part may take to end when asked.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause before a part that ended is started again; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A part that ran for this long begins with the first pause again.
const STABLE: Duration = Duration::from_secs(60);

/// Runs the cloud until a signal.
pub(crate) async fn up(up: Up) -> Result<()> {
    let started = Instant::now();
    let path = &up.configured.at.home;
    let mut settings = settings::read_warned(&up.configured)?;
    settings.override_by(&up)?;
    let real = settings.hypervisor == Hypervisor::Libvirt;
    if real && !rustix::process::geteuid().is_root() {
        bail!("real guests and networks need root: use sudo, or --hypervisor sim");
    }
    let home = Home::open(path)?;
    let _running = home.take()?;
    credentials::withdraw(&home);
    credentials::publish_endpoints(&home, &settings)?;
    let stop = CancellationToken::new();
    if real {
        supervise(&home, settings, started, &stop).await
    } else {
        alone(&home, settings, started, &stop).await
    }
}

fn ready(home: &Home, logins: &Logins, started: Instant) -> Result<()> {
    credentials::publish(home, logins)?;
    tracing::info!(took_ms = started.elapsed().as_millis(), home = %home.path.display(), "the cloud is ready");
    Ok(())
}

fn orders(home: &Home, settings: Settings, folder: &Path, secrets: Secrets) -> Result<Orders> {
    Ok(Orders {
        settings,
        socket: home.agents_socket(folder)?,
        folder: folder.to_owned(),
        metadata_secret: home.secret("metadata-secret")?,
        secrets: Some(secrets),
        cloud_id: home.cloud_id(),
        migrates: true,
        home: home.path.clone(),
    })
}

fn logins(settings: &Settings, secrets: &Secrets) -> Logins {
    Logins {
        auth_url: settings.auth_url(),
        authority: settings.authority(),
        admin_password: secrets.admin_password.clone(),
        demo_password: secrets.demo_password.clone(),
    }
}

/// Everything in this process, with simulated hosts.
async fn alone(
    home: &Home,
    settings: Settings,
    started: Instant,
    stop: &CancellationToken,
) -> Result<()> {
    let folder = home.private_folder("control")?;
    let secrets = home.secrets()?;
    let logins = logins(&settings, &secrets);
    let orders = orders(home, settings, &folder, secrets)?;
    let control = Control::start(&orders, stop).await?;
    let hosts = Hosts::start(&home.path, &orders, stop).await?;
    ready(home, &logins, started)?;
    part::wait_for_end(stop).await?;
    tracing::info!("stopping; simulated guests are kept");
    stop.cancel();
    control.finish().await;
    hosts.finish().await;
    Ok(())
}

/// Control and host as processes of their own.
async fn supervise(
    home: &Home,
    settings: Settings,
    started: Instant,
    stop: &CancellationToken,
) -> Result<()> {
    let user = User::find(&settings.user).await?;
    let folder = home.folder_of_user("control", user.uid, user.gid)?;
    let seen = folder::reachable(&folder, Path::new(RUN), LONGEST_FOLDER)
        .with_context(|| format!("a way to {} for {}", folder.display(), settings.user))?;
    let secrets = home.secrets()?;
    let logins = logins(&settings, &secrets);
    let for_control = orders(home, settings, &seen, secrets)?;
    let mut for_host = for_control.clone();
    for_host.folder.clone_from(&home.path);
    for_host.secrets = None;
    for_host.settings.forget_databases();
    let control = Part {
        name: "control",
        home: home.path.clone(),
        user: Some(user),
        orders: serde_json::to_string(&for_control)?,
    };
    let host = Part {
        name: "host",
        home: home.path.clone(),
        user: None,
        orders: serde_json::to_string(&for_host)?,
    };
    let ended = stop.clone();
    tokio::spawn(async move {
        if let Err(error) = part::wait_for_end(&ended).await {
            tracing::error!(%error, "signals cannot be heard");
        }
        ended.cancel();
    });
    let both = async { Ok::<_, anyhow::Error>((control.start().await?, host.start().await?)) };
    let (control_runs, host_runs) = tokio::select! {
        both = both => both?,
        // Still starting: what was started ends with this process.
        () = stop.cancelled() => return Ok(()),
    };
    ready(home, &logins, started)?;
    tokio::join!(control.keep(control_runs, stop), host.keep(host_runs, stop));
    Ok(())
}

/// A system user.
struct User {
    uid: u32,
    gid: u32,
}

impl User {
    async fn find(name: &str) -> Result<Self> {
        let mut command = Command::new("getent");
        let found = command.args(["passwd", "--", name]).output().await;
        let found = found.context("getent, which finds system users")?;
        let line = String::from_utf8_lossy(&found.stdout);
        let mut fields = line.trim_end().split(':').skip(2);
        let mut number = || fields.next()?.parse::<u32>().ok();
        match (number(), number()) {
            (Some(uid), Some(gid)) if uid != 0 => Ok(Self { uid, gid }),
            (Some(_), Some(_)) => bail!(
                "the part of the cloud that needs no privileges does not run as {name}, which has them all; choose another --user"
            ),
            _ => bail!(
                "there is no system user {name}, which the part of the cloud without privileges becomes; make one with \
                 `useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin {name}`, or choose another with --user"
            ),
        }
    }
}

/// A part of the cloud, as it is started.
struct Part {
    name: &'static str,
    home: PathBuf,
    /// Whom it becomes.
    user: Option<User>,
    orders: String,
}

/// A part that runs.
struct Runs {
    name: &'static str,
    child: Child,
    /// Open as long as the part is to run.
    input: ChildStdin,
    since: Instant,
}

impl Part {
    /// Starts it and waits until it says that it is ready.
    async fn start(&self) -> Result<Runs> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(self.name).arg("--home").arg(&self.home);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // A Ctrl-C goes to this process alone, which then ends the parts in order.
        command.process_group(0).kill_on_drop(true).current_dir("/");
        if let Some(user) = &self.user {
            command.gid(user.gid).uid(user.uid);
        }
        let mut child = command
            .spawn()
            .with_context(|| format!("the {} process", self.name))?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the {} process has no pipes", self.name);
        };
        let told = async {
            input.write_all(self.orders.as_bytes()).await?;
            input.write_all(b"\n").await?;
            input.flush().await?;
            BufReader::new(output).lines().next_line().await
        };
        if let Ok(Some(line)) = told.await
            && line == "ready"
        {
            return Ok(Runs {
                name: self.name,
                child,
                input,
                since: Instant::now(),
            });
        }
        let status = child.wait().await?;
        bail!(
            "the {} process did not start: {status}; what it said is above",
            self.name
        )
    }

    /// Starts it again whenever it ends, until `stop`; then ends it.
    async fn keep(&self, mut runs: Runs, stop: &CancellationToken) {
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::select! {
                () = stop.cancelled() => return runs.end().await,
                ended = runs.child.wait() => {
                    tracing::error!(part = self.name, ?ended, "a part of the cloud ended by itself; it is started again");
                }
            }
            if runs.since.elapsed() > STABLE {
                pause = FIRST_PAUSE;
            }
            runs = loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
                match self.start().await {
                    Ok(runs) => break runs,
                    Err(error) => tracing::error!("{error:#}"),
                }
            };
        }
    }
}

impl Runs {
    async fn end(mut self) {
        drop(self.input);
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        if ended.is_err() {
            tracing::error!(part = self.name, "does not end when asked, killed");
            // One that is gone already is what is wanted.
            let _ = self.child.kill().await;
        }
    }
}
