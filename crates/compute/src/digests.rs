//! Digests of images' files, and what they are held against.
//!
//! A base image is no longer the file that was signed: it was converted, and the file is gone. Its digests stay, so that
//! each server has the signature verified with the certificates that it trusts, whoever has had the image fetched.

use crate::images::{Failure, fetch};
use serde::{Deserialize, Serialize};
use signatures::Hasher;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use types::ImageId;
use types::agent::{FailureKind, GuestImage};
use types::image_check::{HashMethod, ImageCheck};
use web::client::Client;

/// Images whose digests are remembered without files.
const MOST: usize = 1024;

/// Hex digests of the file of an image. SHA-512 is always there, others where a signature is of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Digests(BTreeMap<HashMethod, String>);

impl Digests {
    /// What was noted once.
    pub(crate) fn read(note: &str) -> Self {
        serde_json::from_str(note).unwrap_or_default()
    }

    /// As it is noted.
    pub(crate) fn note(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The SHA-512.
    pub(crate) fn sha512(&self) -> Option<&str> {
        self.0.get(&HashMethod::Sha512).map(String::as_str)
    }

    /// Holds them against what the image must be; false when the digest that counts is not among them.
    pub(crate) fn suffice(&self, image: &GuestImage) -> Result<bool, Failure> {
        let signed = match &image.check {
            None => return Ok(true),
            Some(ImageCheck::Refused { reason }) => {
                return Err((FailureKind::Request, reason.clone()));
            }
            Some(ImageCheck::Signed(signed)) => signed,
        };
        let digest = self
            .0
            .get(&signed.hash)
            .and_then(|text| hex::decode(text).ok());
        let Some(digest) = digest else {
            return Ok(false);
        };
        signatures::verify(signed, &digest)
            .map_err(|refusal| (FailureKind::Request, refusal.to_string()))?;
        Ok(true)
    }
}

/// Makes the digests of a file that comes in pieces.
pub(crate) struct Digesting(Vec<(HashMethod, Hasher)>);

impl Digesting {
    /// Those that are needed of an image.
    pub(crate) fn of(image: &GuestImage) -> Self {
        let mut methods = vec![HashMethod::Sha512];
        if let Some(ImageCheck::Signed(signed)) = &image.check
            && signed.hash != HashMethod::Sha512
        {
            methods.push(signed.hash);
        }
        let begun = methods
            .into_iter()
            .map(|method| (method, Hasher::new(method)));
        Self(begun.collect())
    }

    /// Takes the next piece.
    pub(crate) fn update(&mut self, piece: &[u8]) {
        for (_, hasher) in &mut self.0 {
            hasher.update(piece);
        }
    }

    /// The digests.
    pub(crate) fn finish(self) -> Digests {
        let done = self.0.into_iter();
        let done = done.map(|(method, hasher)| (method, hex::encode(hasher.finish())));
        Digests(done.collect())
    }
}

/// The digests of images for guests that need no files: only their signatures are verified, on the same bytes.
#[derive(Default)]
pub(crate) struct Seen(Mutex<HashMap<ImageId, Digests>>);

impl Seen {
    /// Holds the bytes of an image against what they must be; they are fetched the first time.
    pub(crate) async fn hold(
        &self,
        from: &Client,
        host: &str,
        image: &GuestImage,
    ) -> Result<(), Failure> {
        let known = self.lock().get(&image.id).cloned().unwrap_or_default();
        if known.suffice(image)? {
            return Ok(());
        }
        let digests = fetch(from, host, image, None).await?;
        digests.suffice(image)?;
        let mut seen = self.lock();
        if seen.len() >= MOST {
            seen.clear();
        }
        seen.insert(image.id, digests);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ImageId, Digests>> {
        // Each entry is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
