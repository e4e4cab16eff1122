//! Signed images: what the bytes of an image are held against before a guest is made of it.
//!
//! Rules are Nova's (`nova/image/glance.py`): a signature is verified where the cloud wants that, or where the server
//! names certificates that it trusts; then the one that the image was signed with must lead up to those. Nova looks all
//! of it up on the host, with the user's token. Here a token is never stored, so it is looked up while the request is
//! taken in. What is wrong is the server's fault, as there, and not the request's.

use crate::call::Call;
use clients::KeyError;
use futures_util::future::join_all;
use signatures::{Certificate, Refusal, Trusted, Wanted, validate};
use types::Timestamp;
use types::image_check::{ImageCheck, Signed};
use types::server::ImageRef;

/// Bytes of a certificate at most.
const MOST: usize = 64 * 1024;

/// `[glance] verify_glance_signatures`, `enable_certificate_validation` and `default_trusted_certificate_ids`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signatures {
    /// Guests are made of signed images only.
    pub verify: bool,
    /// The certificates that those were signed with must be trusted.
    pub validate: bool,
    /// The certificates that are trusted where a server names none.
    pub trusted: Vec<String>,
}

impl Signatures {
    /// The certificates that a server keeps as those that it trusts: those that it named, else the cloud's.
    pub(crate) fn kept(&self, named: Option<Vec<String>>) -> Option<Vec<String>> {
        let own = self.verify && self.validate && !self.trusted.is_empty();
        named.or_else(|| own.then(|| self.trusted.clone()))
    }

    /// The certificates that count for a server.
    fn counting<'a>(&'a self, kept: Option<&'a [String]>) -> &'a [String] {
        match kept {
            Some(kept) if !kept.is_empty() => kept,
            _ if self.validate => &self.trusted,
            _ => &[],
        }
    }
}

impl Call {
    /// What the bytes of an image must be for a server that keeps these certificates as trusted; none where nobody wants
    /// to know.
    pub async fn check_of(&self, image: &ImageRef, kept: Option<&[String]>) -> Option<ImageCheck> {
        let settings = &self.api.config.signatures;
        let trusted = settings.counting(kept);
        if trusted.is_empty() && !settings.verify {
            return None;
        }
        Some(match self.signed(image, trusted).await {
            Ok(signed) => ImageCheck::Signed(signed),
            Err(refusal) => {
                tracing::warn!(image = %image.id, %refusal, "an image is not used");
                let reason = refusal.to_string();
                ImageCheck::Refused { reason }
            }
        })
    }

    async fn signed(&self, image: &ImageRef, trusted: &[String]) -> Result<Signed, Refusal> {
        let wanted = Wanted::read(&image.properties)?;
        let id = &wanted.certificate;
        let certificate = self.certificate(id).await.map_err(|reason| {
            Refusal::Signature(format!(
                "certificate {id}, which the image names, could not be had: {reason}."
            ))
        })?;
        let signed = wanted.with(&certificate)?;
        if !trusted.is_empty() {
            let trusted = trusted.iter().map(|id| async move {
                Trusted {
                    id: id.clone(),
                    certificate: self.certificate(id).await,
                }
            });
            let trusted: Vec<Trusted> = join_all(trusted).await;
            validate(id, &certificate, &trusted, Timestamp::now())?;
        } else if self.api.config.signatures.validate {
            return Err(Refusal::Certificate {
                certificate: id.clone(),
                reason: "This cloud validates certificates and trusts none itself: name those that you trust in \
                         trusted_image_certificates."
                    .to_owned(),
            });
        }
        Ok(signed)
    }

    /// A certificate of the key manager, or why there is none, in words for the owner of a server.
    async fn certificate(&self, id: &str) -> Result<Certificate, String> {
        let payload = match self.api.deps.keys.payload(&self.token, id).await {
            Ok(payload) => payload,
            Err(error) => {
                let words = match &error {
                    KeyError::NotFound(_) => "the key manager has no secret with this id",
                    KeyError::NotAllowed(_) => "the key manager does not show it to you",
                    KeyError::Unreachable(_) => "the key manager does not answer; try again later",
                    KeyError::Unexpected(_) => "the key manager's answer makes no sense",
                };
                tracing::warn!(certificate = id, %error, "a certificate cannot be had");
                return Err(words.to_owned());
            }
        };
        let bytes = Some(payload.0).filter(|bytes| bytes.len() <= MOST);
        bytes
            .and_then(|bytes| Certificate::read(&bytes))
            .ok_or_else(|| "it is no X.509 certificate".to_owned())
    }
}
