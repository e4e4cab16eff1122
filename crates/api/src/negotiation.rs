//! Which microversion a request is served at (API guide, "Microversions").

use crate::faults::Fault;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use std::str::FromStr;
use types::Microversion;
use types::microversion::AskedVersion;

const NEW: HeaderName = HeaderName::from_static("openstack-api-version");
const OLD: HeaderName = HeaderName::from_static("x-openstack-nova-api-version");

/// A request whose version cannot be served.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The answer.
    pub fault: Fault,
    /// The version that is echoed in the headers, if it was well-formed.
    pub echo: Option<String>,
}

/// The version of a request, from both headers: the new one wins, a header for another service means the oldest.
pub fn negotiate(headers: &HeaderMap) -> Result<Microversion, Refusal> {
    let Some(asked) = asked_text(headers) else {
        return Ok(Microversion::MIN);
    };
    if asked.eq_ignore_ascii_case("latest") {
        return Ok(Microversion::MAX);
    }
    let Ok(version) = AskedVersion::from_str(&asked) else {
        let message = format!(
            "API Version String {asked} is of invalid format. Must be of format MajorNum.MinorNum."
        );
        return Err(Refusal {
            fault: Fault::bad_request(message),
            echo: None,
        });
    };
    version.served().ok_or_else(|| {
        let (min, max) = (Microversion::MIN, Microversion::MAX);
        let message = format!(
            "Version {asked} is not supported by the API. Minimum is {min} and maximum is {max}."
        );
        Refusal {
            fault: Fault::new(StatusCode::NOT_ACCEPTABLE, message),
            echo: Some(asked),
        }
    })
}

/// The version in words, if a header gives one for this service.
fn asked_text(headers: &HeaderMap) -> Option<String> {
    let mut named_other = false;
    for value in headers.get_all(&NEW) {
        let Ok(text) = value.to_str() else { continue };
        for part in text.split(',') {
            let mut words = part.split_whitespace();
            match (words.next(), words.next()) {
                (Some(service), Some(version)) if service.eq_ignore_ascii_case("compute") => {
                    return Some(version.to_owned());
                }
                (Some(_), Some(_)) => named_other = true,
                _ => {}
            }
        }
    }
    if named_other && !headers.contains_key(&OLD) {
        return None;
    }
    // What is no text is no version either, and is told so.
    headers
        .get(&OLD)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned())
}

/// Says in the answer's headers which version served the request.
pub fn mark(headers: &mut HeaderMap, version: &str) {
    if let Ok(value) = HeaderValue::from_str(&format!("compute {version}")) {
        headers.insert(NEW, value);
    }
    if let Ok(value) = HeaderValue::from_str(version) {
        headers.insert(OLD, value);
    }
    headers.insert(
        header::VARY,
        HeaderValue::from_static("OpenStack-API-Version, X-OpenStack-Nova-API-Version"),
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter()
            .map(|&(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn headers_to_versions() {
        let new = "openstack-api-version";
        let old = "x-openstack-nova-api-version";
        let table: &[(&[(&str, &str)], u16)] = &[
            (&[], 1),
            (&[(new, "compute 2.50")], 50),
            (&[(old, "2.50")], 50),
            (&[(new, "compute 2.60"), (old, "2.50")], 60),
            (&[(new, "volume 3.50")], 1),
            (&[(new, "volume 3.50, compute 2.7")], 7),
            (&[(new, "compute latest")], 104),
            (&[(old, "latest")], 104),
        ];
        for (list, wanted) in table {
            assert_eq!(
                negotiate(&headers(list)).unwrap(),
                Microversion(*wanted),
                "{list:?}"
            );
        }
    }

    #[test]
    fn refusals() {
        let bad = negotiate(&headers(&[("openstack-api-version", "compute abc")])).unwrap_err();
        assert_eq!((bad.fault.status.as_u16(), bad.echo), (400, None));
        let high = negotiate(&headers(&[("x-openstack-nova-api-version", "2.999")])).unwrap_err();
        assert_eq!(
            (high.fault.status.as_u16(), high.echo.as_deref()),
            (406, Some("2.999"))
        );
        assert_eq!(
            high.fault.message,
            "Version 2.999 is not supported by the API. Minimum is 2.1 and maximum is 2.104."
        );
        assert_eq!(
            negotiate(&headers(&[("x-openstack-nova-api-version", "2.0")]))
                .unwrap_err()
                .fault
                .status
                .as_u16(),
            406
        );
    }
}
