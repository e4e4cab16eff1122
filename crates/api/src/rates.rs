//! How many requests one token and one address may make: token buckets, off unless configured. A bucket holds the
//! allowance of one period and fills up evenly.

use moka::sync::Cache;
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Buckets kept at most; beyond that the least used are forgotten, which gives their owners a full one.
const BUCKETS: u64 = 100_000;

/// So many requests in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests, also at once.
    pub requests: u32,
    /// Seconds in which as many come back.
    pub seconds: u32,
}

struct Bucket {
    left: f64,
    at: Instant,
}

/// The buckets of everybody.
pub struct Rates {
    limit: RateLimit,
    buckets: Cache<[u8; 32], Arc<Mutex<Bucket>>>,
}

impl Rates {
    /// Full buckets for everybody.
    pub fn new(limit: RateLimit) -> Self {
        let period = Duration::from_secs(limit.seconds.max(1).into());
        let buckets = Cache::builder()
            .max_capacity(BUCKETS)
            .time_to_idle(period * 2)
            .build();
        Self { limit, buckets }
    }

    /// Takes one request from the address's bucket and from the token's. `Err`: seconds until there is room again.
    pub fn take(&self, address: Option<IpAddr>, token: &str, now: Instant) -> Result<(), u64> {
        if let Some(address) = address {
            self.take_one(&[b"address", address.to_string().as_bytes()], now)?;
        }
        if !token.is_empty() {
            self.take_one(&[b"token", token.as_bytes()], now)?;
        }
        Ok(())
    }

    fn take_one(&self, whose: &[&[u8]; 2], now: Instant) -> Result<(), u64> {
        let mut hash = Sha256::new();
        hash.update(whose[0]);
        hash.update([0]);
        hash.update(whose[1]);
        let most = f64::from(self.limit.requests.max(1));
        let bucket = self.buckets.get_with(hash.finalize().into(), || {
            Arc::new(Mutex::new(Bucket {
                left: most,
                at: now,
            }))
        });
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let per_second = most / f64::from(self.limit.seconds.max(1));
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.left = most.min(bucket.left + passed * per_second);
        bucket.at = bucket.at.max(now);
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Ok(());
        }
        let wait = ((1.0 - bucket.left) / per_second).ceil();
        // Between one second and the period, which is a u32.
        Err(wait.max(1.0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_empty_and_fill() {
        let rates = Rates::new(RateLimit {
            requests: 2,
            seconds: 10,
        });
        let start = Instant::now();
        let one = Some(IpAddr::from([10, 0, 0, 1]));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(rates.take(one, "t", at(0)), Ok(()));
        assert_eq!(rates.take(one, "t", at(0)), Ok(()));
        assert_eq!(rates.take(one, "t", at(0)), Err(5), "two in ten seconds");
        assert_eq!(
            rates.take(one, "other token", at(1)),
            Err(4),
            "the same address"
        );
        assert_eq!(
            rates.take(Some(IpAddr::from([10, 0, 0, 2])), "t", at(1)),
            Err(4),
            "the same token from another address"
        );
        assert_eq!(rates.take(None, "u", at(1)), Ok(()), "somebody else");
        assert_eq!(rates.take(one, "v", at(6)), Ok(()), "one has come back");
        assert_eq!(rates.take(one, "v", at(6)), Err(4));
    }
}
