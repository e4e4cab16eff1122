//! What an image is: its attributes, states and members, free of HTTP and SQL.

use std::collections::{BTreeMap, BTreeSet};
use types::Timestamp;

/// Where an image is in its life (Image API v2, "Image statuses").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Registered, without data.
    Queued,
    /// Data are being uploaded.
    Saving,
    /// Data are in the staging area (`uploading` while and after they are staged).
    Uploading,
    /// Staged data are being checked and moved into the store.
    Importing,
    /// Usable.
    Active,
    /// Usable again after `reactivate`; only administrators may download.
    Deactivated,
}

impl Status {
    /// The name in the API and in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Saving => "saving",
            Self::Uploading => "uploading",
            Self::Importing => "importing",
            Self::Active => "active",
            Self::Deactivated => "deactivated",
        }
    }

    /// The status of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [
            Self::Queued,
            Self::Saving,
            Self::Uploading,
            Self::Importing,
            Self::Active,
            Self::Deactivated,
        ]
        .into_iter()
        .find(|status| status.name() == name)
    }
}

/// Who sees an image (Image API v2, "Image visibility").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Everybody, in everybody's list.
    Public,
    /// Everybody who knows the id.
    Community,
    /// The owner and its members.
    Shared,
    /// The owner.
    Private,
}

impl Visibility {
    /// The name in the API and in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Community => "community",
            Self::Shared => "shared",
            Self::Private => "private",
        }
    }

    /// The visibility of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Public, Self::Community, Self::Shared, Self::Private]
            .into_iter()
            .find(|one| one.name() == name)
    }
}

/// An image.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// A UUID in text; the client may choose it.
    pub id: String,
    /// Not unique.
    pub name: Option<String>,
    /// Where it is in its life.
    pub status: Status,
    /// Who sees it.
    pub visibility: Visibility,
    /// The project that owns it.
    pub owner: Option<String>,
    /// For example `qcow2`; must be set before data.
    pub disk_format: Option<String>,
    /// For example `bare`; must be set before data.
    pub container_format: Option<String>,
    /// Bytes of the data.
    pub size: Option<u64>,
    /// Bytes of the disk that the data describe.
    pub virtual_size: Option<u64>,
    /// MD5 of the data, in hex.
    pub checksum: Option<String>,
    /// The algorithm of `os_hash_value`: `sha512`.
    pub os_hash_algo: Option<String>,
    /// Hash of the data, in hex.
    pub os_hash_value: Option<String>,
    /// Gigabytes of disk that a server needs.
    pub min_disk: u64,
    /// Megabytes of memory that a server needs.
    pub min_ram: u64,
    /// Refuses to be deleted.
    pub protected: bool,
    /// Not in lists unless asked for.
    pub os_hidden: bool,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Everything else that users say about it.
    pub properties: BTreeMap<String, String>,
    /// Its tags.
    pub tags: BTreeSet<String>,
}

impl Image {
    /// A new image without data.
    pub fn queued(id: String, owner: Option<String>) -> Self {
        let now = Timestamp::now();
        Self {
            id,
            name: None,
            status: Status::Queued,
            visibility: Visibility::Shared,
            owner,
            disk_format: None,
            container_format: None,
            size: None,
            virtual_size: None,
            checksum: None,
            os_hash_algo: None,
            os_hash_value: None,
            min_disk: 0,
            min_ram: 0,
            protected: false,
            os_hidden: false,
            created_at: now,
            updated_at: now,
            properties: BTreeMap::new(),
            tags: BTreeSet::new(),
        }
    }

    /// Whether there are data to download.
    pub fn has_data(&self) -> bool {
        matches!(self.status, Status::Active | Status::Deactivated)
    }
}

/// A project that an image is shared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The image.
    pub image_id: String,
    /// The project.
    pub member_id: String,
    /// `pending`, `accepted` or `rejected`.
    pub status: String,
    /// When it was added.
    pub created_at: Timestamp,
    /// When the status last changed.
    pub updated_at: Timestamp,
}

/// What is known of data that have been written and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of the disk in it.
    pub virtual_size: u64,
    /// MD5, hex.
    pub md5: String,
    /// SHA-512, hex.
    pub sha512: String,
}

/// An import, under way or over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// A UUID in text.
    pub id: String,
    /// `api_image_import`.
    pub kind: String,
    /// `processing`, `success` or `failure`.
    pub status: String,
    /// The project that asked.
    pub owner: String,
    /// Who asked.
    pub user_id: String,
    /// The image.
    pub image_id: String,
    /// The request.
    pub request_id: String,
    /// What was asked for, JSON.
    pub input: String,
    /// What went wrong, for people.
    pub message: String,
    /// When it began.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it is forgotten; none while it is under way.
    pub expires_at: Option<Timestamp>,
}

impl Task {
    /// How long a task is kept after its end, in microseconds.
    const KEPT: i64 = 48 * 3600 * 1_000_000;

    /// When a task that ends now is forgotten.
    pub fn expiry() -> Timestamp {
        Timestamp(Timestamp::now().0 + Self::KEPT)
    }
}
