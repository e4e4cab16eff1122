//! Microversions of the Block Storage API: `OpenStack-API-Version: volume 3.27`.

use crate::fault::{Fault, Result};
use http::{HeaderMap, StatusCode};
use web::microversion::{self, Asked};

/// The minor part of a version 3.x.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u16);

impl Version {
    /// The lowest, and what is served when a request names none.
    pub const LEAST: Self = Self(0);
    /// The highest that is served.
    pub const MOST: Self = Self(71);

    /// The version as text, for example `3.27`.
    pub fn text(self) -> String {
        format!("3.{}", self.0)
    }

    /// 404 for a route that begins at a later version.
    pub fn since(self, minor: u16) -> Result<()> {
        if self.0 >= minor {
            return Ok(());
        }
        Err(Fault::not_found(format!(
            "API version {} is not supported on this method.",
            self.text()
        )))
    }
}

/// The version that a request asks for.
///
/// # Errors
/// 400 for what is no version, 406 for one that is not served.
pub fn negotiate(headers: &HeaderMap) -> Result<Version> {
    match microversion::asked(headers, "volume") {
        Asked::Nothing => Ok(Version::LEAST),
        Asked::Latest => Ok(Version::MOST),
        Asked::Version {
            major: 3, minor, ..
        } if minor <= Version::MOST.0 => Ok(Version(minor)),
        Asked::Version { text, .. } => Err(Fault::new(
            StatusCode::NOT_ACCEPTABLE,
            format!(
                "Version {text} is not supported by the API. Minimum is {} and maximum is {}.",
                Version::LEAST.text(),
                Version::MOST.text()
            ),
        )),
        Asked::Malformed(text) => Err(Fault::bad(format!(
            "API Version String {text} is of invalid format. Must be of format MajorNum.MinorNum."
        ))),
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
            (Some("volume 3.27"), Ok(27)),
            (Some("compute 2.90, volume 3.5"), Ok(5)),
            (Some("volume latest"), Ok(71)),
            (Some("volume 3.9999"), Err(406)),
            (Some("volume 2.0"), Err(406)),
            (Some("volume 3.07"), Err(400)),
            (Some("volume three"), Err(400)),
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
