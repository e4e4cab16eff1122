//! Public keys, and whether a signature is theirs.

use p384::ecdsa::signature::hazmat::PrehashVerifier;
use rsa::{BigUint, Pkcs1v15Sign, Pss, RsaPublicKey};
use sha2::{Sha224, Sha256, Sha384, Sha512};
use types::image_check::{HashMethod, KeyType};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Bits of an RSA key at most: longer ones only cost time.
const MOST_BITS: usize = 8192;
/// Bytes of a field element of P-521.
const P521_BYTES: usize = 66;

/// A public key.
pub(crate) enum Key {
    /// RSA.
    Rsa(RsaPublicKey),
    /// The curve P-256.
    P256(p256::ecdsa::VerifyingKey),
    /// The curve P-384.
    P384(p384::ecdsa::VerifyingKey),
    /// The curve P-521.
    P521(Box<p521::ecdsa::VerifyingKey>),
    /// What cannot be used here: what it is.
    Other(String),
}

impl Key {
    /// Reads a DER `SubjectPublicKeyInfo` (RFC 5280).
    pub(crate) fn read(der: &[u8]) -> Self {
        SubjectPublicKeyInfo::from_der(der).map_or_else(
            |_| Self::Other("no public key".to_owned()),
            |(_, info)| Self::of(&info),
        )
    }

    /// Understands a key.
    pub(crate) fn of(info: &SubjectPublicKeyInfo<'_>) -> Self {
        let bad = || Self::Other("a broken key".to_owned());
        match info.parsed() {
            Ok(PublicKey::RSA(key)) => {
                let (n, e) = (key.modulus, key.exponent);
                let (n, e) = (BigUint::from_bytes_be(n), BigUint::from_bytes_be(e));
                let key = RsaPublicKey::new_with_max_size(n, e, MOST_BITS);
                key.map_or_else(|_| bad(), Self::Rsa)
            }
            Ok(PublicKey::EC(point)) => {
                let curve = info.algorithm.parameters.as_ref();
                let curve = curve.and_then(|named| named.as_oid().ok());
                let curve = curve.map(|oid| oid.to_id_string()).unwrap_or_default();
                let point = point.data();
                match curve.as_str() {
                    "1.2.840.10045.3.1.7" => {
                        let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(point);
                        key.map_or_else(|_| bad(), Self::P256)
                    }
                    "1.3.132.0.34" => {
                        let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(point);
                        key.map_or_else(|_| bad(), Self::P384)
                    }
                    "1.3.132.0.35" => {
                        let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(point);
                        key.map_or_else(|_| bad(), |key| Self::P521(Box::new(key)))
                    }
                    other => Self::Other(format!("of the curve {other}")),
                }
            }
            Ok(PublicKey::DSA(_)) => Self::Other("DSA".to_owned()),
            _ => Self::Other(format!("of the algorithm {}", info.algorithm.algorithm)),
        }
    }

    /// The type by which images' properties name it.
    pub(crate) fn key_type(&self) -> Option<KeyType> {
        match self {
            Self::Rsa(_) => Some(KeyType::RsaPss),
            Self::P384(_) => Some(KeyType::EccSecp384r1),
            Self::P521(_) => Some(KeyType::EccSecp521r1),
            Self::P256(_) | Self::Other(_) => None,
        }
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &str {
        match self {
            Self::Rsa(_) => "RSA",
            Self::P256(_) => "of the curve P-256",
            Self::P384(_) => "of the curve P-384",
            Self::P521(_) => "of the curve P-521",
            Self::Other(what) => what,
        }
    }

    /// Whether a certificate's signature is this key's: RSA with PKCS #1 v1.5, or ECDSA.
    pub(crate) fn signed_certificate(
        &self,
        hash: HashMethod,
        digest: &[u8],
        signature: &[u8],
    ) -> bool {
        match self {
            Self::Rsa(key) => {
                let padding = Pkcs1v15Sign {
                    hash_len: Some(digest.len()),
                    prefix: digest_info(hash).into(),
                };
                key.verify(padding, digest, signature).is_ok()
            }
            _ => self.signed_by_curve(digest, signature),
        }
    }

    /// Whether an image's signature is this key's: RSA with PSS and the longest salt, or ECDSA.
    pub(crate) fn signed_image(&self, hash: HashMethod, digest: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rsa(key) => {
                let Some(padding) = longest_salt(key, hash, digest.len()) else {
                    return false;
                };
                key.verify(padding, digest, signature).is_ok()
            }
            _ => self.signed_by_curve(digest, signature),
        }
    }

    fn signed_by_curve(&self, digest: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::P256(key) => p256::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify_prehash(digest, &signature).is_ok()),
            Self::P384(key) => p384::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify_prehash(digest, &signature).is_ok()),
            Self::P521(key) => {
                // A digest is a number: zeros before it change nothing. The crate refuses those that are short.
                let mut padded = [0; P521_BYTES];
                let start = P521_BYTES.saturating_sub(digest.len());
                padded[start..].copy_from_slice(&digest[..digest.len().min(P521_BYTES)]);
                p521::ecdsa::Signature::from_der(signature)
                    .is_ok_and(|signature| key.verify_prehash(&padded, &signature).is_ok())
            }
            Self::Rsa(_) | Self::Other(_) => false,
        }
    }
}

/// PSS whose salt fills what the key leaves (RFC 8017, 9.1.1); none when the key is too short for the hash.
fn longest_salt(key: &RsaPublicKey, hash: HashMethod, digest: usize) -> Option<Pss> {
    use rsa::traits::PublicKeyParts;
    let encoded = key.n().bits().checked_sub(1)?.div_ceil(8);
    let salt = encoded.checked_sub(digest + 2)?;
    Some(match hash {
        HashMethod::Sha224 => Pss::new_with_salt::<Sha224>(salt),
        HashMethod::Sha256 => Pss::new_with_salt::<Sha256>(salt),
        HashMethod::Sha384 => Pss::new_with_salt::<Sha384>(salt),
        HashMethod::Sha512 => Pss::new_with_salt::<Sha512>(salt),
    })
}

/// What PKCS #1 v1.5 puts before a digest (RFC 8017, 9.2, note 1).
fn digest_info(hash: HashMethod) -> Vec<u8> {
    let (number, length) = match hash {
        HashMethod::Sha224 => (4, 28),
        HashMethod::Sha256 => (1, 32),
        HashMethod::Sha384 => (2, 48),
        HashMethod::Sha512 => (3, 64),
    };
    let mut prefix = vec![0x30, 17 + length, 0x30, 0x0d, 0x06, 0x09];
    prefix.extend([0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, number]);
    prefix.extend([0x05, 0x00, 0x04, length]);
    prefix
}
