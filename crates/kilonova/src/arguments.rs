//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use types::{TaskId, Timestamp};

/// A private cloud in one binary: OpenStack's compute, identity, image, network, volume, placement and key manager APIs.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Start with `kilonova up`; then `export OS_CLIENT_CONFIG_FILE=HOME/clouds.yaml OS_CLOUD=kilonova` \
and use the stock `openstack` command."
)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the whole cloud in the foreground, until SIGTERM or Ctrl-C. Guests go on running.
    Up(Up),
    /// Stop a cloud that `up` runs, and remove its guests, bridges, namespaces and firewall tables. Disks and data stay.
    Down(At),
    /// Say whether a cloud runs and is ready (exit status 0) or not (1).
    Status(At),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(Config),
    /// Look after the databases.
    #[command(subcommand)]
    Db(Db),
    /// Work behind the APIs.
    #[command(subcommand)]
    Manage(Manage),
    /// Run the Compute API alone.
    Api(Configured),
    /// Run a conductor, which carries requests out and tells hosts what to do.
    Conductor(Configured),
    /// Run a scheduler, which carries out what begins with the choice of a host. Conductors do that, too.
    Scheduler(Configured),
    /// Run the compute agent of this host.
    Compute(Configured),
    /// Run the network agent of this host.
    NetworkAgent(Configured),
    /// Run the metadata service alone.
    Metadata(Configured),
    /// Run the Placement API alone.
    Placement(Configured),
    /// Run the Identity API alone.
    Identity(Configured),
    /// Run the Image API alone.
    Image(Configured),
    /// Run the Networking API alone.
    Network(Configured),
    /// Run the volume service alone; a cloud has one.
    Volume(Configured),
    /// Run the key manager alone.
    KeyManager(Configured),
    /// The unprivileged part of a cloud; `up` starts it.
    #[command(hide = true)]
    Control(At),
    /// The privileged part of a cloud, with the agents of this host; `up` starts it.
    #[command(hide = true)]
    Host(At),
}

/// What to do with the databases.
#[derive(Debug, Subcommand)]
pub(crate) enum Db {
    /// Make all databases fit this release, and fill those of a fresh cloud; programs that do so at once wait for each
    /// other. `up` does it by itself.
    Sync(Configured),
}

/// What an operator does behind the APIs.
#[derive(Debug, Subcommand)]
pub(crate) enum Manage {
    /// The certificates by which agents of hosts and those whom they ask know each other.
    #[command(subcommand)]
    Certificates(Certificates),
    /// Work that is under way: requests that were accepted and have not ended.
    #[command(subcommand)]
    Task(Tasks),
    /// Look for what should not be as it is: stuck servers, work, resources or quota without an owner (exit status 1).
    Audit {
        /// Which cloud.
        #[command(flatten)]
        of: Configured,
        /// Mend what is found.
        #[arg(long)]
        fix: bool,
    },
    /// Remove for good what is recorded of servers that were deleted before a time: their rows, actions, events and moves. Takes
    /// the place of `nova-manage db archive_deleted_rows` and `nova-manage db purge`.
    Purge(Purge),
    /// Show the services there are: where each is, whether it lives, and which are of an older release than this program.
    Services(Configured),
    /// Who may do what with the Compute API.
    #[command(subcommand)]
    Policy(Policy),
    /// The OpenAPI document of the Compute API, for one microversion.
    Openapi {
        /// The microversion [default: the newest].
        version: Option<String>,
    },
}

/// Which deleted servers are removed for good, and how.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["before", "days", "all"])))]
pub(crate) struct Purge {
    /// Which cloud.
    #[command(flatten)]
    pub(crate) of: Configured,
    /// Those that were deleted before this time, in UTC unless it names a zone: 2026-01-31, or 2026-01-31T12:00:00.
    #[arg(long, value_name = "DATE", value_parser = time)]
    pub(crate) before: Option<Timestamp>,
    /// Those that were deleted more than so many days ago.
    #[arg(long, value_name = "N")]
    pub(crate) days: Option<u32>,
    /// All but those of the last day.
    #[arg(long)]
    pub(crate) all: bool,
    /// Only count them.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Actions, with their events, that one transaction removes at most.
    #[arg(long, alias = "max_rows", value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) max_rows: u32,
    /// Seconds to rest between two transactions.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(crate) sleep: u64,
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text)
        .ok_or_else(|| "not a time like 2026-01-31 or 2026-01-31T12:00:00".to_owned())
}

/// What to do with tasks.
#[derive(Debug, Subcommand)]
pub(crate) enum Tasks {
    /// Show all tasks, oldest first.
    List(Configured),
    /// Show all of one task.
    Show {
        /// Which cloud.
        #[command(flatten)]
        of: Configured,
        /// The task.
        id: TaskId,
    },
    /// Take a task from the conductor that has it; the next one that looks goes on with it.
    Retry {
        /// Which cloud.
        #[command(flatten)]
        of: Configured,
        /// The task.
        id: TaskId,
    },
    /// End a task where it is, and put its server into ERROR: for what neither a retry nor deleting the server ends.
    Abandon {
        /// Which cloud.
        #[command(flatten)]
        of: Configured,
        /// The task.
        id: TaskId,
        /// Shown as the server's fault.
        #[arg(long, default_value = "The operation was abandoned by an operator.")]
        reason: String,
    },
}

