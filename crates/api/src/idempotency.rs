//! `Idempotency-Key` on `POST /servers` and on actions of servers: the same key and request get the first answer again,
//! for a day. A request that was refused did nothing, so its key is free again. A dry run does nothing either way: it takes
//! no key, and is told nothing that was answered under one.

use crate::Inner;
use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::handlers::servers_create::is_dry_run;
use crate::route::{Handler, Route, Verb};
use db::idempotency::{Kept, Owner};
use http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::Instrument;
use types::Timestamp;

/// Microseconds for which answers are kept.
const KEEP_MICROS: i64 = 24 * 3600 * 1_000_000;

/// A key as given, and what was asked under it.
pub struct Given {
    key: String,
    hash: String,
}

/// Whether requests of this row may carry a key.
fn takes_keys(route: &Route) -> bool {
    let paths = [
        "/servers",
        "/servers/{id}/action",
        "/os-volumes_boot",
        "/os-volumes_boot/{id}/action",
    ];
    route.verb == Verb::Post && paths.contains(&route.path)
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
            .filter(|_| takes_keys(call.route) && !is_dry_run(call))
        else {
            return Ok(None);
        };
        let key = value.to_str().map(str::trim).unwrap_or_default();
        if key.is_empty() || key.len() > 255 {
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
    api: Arc<Inner>,
    /// The answer is written: whatever comes, it stays.
    kept: AtomicBool,
}

impl Key {
    /// Keeps an answer in the transaction that does what it says: no process that dies afterwards leaves the one without
    /// the other. [`Key::mark_kept`] is for when that is committed.
    pub fn keep(&self, tx: &mut sql::Tx<'_>, reply: &Reply) -> Result<(), sql::Error> {
        let body = reply.body.as_deref().map(String::from_utf8_lossy);
        let sealed = body.map(|body| self.api.deps.secrets.seal(&body));
        let (location, status) = (reply.location.as_deref(), reply.status.as_u16());
        db::idempotency::finish(tx, &self.owner, status, location, sealed.as_deref())
    }

    /// The transaction with the answer is committed.
    pub fn mark_kept(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }
}

/// Answers a request under a key. The handler runs to its end even when the client leaves, so that the answer is kept.
pub async fn answer(handler: Handler, mut call: Call, given: Given) -> Result<Reply, Fault> {
    let api = Arc::clone(&call.api);
    let owner = Owner {
        project_id: call.project().to_owned(),
        user_id: call.caller.user_id.clone(),
        key: given.key,
    };
    if let Some(kept) = begin(&api, &owner, &given.hash).await? {
        return again(&api, &given.hash, kept);
    }
    let key = Arc::new(Key {
        owner,
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

async fn begin(api: &Inner, owner: &Owner, hash: &str) -> Result<Option<Kept>, Fault> {
    let mut last = None;
    // Two requests at once: the database lets one of them in, and the other one then finds it.
    for _ in 0..2 {
        let (owner, hash) = (owner.clone(), hash.to_owned());
        let now = Timestamp::now();
        let oldest = Timestamp(now.0 - KEEP_MICROS);
        let begun = api
            .deps
            .store
            .write(move |tx| db::idempotency::begin(tx, &owner, &hash, oldest, now));
        match begun.await {
            Err(error) if error.is_unique_violation() => last = Some(error),
            other => return Ok(other?),
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
            "The first request with this Idempotency-Key has no answer yet. If this stays so, the cloud was stopped while \
             it answered: see whether the request had its effect, and use another key.",
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
    let written: Result<(), sql::Error> = match reply {
        Ok(reply) if reply.status.is_success() => {
            let reply = reply.clone();
            store.write(move |tx| key.keep(tx, &reply)).await
        }
        Err(fault) if !frees(fault) => return,
        _ => {
            let release = move |tx: &mut sql::Tx<'_>| db::idempotency::release(tx, &key.owner);
            store.write(release).await
        }
    };
    if let Err(error) = written {
        tracing::error!(%error, "the answer to a request with an Idempotency-Key is not kept");
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
