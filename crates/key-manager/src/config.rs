//! Settings of the key manager.

/// Settings of the key manager.
#[derive(Clone)]
pub struct Config {
    /// The text of the file with the master keys: one a line, the first seals, each opens.
    pub master_keys: String,
    /// Bytes that a payload may have, as it is sent (Barbican's `max_allowed_secret_in_bytes`).
    pub max_secret_bytes: usize,
    /// Bytes that a request may have (`max_allowed_request_size_in_bytes`).
    pub max_request_bytes: usize,
    /// Secrets on a page where the request does not say it (`default_limit_paging`).
    pub default_limit: usize,
    /// Secrets on a page at most (`max_limit_paging`).
    pub max_limit: usize,
    /// The URL of this service in references and links (`host_href`); `None` takes the request's Host header.
    pub public_endpoint: Option<String>,
    /// The identity service named in 401 answers.
    pub identity_url: Option<String>,
    /// The text of a `policy.yaml` that overrides default rules.
    pub policy: String,
}

impl Config {
    /// The defaults, with these master keys.
    pub fn new(master_keys: impl Into<String>) -> Self {
        Self {
            master_keys: master_keys.into(),
            max_secret_bytes: 20_000,
            max_request_bytes: 25_000,
            default_limit: 10,
            max_limit: 100,
            public_endpoint: None,
            identity_url: None,
            policy: String::new(),
        }
    }
}
