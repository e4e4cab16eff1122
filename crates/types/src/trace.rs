//! Which request of which trace something is done for: W3C Trace Context (`traceparent`, `tracestate`) and the request id
//! that OpenStack services pass on (`X-OpenStack-Request-ID`). It goes with the work, in the process and stored with tasks.

use crate::RequestId;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::sync::Arc;
use uuid::Uuid;

/// Bytes of `tracestate` that are passed on at most (W3C Trace Context 3.3.1.5 asks for 512 at least).
const STATE_LIMIT: usize = 512;

/// A request's place in what it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The id that neighbours are told as the request's: the first service's, where there was one.
    pub request: String,
    /// The trace, 32 hexadecimal digits.
    pub id: String,
    /// The flags of the trace, two hexadecimal digits.
    pub flags: String,
    /// `tracestate`, as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

tokio::task_local! {
    static CURRENT: Arc<Trace>;
}

/// The trace of what is done now, if it belongs to one.
pub fn current() -> Option<Arc<Trace>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Does something as a part of a trace.
pub async fn within<T>(trace: Arc<Trace>, work: impl Future<Output = T>) -> T {
    CURRENT.scope(trace, work).await
}

/// Does something as a part of a trace, if there is one.
pub async fn within_some<T>(trace: Option<Arc<Trace>>, work: impl Future<Output = T>) -> T {
    match trace {
        Some(trace) => within(trace, work).await,
        None => work.await,
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    let lower = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    text.len() == length && text.bytes().all(lower)
}

/// The trace and the flags of a `traceparent` (W3C Trace Context 3.2); none when it is malformed.
fn parent(text: &str) -> Option<(String, String)> {
    let mut parts = text.trim().split('-');
    let (version, id, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let more = parts.next().is_some();
    let well = is_hex(version, 2)
        && version != "ff"
        && is_hex(id, 32)
        && is_hex(span, 16)
        && is_hex(flags, 2)
        && !(version == "00" && more);
    let zero = |text: &str| text.bytes().all(|c| c == b'0');
    (well && !zero(id) && !zero(span)).then(|| (id.to_owned(), flags.to_owned()))
}

/// Whether a text is a request id that other services may be told (oslo.middleware: `req-` and a UUID).
fn is_request_id(text: &str) -> bool {
    text.strip_prefix("req-")
        .is_some_and(|id| id.len() == 36 && id.parse::<Uuid>().is_ok())
}

impl Trace {
    /// The trace of a request that came with these headers and was given this id. What is malformed counts as not there;
    /// a request without a trace begins one, whose id is that of the request.
    pub fn of(
        own: &RequestId,
        request: Option<&str>,
        traceparent: Option<&str>,
        tracestate: Option<&str>,
    ) -> Self {
        let request = request.filter(|text| is_request_id(text));
        let request = request.unwrap_or(own.as_str()).to_owned();
        let given = traceparent.and_then(parent);
        let state = tracestate.filter(|text| !text.is_empty() && text.len() <= STATE_LIMIT);
        let state = state.filter(|_| given.is_some()).map(str::to_owned);
        let (id, flags) = given.unwrap_or_else(|| (begun_by(own.as_str()), "00".to_owned()));
        Self {
            request,
            id,
            flags,
            state,
        }
    }

    /// The trace of something that a stored request asked for, when no more than its id is known.
    pub fn of_request(id: &str) -> Self {
        Self {
            request: id.to_owned(),
            id: begun_by(id),
            flags: "00".to_owned(),
            state: None,
        }
    }

    /// `traceparent` for whoever is asked next: the same trace, from a new span.
    pub fn traceparent(&self) -> String {
        let (high, _) = Uuid::new_v4().as_u64_pair();
        format!("00-{}-{:016x}-{}", self.id, high.max(1), self.flags)
    }
}

/// The trace that a request begins: the digits of its id.
fn begun_by(id: &str) -> String {
    let uuid = id
        .strip_prefix("req-")
        .and_then(|id| id.parse::<Uuid>().ok());
    let uuid = uuid.filter(|id| !id.is_nil());
    let mut text = String::with_capacity(32);
    // Writing to a String cannot fail.
    let _ = write!(text, "{}", uuid.unwrap_or_else(Uuid::new_v4).simple());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn of(traceparent: &str, state: &str, request: &str) -> Trace {
        let own = RequestId("req-11111111-2222-4333-8444-555555555555".to_owned());
        Trace::of(&own, Some(request), Some(traceparent), Some(state))
    }

    #[test]
    fn a_trace_goes_on() {
        let other = "req-99999999-2222-4333-8444-555555555555";
        let trace = of(&format!("00-{ID}-00f067aa0ba902b7-01"), "a=1,b=2", other);
        assert_eq!(
            (&*trace.id, &*trace.flags, &*trace.request),
            (ID, "01", other)
        );
        assert_eq!(trace.state.as_deref(), Some("a=1,b=2"));
        let next = trace.traceparent();
        assert!(
            next.starts_with(&format!("00-{ID}-")) && next.ends_with("-01"),
            "{next}"
        );
        assert!(!next.contains("00f067aa0ba902b7"), "a span of its own");
        let again = of(&next, "", other);
        assert_eq!((again.id, again.state), (trace.id, None));
        // A later version may have more (W3C Trace Context 3.2.4).
        assert_eq!(
            of(&format!("01-{ID}-00f067aa0ba902b7-01-x"), "", other).id,
            ID
        );
    }

    #[test]
    fn what_is_malformed_is_not_there() {
        for bad in [
            "",
            "00",
            "00-x-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            let trace = of(bad, "a=1", "req-no\r\nInjected: yes");
            assert_eq!(trace.id, "11111111222243338444555555555555", "{bad}");
            assert_eq!(trace.request, "req-11111111-2222-4333-8444-555555555555");
            assert_eq!(trace.state, None, "without its trace it means nothing");
        }
    }
}
