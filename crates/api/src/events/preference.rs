//! The `Prefer` header (RFC 7240): which server state a client prefers to wait for, and how long.

use http::HeaderMap;

/// Seconds that an answer waits at most.
pub const LONGEST: u64 = 600;

/// What a client prefers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preference {
    /// Seconds.
    pub seconds: u64,
    /// The value of the parameter `for`.
    pub until: Option<String>,
}

/// The preference `wait`, if it is there. The error says what is wrong with it.
pub fn read(headers: &HeaderMap) -> Result<Option<Preference>, String> {
    let texts = headers.get_all("prefer").iter();
    let texts = texts.filter_map(|value| value.to_str().ok());
    let all = texts.flat_map(|text| text.split(','));
    for one in all {
        let mut parts = one.split(';').map(pair);
        let Some((name, seconds)) = parts.next() else {
            continue;
        };
        if !name.eq_ignore_ascii_case("wait") {
            continue;
        }
        let number = seconds.parse::<u64>().map_err(|_| {
            format!("Prefer: wait={seconds} is not a number of seconds, as in wait=60.")
        })?;
        let until = parts
            .find(|(name, _)| name.eq_ignore_ascii_case("for"))
            .map(|(_, value)| value.to_owned());
        return Ok(Some(Preference {
            seconds: number.min(LONGEST),
            until,
        }));
    }
    Ok(None)
}

fn pair(text: &str) -> (&str, &str) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (name.trim(), value.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(texts: &[&str]) -> Result<Option<(u64, Option<String>)>, String> {
        let mut headers = HeaderMap::new();
        for text in texts {
            headers.append("prefer", text.parse().unwrap());
        }
        Ok(read(&headers)?.map(|one| (one.seconds, one.until)))
    }

    #[test]
    fn headers() {
        let active = || Some("ACTIVE".to_owned());
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&["return=minimal"]).unwrap(), None);
        assert_eq!(of(&["wait=5"]).unwrap(), Some((5, None)));
        assert_eq!(of(&["wait=5; for=ACTIVE"]).unwrap(), Some((5, active())));
        assert_eq!(
            of(&["return=minimal, Wait = \"9999\";FOR=\"ACTIVE\""]).unwrap(),
            Some((LONGEST, active()))
        );
        assert_eq!(
            of(&["respond-async", "wait=1;for=ACTIVE"]).unwrap(),
            Some((1, active()))
        );
        for bad in ["wait", "wait=", "wait=-1", "wait=1.5", "wait=soon"] {
            assert!(of(&[bad]).unwrap_err().contains("seconds"), "{bad}");
        }
    }
}
