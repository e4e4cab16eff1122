//! Certificates, and whether they can be trusted.

use crate::Refusal;
use crate::keys::Key;
use crate::verify::Hasher;
use types::Timestamp;
use types::image_check::HashMethod;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

/// Certificates above the one in question at most.
const MOST_LINKS: usize = 10;
/// Certificates of which a message says why they do not count.
const MOST_TOLD: usize = 3;
const NOT_UNDERSTOOD: &str = "it has a critical extension that is not known here";

/// A certificate (RFC 5280), read.
pub struct Certificate {
    der: Vec<u8>,
    public_key: Vec<u8>,
    key: Key,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    /// Seconds since 1970.
    from: i64,
    until: i64,
    /// Whether it says that it may sign others.
    signs_others: bool,
    /// Whether all that it calls critical is looked at here.
    understood: bool,
    /// How many more may stand between it and the last one; none is any number.
    path_length: Option<u32>,
    /// What its issuer signed, hashed, and the signature; none where the method is unknown here.
    signed: Option<(HashMethod, Vec<u8>)>,
    signature: Vec<u8>,
}

impl Certificate {
    /// Reads a certificate in DER or PEM.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
            let (_, pem) = x509_parser::pem::parse_x509_pem(bytes).ok()?;
            return (pem.label == "CERTIFICATE")
                .then(|| Self::of(&pem.contents))
                .flatten();
        }
        Self::of(bytes)
    }

    fn of(der: &[u8]) -> Option<Self> {
        let (_, read) = X509Certificate::from_der(der).ok()?;
        let constraints = read.basic_constraints().ok()?;
        let usage = read.key_usage().ok()?;
        let is_ca = constraints.as_ref().is_some_and(|found| found.value.ca);
        let hash = hash_of(&read.signature_algorithm.algorithm.to_id_string());
        let signed = hash.map(|hash| {
            let mut hasher = Hasher::new(hash);
            hasher.update(read.tbs_certificate.as_ref());
            (hash, hasher.finish())
        });
        Some(Self {
            der: der.to_vec(),
            public_key: read.public_key().raw.to_vec(),
            key: Key::of(read.public_key()),
            subject: read.subject().as_raw().to_vec(),
            issuer: read.issuer().as_raw().to_vec(),
            from: read.validity().not_before.timestamp(),
            until: read.validity().not_after.timestamp(),
            understood: is_understood(&read),
            signs_others: is_ca && usage.is_some_and(|usage| usage.value.key_cert_sign()),
            path_length: constraints.and_then(|found| found.value.path_len_constraint),
            signed,
            signature: read.signature_value.data.to_vec(),
        })
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// The key as DER.
    pub(crate) fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    fn is_valid_at(&self, now: Timestamp) -> bool {
        (self.from..=self.until).contains(&now.seconds())
    }

    fn signed_itself(&self) -> bool {
        self.is_issuer_of(self)
    }

    /// Whether it signed the other one.
    fn is_issuer_of(&self, other: &Self) -> bool {
        self.subject == other.issuer
            && other.signed.as_ref().is_some_and(|(hash, digest)| {
                self.key.signed_certificate(*hash, digest, &other.signature)
            })
    }
}

/// Whether all critical extensions are known here: what is critical and not understood must not be used (RFC 5280, 4.2).
/// Constraints of names and of policies are not looked at.
fn is_understood(read: &X509Certificate<'_>) -> bool {
    let mut critical = read.extensions().iter().filter(|one| one.critical);
    critical.all(|one| {
        matches!(
            one.parsed_extension(),
            ParsedExtension::BasicConstraints(_)
                | ParsedExtension::KeyUsage(_)
                | ParsedExtension::ExtendedKeyUsage(_)
                | ParsedExtension::SubjectAlternativeName(_)
                | ParsedExtension::SubjectKeyIdentifier(_)
                | ParsedExtension::AuthorityKeyIdentifier(_)
        )
    })
}

/// A certificate that the server's owner, or the cloud, trusts: its id, and what there is under it.
pub struct Trusted {
    /// The id in the key manager.
    pub id: String,
    /// The certificate, or why it could not be had.
    pub certificate: Result<Certificate, String>,
}

