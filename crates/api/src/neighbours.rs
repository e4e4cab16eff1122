//! What the API says when a neighbouring service does not answer.

use crate::faults::Fault;
use clients::ClientError;

/// 503 for a service that is needed for an answer; the cause is in the log.
pub fn unavailable(error: ClientError) -> Fault {
    tracing::warn!(%error, "a neighbouring service failed");
    let service = match &error {
        ClientError::Unreachable { service, .. } | ClientError::Unexpected { service, .. } => {
            *service
        }
    };
    Fault::unavailable(format!(
        "A service that this request needs does not answer: {service}."
    ))
}
