//! Secrets that must be stored for a while (`adminPass` until the guest has it) are sealed with Fernet: AES-128-CBC
//! and HMAC-SHA256, as specified in <https://github.com/fernet/spec>.

use fernet::{Fernet, MultiFernet};

/// Opens what was sealed before it was stored.
pub trait Secrets: Send + Sync + 'static {
    /// The secret in clear; none when it was sealed with an unknown key or was changed.
    fn open(&self, sealed: &str) -> Option<String>;
}

/// Seals and opens with the keys of one file.
pub struct SecretBox {
    keys: MultiFernet,
}

/// Why a key file cannot be used. Never shows what is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// There is nothing in it.
    #[error("the key file is empty")]
    Empty,
    /// Not the URL-safe base64 of 32 bytes.
    #[error("line {0} of the key file is not a Fernet key")]
    Line(usize),
}

impl SecretBox {
    /// Reads a key file: one key a line. The first key seals, every key opens, so that a new key can be put on top.
    ///
    /// # Errors
    /// When a line is not a key, or there is none.
    pub fn new(key_file: &[u8]) -> Result<Self, BadKey> {
        let mut keys = Vec::new();
        for (index, line) in key_file.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let key = std::str::from_utf8(line).ok().and_then(Fernet::new);
            keys.push(key.ok_or(BadKey::Line(index + 1))?);
        }
        if keys.is_empty() {
            return Err(BadKey::Empty);
        }
        Ok(Self {
            keys: MultiFernet::new(keys),
        })
    }

    /// A new random key for a key file.
    pub fn generate_key() -> String {
        Fernet::generate_key()
    }

    /// Seals a secret: text that is safe to store and different each time.
    pub fn seal(&self, clear: &str) -> String {
        self.keys.encrypt(clear.as_bytes())
    }
}

impl Secrets for SecretBox {
    fn open(&self, sealed: &str) -> Option<String> {
        String::from_utf8(self.keys.decrypt(sealed).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_sealed_opens_and_nothing_else() {
        let key = SecretBox::generate_key();
        let secrets = SecretBox::new(format!("{key}\n").as_bytes()).unwrap();
        for clear in ["", "s3cret", "päss wörd\n", &"x".repeat(255)] {
            let sealed = secrets.seal(clear);
            assert!(clear.is_empty() || !sealed.contains(clear));
            assert_ne!(sealed, secrets.seal(clear), "never twice the same");
            assert_eq!(secrets.open(&sealed).as_deref(), Some(clear));
        }
        let sealed = secrets.seal("s3cret");
        let stranger = SecretBox::new(SecretBox::generate_key().as_bytes()).unwrap();
        let middle = sealed.len() / 2;
        let other = if sealed.as_bytes()[middle] == b'A' {
            "B"
        } else {
            "A"
        };
        let changed = format!("{}{other}{}", &sealed[..middle], &sealed[middle + 1..]);
        assert_eq!(stranger.open(&sealed), None);
        for bad in [changed.as_str(), "", "s3cret"] {
            assert_eq!(secrets.open(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_new_key_on_top_still_opens_the_old() {
        let (old, new) = (SecretBox::generate_key(), SecretBox::generate_key());
        let sealed = SecretBox::new(old.as_bytes()).unwrap().seal("one");
        let both = SecretBox::new(format!("{new}\n{old}\n").as_bytes()).unwrap();
        assert_eq!(both.open(&sealed).as_deref(), Some("one"));
        let sealed = both.seal("two");
        let rotated = SecretBox::new(new.as_bytes()).unwrap();
        assert_eq!(rotated.open(&sealed).as_deref(), Some("two"));
    }

    #[test]
    fn bad_key_files_are_refused_without_being_shown() {
        let good = SecretBox::generate_key();
        let table = [
            (String::new(), BadKey::Empty),
            ("\n \n".into(), BadKey::Empty),
            ("hunter2".into(), BadKey::Line(1)),
            (format!("{good}\n\nhunter2\n"), BadKey::Line(3)),
        ];
        for (file, wanted) in table {
            let error = SecretBox::new(file.as_bytes()).err();
            assert_eq!(error, Some(wanted), "{file:?}");
            assert!(!format!("{error:?}").contains("hunter2"));
        }
        assert_eq!(SecretBox::new(b"\xff\xfe").err(), Some(BadKey::Line(1)));
    }
}
