//! How the way to a database server is secured: by TLS where the URL names an authority, else not at all.
//!
//! There is nothing between. With TLS the server's certificate and name are always verified; encryption that does not
//! check who answers keeps out nobody who can come between, so a URL that asks for it is refused.

use crate::Error;
use percent_encoding::percent_decode_str;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

// The crate `mysql` trusts this list, too: it must be the empty one of `patches`.
const _: () = assert!(webpki_roots::TLS_SERVER_ROOTS.is_empty());

/// How a connection is secured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    /// Not at all.
    Plain,
    /// By TLS.
    Tls(Tls),
}

/// The files that TLS needs, in PEM. They are read for each connection, so renewed ones count without a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    /// The certificates of the authorities that the server's certificate may come from.
    pub(crate) authority: PathBuf,
    /// What is shown to a server that wants to see a certificate.
    pub(crate) identity: Option<Identity>,
}

/// A certificate and its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The certificate, and those between it and its authority.
    pub(crate) certificate: PathBuf,
    /// The private key.
    pub(crate) key: PathBuf,
}

impl Security {
    /// Takes libpq's options out of a URL. The rest of the URL is for the driver.
    pub(crate) fn of_postgres(url: &str) -> Result<(String, Self), Error> {
        let names = ["sslmode", "sslrootcert", "sslcert", "sslkey"];
        let (rest, given) = Given::take(url, &names)?;
        let tls = given.files("sslrootcert", "sslcert", "sslkey")?;
        let security = match (given.get("sslmode"), tls) {
            (None | Some("disable"), None) => Self::Plain,
            (Some("disable"), Some(_)) => {
                return Err(bad("sslmode=disable does not go with sslrootcert"));
            }
            (
                None | Some("verify-full" | "verify-ca" | "require" | "prefer" | "allow"),
                Some(tls),
            ) => Self::Tls(tls),
            (Some(mode @ ("verify-full" | "verify-ca" | "require" | "prefer" | "allow")), None) => {
                return Err(bad(format!(
                    "sslmode={mode} needs sslrootcert=FILE, the authority by which the server is verified"
                )));
            }
            (Some(other), _) => {
                return Err(bad(format!(
                    "sslmode={other} is neither disable nor verify-full"
                )));
            }
        };
        Ok((rest, security))
    }

    /// Takes the options out of a URL as users of PyMySQL and SQLAlchemy write them. The rest is for the driver.
    pub(crate) fn of_mysql(url: &str) -> Result<(String, Self), Error> {
        // Always done here, so they can only agree.
        let checks = [
            "ssl_verify_cert",
            "ssl_verify_identity",
            "ssl_check_hostname",
        ];
        let names = ["ssl_ca", "ssl_cert", "ssl_key"];
        let (rest, given) = Given::take(url, &[&names[..], &checks[..]].concat())?;
        let tls = given.files("ssl_ca", "ssl_cert", "ssl_key")?;
        for name in checks {
            match given.get(name) {
                Some("true" | "True" | "1") if tls.is_none() => return Err(needs(name, "ssl_ca")),
                None | Some("true" | "True" | "1") => {}
                Some(_) => {
                    return Err(bad(format!(
                        "{name} can only be true: the server is always verified"
                    )));
                }
            }
        }
        Ok((rest, tls.map_or(Self::Plain, Self::Tls)))
    }

    /// What rustls needs for TLS, if it is TLS.
    pub(crate) fn config(&self) -> Result<Option<ClientConfig>, Error> {
        match self {
            Self::Plain => Ok(None),
            Self::Tls(tls) => tls.config().map(Some),
        }
    }
}

impl Tls {
    fn config(&self) -> Result<ClientConfig, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.authority)? {
            roots
                .add(certificate)
                .map_err(|error| bad_file(&self.authority, error))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(bad)?
            .with_root_certificates(roots);
        let Some(identity) = &self.identity else {
            return Ok(builder.with_no_client_auth());
        };
        let shown = certificates(&identity.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&identity.key)
            .map_err(|error| bad_file(&identity.key, error))?;
        builder
            .with_client_auth_cert(shown, key)
            .map_err(|error| bad_file(&identity.certificate, error))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| bad_file(path, error))?;
    match all.is_empty() {
        true => Err(bad_file(path, "it holds no certificate")),
        false => Ok(all),
    }
}

