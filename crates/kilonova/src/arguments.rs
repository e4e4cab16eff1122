//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// A private cloud in one binary: OpenStack's compute, identity, image, network and placement APIs.
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
    /// Stop a cloud that runs and remove its guests, bridges, namespaces and firewall tables. Disks and data stay.
    Down(At),
    /// Say whether a cloud runs and is ready (exit status 0) or not (1).
    Status(At),
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Hypervisor {
    /// Real guests on libvirt and QEMU; needs root.
    Libvirt,
    /// Simulated guests and networks, for clients, load and tests; needs no rights.
    Sim,
}

/// The cloud to run.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Which.
    #[command(flatten)]
    pub(crate) at: At,
    /// What runs guests.
    #[arg(long, value_enum, default_value = "libvirt")]
    pub(crate) hypervisor: Hypervisor,
    /// Simulated hosts.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) hosts: u16,
    /// The address all APIs listen on.
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub(crate) listen: String,
    /// Port of the Identity API (under /v3).
    #[arg(long, default_value_t = 5000)]
    pub(crate) identity_port: u16,
    /// Port of the Compute API.
    #[arg(long, default_value_t = 8774)]
    pub(crate) compute_port: u16,
    /// Port of the metadata service.
    #[arg(long, default_value_t = 8775)]
    pub(crate) metadata_port: u16,
    /// Port of the Placement API.
    #[arg(long, default_value_t = 8778)]
    pub(crate) placement_port: u16,
    /// Port of the Image API.
    #[arg(long, default_value_t = 9292)]
    pub(crate) image_port: u16,
    /// Port of the Networking API.
    #[arg(long, default_value_t = 9696)]
    pub(crate) network_port: u16,
    /// Range of the external network `public` of a fresh cloud; the host takes its first address.
    #[arg(long, default_value = "172.24.4.0/24", value_name = "CIDR")]
    pub(crate) public_range: String,
    /// Range of the shared network `private` of a fresh cloud.
    #[arg(long, default_value = "10.10.0.0/22", value_name = "CIDR")]
    pub(crate) private_range: String,
}
