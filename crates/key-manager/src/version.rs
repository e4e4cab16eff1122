//! Versions of the Key Manager API: `OpenStack-API-Version: key-manager 1.1`.

use crate::fault::{Fault, Result};
use http::{HeaderMap, StatusCode};
use web::microversion::{self, Asked};

/// The minor part of a version 1.x.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u16);

impl Version {
    /// The lowest, and what is served when a request names none.
    pub const LEAST: Self = Self(0);
    /// The highest that is served.
    pub const MOST: Self = Self(2);

    /// The version as text, for example `1.1`.
    pub fn text(self) -> String {
        format!("1.{}", self.0)
    }

    /// Whether secrets show who uses them (1.1).
    pub fn shows_consumers(self) -> bool {
        self.0 >= 1
    }

    /// Whether a secret that is used is kept unless its deletion is forced (1.2).
    pub fn keeps_what_is_used(self) -> bool {
        self.0 >= 2
    }
}

/// The version that a request asks for.
///
/// # Errors
/// 400 for what is no version, 406 for one that is not served.
pub fn negotiate(headers: &HeaderMap) -> Result<Version> {
    match microversion::asked(headers, "key-manager") {
        Asked::Nothing => Ok(Version::LEAST),
        Asked::Latest => Ok(Version::MOST),
        Asked::Version {
            major: 1, minor, ..
        } if minor <= Version::MOST.0 => Ok(Version(minor)),
        Asked::Version { text, .. } => Err(Fault::new(
            StatusCode::NOT_ACCEPTABLE,
            format!(
                "Version {text} is not served. Minimum is {} and maximum is {}.",
                Version::LEAST.text(),
                Version::MOST.text()
            ),
        )),
        Asked::Malformed(text) => Err(Fault::bad(format!("'{text}' is not a version."))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions_are_negotiated() {
        for (header, wanted) in [
            (None, Ok(0)),
            (Some("compute 2.1"), Ok(0)),
            (Some("key-manager 1.0"), Ok(0)),
            (Some("compute 2.90, key-manager 1.1"), Ok(1)),
            (Some("key-manager latest"), Ok(2)),
            (Some("key-manager 1.3"), Err(406)),
            (Some("key-manager 2.0"), Err(406)),
            (Some("key-manager 1.01"), Err(400)),
            (Some("key-manager one"), Err(400)),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert("openstack-api-version", header.parse().unwrap());
            }
            let found = negotiate(&headers)
                .map(|version| version.0)
                .map_err(|fault| fault.status.as_u16());
            assert_eq!(found, wanted, "{header:?}");
        }
    }
}
