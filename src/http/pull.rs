//! Reading: manifests and blobs.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::answer::{CACHE, CONTENT_DIGEST, REPOSITORY, value, warn, with_headers};
use super::body;
use super::byteranges::Parts;
use super::call::Call;
use super::error::Failure;
use crate::cache::Blob;
use crate::oci::operation::Action;
use crate::oci::range::{Part, Ranged, ranged};
use crate::oci::{Digest, ErrorCode, ImageName, Reference};
use crate::repository::Served;
use crate::store::BlobFile;
use crate::telemetry::metrics::Kind;

/// What is named by its digest never changes.
const FOREVER: HeaderValue = HeaderValue::from_static("max-age=31536000, immutable");

/// `GET /v2/`.
pub(super) fn version() -> Response {
    let mut response = Response::new(Body::from("{}"));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// `GET …/manifests/<reference>`. The stored bytes are answered whatever `Accept` says: it is never an order of
/// preference, clients leave types out of it, and another document would have another digest.
pub(super) async fn manifest(call: &Call, name: &ImageName, reference: &Reference) -> Result<Response, Failure> {
    let route = call.route(name, Action::Pull)?;
    let served = route
        .repository
        .manifest(&route.image, reference)
        .await?
        .ok_or_else(|| {
            Failure::new(
                ErrorCode::ManifestUnknown,
                format!(
                    "`{}` has no manifest {reference} of {}",
                    route.repository.key(),
                    route.image
                ),
            )
        })?;
    let manifest = &served.value;
    let mut headers = HeaderMap::with_capacity(12);
    describe(&mut headers, &served);
    name_content(&mut headers, &manifest.digest);
    headers.insert(header::CONTENT_TYPE, value(manifest.media_type.as_str()));
    if let Reference::Digest(_) = reference {
        headers.insert(header::CACHE_CONTROL, FOREVER);
    }
    let metrics = &call.front.metrics;
    metrics.pulled(served.by.as_str(), Kind::Manifest, served.outcome, served.proxied);
    if unchanged(call, &manifest.digest) {
        return Ok(with_headers(StatusCode::NOT_MODIFIED, headers, Body::empty()));
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(manifest.size()));
    let body = if call.is_head() {
        Body::empty()
    } else {
        metrics.sent(served.by.as_str(), Kind::Manifest, manifest.size(), served.proxied);
        if served.proxied {
            route.repository.fetch_ahead(&route.image, &served);
        }
        Body::from(manifest.bytes.clone())
    };
    Ok(with_headers(StatusCode::OK, headers, body))
}

/// `GET …/blobs/<digest>`, whole or a range of it.
pub(super) async fn blob(call: &Call, name: &ImageName, digest: &Digest) -> Result<Response, Failure> {
    let route = call.route(name, Action::Pull)?;
    let unknown = || {
        Failure::new(
            ErrorCode::BlobUnknown,
            format!("`{}` has no blob {digest} in {}", route.repository.key(), route.image),
        )
    };
    if call.is_head() {
        let served = route
            .repository
            .blob_size(&route.image, digest)
            .await?
            .ok_or_else(unknown)?;
        let mut headers = blob_headers(&served, digest);
        if unchanged(call, digest) {
            return Ok(with_headers(StatusCode::NOT_MODIFIED, headers, Body::empty()));
        }
        let (status, _) = choose_range(call, &mut headers, Some(served.value), None);
        return Ok(with_headers(status, headers, Body::empty()));
    }
    let served = route.repository.blob(&route.image, digest).await?.ok_or_else(unknown)?;
    let mut headers = blob_headers(&served, digest);
    call.front
        .metrics
        .pulled(served.by.as_str(), Kind::Blob, served.outcome, served.proxied);
    if unchanged(call, digest) {
        return Ok(with_headers(StatusCode::NOT_MODIFIED, headers, Body::empty()));
    }
    let stored = match &served.value {
        Blob::Stored(file) => Some(file),
        Blob::Arriving(_) => None,
    };
    let (status, chosen) = choose_range(call, &mut headers, served.value.size(), stored);
    let body = match chosen {
        Chosen::Bytes(start, end) => body::of_blob(call, served, start, end),
        Chosen::Parts(file, parts) => body::of_parts(call, &served, file, &parts),
        Chosen::Nothing => Body::empty(),
    };
    Ok(with_headers(status, headers, body))
}

fn blob_headers<T>(served: &Served<T>, digest: &Digest) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(14);
    describe(&mut headers, served);
    name_content(&mut headers, digest);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, FOREVER);
    headers
}

/// What of a blob is answered.
enum Chosen {
    /// From here up to, and without, there.
    Bytes(u64, u64),
    Parts(BlobFile, Parts),
    Nothing,
}

/// Decides between the whole, a part, several and nothing, and says so in the headers. What the upstream did not tell
/// the length of is answered whole. Several parts are cut out of what is stored only; RFC 9110 lets us answer the whole.
fn choose_range(
    call: &Call,
    headers: &mut HeaderMap,
    size: Option<u64>,
    stored: Option<&BlobFile>,
) -> (StatusCode, Chosen) {
    let Some(size) = size else {
        return (StatusCode::OK, Chosen::Bytes(0, u64::MAX));
    };
    match (ranged(call.header(&header::RANGE), size), stored) {
        (Ranged::Part(Part { start, end }), _) => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(end - start + 1));
            headers.insert(header::CONTENT_RANGE, value(&format!("bytes {start}-{end}/{size}")));
            (StatusCode::PARTIAL_CONTENT, Chosen::Bytes(start, end + 1))
        }
        (Ranged::Parts(parts), Some(file)) => {
            let parts = Parts::new(parts, size);
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(parts.length()));
            headers.insert(header::CONTENT_TYPE, value(&parts.media_type()));
            (StatusCode::PARTIAL_CONTENT, Chosen::Parts(file.clone(), parts))
        }
        (Ranged::Whole | Ranged::Parts(_), _) => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
            (StatusCode::OK, Chosen::Bytes(0, size))
        }
        (Ranged::Outside, _) => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
            headers.insert(header::CONTENT_RANGE, value(&format!("bytes */{size}")));
            (StatusCode::RANGE_NOT_SATISFIABLE, Chosen::Nothing)
        }
    }
}

/// Where the answer comes from and how old it is.
fn describe<T>(headers: &mut HeaderMap, served: &Served<T>) {
    headers.insert(REPOSITORY, value(served.by.as_str()));
    headers.insert(CACHE, HeaderValue::from_static(served.outcome.as_str()));
    headers.insert(header::AGE, HeaderValue::from(served.age.as_secs()));
    if let Some(warning) = &served.warning {
        headers.insert(header::WARNING, warn(warning));
    }
}

fn name_content(headers: &mut HeaderMap, digest: &Digest) {
    headers.insert(CONTENT_DIGEST, value(digest.as_str()));
    headers.insert(header::ETAG, value(&format!("\"{digest}\"")));
}

/// Whether the client has it already; RFC 9110, `If-None-Match`.
fn unchanged(call: &Call, digest: &Digest) -> bool {
    call.header(&header::IF_NONE_MATCH).is_some_and(|tags| {
        tags.split(',').any(|tag| {
            let tag = tag.trim();
            tag == "*" || tag.trim_start_matches("W/").trim_matches('"') == digest.as_str()
        })
    })
}
