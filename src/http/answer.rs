//! What answers of the distribution API are made of.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// Which repository answered.
pub(super) const REPOSITORY: HeaderName = HeaderName::from_static("x-entrepot-repository");
/// How the answer came about.
pub(super) const CACHE: HeaderName = HeaderName::from_static("x-cache");
/// The digest of what is answered, always computed here.
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A `Warning` with this text, cleaned and cut to what the specification allows (4096 bytes).
pub(super) fn warn(text: &str) -> HeaderValue {
    let clean: String = text
        .chars()
        .map(|c| match c {
            '"' | '\\' => '\'',
            ' '..='~' => c,
            _ => '?',
        })
        .take(1000)
        .collect();
    value(&format!("299 - \"{clean}\""))
}

/// A header value of text that is ours; what cannot be a value is left empty rather than failing the answer.
pub(super) fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

pub(super) fn with_headers(status: StatusCode, headers: HeaderMap, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