fn bad(text: impl Display) -> Error {
    Error::Url(text.to_string())
}

fn bad_file(path: &Path, error: impl Display) -> Error {
    bad(format!("{}: {error}", path.display()))
}

fn needs(option: &str, other: &str) -> Error {
    bad(format!("{option} needs {other}=FILE beside it"))
}

/// Options of a URL, by name.
struct Given(Vec<(&'static str, String)>);

impl Given {
    /// Takes the options with these names out of a URL.
    fn take(url: &str, names: &[&'static str]) -> Result<(String, Self), Error> {
        // A password may hold a question mark.
        let login = url.find('@').unwrap_or(0);
        let Some(query) = url[login..].find('?').map(|at| login + at) else {
            return Ok((url.to_owned(), Self(Vec::new())));
        };
        let mut given = Self(Vec::new());
        let mut others = Vec::new();
        for option in url[query + 1..].split('&') {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let name = percent_decode_str(name).decode_utf8_lossy();
            let Some(name) = names.iter().find(|known| **known == name) else {
                others.push(option);
                continue;
            };
            let value = percent_decode_str(value).decode_utf8();
            let value = value.map_err(|error| bad(format!("{name}: {error}")))?;
            if value.is_empty() {
                return Err(bad(format!("{name} is empty")));
            }
            if given.get(name).is_some() {
                return Err(bad(format!("{name} is there twice")));
            }
            given.0.push((name, value.into_owned()));
        }
        let mut rest = url[..query].to_owned();
        if !others.is_empty() {
            rest.push('?');
            rest.push_str(&others.join("&"));
        }
        Ok((rest, given))
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_str())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    fn files(&self, authority: &str, certificate: &str, key: &str) -> Result<Option<Tls>, Error> {
        let identity = match (self.path(certificate), self.path(key)) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
            (Some(_), None) => return Err(needs(certificate, key)),
            (None, Some(_)) => return Err(needs(key, certificate)),
        };
        match (self.path(authority), identity) {
            (Some(authority), identity) => Ok(Some(Tls {
                authority,
                identity,
            })),
            (None, Some(_)) => Err(needs(certificate, authority)),
            (None, None) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What is left of the URL and how it is secured, or what the error says.
    type Case = (&'static str, Result<(&'static str, Security), &'static str>);

    fn tls(authority: &str) -> Security {
        Security::Tls(Tls {
            authority: authority.into(),
            identity: None,
        })
    }

    fn mutual(authority: &str, certificate: &str, key: &str) -> Security {
        Security::Tls(Tls {
            authority: authority.into(),
            identity: Some(Identity {
                certificate: certificate.into(),
                key: key.into(),
            }),
        })
    }

    fn check(parse: fn(&str) -> Result<(String, Security), Error>, base: &str, cases: Vec<Case>) {
        for (options, wanted) in cases {
            match (parse(&format!("{base}{options}")), wanted) {
                (Ok((rest, security)), Ok((left, wanted))) => {
                    assert_eq!(rest, format!("{base}{left}"), "{options}");
                    assert_eq!(security, wanted, "{options}");
                }
                (Err(error), Err(wanted)) => {
                    let text = error.to_string();
                    assert!(text.contains(wanted), "{options}: {text}");
                    assert!(!text.contains("s3?cret"), "{options}: {text}");
                }
                (found, wanted) => panic!("{options}: {found:?}, not {wanted:?}"),
            }
        }
    }

    #[test]
    fn options_of_postgres() {
        let cases: Vec<Case> = vec![
            ("", Ok(("", Security::Plain))),
            (
                "?options=-cx%3Dy",
                Ok(("?options=-cx%3Dy", Security::Plain)),
            ),
            ("?sslmode=disable", Ok(("", Security::Plain))),
            (
                "?sslmode=verify-full&sslrootcert=/ca.pem",
                Ok(("", tls("/ca.pem"))),
            ),
            (
                "?sslmode=verify-ca&sslrootcert=/ca.pem",
                Ok(("", tls("/ca.pem"))),
            ),
            (
                "?sslmode=require&sslrootcert=/ca.pem",
                Ok(("", tls("/ca.pem"))),
            ),
            (
                "?sslmode=prefer&sslrootcert=/ca.pem",
                Ok(("", tls("/ca.pem"))),
            ),
            ("?sslrootcert=/ca.pem", Ok(("", tls("/ca.pem")))),
            (
                "?a=b&sslrootcert=%2Fmy%20ca.pem&c=d&ssl%6Dode=verify-full",
                Ok(("?a=b&c=d", tls("/my ca.pem"))),
            ),
            (
                "?sslrootcert=/ca.pem&sslcert=/c.pem&sslkey=/k.pem",
                Ok(("", mutual("/ca.pem", "/c.pem", "/k.pem"))),
            ),
            (
                "?sslmode=verify-full",
                Err("verify-full needs sslrootcert=FILE"),
            ),
            (
                "?sslmode=verify-ca",
                Err("verify-ca needs sslrootcert=FILE"),
            ),
            ("?sslmode=require", Err("require needs sslrootcert=FILE")),
            ("?sslmode=prefer", Err("prefer needs sslrootcert=FILE")),
            ("?sslmode=allow", Err("allow needs sslrootcert=FILE")),
            ("?sslmode=on", Err("sslmode=on is neither")),
            ("?sslmode=", Err("sslmode is empty")),
            ("?sslmode", Err("sslmode is empty")),
            (
                "?sslrootcert=&sslmode=verify-full",
                Err("sslrootcert is empty"),
            ),
            (
                "?sslrootcert=/a&sslrootcert=/b",
                Err("sslrootcert is there twice"),
            ),
            ("?sslrootcert=%ff", Err("sslrootcert: invalid utf-8")),
            (
                "?sslmode=disable&sslrootcert=/ca.pem",
                Err("disable does not go with sslrootcert"),
            ),
            (
                "?sslrootcert=/ca.pem&sslcert=/c.pem",
                Err("sslcert needs sslkey=FILE"),
            ),
            (
                "?sslrootcert=/ca.pem&sslkey=/k.pem",
                Err("sslkey needs sslcert=FILE"),
            ),
            (
                "?sslcert=/c.pem&sslkey=/k.pem",
                Err("sslcert needs sslrootcert=FILE"),
            ),
        ];
        check(Security::of_postgres, "postgres://u:s3?cret@h/d", cases);
    }

    #[test]
    fn options_of_mysql() {
        let cases: Vec<Case> = vec![
            ("", Ok(("", Security::Plain))),
            ("?compress=fast", Ok(("?compress=fast", Security::Plain))),
            ("?ssl_ca=/ca.pem", Ok(("", tls("/ca.pem")))),
            (
                "?ssl_ca=/ca.pem&ssl_cert=/c.pem&compress=fast&ssl_key=/k.pem",
                Ok(("?compress=fast", mutual("/ca.pem", "/c.pem", "/k.pem"))),
            ),
            (
                "?ssl_ca=/ca.pem&ssl_verify_cert=true&ssl_verify_identity=1&ssl_check_hostname=True",
                Ok(("", tls("/ca.pem"))),
            ),
            // Of the other database, so the driver says that it does not know it.
            (
                "?sslmode=require",
                Ok(("?sslmode=require", Security::Plain)),
            ),
            ("?ssl_ca=", Err("ssl_ca is empty")),
            ("?ssl_ca=/a&ssl_ca=/a", Err("ssl_ca is there twice")),
            (
                "?ssl_ca=/ca.pem&ssl_cert=/c.pem",
                Err("ssl_cert needs ssl_key=FILE"),
            ),
            (
                "?ssl_ca=/ca.pem&ssl_key=/k.pem",
                Err("ssl_key needs ssl_cert=FILE"),
            ),
            (
                "?ssl_cert=/c.pem&ssl_key=/k.pem",
                Err("ssl_cert needs ssl_ca=FILE"),
            ),
            (
                "?ssl_verify_cert=true",
                Err("ssl_verify_cert needs ssl_ca=FILE"),
            ),
            (
                "?ssl_ca=/ca.pem&ssl_verify_cert=false",
                Err("ssl_verify_cert can only be true"),
            ),
            (
                "?ssl_ca=/ca.pem&ssl_check_hostname=0",
                Err("ssl_check_hostname can only be true"),
            ),
        ];
        check(Security::of_mysql, "mysql://u:s3?cret@h/d", cases);
    }
}
