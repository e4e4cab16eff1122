//! The key repositories: fernet keys as numbered files that only their owner may read.
//!
//! The file with the highest number seals; every key opens, so that rotation ends no token. This is the layout of
//! Keystone's key repository (Keystone administrator guide, "Fernet - Frequently Asked Questions").

use fernet::{Fernet, MultiFernet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// The repository of those that seal tokens, in a service's key folder.
pub(crate) const FERNET: &str = "fernet-keys";

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The folder or a file cannot be read or written.
    #[error("key repository {0}: {1}")]
    Io(String, io::Error),
    /// A file does not hold a fernet key.
    #[error("{0} is not a fernet key")]
    NotAKey(String),
}

/// Whether there are keys of tokens in the key folder of a service.
///
/// # Errors
/// It cannot be read.
pub fn are_in(key_folder: &Path) -> io::Result<bool> {
    match numbers(&key_folder.join(FERNET)) {
        Ok(numbers) => Ok(!numbers.is_empty()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Seals and opens with the keys of one folder.
pub struct Keyring {
    keys: MultiFernet,
}

impl Keyring {
    /// Reads the keys of `folder`; makes the folder (mode 0700) and a first key (mode 0600) if there is none.
    pub fn open(folder: &Path) -> Result<Self, KeyError> {
        let failed = |error| KeyError::Io(folder.display().to_string(), error);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed)?;
        let mut numbers = numbers(folder).map_err(failed)?;
        if numbers.is_empty() {
            write_key(folder, 1).map_err(failed)?;
            numbers.push(1);
        }
        let mut keys = Vec::new();
        for number in numbers.iter().rev() {
            let path = folder.join(number.to_string());
            let text = fs::read_to_string(&path).map_err(failed)?;
            keys.push(
                Fernet::new(text.trim())
                    .ok_or_else(|| KeyError::NotAKey(path.display().to_string()))?,
            );
        }
        Ok(Self {
            keys: MultiFernet::new(keys),
        })
    }

    /// Adds a new key, which seals from the next [`Keyring::open`] on, and removes the oldest beyond `keep` keys.
    pub fn rotate(folder: &Path, keep: usize) -> Result<(), KeyError> {
        let failed = |error| KeyError::Io(folder.display().to_string(), error);
        let mut numbers = numbers(folder).map_err(failed)?;
        let next = numbers.last().map_or(1, |last| last + 1);
        write_key(folder, next).map_err(failed)?;
        numbers.push(next);
        for old in &numbers[..numbers.len().saturating_sub(keep.max(1))] {
            fs::remove_file(folder.join(old.to_string())).map_err(failed)?;
        }
        Ok(())
    }

    /// Encrypts and signs.
    pub fn seal(&self, data: &[u8]) -> String {
        self.keys.encrypt(data)
    }

    /// Checks and decrypts; `None` when no key fits.
    pub fn unseal(&self, text: &str) -> Option<Vec<u8>> {
        self.keys.decrypt(text).ok()
    }
}

fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        all.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u64>().ok()),
        );
    }
    all.sort_unstable();
    Ok(all)
}

fn write_key(folder: &Path, number: u64) -> io::Result<()> {
    let path = folder.join(number.to_string());
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(Fernet::generate_key().as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_rotate_and_stay_private() {
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join(FERNET);
        assert!(!are_in(folder.path()).unwrap());
        let first = Keyring::open(&repository).unwrap().seal(b"one");
        assert!(are_in(folder.path()).unwrap());
        Keyring::rotate(&repository, 2).unwrap();
        let ring = Keyring::open(&repository).unwrap();
        assert_eq!(ring.unseal(&first).as_deref(), Some(&b"one"[..]));
        let second = ring.seal(b"two");
        Keyring::rotate(&repository, 2).unwrap();
        let ring = Keyring::open(&repository).unwrap();
        assert_eq!(ring.unseal(&first), None, "the oldest key is gone");
        assert_eq!(ring.unseal(&second).as_deref(), Some(&b"two"[..]));
        assert_eq!(
            ring.unseal(second.trim_end_matches('=')).as_deref(),
            Some(&b"two"[..])
        );
        assert_eq!(
            fs::metadata(&repository).unwrap().permissions().mode() & 0o777,
            0o700
        );
        for entry in fs::read_dir(&repository).unwrap() {
            assert_eq!(
                entry.unwrap().metadata().unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
        fs::write(repository.join("99"), "not a key").unwrap();
        assert!(matches!(
            Keyring::open(&repository),
            Err(KeyError::NotAKey(_))
        ));
    }
}
