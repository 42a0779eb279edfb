//! Lists: tags, images, referrers.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;

use super::answer::{value, warn, with_headers};
use super::call::Call;
use super::error::Failure;
use crate::oci::operation::Action;
use crate::oci::{Descriptor, Digest, ErrorCode, ImageName, Page, media_type};

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// `GET …/tags/list`.
pub(super) async fn tags(call: &Call, name: &ImageName, page: &Page) -> Result<Response, Failure> {
    #[derive(Serialize)]
    struct Tags<'a> {
        name: &'a str,
        tags: Vec<String>,
    }
    let route = call.route(name, Action::Pull)?;
    let listed = route.repository.tags(&route.image).await?.ok_or_else(|| {
        let message = format!("`{}` has no image {}", route.repository.key(), route.image);
        Failure::new(ErrorCode::NameUnknown, message)
    })?;
    let mut headers = list_headers("application/json", &listed.warnings);
    let (tags, more) = page.cut(listed.entries);
    let path = format!("{}/tags/list", call.base(name));
    link_to_next(call, &mut headers, &path, page, tags.last().filter(|_| more));
    respond(
        headers,
        &Tags {
            name: name.as_str(),
            tags,
        },
    )
}

/// `GET /v2/_catalog`: names as this client would write them here. Where the request is addressed to a repository (by a
/// key before `/v2`, an address, a host, or the default) its images; else all, each behind its key.
pub(super) async fn catalog(call: &Call, page: &Page) -> Result<Response, Failure> {
    #[derive(Serialize)]
    struct Catalog {
        repositories: Vec<String>,
    }
    let listed = call.gate().catalog().await?;
    let mut headers = list_headers("application/json", &listed.warnings);
    let (repositories, more) = page.cut(listed.entries);
    let path = match &call.line.prefix {
        Some(prefix) => format!("/{prefix}/v2/_catalog"),
        None => "/v2/_catalog".to_owned(),
    };
    link_to_next(call, &mut headers, &path, page, repositories.last().filter(|_| more));
    respond(headers, &Catalog { repositories })
}

/// `GET …/referrers/<digest>`.
pub(super) async fn referrers(
    call: &Call,
    name: &ImageName,
    subject: &Digest,
    artifact_type: Option<&str>,
) -> Result<Response, Failure> {
    /// The image index that the specification wants the list to be.
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Index {
        schema_version: u8,
        media_type: &'static str,
        manifests: Vec<Descriptor>,
    }
    let route = call.route(name, Action::Pull)?;
    let listed = route.repository.referrers(&route.image, subject).await?;
    let mut headers = list_headers(media_type::OCI_INDEX, &listed.warnings);
    let mut manifests = listed.entries;
    if let Some(wanted) = artifact_type {
        manifests.retain(|descriptor| descriptor.artifact_type.as_deref() == Some(wanted));
        headers.insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    respond(
        headers,
        &Index {
            schema_version: 2,
            media_type: media_type::OCI_INDEX,
            manifests,
        },
    )
}

fn list_headers(content_type: &'static str, warnings: &[String]) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if !warnings.is_empty() {
        headers.insert(header::WARNING, warn(&warnings.join("; ")));
    }
    headers
}

/// RFC 5988: the same list, after the last entry of this page.
fn link_to_next(call: &Call, headers: &mut HeaderMap, path: &str, page: &Page, last: Option<&String>) {
    if let (Some(n), Some(last)) = (page.n, last) {
        let last: String = url::form_urlencoded::byte_serialize(last.as_bytes()).collect();
        let namespace = call.namespace_query('&');
        headers.insert(
            header::LINK,
            value(&format!("<{path}?last={last}&n={n}{namespace}>; rel=\"next\"")),
        );
    }
}

fn respond(mut headers: HeaderMap, document: &impl Serialize) -> Result<Response, Failure> {
    let json = serde_json::to_vec(document).map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))?;
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(json.len()));
    Ok(with_headers(StatusCode::OK, headers, Body::from(json)))
}
