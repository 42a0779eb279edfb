//! From a request to an answer: read the line, find the repository, ask who may, hand over. Every route of the
//! distribution API passes here, HEAD and ranges too, so what is decided here holds everywhere.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, header};

use super::error::Failure;
use super::serve::Peer;
use super::site::{Front, Site};
use super::{REQUEST_ID, RequestId, list, pull, push};
use crate::access::{Decision, Identity};
use crate::oci::operation::{Operation, ParseError, Request as Line};
use crate::oci::{ErrorCode, ImageName, Refusal};
use crate::repository::router::{Hints, Route};
use crate::repository::{LocalRepository, Repositories};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// One request of the distribution API, as the handlers see it.
pub(super) struct Call {
    pub(super) front: Arc<Front>,
    pub(super) site: Arc<Site>,
    pub(super) parts: Parts,
    pub(super) line: Line,
    pub(super) identity: Identity,
    pub(super) id: RequestId,
}

impl Call {
    /// Whether only headers are wanted.
    pub(super) fn is_head(&self) -> bool {
        self.parts.method == Method::HEAD
    }

    /// A header's value, if it is text.
    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.parts.headers.get(name)?.to_str().ok()
    }

    /// What a name means in this request.
    pub(super) fn route(&self, name: &ImageName) -> Result<Route, Refusal> {
        self.repositories().route(name, self.hints())
    }

    /// All repositories.
    pub(super) fn repositories(&self) -> &Repositories {
        &self.site.repositories
    }

    /// What the request says, besides a name, of which repository it means.
    pub(super) fn hints(&self) -> Hints<'_> {
        let peer = self.parts.extensions.get::<Peer>();
        Hints {
            prefix: self.line.prefix.as_ref(),
            namespace: self.line.namespace.as_deref(),
            listener: peer.and_then(|peer| peer.repository.as_ref()),
            host: host(&self.parts),
        }
    }

    /// The path of the image in the form that the client used, for `Location` and `Link`.
    pub(super) fn base(&self, name: &ImageName) -> String {
        match &self.line.prefix {
            Some(prefix) => format!("/{prefix}/v2/{name}"),
            None => format!("/v2/{name}"),
        }
    }

    /// `?ns=` again, so that the next request of an upload means the same repository.
    pub(super) fn namespace_query(&self, separator: char) -> String {
        self.line.namespace.as_deref().map_or_else(String::new, |namespace| {
            let encoded: String = url::form_urlencoded::byte_serialize(namespace.as_bytes()).collect();
            format!("{separator}ns={encoded}")
        })
    }

    /// Where a push to this route lands.
    pub(super) fn push_target<'a>(&self, route: &'a Route) -> Result<&'a Arc<LocalRepository>, Refusal> {
        route.repository.push_target().ok_or_else(|| {
            let key = route.repository.key();
            let takers: Vec<String> = self
                .repositories()
                .keys()
                .filter(|key| {
                    self.repositories()
                        .get(key)
                        .is_some_and(|other| other.push_target().is_some())
                })
                .map(|key| format!("`{key}`"))
                .collect();
            let instead = if takers.is_empty() {
                "no repository here takes pushes".to_owned()
            } else {
                format!("push to {}", takers.join(" or "))
            };
            Refusal::new(
                ErrorCode::Unsupported,
                format!("`{key}` does not take pushes: {instead}"),
            )
        })
    }
}

/// `Host`, or HTTP/2's authority, without its port.
fn host(parts: &Parts) -> Option<&str> {
    let authority = match parts.uri.authority() {
        Some(authority) => authority.as_str(),
        None => parts.headers.get(header::HOST)?.to_str().ok()?,
    };
    let host = authority.rsplit_once(':').map_or(authority, |(host, port)| {
        if port.bytes().all(|b| b.is_ascii_digit()) {
            host
        } else {
            authority
        }
    });
    Some(host)
}

