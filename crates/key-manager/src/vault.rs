//! Payloads at rest: sealed with Fernet (AES-128-CBC and HMAC-SHA256, <https://github.com/fernet/spec>).
//!
//! What is sealed begins with the secret's id. So whoever can write into the database, but has no key, cannot give a
//! secret the payload of another.

use fernet::{Fernet, MultiFernet};

/// Why a file of master keys cannot be used. Never shows what is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// There is nothing in it.
    #[error("the file of master keys is empty")]
    Empty,
    /// Not the URL-safe base64 of 32 bytes.
    #[error("line {0} of the file of master keys is not a Fernet key")]
    Line(usize),
}

/// Seals and opens payloads.
pub struct Vault {
    keys: MultiFernet,
}

impl Vault {
    /// Reads a file of master keys: one a line. The first seals, every one opens, so that a new key can be put on top.
    ///
    /// # Errors
    /// When a line is not a key, or there is none.
    pub fn new(file: &str) -> Result<Self, BadKey> {
        let mut keys = Vec::new();
        for (index, line) in file.lines().map(str::trim).enumerate() {
            if !line.is_empty() {
                keys.push(Fernet::new(line).ok_or(BadKey::Line(index + 1))?);
            }
        }
        if keys.is_empty() {
            return Err(BadKey::Empty);
        }
        Ok(Self {
            keys: MultiFernet::new(keys),
        })
    }

    /// The payload of a secret as text that is safe to store, different each time.
    pub fn seal(&self, id: &str, payload: &[u8]) -> String {
        let mut clear = id.as_bytes().to_vec();
        clear.extend_from_slice(payload);
        self.keys.encrypt(&clear)
    }

    /// The payload; none when it was sealed with another key or for another secret, or was changed.
    pub fn open(&self, id: &str, sealed: &str) -> Option<Vec<u8>> {
        let clear = self.keys.decrypt(sealed).ok()?;
        clear.strip_prefix(id.as_bytes()).map(<[u8]>::to_vec)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ID: &str = "6a54f3c0-3f5e-4b3a-9f0e-1f6f0f0e2b11";

    #[test]
    fn a_payload_opens_for_its_own_secret_only() {
        let vault = Vault::new(&Fernet::generate_key()).unwrap();
        for clear in [&b""[..], b"s3cret", &[0, 255, 128], &[b'x'; 20_000]] {
            let sealed = vault.seal(ID, clear);
            assert_ne!(sealed, vault.seal(ID, clear), "never twice the same");
            assert_eq!(vault.open(ID, &sealed).as_deref(), Some(clear));
            assert_eq!(vault.open(&ID.replace('6', "7"), &sealed), None);
        }
        let sealed = vault.seal(ID, b"s3cret");
        let stranger = Vault::new(&Fernet::generate_key()).unwrap();
        assert_eq!(stranger.open(ID, &sealed), None);
        let middle = sealed.len() / 2;
        let other = match sealed.as_bytes()[middle] {
            b'A' => "B",
            _ => "A",
        };
        let changed = format!("{}{other}{}", &sealed[..middle], &sealed[middle + 1..]);
        assert_eq!(vault.open(ID, &changed), None);
    }

    #[test]
    fn a_new_key_on_top_still_opens_the_old() {
        let (old, new) = (Fernet::generate_key(), Fernet::generate_key());
        let sealed = Vault::new(&old).unwrap().seal(ID, b"one");
        let both = Vault::new(&format!("{new}\n\n{old}\n")).unwrap();
        assert_eq!(both.open(ID, &sealed).as_deref(), Some(&b"one"[..]));
        let sealed = both.seal(ID, b"two");
        let rotated = Vault::new(&new).unwrap();
        assert_eq!(rotated.open(ID, &sealed).as_deref(), Some(&b"two"[..]));
    }

    #[test]
    fn bad_key_files_are_refused_without_being_shown() {
        let good = Fernet::generate_key();
        for (file, wanted) in [
            (String::new(), BadKey::Empty),
            ("\n \n".to_owned(), BadKey::Empty),
            ("hunter2".to_owned(), BadKey::Line(1)),
            (format!("{good}\n\nhunter2\n"), BadKey::Line(3)),
        ] {
            let error = Vault::new(&file).err();
            assert_eq!(error, Some(wanted), "{file:?}");
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }
}
