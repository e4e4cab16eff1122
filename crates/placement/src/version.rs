//! Which microversion a request wants (API-SIG "Microversion Specification").

use crate::fault::Fault;
use http::HeaderMap;

/// The newest microversion, the `39` of `1.39`.
pub(crate) const NEWEST: u16 = 39;

/// The minor number that the header `OpenStack-API-Version: placement 1.N` asks for; without it 1.0.
pub(crate) fn wanted(headers: &HeaderMap) -> Result<u16, Fault> {
    // The header may be there several times and hold several services with commas; the last one for placement counts.
    let values = headers
        .get_all("openstack-api-version")
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut mine = values
        .flat_map(|value| value.split(','))
        .filter_map(|entry| {
            let mut words = entry.split_whitespace();
            words
                .next()
                .filter(|service| service.eq_ignore_ascii_case("placement"))?;
            Some(words.collect::<Vec<_>>().join(" "))
        });
    let Some(version) = mine.next_back() else {
        return Ok(0);
    };
    if version == "latest" {
        return Ok(NEWEST);
    }
    let number = |text: &str| {
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| text.parse::<u32>().unwrap_or(u32::MAX))
    };
    let parsed = version
        .split_once('.')
        .and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
    match parsed {
        None => Err(Fault::bad_request(format!(
            "invalid version string: {version}"
        ))),
        Some((1, minor)) if minor <= u32::from(NEWEST) => {
            Ok(u16::try_from(minor).unwrap_or(NEWEST))
        }
        Some(_) => Err(Fault::unacceptable_version(&version)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn headers() {
        for (header, expected) in [
            (None, Ok(0)),
            (Some("placement 1.10"), Ok(10)),
            (Some("placement latest"), Ok(39)),
            (Some("compute 2.1, placement 1.2"), Ok(2)),
            (Some("compute 2.1"), Ok(0)),
            (Some("placement 1.40"), Err(406)),
            (Some("placement 2.0"), Err(406)),
            (Some("placement 1.x"), Err(400)),
            (Some("placement"), Err(400)),
            (Some("placement 1.99999999999"), Err(406)),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert("openstack-api-version", header.parse().unwrap());
            }
            assert_eq!(
                wanted(&headers).map_err(|fault| fault.status.as_u16()),
                expected,
                "{header:?}"
            );
        }
    }
}