/// Answers one request that no other route took.
pub(super) async fn distribution(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let began = Instant::now();
    let (parts, body) = request.into_parts();
    let id = RequestId::of(&parts.headers);
    let method = method_label(&parts.method);
    let peer = parts.extensions.get::<Peer>().map(|peer| peer.address);
    let path = parts.uri.path().to_owned();
    let site = front.site.load_full();
    let metrics = Arc::clone(&front.metrics);
    let (handler, mut response) = match Line::parse(parts.method.as_str(), &path, parts.uri.query()) {
        Ok(line) => {
            let handler = line.operation.handler();
            let _in_flight = metrics.request_begins(handler);
            let call = Call {
                front,
                site,
                parts,
                line,
                identity: Identity::Anonymous,
                id: id.clone(),
            };
            let response = answer(call, body).await.unwrap_or_else(|failure| failure.respond(&id));
            (handler, response)
        }
        Err(error) => ("other", unparsed(error, &path).respond(&id)),
    };
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
        .headers_mut()
        .insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    let status = response.status().as_u16();
    let took = began.elapsed();
    metrics.request_answered(handler, method, status, took);
    tracing::info!(
        request_id = %id,
        client = peer.map(tracing::field::display),
        method,
        path,
        status,
        repository = header_text(&response, &pull::REPOSITORY),
        cache = header_text(&response, &pull::CACHE),
        duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "answered"
    );
    response
}

fn header_text<'a>(response: &'a Response, name: &HeaderName) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

async fn answer(call: Call, body: Body) -> Result<Response, Failure> {
    if let Decision::Denied(why) = call.site.access.decide(&call.identity, call.line.operation.action()) {
        return Err(Failure::new(ErrorCode::Denied, why));
    }
    let namespace = call.line.namespace.clone();
    let mut response = match call.line.operation.clone() {
        Operation::CheckVersion => {
            // A key or a namespace that does not exist is told here already, at the first request of every client.
            call.repositories().surface(call.hints())?;
            pull::version()
        }
        Operation::Catalog { page } => list::catalog(&call, &page).await?,
        Operation::PullManifest { name, reference } => pull::manifest(&call, &name, &reference).await?,
        Operation::PullBlob { name, digest } => pull::blob(&call, &name, &digest).await?,
        Operation::ListTags { name, page } => list::tags(&call, &name, &page).await?,
        Operation::ListReferrers {
            name,
            subject,
            artifact_type,
        } => list::referrers(&call, &name, &subject, artifact_type.as_deref()).await?,
        Operation::PushManifest { name, reference, tags } => {
            push::manifest(&call, &name, &reference, &tags, body).await?
        }
        Operation::DeleteManifest { name, reference } => push::delete_manifest(&call, &name, &reference).await?,
        Operation::DeleteBlob { name, digest } => push::delete_blob(&call, &name, &digest).await?,
        Operation::StartUpload { name, start } => push::start(&call, &name, start, body).await?,
        Operation::UploadStatus { name, id } => push::status(&call, &name, id).await?,
        Operation::AppendUpload { name, id } => push::append(&call, &name, id, body).await?,
        Operation::FinishUpload { name, id, digest } => push::finish(&call, &name, id, &digest, body).await?,
        Operation::CancelUpload { name, id } => push::cancel(&call, &name, id).await?,
    };
    if let Some(value) = namespace.and_then(|namespace| HeaderValue::from_str(&namespace).ok()) {
        response.headers_mut().insert(NAMESPACE, value);
    }
    Ok(response)
}

fn unparsed(error: ParseError, path: &str) -> Failure {
    match error {
        ParseError::Refused(refusal) => refusal.into(),
        ParseError::Method { allow } => Failure::method(allow),
        ParseError::Elsewhere if path.starts_with("/v2") || path.contains("/v2/") => Failure::new(
            ErrorCode::NameUnknown,
            "there is no such path in the distribution API: it ends in manifests/…, blobs/…, tags/list or referrers/…",
        ),
        ParseError::Elsewhere => Failure::new(ErrorCode::NameUnknown, "there is nothing here; the API is below /v2/"),
    }
}

/// The method as a label: a fixed set, whatever clients send.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host_of(value: &str) -> Option<String> {
        let request = Request::builder()
            .header(header::HOST, value)
            .body(())
            .expect("a request");
        host(&request.into_parts().0).map(str::to_owned)
    }

    #[test]
    fn the_host_is_read_without_its_port() {
        assert_eq!(host_of("docker.example.com").as_deref(), Some("docker.example.com"));
        assert_eq!(host_of("docker.example.com:443").as_deref(), Some("docker.example.com"));
        assert_eq!(host_of("[::1]:5000").as_deref(), Some("[::1]"));
        assert_eq!(host_of("[::1]").as_deref(), Some("[::1]"));
    }
}
