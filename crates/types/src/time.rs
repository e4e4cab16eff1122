//! Points in time: microseconds since 1970 in UTC, and the four text forms that OpenStack APIs use.

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::{Duration, SystemTime};

/// A point in time, in microseconds since 1970-01-01 UTC. This is also how it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The present, by this machine's clock.
    pub fn now() -> Self {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Self(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// Microseconds since 1970.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// A time from whole seconds since 1970.
    pub fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// This much later.
    pub fn plus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)),
        )
    }

    /// This much earlier.
    pub fn minus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)),
        )
    }

    /// `2026-01-31T23:59:59Z`: servers, images, versions.
    pub fn iso_seconds_z(self) -> String {
        self.format("%Y-%m-%dT%H:%M:%SZ")
    }

    /// `2026-01-31T23:59:59.000000`, always six digits and no zone: actions, services, key pairs.
    pub fn iso_micros(self) -> String {
        self.format("%Y-%m-%dT%H:%M:%S.%6f")
    }

    /// `2026-01-31T23:59:59.000000Z`: tokens of the identity service.
    pub fn iso_micros_z(self) -> String {
        self.format("%Y-%m-%dT%H:%M:%S.%6fZ")
    }

    /// `2026-01-31 23:59:59`: audit periods.
    pub fn sql_seconds(self) -> String {
        self.format("%Y-%m-%d %H:%M:%S")
    }

    /// Reads ISO 8601 with `T` or a space, with or without fraction and zone (no zone means UTC), or a date alone.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(at) = text.parse::<jiff::Timestamp>() {
            return Some(Self(at.as_microsecond()));
        }
        let civil = text.parse::<jiff::civil::DateTime>().ok()?;
        let zoned = civil.to_zoned(TimeZone::UTC).ok()?;
        Some(Self(zoned.timestamp().as_microsecond()))
    }

    fn format(self, pattern: &str) -> String {
        let at = jiff::Timestamp::from_microsecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        at.to_zoned(TimeZone::UTC).strftime(pattern).to_string()
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iso_micros_z())
    }
}

#[cfg(test)]
mod tests {
    use super::Timestamp;

    #[test]
    fn text_forms_and_back() {
        let at = Timestamp(1_767_225_599_000_042);
        assert_eq!(at.iso_seconds_z(), "2025-12-31T23:59:59Z");
        assert_eq!(at.iso_micros(), "2025-12-31T23:59:59.000042");
        assert_eq!(at.iso_micros_z(), "2025-12-31T23:59:59.000042Z");
        assert_eq!(at.sql_seconds(), "2025-12-31 23:59:59");
        for text in [
            at.iso_micros(),
            at.iso_micros_z(),
            "2025-12-31 23:59:59.000042".to_owned(),
        ] {
            assert_eq!(Timestamp::parse(&text), Some(at), "{text}");
        }
        assert_eq!(
            Timestamp::parse("2026-01-01T01:59:59.000042+02:00"),
            Some(at)
        );
        assert_eq!(
            Timestamp::parse("2026-01-01")
                .map(|t| t.iso_seconds_z())
                .as_deref(),
            Some("2026-01-01T00:00:00Z")
        );
        assert_eq!(Timestamp::parse("yesterday"), None);
    }
}
