//! What a request says of where it went: the address of the service as its client knows it, and the parts of its path.

use http::{HeaderMap, Uri, header};

/// `http://host:port` as the client sees it, for links in answers. A proxy in front that speaks TLS says so in
/// `X-Forwarded-Proto`. Whatever could not be part of an address is not repeated.
pub fn origin(headers: &HeaderMap, uri: &Uri) -> String {
    let text = |name| headers.get(name)?.to_str().ok();
    let clean = |host: &&str| {
        let mut bytes = host.bytes();
        !host.is_empty() && bytes.all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b))
    };
    let host = text(header::HOST.as_str()).or_else(|| Some(uri.authority()?.as_str()));
    let host = host.filter(clean).unwrap_or("localhost");
    let scheme = text("x-forwarded-proto").filter(|scheme| *scheme == "https");
    format!("{}://{host}", scheme.unwrap_or("http"))
}

/// The parts of a path between its slashes, decoded; empty ones are left out. `None` where one of them is no text.
pub fn segments(path: &str) -> Option<Vec<String>> {
    let parts = path.split('/').filter(|part| !part.is_empty());
    parts.map(decoded).collect()
}

fn decoded(part: &str) -> Option<String> {
    // A path segment is decoded as a form value is, but for `+`, which stands for itself.
    let escaped = part.replace('+', "%2B");
    let (text, _) = url::form_urlencoded::parse(escaped.as_bytes()).next()?;
    (!text.contains('\u{fffd}') && !text.contains('\0')).then(|| text.into_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        for (host, uri, proto, wanted) in [
            (Some("cloud:8774"), "/", None, "http://cloud:8774"),
            (Some("cloud"), "/", Some("https"), "https://cloud"),
            (Some("[::1]:80"), "/", Some("gopher"), "http://[::1]:80"),
            (None, "http://there:1/x", None, "http://there:1"),
            (None, "/", None, "http://localhost"),
            (Some("a/<script>"), "/", None, "http://localhost"),
            (Some(""), "/", None, "http://localhost"),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [("host", host), ("x-forwarded-proto", proto)] {
                if let Some(value) = value {
                    headers.insert(name, value.parse().unwrap());
                }
            }
            assert_eq!(origin(&headers, &uri.parse().unwrap()), wanted);
        }
    }

    #[test]
    fn parts_of_paths() {
        let parts = segments("/v3//a%20b/1+1/%C3%A4/").unwrap();
        assert_eq!(parts, ["v3", "a b", "1+1", "ä"]);
        assert_eq!(segments("/"), Some(Vec::new()));
        for bad in ["/v3/%00", "/v3/%ff"] {
            assert_eq!(segments(bad), None, "{bad}");
        }
    }
}
