//! The version that a request asks of a service: `OpenStack-API-Version: SERVICE MAJOR.MINOR` (the API working group's
//! guideline on microversions).

use http::HeaderMap;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// Nothing.
    Nothing,
    /// `latest`.
    Latest,
    /// A version, and the words for it.
    Version {
        /// Before the point.
        major: u16,
        /// Behind it.
        minor: u16,
        /// Both, as they were sent.
        text: &'a str,
    },
    /// What is no version.
    Malformed(&'a str),
}

/// What a request with these headers asks of the service of this type.
pub fn asked<'a>(headers: &'a HeaderMap, service: &str) -> Asked<'a> {
    let all = headers.get_all("openstack-api-version").iter();
    let text = all
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|one| one.trim().strip_prefix(service)?.strip_prefix(' '))
        .map(str::trim);
    match text {
        None => Asked::Nothing,
        Some("latest") => Asked::Latest,
        Some(text) => version(text).unwrap_or(Asked::Malformed(text)),
    }
}

fn version(text: &str) -> Option<Asked<'_>> {
    let (major, minor) = text.split_once('.')?;
    Some(Asked::Version {
        major: number(major)?,
        minor: number(minor)?,
        text,
    })
}

fn number(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let padded = text.len() > 1 && text.starts_with('0');
    (plain && !padded).then(|| text.parse().ok()).flatten()
}
