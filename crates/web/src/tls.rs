//! TLS: what a server shows, what a client trusts, and which host of a cloud a peer's certificate names.
//!
//! Agents of hosts and those whom they ask know each other by certificates of a small authority of the cloud. The
//! certificate of a host holds the URI `kilonova://host/NAME` (RFC 5280, 4.2.1.6) and is good for clients only, that of a
//! conductor names its DNS names and addresses and is good for servers only: neither can stand in for the other.

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::extensions::GeneralName;

/// What the URI in a host's certificate begins with.
pub const HOST_URI: &str = "kilonova://host/";
/// The authorities that a Debian system trusts.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A certificate, with those between it and its authority, and its private key: two PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificates.
    pub certificates: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// The host that the certificate of a connection's peer names, as an extension of its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHost(pub Arc<str>);

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The parts do not fit.
    #[error("TLS: {0}")]
    Setup(String),
}

fn bad(path: &Path, reason: impl ToString) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn setup(error: impl ToString) -> TlsError {
    TlsError::Setup(error.to_string())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Makes this the provider of the process, for libraries that ask for one. Further calls change nothing.
pub fn install_provider() {
    // Somebody was faster, with the only provider there is.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).map_err(|error| bad(path, error))?;
    let all: Result<Vec<_>, _> = read.collect();
    let all = all.map_err(|error| bad(path, error))?;
    match all.is_empty() {
        true => Err(bad(path, "it holds no certificate")),
        false => Ok(all),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| bad(path, error))
}

fn authorities(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(path)?);
    match added {
        0 => Err(bad(path, "it holds no usable authority")),
        _ => Ok(Arc::new(roots)),
    }
}

/// A server that shows this certificate. With `clients`, it takes only connections whose certificate an authority in
/// that file has signed.
///
/// # Errors
/// When a file cannot be read or the key does not fit.
pub fn server(identity: &Identity, clients: Option<&Path>) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(setup)?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(authorities(path)?, provider());
            builder.with_client_cert_verifier(verifier.build().map_err(setup)?)
        }
    };
    let made = builder.with_single_cert(certificates(&identity.certificates)?, key(&identity.key)?);
    let mut config = made.map_err(|error| bad(&identity.key, error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A client that trusts the authorities in a file (none: the system's), and shows a certificate if it has one.
///
/// # Errors
/// When a file cannot be read or the key does not fit.
pub fn client(
    authority: Option<&Path>,
    identity: Option<&Identity>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = authorities(authority.unwrap_or(Path::new(SYSTEM_AUTHORITIES)))?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(setup)?
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder
            .with_client_auth_cert(certificates(&identity.certificates)?, key(&identity.key)?)
            .map_err(|error| bad(&identity.key, error))?,
    };
    Ok(Arc::new(config))
}

/// The host that a certificate names, if it is one of a host.
pub(crate) fn host_of(certificate: &CertificateDer<'_>) -> Option<PeerHost> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok().flatten()?;
    let host = names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix(HOST_URI),
            _ => None,
        })?;
    (!host.is_empty()).then(|| PeerHost(host.into()))
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
