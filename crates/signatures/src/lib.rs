//! Signatures of images and the certificates they are made with, as pure functions.
//!
//! An owner signs the bytes of an image, puts the certificate into the key manager, and says all that in four of the
//! image's properties. Rules and names are Nova's (its user guide's page "Image Signature Certificate Validation") and
//! those of the library that it does it with, `cursive`: which hashes and key types there are, that PSS has the longest
//! salt, and how a chain of certificates is made of those that are trusted.
//!
//! What that library takes and this crate does not, for want of trusted code: DSA, and the binary curves `sect409` and
//! `sect571`. Certificates may be signed with RSA (PKCS #1 v1.5) or with ECDSA on P-256, P-384 and P-521, in both cases
//! with a hash of the SHA-2 family.

mod certificates;
mod keys;
mod properties;
mod verify;

pub use certificates::{Certificate, Trusted, validate};
pub use properties::Wanted;
pub use verify::{Hasher, verify};

/// Why an image is not used. The texts begin as Nova's do, and end with what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The image, its signature or the certificate that it was signed with.
    #[error("Signature verification for the image failed: {0}")]
    Signature(String),
    /// The certificate is not one that the server's owner trusts.
    #[error(
        "Image signature certificate validation failed for certificate: {certificate}. {reason}"
    )]
    Certificate {
        /// Its id in the key manager.
        certificate: String,
        /// Why, and what to do.
        reason: String,
    },
}

#[cfg(test)]
mod tests;
