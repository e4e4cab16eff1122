//! Whether bytes are what was signed.

use crate::Refusal;
use crate::keys::Key;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use types::image_check::{HashMethod, Signed};

/// A digest of bytes that come in pieces.
pub enum Hasher {
    /// SHA-224.
    Sha224(Sha224),
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-384.
    Sha384(Sha384),
    /// SHA-512.
    Sha512(Sha512),
}

impl Hasher {
    /// Of no bytes yet.
    pub fn new(method: HashMethod) -> Self {
        match method {
            HashMethod::Sha224 => Self::Sha224(Sha224::new()),
            HashMethod::Sha256 => Self::Sha256(Sha256::new()),
            HashMethod::Sha384 => Self::Sha384(Sha384::new()),
            HashMethod::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        match self {
            Self::Sha224(hash) => hash.update(piece),
            Self::Sha256(hash) => hash.update(piece),
            Self::Sha384(hash) => hash.update(piece),
            Self::Sha512(hash) => hash.update(piece),
        }
    }

    /// The digest.
    pub fn finish(self) -> Vec<u8> {
        match self {
            Self::Sha224(hash) => hash.finalize().to_vec(),
            Self::Sha256(hash) => hash.finalize().to_vec(),
            Self::Sha384(hash) => hash.finalize().to_vec(),
            Self::Sha512(hash) => hash.finalize().to_vec(),
        }
    }
}

/// Holds the digest of an image's bytes, made by the method that is asked for, against its signature.
pub fn verify(signed: &Signed, digest: &[u8]) -> Result<(), Refusal> {
    let (key, signature) = (
        STANDARD.decode(&signed.public_key),
        STANDARD.decode(&signed.signature),
    );
    let right = match (key, signature) {
        (Ok(key), Ok(signature)) => {
            let key = Key::read(&key);
            key.key_type() == Some(signed.key_type)
                && key.signed_image(signed.hash, digest, &signature)
        }
        _ => false,
    };
    if right {
        return Ok(());
    }
    Err(Refusal::Signature(format!(
        "its bytes are not what was signed with the key of certificate {} ({}, {}). Sign the image anew, or upload what \
         was signed.",
        signed.certificate, signed.key_type, signed.hash
    )))
}
