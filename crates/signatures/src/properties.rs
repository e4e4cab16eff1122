//! What an image says of its signature.

use crate::Refusal;
use crate::certificates::Certificate;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use types::image_check::{HashMethod, KeyType, Signed};

/// Types of keys of which the image's owner may have heard, and which are not verified here.
const UNSUPPORTED: [&str; 5] = [
    "DSA",
    "ECC_SECT409K1",
    "ECC_SECT409R1",
    "ECC_SECT571K1",
    "ECC_SECT571R1",
];

/// The four properties of a signed image, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `img_signature_certificate_uuid`.
    pub certificate: String,
    /// `img_signature_hash_method`.
    pub hash: HashMethod,
    /// `img_signature_key_type`.
    pub key_type: KeyType,
    /// `img_signature`: base64, checked.
    pub signature: String,
}

impl Wanted {
    /// Reads an image's properties.
    pub fn read(properties: &BTreeMap<String, String>) -> Result<Self, Refusal> {
        let text = |name: &str| {
            properties.get(name).ok_or_else(|| {
                Refusal::Signature(format!(
                    "the image has no property {name}. Only an image with a signature can be used here: sign it, or use \
                     another one."
                ))
            })
        };
        let certificate = text("img_signature_certificate_uuid")?.clone();
        let (hash, key_type) = (
            text("img_signature_hash_method")?,
            text("img_signature_key_type")?,
        );
        // Tools wrap long base64.
        let signature = text("img_signature")?.split_ascii_whitespace();
        let signature: String = signature.collect();
        if STANDARD.decode(&signature).is_err() || signature.is_empty() {
            return Err(Refusal::Signature(
                "the image property img_signature is not base64. Set it anew.".to_owned(),
            ));
        }
        Ok(Self {
            certificate,
            hash: hash_method(hash)?,
            key_type: key_type_of(key_type)?,
            signature,
        })
    }

    /// What bytes are held against, once there is the certificate that is named.
    pub fn with(&self, certificate: &Certificate) -> Result<Signed, Refusal> {
        let key = certificate.key();
        if key.key_type() != Some(self.key_type) {
            return Err(Refusal::Signature(format!(
                "the key of certificate {} is {}, and img_signature_key_type is {}. Set that property anew.",
                self.certificate,
                key.kind(),
                self.key_type
            )));
        }
        Ok(Signed {
            certificate: self.certificate.clone(),
            hash: self.hash,
            key_type: self.key_type,
            public_key: STANDARD.encode(certificate.public_key()),
            signature: self.signature.clone(),
        })
    }
}

fn hash_method(name: &str) -> Result<HashMethod, Refusal> {
    let found = HashMethod::ALL
        .into_iter()
        .find(|method| method.as_str() == name);
    found.ok_or_else(|| {
        let all = HashMethod::ALL.map(HashMethod::as_str).join(", ");
        Refusal::Signature(format!(
            "the image property img_signature_hash_method is {name:?}; it must be one of {all}."
        ))
    })
}

fn key_type_of(name: &str) -> Result<KeyType, Refusal> {
    let found = KeyType::ALL.into_iter().find(|kind| kind.as_str() == name);
    found.ok_or_else(|| {
        let all = KeyType::ALL.map(KeyType::as_str).join(", ");
        let what = if UNSUPPORTED.contains(&name) {
            "cannot be verified in this cloud"
        } else {
            "is no type of keys"
        };
        Refusal::Signature(format!(
            "img_signature_key_type is {name:?}, which {what}. Sign the image with a key of the types {all}."
        ))
    })
}
