//! `Idempotency-Key` on `POST /servers` and on all actions (of servers, flavors, aggregates and migrations): the same key and request get the first answer again,
//! for a day. What a request does and the answer to it are one transaction, where the answer is known by then. A request
//! that was refused did nothing, so its key is free again; so is, after a while, the key of one that a stopped process left
//! behind before it did anything: whoever took it cannot do it any more. A dry run does nothing either way: it takes
//! no key, and is told nothing that was answered under one.

use crate::Inner;
use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::route::{Handler, Route, Verb};
use db::idempotency::{ACCEPTED, Kept, Owner, Times};
use http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::Instrument;
use types::Timestamp;

/// Microseconds for which answers are kept.
const KEEP_MICROS: i64 = 24 * 3600 * 1_000_000;

/// Microseconds after which a request that has done nothing may be taken over by the same one.
const STALE_MICROS: i64 = 60 * 1_000_000;

/// What is answered to a request that was accepted.
pub enum Answer {
    /// This, whatever becomes of it.
    Now(Reply),
    /// It is known only later.
    Later,
}

impl Answer {
    /// 202, and nothing more.
    pub fn accepted() -> Self {
        Self::Now(Reply::empty(StatusCode::ACCEPTED))
    }
}

/// A key as given, and what was asked under it.
pub struct Given {
    key: String,
    hash: String,
}

/// Characters of a key at most.
pub const LONGEST: usize = 255;

/// Whether requests of this row may carry a key.
pub fn takes_keys(route: &Route) -> bool {
    let creates = ["/servers", "/os-volumes_boot"].contains(&route.path);
    route.verb == Verb::Post && (creates || route.action.is_some())
}

impl Given {
    /// The key of a request, if there is one and it counts here.
    pub fn read(
        headers: &HeaderMap,
        call: &Call,
        path: &str,
        body: &[u8],
    ) -> Result<Option<Self>, Fault> {
        let Some(value) = headers
            .get("idempotency-key")
            .filter(|_| takes_keys(call.route) && !call.dry_run)
        else {
            return Ok(None);
        };
        let key = value.to_str().map(str::trim).unwrap_or_default();
        if key.is_empty() || key.len() > LONGEST {
            return Err(Fault::bad_request(
                "Idempotency-Key must have 1 to 255 printable ASCII characters.",
            ));
        }
        let mut hash = Sha256::new();
        for part in [path.as_bytes(), call.version.to_string().as_bytes(), body] {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        let hash = hash.finalize();
        Ok(Some(Self {
            key: key.to_owned(),
            hash: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
        }))
    }
}

/// A key while its first request is answered.
pub struct Key {
    owner: Owner,
    /// When it was taken: what names this attempt.
    attempt: Timestamp,
    api: Arc<Inner>,
    /// The answer is written: whatever comes, it stays.
    kept: AtomicBool,
}

impl Key {
    /// Keeps an answer in the transaction that does what it says: no process that dies afterwards leaves the one without
    /// the other. [`Key::mark_kept`] is for when that is committed.
    pub fn keep(&self, tx: &mut sql::Tx<'_>, reply: &Reply) -> Result<(), Fault> {
        let body = reply.body.as_deref().map(String::from_utf8_lossy);
        let sealed = body.map(|body| self.api.deps.secrets.seal(&body));
        let (location, status) = (reply.location.as_deref(), reply.status.as_u16());
        self.write(tx, status, location, sealed.as_deref())
    }

    /// The same with what is known of the answer.
    pub fn settle(&self, tx: &mut sql::Tx<'_>, answer: &Answer) -> Result<(), Fault> {
        match answer {
            Answer::Now(reply) => self.keep(tx, reply),
            Answer::Later => self.write(tx, ACCEPTED, None, None),
        }
    }

    fn write(
        &self,
        tx: &mut sql::Tx<'_>,
        status: u16,
        location: Option<&str>,
        sealed: Option<&str>,
    ) -> Result<(), Fault> {
        let (owner, attempt) = (&self.owner, self.attempt);
        if db::idempotency::finish(tx, owner, attempt, status, location, sealed)? {
            return Ok(());
        }
        Err(Fault::conflict(
            "Another request with this Idempotency-Key has taken the place of this one.",
        ))
    }

