//! Request bodies, read up to a limit.

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};

/// Why a body cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// More bytes than the limit.
    #[error("the request body is larger than {limit} bytes")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// The client went away or broke the framing.
    #[error("the request body could not be read: {0}")]
    Broken(String),
    /// Not JSON.
    #[error("the request body is not JSON: {0}")]
    NotJson(String),
}

/// Reads a whole body of at most `limit` bytes.
pub async fn bytes(body: Body, limit: usize) -> Result<Bytes, BodyError> {
    match Limited::new(body, limit).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(BodyError::TooLarge { limit })
        }
        Err(error) => Err(BodyError::Broken(error.to_string())),
    }
}

/// Reads a JSON body of at most `limit` bytes.
pub async fn json(body: Body, limit: usize) -> Result<serde_json::Value, BodyError> {
    let whole = bytes(body, limit).await?;
    serde_json::from_slice(&whole).map_err(|error| BodyError::NotJson(error.to_string()))
}
