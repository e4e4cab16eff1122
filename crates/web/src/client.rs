//! A small HTTP client with two ways to a service: a TCP address, or its router in the same process.

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::time::Duration;
use tower::ServiceExt;

/// Bytes of an answer that are read into memory at most.
const ANSWER_LIMIT: usize = 64 << 20;

/// Why a request had no usable answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The service cannot be reached, or did not answer in time.
    #[error("{service} does not answer: {reason}")]
    Unreachable {
        /// Which service.
        service: &'static str,
        /// Why.
        reason: String,
    },
    /// The answer is not what the API promises.
    #[error("{service} answered something unexpected: {reason}")]
    Unexpected {
        /// Which service.
        service: &'static str,
        /// What.
        reason: String,
    },
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; `Null` when it is empty or not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or(serde_json::Value::Null)
    }
}

enum Transport {
    Http { base: String, client: HyperClient<HttpConnector, Body> },
    InProcess(Router),
}

/// A client of one service.
pub struct Client {
    service: &'static str,
    transport: Transport,
    timeout: Duration,
}

impl Client {
    /// A client for `base`, for example `http://127.0.0.1:9696`.
    pub fn http(service: &'static str, base: &str) -> Self {
        let client = HyperClient::builder(TokioExecutor::new()).build(HttpConnector::new());
        let transport = Transport::Http { base: base.trim_end_matches('/').to_owned(), client };
        Self { service, transport, timeout: Duration::from_secs(60) }
    }

    /// A client that calls the service's router directly: the same requests without a socket.
    pub fn in_process(service: &'static str, router: Router) -> Self {
        Self { service, transport: Transport::InProcess(router), timeout: Duration::from_secs(60) }
    }

    fn unreachable(&self, reason: impl ToString) -> ClientError {
        ClientError::Unreachable { service: self.service, reason: reason.to_string() }
    }

    /// Sends a request; the answer's body is still a stream.
    pub async fn send(&self, method: Method, path: &str, headers: HeaderMap, body: Body) -> Result<http::Response<Body>, ClientError> {
        let uri = match &self.transport {
            Transport::Http { base, .. } => format!("{base}{path}"),
            Transport::InProcess(_) => path.to_owned(),
        };
        let uri: Uri = uri.parse().map_err(|error| self.unreachable(error))?;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let sending = async {
            match &self.transport {
                Transport::Http { client, .. } => {
                    let answer = client.request(request).await.map_err(|error| self.unreachable(error))?;
                    Ok(answer.map(Body::new))
                }
                Transport::InProcess(router) => {
                    let Ok(answer) = router.clone().oneshot(request).await;
                    Ok(answer)
                }
            }
        };
        tokio::time::timeout(self.timeout, sending).await.map_err(|_| self.unreachable("no answer in time"))?
    }

    /// Sends a request, with a JSON body if there is one, and reads the whole answer.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        mut headers: HeaderMap,
        body: Option<&serde_json::Value>,
    ) -> Result<Answer, ClientError> {
        let bytes = match body {
            Some(value) => {
                headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
                Bytes::from(value.to_string())
            }
            None => Bytes::new(),
        };
        let answer = self.send(method, path, headers, Body::from(bytes)).await?;
        let (parts, body) = answer.into_parts();
        let reading = Limited::new(body, ANSWER_LIMIT).collect();
        let whole = tokio::time::timeout(self.timeout, reading).await.map_err(|_| self.unreachable("the answer stopped"))?;
        let body = whole.map_err(|error| self.unreachable(error))?.to_bytes();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }
}