    /// The transaction with the answer is committed.
    pub fn mark_kept(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }
}

/// Does what a request wants with one transaction, in which its answer is kept where it has a key.
pub async fn keeping<F>(call: &Call, mut how: F) -> Result<Reply, Fault>
where
    F: FnMut(&mut sql::Tx<'_>) -> Result<Reply, Fault> + Send + 'static,
{
    let key = call.key.clone();
    let writing = call.api.deps.store.write(move |tx| -> Result<_, Fault> {
        let reply = how(tx)?;
        if let Some(key) = &key {
            key.keep(tx, &reply)?;
        }
        Ok(reply)
    });
    let reply = writing.await?;
    if let Some(key) = &call.key {
        key.mark_kept();
    }
    Ok(reply)
}

/// Answers a request under a key. The handler runs to its end even when the client leaves, so that the answer is kept.
pub async fn answer(handler: Handler, mut call: Call, given: Given) -> Result<Reply, Fault> {
    let api = Arc::clone(&call.api);
    let owner = Owner {
        project_id: call.project().to_owned(),
        user_id: call.caller.user_id.clone(),
        key: given.key,
    };
    let attempt = match begin(&api, &owner, &given.hash).await? {
        Begun::Taken(attempt) => attempt,
        Begun::Known(kept) => return again(&api, &given.hash, kept),
    };
    let key = Arc::new(Key {
        owner,
        attempt,
        api,
        kept: AtomicBool::new(false),
    });
    call.key = Some(Arc::clone(&key));
    let answering = async move {
        let reply = handler(call).await;
        keep(key, &reply).await;
        reply
    };
    let trace = types::trace::current();
    let running = tokio::spawn(types::trace::within_some(trace, answering).in_current_span());
    running.await.map_err(Fault::internal)?
}

/// Whose key it is now.
enum Begun {
    /// This request's, since then.
    Taken(Timestamp),
    /// An earlier one's.
    Known(Kept),
}

async fn begin(api: &Inner, owner: &Owner, hash: &str) -> Result<Begun, Fault> {
    let mut last = None;
    // Two requests at once: the database lets one of them in, and the other one then finds it.
    for _ in 0..2 {
        let (owner, hash) = (owner.clone(), hash.to_owned());
        let now = Timestamp::now();
        let times = Times {
            oldest: Timestamp(now.0 - KEEP_MICROS),
            stale: Timestamp(now.0 - STALE_MICROS),
            now,
        };
        let begun = api
            .deps
            .store
            .write(move |tx| db::idempotency::begin(tx, &owner, &hash, times));
        match begun.await {
            Err(error) if error.is_unique_violation() => last = Some(error),
            other => {
                let known = other?;
                return Ok(known.map_or(Begun::Taken(now), Begun::Known));
            }
        }
    }
    Err(last.map_or_else(Fault::no_such_resource, Fault::internal))
}

fn again(api: &Inner, hash: &str, kept: Kept) -> Result<Reply, Fault> {
    if kept.request_hash != hash {
        return Err(Fault::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "This Idempotency-Key was used for another request.",
        ));
    }
    if kept.status == 0 {
        return Err(Fault::conflict(
            "The first request with this Idempotency-Key has no answer yet: ask again.",
        ));
    }
    if kept.status == ACCEPTED {
        return Err(Fault::conflict(
            "The first request with this Idempotency-Key was accepted and has no answer yet. If this stays so, the cloud was \
             stopped while it answered: see what became of what was asked.",
        ));
    }
    let body = kept.sealed.map(|sealed| {
        let clear = api.deps.secrets.open(&sealed);
        clear.ok_or_else(|| Fault::internal("a kept answer cannot be opened"))
    });
    Ok(Reply {
        status: StatusCode::from_u16(kept.status).map_err(Fault::internal)?,
        body: body.transpose()?.map(Into::into),
        location: kept.location,
        replayed: true,
        waited: None,
    })
}

/// Whether a key that got this answer is free again: a refusal did nothing. What may have had its effect all the same
/// must not happen again under its key.
fn frees(fault: &Fault) -> bool {
    !fault.in_doubt
}

/// Keeps what was answered, where its handler has not done so, or frees the key.
async fn keep(key: Arc<Key>, reply: &Result<Reply, Fault>) {
    if key.kept.load(Ordering::Relaxed) {
        return;
    }
    let store = key.api.deps.store.clone();
    let written: Result<(), Fault> = match reply {
        Ok(reply) if reply.status.is_success() => {
            let reply = reply.clone();
            store.write(move |tx| key.keep(tx, &reply)).await
        }
        Err(fault) if !frees(fault) => return,
        _ => {
            let release = move |tx: &mut sql::Tx<'_>| -> Result<(), Fault> {
                Ok(db::idempotency::release(tx, &key.owner, key.attempt)?)
            };
            store.write(release).await
        }
    };
    if let Err(fault) = written {
        let error = &fault.message;
        tracing::error!(
            error,
            "the answer to a request with an Idempotency-Key is not kept"
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_commit_in_doubt_frees_no_key() {
        let fault = |error: sql::Error| Fault::from(error);
        assert!(frees(&Fault::conflict("no")));
        assert!(frees(&fault(sql::Error::Unreachable("away".into()))));
        assert!(frees(&fault(sql::Error::Conflict("busy".into()))));
        assert!(!frees(&fault(sql::Error::InDoubt("cut".into()))));
        let away = fault(sql::Error::Unreachable("10.0.0.1 refused".into()));
        assert_eq!(away.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(!away.message.contains("10.0.0.1"), "{}", away.message);
    }
}
