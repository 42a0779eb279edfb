//! Ways in to what this room reads, for `fuzz/`, which is a crate of its own. Compiled for that alone.

use std::time::{Duration, SystemTime};

use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::budget::Budget;
use super::challenge::Challenge;
use super::range::Sent;
use super::{challenge, lists, retry_after, tokens};

pub use super::credentials::fuzzing::{profiles, role};

/// `WWW-Authenticate`, and the address that its realm makes.
pub fn challenge(text: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(text) else {
        return;
    };
    let mut headers = HeaderMap::new();
    headers.insert(WWW_AUTHENTICATE, value);
    for challenge in challenge::read(&headers) {
        if let Challenge::Bearer(bearer) = challenge {
            let url = bearer.token_url("repository:a/b:pull");
            assert!(matches!(url.scheme(), "http" | "https") && url.host_str().is_some());
            assert!(url.username().is_empty() && url.password().is_none());
            assert_eq!(
                url.origin(),
                bearer.realm.origin(),
                "what is added does not lead elsewhere"
            );
        }
    }
}

/// `Content-Range`.
pub fn sent(text: &str) {
    if let Some(sent) = Sent::parse(text) {
        assert!(sent.start < sent.end && sent.total.is_none_or(|total| sent.end <= total));
    }
}

/// `Link`.
pub fn link(text: &str) {
    if let Some(target) = lists::next_link(text) {
        assert!(text.contains(target));
    }
}

/// The answer of a token endpoint.
pub fn token(body: &[u8]) {
    if let Some(token) = tokens::read(body) {
        assert!(token.header.is_sensitive() && token.header.as_bytes().starts_with(b"Bearer "));
    }
}

/// `Retry-After` and the headers that tell of a budget.
pub fn patience(text: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(text) else {
        return;
    };
    let mut headers = HeaderMap::new();
    for name in ["retry-after", "ratelimit-limit", "ratelimit-remaining"] {
        headers.insert(name, value.clone());
    }
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let wait = retry_after::read(&headers, now);
    assert!(wait.is_none_or(|wait| wait <= Duration::from_secs(24 * 60 * 60)));
    headers.remove(RETRY_AFTER);
    let _ = Budget::read(&headers, Instant::now(), now);
}