/// What to do with certificates.
#[derive(Debug, Subcommand)]
pub(crate) enum Certificates {
    /// Make the cloud's authority.
    Init(Folder),
    /// Make the certificate that a conductor or a network service shows to agents, on the machine with the authority.
    Server {
        /// Where.
        #[command(flatten)]
        at: Folder,
        /// The names and addresses under which agents find this machine.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Where the files go, for a machine without the authority: to be copied to its HOME/certificates [default: the folder of
        /// the authority].
        #[arg(long, value_name = "DIR")]
        into: Option<PathBuf>,
    },
    /// Make the certificate of a host's agents, in a folder to be copied to HOME/certificates of that host.
    Host {
        /// Where.
        #[command(flatten)]
        at: Folder,
        /// The host's name in the cloud.
        name: String,
        /// Where the files go [default: HOME/certificates/hosts/NAME].
        #[arg(long, value_name = "DIR")]
        into: Option<PathBuf>,
    },
}

/// A folder with certificates.
#[derive(Debug, Args)]
pub(crate) struct Folder {
    /// Which cloud.
    #[command(flatten)]
    pub(crate) at: At,
    /// The folder of the authority [default: HOME/certificates].
    #[arg(long, value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Say what is wrong in the configuration file, with file and line (exit status 1), or that all is well.
    Check(Configured),
    /// Show every setting, in the form of the file, with what it is for. Passwords are left out.
    Show(Configured),
}

/// What to say about the policies of the Compute API.
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Every rule with its check; those that a policy file gives are marked with `*`.
    List(Configured),
    /// Which rules let somebody with these roles pass (exit status 1 if the one rule asked for does not).
    Check {
        /// The cloud and its files.
        #[command(flatten)]
        of: Configured,
        /// A role that they have; may be given several times. Roles that others imply must be named too.
        #[arg(long = "role", value_name = "ROLE", required = true)]
        roles: Vec<String>,
        /// What they act on is of another project.
        #[arg(long)]
        other_project: bool,
        /// Only this rule.
        rule: Option<String>,
    },
    /// What a rule guards, what its check means, where that comes from and who passes.
    Explain {
        /// The cloud and its files.
        #[command(flatten)]
        of: Configured,
        /// The rule, for example os_compute_api:servers:create.
        rule: String,
    },
}

/// A cloud and its configuration file.
#[derive(Debug, Args)]
pub(crate) struct Configured {
    /// Which cloud.
    #[command(flatten)]
    pub(crate) at: At,
    /// The configuration file [default: DIR/kilonova.conf, else /etc/kilonova/kilonova.conf, if they are there].
    #[arg(long, env = "KILONOVA_CONFIG_FILE", value_name = "FILE")]
    pub(crate) config_file: Option<PathBuf>,
    /// A setting over the file's and the environment's (OS_SECTION__NAME), as DEFAULT.osapi_compute_listen_port=8775; may be
    /// repeated.
    #[arg(long = "set", value_name = "SECTION.NAME=VALUE")]
    pub(crate) set: Vec<String>,
}

/// Which cloud.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// Everything of the cloud lives in this directory.
    #[arg(
        long,
        env = "KILONOVA_HOME",
        default_value = "/var/lib/kilonova",
        value_name = "DIR"
    )]
    pub(crate) home: PathBuf,
}

/// What runs guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Hypervisor {
    /// Real guests on libvirt and QEMU; needs root, which only the agents of the host keep.
    Libvirt,
    /// Simulated guests and networks, for clients, load and tests; needs no rights.
    Sim,
}

/// The cloud to run. What is not given here is taken from the configuration file.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Which, and its file.
    #[command(flatten)]
    pub(crate) configured: Configured,
    /// What runs guests [default: libvirt].
    #[arg(long, value_enum)]
    pub(crate) hypervisor: Option<Hypervisor>,
    /// Simulated hosts [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) hosts: Option<u16>,
    /// The system user that the part without privileges becomes, for real guests [default: kilonova].
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// The address all APIs listen on [default: 127.0.0.1].
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<std::net::IpAddr>,
    /// Port of the Identity API (under /v3) [default: 5000].
    #[arg(long, value_name = "PORT")]
    pub(crate) identity_port: Option<u16>,
    /// Port of the Compute API [default: 8774].
    #[arg(long, value_name = "PORT")]
    pub(crate) compute_port: Option<u16>,
    /// Port of the metadata service [default: 8775].
    #[arg(long, value_name = "PORT")]
    pub(crate) metadata_port: Option<u16>,
    /// Port of the Placement API [default: 8778].
    #[arg(long, value_name = "PORT")]
    pub(crate) placement_port: Option<u16>,
    /// Port of the Image API [default: 9292].
    #[arg(long, value_name = "PORT")]
    pub(crate) image_port: Option<u16>,
    /// Port of the Networking API [default: 9696].
    #[arg(long, value_name = "PORT")]
    pub(crate) network_port: Option<u16>,
    /// Port of the Block Storage API (under /v3) [default: 8776].
    #[arg(long, value_name = "PORT")]
    pub(crate) volume_port: Option<u16>,
    /// Port of the Key Manager API (under /v1) [default: 9311].
    #[arg(long, value_name = "PORT")]
    pub(crate) key_manager_port: Option<u16>,
    /// Port on which volumes are served to hosts by NBD [default: 10809].
    #[arg(long, value_name = "PORT")]
    pub(crate) nbd_port: Option<u16>,
    /// Range of the external network `public` of a fresh cloud; the host takes its first address [default: 172.24.4.0/24].
    #[arg(long, value_name = "CIDR")]
    pub(crate) public_range: Option<String>,
    /// Range of the shared network `private` of a fresh cloud [default: 10.10.0.0/22].
    #[arg(long, value_name = "CIDR")]
    pub(crate) private_range: Option<String>,
}
