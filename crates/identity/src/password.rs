//! bcrypt, off the async threads and never more at once than there are cores.

use crate::fault::Fault;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// bcrypt reads this many bytes; the rest of a longer password does not count, as in Keystone.
const USED_BYTES: usize = 72;
/// Longest password that is read at all (Keystone's `max_password_length`).
pub const LONGEST: usize = 4096;
/// A salt for work whose result nobody reads.
const NO_SALT: [u8; 16] = [0; 16];

/// Hashes and checks passwords.
#[derive(Clone)]
pub struct Passwords {
    cost: u32,
    turns: Arc<Semaphore>,
}

impl Passwords {
    /// `cost` is bcrypt's: each step more doubles the work.
    pub fn new(cost: u32) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            cost: cost.clamp(4, 31),
            turns: Arc::new(Semaphore::new(cores)),
        }
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(u32) -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let _turn = self.turns.acquire().await.map_err(|_| Fault::Internal)?;
        let cost = self.cost;
        tokio::task::spawn_blocking(move || work(cost))
            .await
            .map_err(|_| Fault::Internal)
    }

    /// The hash to store.
    pub async fn hash(&self, password: &str) -> Result<String, Fault> {
        let password = used(password);
        self.work(move |cost| bcrypt::hash(password, cost))
            .await?
            .map_err(|error| {
                tracing::error!(%error, "bcrypt failed");
                Fault::Internal
            })
    }

    /// Whether the password is the one of `hash`. Without a hash the answer is no, after the same work.
    pub async fn verify(&self, password: &str, hash: Option<String>) -> Result<bool, Fault> {
        if password.len() > LONGEST {
            return Ok(false);
        }
        let password = used(password);
        self.work(move |cost| match hash {
            Some(hash) => bcrypt::verify(password, &hash).unwrap_or(false),
            None => {
                let _ = std::hint::black_box(bcrypt::hash_with_salt(password, cost, NO_SALT));
                false
            }
        })
        .await
    }
}

fn used(password: &str) -> Vec<u8> {
    password.as_bytes()[..password.len().min(USED_BYTES)].to_vec()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn passwords() {
        let passwords = Passwords::new(4);
        let long = "x".repeat(80);
        let hash = passwords.hash(&long).await.unwrap();
        let cases = [
            (long.clone(), true),
            ("x".repeat(72), true),
            ("x".repeat(71), false),
            (String::new(), false),
        ];
        for (password, wanted) in cases {
            assert_eq!(
                passwords
                    .verify(&password, Some(hash.clone()))
                    .await
                    .unwrap(),
                wanted,
                "{}",
                password.len()
            );
        }
        assert!(!passwords.verify(&long, None).await.unwrap());
        assert!(
            !passwords
                .verify("x", Some("garbage".to_owned()))
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn nobody_costs_as_much_as_somebody() {
        let passwords = Passwords::new(9);
        let hash = passwords.hash("secret").await.unwrap();
        let time = async |hash: Option<String>| {
            let start = std::time::Instant::now();
            passwords.verify("wrong", hash).await.unwrap();
            start.elapsed()
        };
        // The best of several: others may have the machine meanwhile.
        let (mut known, mut unknown) = (time(Some(hash.clone())).await, time(None).await);
        for _ in 0..10 {
            known = known.min(time(Some(hash.clone())).await);
            unknown = unknown.min(time(None).await);
        }
        assert!(
            unknown * 4 > known && known * 4 > unknown,
            "{known:?} {unknown:?}"
        );
    }
}
