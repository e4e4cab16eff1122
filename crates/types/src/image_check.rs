//! What must be true of an image's bytes before a guest is made of them.
//!
//! The API finds it out with the user's token while it takes a request in; whoever fetches the bytes holds them against
//! it. Certificates and keys in it are public.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What was found out about the signature of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "check", rename_all = "snake_case")]
pub enum ImageCheck {
    /// The bytes must be what this signature is of.
    Signed(Signed),
    /// The image must not be used; why, in words for the server's owner.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
}

/// A signature, with all that is needed to hold bytes against it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// The id of the certificate with the key, for messages.
    pub certificate: String,
    /// How the bytes are hashed.
    pub hash: HashMethod,
    /// What kind of signature it is.
    pub key_type: KeyType,
    /// The key: base64 of its DER (RFC 5280, `SubjectPublicKeyInfo`).
    pub public_key: String,
    /// Base64 of the signature.
    pub signature: String,
}

/// A value of the image property `img_signature_hash_method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HashMethod {
    /// SHA-224.
    #[serde(rename = "SHA-224")]
    Sha224,
    /// SHA-256.
    #[serde(rename = "SHA-256")]
    Sha256,
    /// SHA-384.
    #[serde(rename = "SHA-384")]
    Sha384,
    /// SHA-512.
    #[serde(rename = "SHA-512")]
    Sha512,
}

impl HashMethod {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The property's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha224 => "SHA-224",
            Self::Sha256 => "SHA-256",
            Self::Sha384 => "SHA-384",
            Self::Sha512 => "SHA-512",
        }
    }
}

impl fmt::Display for HashMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A value of the image property `img_signature_key_type` that can be verified here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyType {
    /// RSA with PSS padding, MGF1 of the same hash and the longest salt.
    #[serde(rename = "RSA-PSS")]
    RsaPss,
    /// ECDSA on the curve P-384.
    #[serde(rename = "ECC_SECP384R1")]
    EccSecp384r1,
    /// ECDSA on the curve P-521.
    #[serde(rename = "ECC_SECP521R1")]
    EccSecp521r1,
}

impl KeyType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::RsaPss, Self::EccSecp384r1, Self::EccSecp521r1];

    /// The property's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RsaPss => "RSA-PSS",
            Self::EccSecp384r1 => "ECC_SECP384R1",
            Self::EccSecp521r1 => "ECC_SECP521R1",
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
