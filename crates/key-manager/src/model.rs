//! What the key manager keeps.

use types::Timestamp;

/// A secret without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Its id.
    pub id: String,
    /// The project that owns it.
    pub project_id: String,
    /// The user who made it.
    pub creator_id: String,
    /// What people call it.
    pub name: Option<String>,
    /// One of [`crate::check::KINDS`].
    pub kind: String,
    /// When it ends: afterwards it is as if it were not there.
    pub expires_at: Option<Timestamp>,
    /// What the payload is for, for example `aes`.
    pub algorithm: Option<String>,
    /// The length of the key.
    pub bit_length: Option<i64>,
    /// The mode of the algorithm, for example `cbc`.
    pub mode: Option<String>,
    /// What the payload is; none without one.
    pub content_type: Option<ContentType>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed.
    pub updated_at: Timestamp,
}

/// What a payload is (Key Manager API, "Secrets", "payload_content_type").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// Text in UTF-8.
    Text,
    /// Bytes.
    Bytes,
    /// Bytes of a key by PKCS #8.
    Pkcs8,
}

impl ContentType {
    /// As it is stored and shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text/plain",
            Self::Bytes => "application/octet-stream",
            Self::Pkcs8 => "application/pkcs8",
        }
    }

    /// Reads a media type; one with another charset than UTF-8 is none of these.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let kind = parts.next()?.to_ascii_lowercase();
        if let Some(parameter) = parts.next() {
            let (_, charset) = parameter.split_once('=')?;
            if !charset.trim().eq_ignore_ascii_case("utf-8") {
                return None;
            }
        }
        [Self::Text, Self::Bytes, Self::Pkcs8]
            .into_iter()
            .find(|known| known.name() == kind)
    }
}

/// The clear payload of a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    /// What it is.
    pub content_type: ContentType,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Payload {
    /// Never what is in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Payload({})", self.content_type.name())
    }
}

/// Who may read a secret beside what the policies say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    /// Whether members of the project may read it; else its maker, the listed users and administrators of the project.
    pub project_access: bool,
    /// Users of any project who may read it.
    pub users: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed.
    pub updated_at: Timestamp,
}

/// Something that uses a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// The service, for example `image`.
    pub service: String,
    /// The type of its resource.
    pub resource_type: String,
    /// The resource.
    pub resource_id: String,
    /// The project that registered it.
    pub project_id: String,
    /// When it was registered.
    pub created_at: Timestamp,
}

impl Consumer {
    /// Whether both name the same resource.
    pub fn is_same(&self, other: &Self) -> bool {
        self.service == other.service
            && self.resource_type == other.resource_type
            && self.resource_id == other.resource_id
    }
}