/// Whether a certificate was signed by one that is trusted, and that one by another, up to one that signed itself: all
/// links must be among those that are trusted, valid now and allowed to sign others.
pub fn validate(
    id: &str,
    certificate: &Certificate,
    trusted: &[Trusted],
    now: Timestamp,
) -> Result<(), Refusal> {
    let refused = |reason: String| Refusal::Certificate {
        certificate: id.to_owned(),
        reason,
    };
    if !certificate.is_valid_at(now) {
        return Err(refused(
            "The certificate is outside its valid date range. Sign the image anew with one that is valid.".to_owned(),
        ));
    }
    if !certificate.understood {
        return Err(refused(format!(
            "The certificate cannot be used: {NOT_UNDERSTOOD}."
        )));
    }
    let mut skipped = Vec::new();
    let mut anchors = Vec::new();
    for one in trusted {
        let usable = match &one.certificate {
            Err(reason) => Err(reason.as_str()),
            Ok(found) if !found.is_valid_at(now) => Err("it is outside its valid date range"),
            Ok(found) if !found.understood => Err(NOT_UNDERSTOOD),
            Ok(found) if !found.signs_others => Err(
                "it may not sign certificates (basic constraints with CA, key usage with keyCertSign)",
            ),
            Ok(found) => Ok(found),
        };
        match usable {
            Ok(found) => anchors.push((one.id.as_str(), found)),
            Err(reason) => skipped.push(format!("{} does not count: {reason}. ", one.id)),
        }
    }
    if let Some(more) = skipped
        .len()
        .checked_sub(MOST_TOLD)
        .filter(|more| *more > 0)
    {
        skipped.truncate(MOST_TOLD);
        skipped.push(format!("Nor do {more} more. "));
    }
    let skipped = skipped.concat();
    let chain = chain(certificate, &anchors).map_err(|last| {
        let last = last.map_or("the certificate".to_owned(), |id| {
            format!("certificate {id}")
        });
        // A server's fault shows 255 characters: the likely reason comes first.
        refused(format!(
            "{skipped}Trust all certificates up to one that signed itself: the issuer of {last} is missing."
        ))
    })?;
    // Of the certificates between this one and the one in question; those that issued themselves do not count.
    let mut between = 0;
    for (id, link) in chain {
        if link.path_length.is_some_and(|most| most < between) {
            return Err(refused(format!(
                "The path length of certificate {id} does not allow for as many certificates as there are below it."
            )));
        }
        between += u32::from(link.subject != link.issuer);
    }
    Ok(())
}

/// The trusted certificates above one, from its issuer up to one that signed itself; or after which there is none.
fn chain<'a>(
    certificate: &'a Certificate,
    anchors: &[(&'a str, &'a Certificate)],
) -> Result<Vec<(&'a str, &'a Certificate)>, Option<&'a str>> {
    let mut links: Vec<(&str, &Certificate)> = Vec::new();
    let mut last = certificate;
    while links.len() <= MOST_LINKS {
        if last.signed_itself() && anchors.iter().any(|(_, one)| one.der == last.der) {
            return Ok(links);
        }
        // Each link is another one: some authorities issued each other. One that signed itself is the shorter way.
        let above: Vec<_> = anchors
            .iter()
            .filter(|(_, one)| one.der != last.der && one.is_issuer_of(last))
            .filter(|(_, one)| links.iter().all(|(_, link)| link.der != one.der))
            .collect();
        let root = above.iter().find(|(_, one)| one.signed_itself());
        let below = links.last().map(|(id, _)| *id);
        let (id, issuer) = **root.or(above.first()).ok_or(below)?;
        links.push((id, issuer));
        last = issuer;
    }
    Err(links.last().map(|(id, _)| *id))
}

/// The hash of a signature algorithm: with RSA (RFC 8017) or ECDSA (RFC 5758). SHA-1 and older ones can be forged.
fn hash_of(algorithm: &str) -> Option<HashMethod> {
    match algorithm {
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => Some(HashMethod::Sha224),
        "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" => Some(HashMethod::Sha256),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(HashMethod::Sha384),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(HashMethod::Sha512),
        _ => None,
    }
}
