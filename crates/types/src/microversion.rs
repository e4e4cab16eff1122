//! Compute API microversions (API reference, "Microversions").

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A version `2.N` of the Compute API.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Microversion(pub u16);

impl Microversion {
    /// The oldest version served, and what a request without a version header means.
    pub const MIN: Self = Self(1);
    /// The newest version served.
    pub const MAX: Self = Self(104);
}

impl fmt::Display for Microversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "2.{}", self.0)
    }
}

impl fmt::Debug for Microversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a version number `major.minor`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a version of the form <major>.<minor>")]
pub struct NotAVersion(pub String);

/// A well-formed version as asked for, perhaps one that is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskedVersion {
    /// The number before the dot.
    pub major: u32,
    /// The number after the dot.
    pub minor: u32,
}

impl AskedVersion {
    /// The version, if this cloud serves it.
    pub fn served(self) -> Option<Microversion> {
        let minor = u16::try_from(self.minor).ok()?;
        let version = Microversion(minor);
        (self.major == 2 && version >= Microversion::MIN && version <= Microversion::MAX)
            .then_some(version)
    }
}

impl FromStr for AskedVersion {
    type Err = NotAVersion;

    /// Nova accepts `^([1-9]\d*)\.([1-9]\d*|0)$`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || NotAVersion(text.to_owned());
        let (major, minor) = text.split_once('.').ok_or_else(bad)?;
        let number = |part: &str, zero_ok: bool| -> Result<u32, NotAVersion> {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let leading_zero = part.starts_with('0') && !(zero_ok && part == "0");
            if !digits || leading_zero {
                return Err(bad());
            }
            // A number beyond all bounds is well-formed, and not served.
            Ok(part.parse().unwrap_or(u32::MAX))
        };
        Ok(Self {
            major: number(major, false)?,
            minor: number(minor, true)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_versions() {
        let served = |text: &str| text.parse::<AskedVersion>().ok().map(AskedVersion::served);
        assert_eq!(served("2.1"), Some(Some(Microversion(1))));
        assert_eq!(served("2.104"), Some(Some(Microversion(104))));
        assert_eq!(served("2.105"), Some(None));
        assert_eq!(served("2.0"), Some(None));
        assert_eq!(served("3.1"), Some(None));
        assert_eq!(served("2.9999"), Some(None));
        assert_eq!(served("2.99999999999999999999"), Some(None));
        assert_eq!(served("99999999999.1"), Some(None));
        for bad in [
            "2", "2.", ".1", "2.01", "02.1", "2.1.1", "a.b", "2.-1", "2.1 ", "",
        ] {
            assert_eq!(served(bad), None, "{bad}");
        }
    }
}
