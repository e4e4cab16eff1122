//! How a running guest gets to another host: what the two hosts must know of each other, and the streams between them.

use crate::hypervisor::Result;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncRead, AsyncWrite};
use types::tpm::Passphrase;

/// How running guests may be sent to other hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveChoices {
    /// A guest that changes memory faster than it can be sent is slowed down.
    pub auto_converge: bool,
    /// A guest may go on on the other host before all of its memory is there. When the hosts lose each other then, the
    /// guest's memory is lost. Where that is permitted nothing is slowed down, as in Nova.
    pub post_copy: bool,
}

/// Where a host expects a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Berth {
    /// The folder of guests' files, by the path that the hypervisor uses there.
    pub instances: PathBuf,
    /// The folder of the sockets by which the guest comes, the same path on both hosts; made for this guest alone.
    pub sockets: PathBuf,
    /// Where its config drive goes.
    pub drive: PathBuf,
}

/// One of the ways into the host where a guest is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The hypervisor itself, with which the sending one agrees on the move.
    Hypervisor,
    /// The guest's memory.
    Memory,
    /// The guest's disks.
    Disks,
}

impl Door {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Hypervisor, Self::Memory, Self::Disks];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hypervisor => "hypervisor",
            Self::Memory => "memory",
            Self::Disks => "disks",
        }
    }

    /// The socket of this door in a folder.
    pub fn socket(self, folder: &Path) -> PathBuf {
        folder.join(self.name()).with_extension("sock")
    }
}

/// A stream between two hosts.
pub trait Channel: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Channel for T {}

/// The way to the host to which one guest goes.
#[async_trait]
pub trait Passage: Send + Sync + 'static {
    /// The other host gets ready for the guest, and says where it expects it.
    async fn berth(&self) -> Result<Berth>;

    /// Sends the guest's config drive ahead.
    async fn carry_drive(&self, file: &Path) -> Result<()>;

    /// Sends the passphrase of the guest's TPM ahead, which the other host is to keep as this one does.
    async fn carry_passphrase(&self, passphrase: &Passphrase) -> Result<()>;

    /// A stream to one of the doors.
    async fn open(&self, door: Door) -> Result<Box<dyn Channel>>;

    /// The guest is not expected any more, or has come.
    async fn close(&self);
}
