//! `kilonova manage certificates`: the small authority by which agents of hosts and those whom they ask know each other.

use crate::arguments::{Certificates, Folder};
use crate::home::write_private;
use anyhow::{Context, Result, bail};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use web::tls::{HOST_URI, Identity};

/// Days that the authority and what it signs are good for.
const AUTHORITY_DAYS: i32 = 3650;
const SIGNED_DAYS: i32 = 825;

const AUTHORITY: &str = "ca.pem";
const AUTHORITY_KEY: &str = "ca.key";

/// The files in a folder of certificates.
pub(crate) struct Files<'a>(pub(crate) &'a Path);

impl Files<'_> {
    /// The authority's certificate.
    pub(crate) fn authority(&self) -> PathBuf {
        self.0.join(AUTHORITY)
    }

    /// What conductors and network services show agents.
    pub(crate) fn server(&self) -> Identity {
        self.identity("server")
    }

    /// What the agents of a host show.
    pub(crate) fn host(&self) -> Identity {
        self.identity("host")
    }

    fn identity(&self, name: &str) -> Identity {
        Identity {
            certificates: self.0.join(format!("{name}.pem")),
            key: self.0.join(format!("{name}.key")),
        }
    }
}

/// Does what a command wants.
pub(crate) fn run(command: &Certificates) -> Result<()> {
    match command {
        Certificates::Init(at) => init(&folder(at)),
        Certificates::Server { at, names, into } => {
            let folder = folder(at);
            let into = into.clone().unwrap_or_else(|| folder.clone());
            signed(&folder, &into, "server", &server_params(names)?)
        }
        Certificates::Host { at, name, into } => {
            let folder = folder(at);
            let into = match into {
                Some(into) => into.clone(),
                None => folder.join("hosts").join(name),
            };
            signed(&folder, &into, "host", &host_params(name)?)
        }
    }
}

fn folder(at: &Folder) -> PathBuf {
    match &at.folder {
        Some(folder) => folder.clone(),
        None => at.at.home.join("certificates"),
    }
}

fn private(folder: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make {}", folder.display()))
}

fn params(name: &str, days: i32) -> Result<CertificateParams> {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let day = |date: Date| -> Result<_> {
        let (month, day) = (u8::try_from(date.month())?, u8::try_from(date.day())?);
        Ok(rcgen::date_time_ymd(i32::from(date.year()), month, day))
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    // Clocks of other machines may be behind.
    params.not_before = day(today.checked_sub(1.day())?)?;
    params.not_after = day(today.checked_add(days.days())?)?;
    Ok(params)
}

fn authority_params() -> Result<CertificateParams> {
    let mut params = params("Kilonova agents", AUTHORITY_DAYS)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn init(folder: &Path) -> Result<()> {
    private(folder)?;
    let (certificate, key) = (folder.join(AUTHORITY), folder.join(AUTHORITY_KEY));
    if key.exists() || certificate.exists() {
        bail!(
            "there is an authority in {} already; hosts trust it, so it is not replaced",
            folder.display()
        );
    }
    let pair = KeyPair::generate()?;
    let made = authority_params()?.self_signed(&pair)?;
    write_private(&key, &pair.serialize_pem())?;
    write_private(&certificate, &made.pem())?;
    println!(
        "made the authority {}; keep {} safe",
        certificate.display(),
        key.display()
    );
    Ok(())
}

fn server_params(names: &[String]) -> Result<CertificateParams> {
    let first = names.first().context("a name or an address is missing")?;
    let mut params = params(first, SIGNED_DAYS)?;
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into()?),
        });
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn host_params(name: &str) -> Result<CertificateParams> {
    if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
        bail!("{name:?} is not a host's name");
    }
    let mut params = params(name, SIGNED_DAYS)?;
    let uri = format!("{HOST_URI}{name}");
    // By its name other hosts know whom they have reached, too.
    let known_as = match name.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into()?),
    };
    params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into()?), known_as];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    Ok(params)
}

/// Signs a new key with the authority in `folder` and writes both, and the authority's certificate, to `into`.
fn signed(folder: &Path, into: &Path, name: &str, params: &CertificateParams) -> Result<()> {
    let read = |file: &str| {
        let path = folder.join(file);
        std::fs::read_to_string(&path).with_context(|| {
            format!(
                "cannot read {}: run this on the machine with the authority (with --into for another machine), or, if the cloud has \
                 none yet, `kilonova manage certificates init` first",
                path.display()
            )
        })
    };
    let (authority, authority_key) = (read(AUTHORITY)?, read(AUTHORITY_KEY)?);
    let key = KeyPair::from_pem(&authority_key).context("the authority's key cannot be used")?;
    let issuer = Issuer::new(authority_params()?, key);
    private(into)?;
    let pair = KeyPair::generate()?;
    let made = params.signed_by(&pair, &issuer)?;
    let files = Files(into).identity(name);
    write_private(&files.key, &pair.serialize_pem())?;
    write_private(&files.certificates, &made.pem())?;
    if into != folder {
        write_private(&into.join(AUTHORITY), &authority)?;
    }
    println!("made {}", files.certificates.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_authority_is_made_once_and_signs() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("certificates");
        assert!(
            signed(
                &folder,
                &folder,
                "server",
                &server_params(&["c1".into()]).unwrap()
            )
            .is_err()
        );
        init(&folder).unwrap();
        let before = std::fs::read(folder.join(AUTHORITY)).unwrap();
        assert!(init(&folder).is_err());
        assert_eq!(std::fs::read(folder.join(AUTHORITY)).unwrap(), before);
        let names = ["c1".to_owned(), "192.0.2.1".to_owned(), "::1".to_owned()];
        signed(&folder, &folder, "server", &server_params(&names).unwrap()).unwrap();
        let host = folder.join("hosts/h1");
        signed(&folder, &host, "host", &host_params("h1").unwrap()).unwrap();
        for folder in [&folder, &host] {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let mode = entry.metadata().unwrap().permissions().mode();
                assert_eq!(mode & 0o077, 0, "{}", entry.path().display());
            }
        }
        // The authority's key stays where it is.
        assert!(!host.join(AUTHORITY_KEY).exists());
        let of_host = Files(&host);
        web::tls::client(Some(&of_host.authority()), Some(&of_host.host())).unwrap();
        let of_control = Files(&folder);
        web::tls::server(&of_control.server(), Some(&of_control.authority())).unwrap();
    }

    #[test]
    fn hosts_have_names() {
        for bad in ["", "../h1", "a/b", ".."] {
            assert!(host_params(bad).is_err(), "{bad}");
        }
    }
}
