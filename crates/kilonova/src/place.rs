//! Where conductors and the network service meet the agents of hosts.

use anyhow::Result;
use rustls::ClientConfig;
use std::path::PathBuf;
use std::sync::Arc;
use web::client::Client;

/// A place to listen at or to go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// `unix:/path`: on the same machine; whoever may open the socket is trusted.
    Unix(PathBuf),
    /// `https://host:port`: both ends show certificates of the cloud's authority.
    Tls {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
    },
}

impl Place {
    /// Reads `unix:/path` or `https://host:port`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "{text:?} is not a place, as unix:/run/kilonova/agents.sock or https://controller:8790"
            )
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(Self::Unix(path.into())),
                false => Err(bad()),
            };
        }
        let at = text.strip_prefix("https://").ok_or_else(bad)?;
        let (host, port) = at.trim_end_matches('/').rsplit_once(':').ok_or_else(bad)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        match port.parse() {
            Ok(port) if port != 0 && !host.is_empty() && !host.contains('/') => Ok(Self::Tls {
                host: host.to_owned(),
                port,
            }),
            _ => Err(bad()),
        }
    }

    /// The address of a service on another machine.
    pub(crate) fn url(host: &str, port: u16) -> String {
        match host.contains(':') {
            true => format!("https://[{host}]:{port}"),
            false => format!("https://{host}:{port}"),
        }
    }
}

/// A client of a service in any of these places; `tls` is wanted where one of them is on another machine.
pub(crate) fn client(
    service: &'static str,
    places: &[Place],
    tls: impl Fn() -> Result<Arc<ClientConfig>>,
) -> Result<Client> {
    let one = |place: &Place| match place {
        Place::Unix(path) => Ok(Client::unix(service, path)),
        Place::Tls { host, port } => Ok(Client::https(service, &Place::url(host, *port), tls()?)),
    };
    let clients: Result<Vec<Client>> = places.iter().map(one).collect();
    Ok(Client::several(service, clients?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn places_are_read() {
        let tls = |host: &str, port| Place::Tls {
            host: host.to_owned(),
            port,
        };
        for (text, place) in [
            ("unix:/a/b", Place::Unix("/a/b".into())),
            ("https://c1:8790", tls("c1", 8790)),
            ("https://192.0.2.1:1/", tls("192.0.2.1", 1)),
            ("https://[::1]:8790", tls("::1", 8790)),
        ] {
            assert_eq!(Place::parse(text).unwrap(), place);
        }
        assert_eq!(Place::url("::1", 2), "https://[::1]:2");
        for bad in [
            "",
            "/a",
            "unix:a",
            "http://c1:1",
            "https://c1",
            "https://:1",
            "https://c1:0",
            "https://c1:x",
            "https://a/b:1",
        ] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
    }
}
