//! Points in time: microseconds since 1970 in UTC, and the four text forms that OpenStack APIs use.

use jiff::tz::TimeZone;
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

/// The forms of a date or time that pass.
const ISO_8601: &str = r"(?x)^(?<year>[0-9]{4})
    (?: (?: -(?<month>[0-9]{1,2}) | (?<plain_month>[0-9]{2}) )
        (?: (?: -(?<day>[0-9]{1,2}) | (?<plain_day>[0-9]{2}) )
            (?: [\x20T] (?<hour>[0-9]{2}) (?: :?(?<minute>[0-9]{2}) )?
                (?: :?(?<second>[0-9]{1,2}) (?: [.,](?<fraction>[0-9]+) )? )?
                (?: Z | (?<sign>[-+]) (?<zone_hour>[0-9]{2}) :? (?<zone_minute>[0-9]{2})? )?
            )?
        )?
    )?$";

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
        self.text('T', false, "Z")
    }

    /// `2026-01-31T23:59:59.000000`, always six digits and no zone: actions, services, key pairs.
    pub fn iso_micros(self) -> String {
        self.text('T', true, "")
    }

    /// `2026-01-31T23:59:59.000000Z`: tokens of the identity service.
    pub fn iso_micros_z(self) -> String {
        self.text('T', true, "Z")
    }

    /// `2026-01-31 23:59:59`: audit periods.
    pub fn sql_seconds(self) -> String {
        self.text(' ', false, "")
    }

    /// Reads ISO 8601 as OpenStack services do: a date, basic or extended, perhaps with a time after `T` or a space,
    /// perhaps with a fraction and a zone. No zone means UTC; what is left out is the first of it.
    pub fn parse(text: &str) -> Option<Self> {
        static FORM: OnceLock<Option<Regex>> = OnceLock::new();
        let form = FORM.get_or_init(|| Regex::new(ISO_8601).ok()).as_ref()?;
        let found = form.captures(text)?;
        let number = |name: &str, missing: i16| {
            found
                .name(name)
                .map_or(Some(missing), |part| part.as_str().parse().ok())
        };
        let small = |name: &str, missing: i16| i8::try_from(number(name, missing)?).ok();
        let fraction: String = found
            .name("fraction")
            .map_or("", |digits| digits.as_str())
            .chars()
            .chain("000000".chars())
            .take(6)
            .collect();
        let month = if found.name("month").is_some() {
            "month"
        } else {
            "plain_month"
        };
        let day = if found.name("day").is_some() {
            "day"
        } else {
            "plain_day"
        };
        // `202601` could also be a short date.
        if month == "plain_month" && found.name("plain_month").is_some() && day == "plain_day" {
            found.name("plain_day")?;
        }
        let year = number("year", 0).filter(|year| *year > 0)?;
        let civil = jiff::civil::DateTime::new(
            year,
            small(month, 1)?,
            small(day, 1)?,
            small("hour", 0)?,
            small("minute", 0)?,
            small("second", 0)?,
            fraction.parse::<i32>().ok()?.checked_mul(1000)?,
        );
        let local = civil.ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
        let minutes =
            i64::from(number("zone_hour", 0)?) * 60 + i64::from(number("zone_minute", 0)?);
        if minutes >= 24 * 60 {
            return None;
        }
        let east = found.name("sign").is_none_or(|sign| sign.as_str() == "+");
        let offset = minutes * if east { 60_000_000 } else { -60_000_000 };
        Some(Self(local.as_microsecond() - offset))
    }

    /// The digits written one by one: lists show very many times.
    fn text(self, between: char, fraction: bool, end: &str) -> String {
        let at = jiff::Timestamp::from_microsecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let at = TimeZone::UTC.to_datetime(at);
        let mut text = String::with_capacity(27);
        if at.year() < 0 {
            text.push('-');
        }
        let parts = [
            (u32::from(at.year().unsigned_abs()), 4, '-'),
            (u32::from(at.month().unsigned_abs()), 2, '-'),
            (u32::from(at.day().unsigned_abs()), 2, between),
            (u32::from(at.hour().unsigned_abs()), 2, ':'),
            (u32::from(at.minute().unsigned_abs()), 2, ':'),
        ];
        for (number, width, after) in parts {
            digits(&mut text, number, width);
            text.push(after);
        }
        digits(&mut text, u32::from(at.second().unsigned_abs()), 2);
        if fraction {
            text.push('.');
            digits(&mut text, at.subsec_nanosecond().unsigned_abs() / 1000, 6);
        }
        text.push_str(end);
        text
    }
}

/// A number with zeros before it.
fn digits(text: &mut String, number: u32, width: u32) {
    for place in (0..width).rev() {
        let digit = (number / 10_u32.pow(place)) % 10;
        text.push(char::from_digit(digit, 10).unwrap_or('0'));
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iso_micros_z())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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

    #[test]
    fn digits_are_as_the_calendar_has_them() {
        // Leap days, ends of months and years, before 1970, and steps through some centuries.
        let edges = [
            0,
            -1,
            951_782_399,
            951_782_400,
            4_107_542_399,
            -62_135_596_800,
        ];
        let steps = (0..2000).map(|step| -20_000_000_000 + step * 37_123_457);
        for seconds in edges.into_iter().chain(steps) {
            let at = Timestamp(seconds * 1_000_000 + 789);
            let calendar = jiff::Timestamp::from_microsecond(at.0)
                .unwrap()
                .to_zoned(jiff::tz::TimeZone::UTC);
            let wanted = calendar.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
            assert_eq!(at.iso_micros_z(), wanted);
        }
    }

    #[test]
    fn forms_of_iso_8601() {
        let table = [
            ("2026", "2026-01-01T00:00:00Z"),
            ("2026-2", "2026-02-01T00:00:00Z"),
            ("20260203", "2026-02-03T00:00:00Z"),
            ("2026-101", "2026-01-01T00:00:00Z"),
            ("2026-02-03T10", "2026-02-03T10:00:00Z"),
            ("20260203T101112Z", "2026-02-03T10:11:12Z"),
            ("2026-02-03 10:11", "2026-02-03T10:11:00Z"),
            ("2026-02-03T10:11:12,987654321-0530", "2026-02-03T15:41:12Z"),
            ("2026-02-03T10:11:12+01", "2026-02-03T09:11:12Z"),
        ];
        for (text, wanted) in table {
            let at = Timestamp::parse(text).map(Timestamp::iso_seconds_z);
            assert_eq!(at.as_deref(), Some(wanted), "{text}");
        }
        for bad in [
            "",
            " 2026-01-01",
            "202601",
            "0000-01-01",
            "2026-13-01",
            "2026-02-30",
            "2026-01-01T24:00",
            "2026-01-01T00:00:60",
            "2026-01-01t00:00:00z",
            "2026-01-01T00:00:00Z[UTC]",
            "2026-01-01T00:00:00+24:00",
            "26-01-01",
        ] {
            assert_eq!(Timestamp::parse(bad), None, "{bad}");
        }
    }
}
