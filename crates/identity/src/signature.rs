//! The signatures of EC2 requests: versions 2 and 4 (AWS General Reference, "Signing AWS API requests").
//!
//! An EC2 service sends what it received (`POST /v3/ec2tokens`): verb, host, path, parameters, headers and the hash of
//! the body; the signature is computed again with the stored secret.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};
use std::time::Duration;
use subtle::ConstantTimeEq;
use types::Timestamp;

/// How far the time of a signed request may be from now (Keystone's `auth_ttl`).
const WINDOW: Duration = Duration::from_secs(900);

/// A signed request as the EC2 service describes it.
pub struct Signed<'a> {
    /// The object `credentials` of the body.
    pub request: &'a Map<String, Json>,
}

impl Signed<'_> {
    fn text(&self, name: &str) -> &str {
        self.request
            .get(name)
            .and_then(Json::as_str)
            .unwrap_or_default()
    }

    fn param(&self, name: &str) -> Option<&str> {
        self.request.get("params")?.get(name)?.as_str()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let headers = self.request.get("headers")?.as_object()?;
        headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .and_then(|(_, value)| value.as_str())
    }

    /// Whether the request was signed with this secret, lately.
    pub fn is_valid(&self, secret: &str, now: Timestamp) -> bool {
        let Some(at) = self.time() else { return false };
        if at < now.minus(WINDOW) || at > now.plus(WINDOW) {
            return false;
        }
        let Some(computed) = self.computed(secret) else {
            return false;
        };
        let given = self.text("signature");
        // Clients differ in whether the padding is sent.
        let (computed, given) = (computed.trim_end_matches('='), given.trim_end_matches('='));
        bool::from(computed.as_bytes().ct_eq(given.as_bytes()))
    }

    /// When the request was made.
    fn time(&self) -> Option<Timestamp> {
        let text = self
            .param("Timestamp")
            .or(self.param("X-Amz-Date"))
            .or(self.header("x-amz-date"))?;
        Timestamp::parse(text)
    }

    fn computed(&self, secret: &str) -> Option<String> {
        let authorization = self
            .header("authorization")
            .filter(|text| text.starts_with("AWS4-HMAC-SHA256"));
        if authorization.is_some() || self.param("X-Amz-Algorithm") == Some("AWS4-HMAC-SHA256") {
            return self.version4(secret, authorization);
        }
        (self.param("SignatureVersion") == Some("2"))
            .then(|| self.version2(secret))
            .flatten()
    }

    /// The parameters in order, escaped, without the signature itself.
    fn canonical_query(&self) -> String {
        let empty = Map::new();
        let params = self
            .request
            .get("params")
            .and_then(Json::as_object)
            .unwrap_or(&empty);
        let mut pairs: Vec<(String, String)> = params
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "Signature" | "X-Amz-Signature"))
            .map(|(name, value)| (escape(name), escape(value.as_str().unwrap_or_default())))
            .collect();
        pairs.sort();
        pairs
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join("&")
    }

    fn version2(&self, secret: &str) -> Option<String> {
        let (verb, host, path) = (
            self.text("verb"),
            self.text("host").to_ascii_lowercase(),
            self.text("path"),
        );
        let text = format!("{verb}\n{host}\n{path}\n{}", self.canonical_query());
        let sum = match self.param("SignatureMethod") {
            Some("HmacSHA256") => hmac(secret.as_bytes(), &text),
            Some("HmacSHA1") => {
                let mut mac = Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes()).ok()?;
                mac.update(text.as_bytes());
                mac.finalize().into_bytes().to_vec()
            }
            _ => return None,
        };
        Some(STANDARD.encode(sum))
    }

    fn version4(&self, secret: &str, authorization: Option<&str>) -> Option<String> {
        let part = |name: &str| {
            let text = authorization?
                .split([' ', ','])
                .find_map(|part| part.trim().strip_prefix(name))?;
            text.strip_prefix('=').map(str::to_owned)
        };
        let of = |header: &str, param: &str| {
            part(header).or_else(|| self.param(param).map(str::to_owned))
        };
        let credential = of("Credential", "X-Amz-Credential")?;
        let names = of("SignedHeaders", "X-Amz-SignedHeaders")?;
        let (_, scope) = credential.split_once('/')?;
        let mut headers = String::new();
        for name in names.split(';') {
            let value = match self.header(name) {
                Some(value) => value,
                None if name.eq_ignore_ascii_case("host") => self.text("host"),
                None => return None,
            };
            headers.push_str(&format!("{name}:{}\n", value.trim()));
        }
        let query = self.canonical_query();
        let (verb, path, body_hash) =
            (self.text("verb"), self.text("path"), self.text("body_hash"));
        let canonical = format!("{verb}\n{path}\n{query}\n{headers}\n{names}\n{body_hash}");
        let date = self.header("x-amz-date").or(self.param("X-Amz-Date"))?;
        let digest = hex::encode(Sha256::digest(canonical.as_bytes()));
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}");
        let mut key = format!("AWS4{secret}").into_bytes();
        let steps: Vec<&str> = scope.split('/').collect();
        if steps.len() != 4 || !date.starts_with(steps[0]) {
            return None;
        }
        for step in steps {
            key = hmac(&key, step);
        }
        Some(hex::encode(hmac(&key, &text)))
    }
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// RFC 3986: all but unreserved characters.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte))
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn valid(request: &Json, secret: &str, now: &str) -> bool {
        let signed = Signed {
            request: request.as_object().unwrap(),
        };
        signed.is_valid(secret, Timestamp::parse(now).unwrap())
    }

    /// The example of AWS's documentation of version 2.
    #[test]
    fn version_2() {
        let mut request = json!({
            "access": "AKIAIOSFODNN7EXAMPLE", "signature": "i91nKc4PWAt0JJIdXwz9HxZCJDdiy6cf/Mj6vPxyYIs=",
            "verb": "GET", "host": "elasticmapreduce.amazonaws.com", "path": "/",
            "params": {
                "AWSAccessKeyId": "AKIAIOSFODNN7EXAMPLE", "Action": "DescribeJobFlows", "SignatureMethod": "HmacSHA256",
                "SignatureVersion": "2", "Timestamp": "2011-10-03T15:19:30", "Version": "2009-03-31",
            },
        });
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        assert!(valid(&request, secret, "2011-10-03T15:20:00"));
        assert!(!valid(&request, secret, "2011-10-03T15:50:00"), "too old");
        assert!(!valid(&request, "another", "2011-10-03T15:20:00"));
        request["params"]["Action"] = json!("TerminateJobFlows");
        assert!(!valid(&request, secret, "2011-10-03T15:20:00"));
    }

    /// `get-vanilla` of AWS's test suite for version 4.
    #[test]
    fn version_4() {
        let mut request = json!({
            "access": "AKIDEXAMPLE", "signature": "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            "verb": "GET", "host": "example.amazonaws.com", "path": "/", "params": {},
            "body_hash": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "headers": {
                "Host": "example.amazonaws.com", "X-Amz-Date": "20150830T123600Z",
                "Authorization": "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                    SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            },
        });
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        assert!(valid(&request, secret, "2015-08-30T12:40:00Z"));
        assert!(!valid(&request, "another", "2015-08-30T12:40:00Z"));
        assert!(!valid(&request, secret, "2015-08-30T13:40:00Z"), "too old");
        request["body_hash"] = json!("0");
        assert!(!valid(&request, secret, "2015-08-30T12:40:00Z"));
    }
}
