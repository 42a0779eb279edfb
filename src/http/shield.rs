//! What every answer says to a browser, should one be made to look at it.
//!
//! Names, tags, annotations, an upstream's words and above all blobs are whatever somebody pushed. Nobody may turn one of
//! them into a page of this origin: no type is guessed, nothing that is answered may run, load or be framed.

use axum::response::Response;
use http::{HeaderName, HeaderValue, header};

/// For everything that is no page of ours. `sandbox` is for a manifest whose media type says that it is one.
const NOTHING: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Adds what is missing: a page says itself what it may load.
pub(super) fn shield(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(NOTHING);
    headers
        .entry(RESOURCE_POLICY)
        .or_insert(HeaderValue::from_static("same-origin"));
    response
}
