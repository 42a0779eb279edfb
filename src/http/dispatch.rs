//! From a request to an answer: read the line, find out who asks, hand over to what passes the gate, and have written
//! down what came of it. Every route of the distribution API passes here, HEAD and ranges too.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request};

use super::audit::{self, Told};
use super::call::Call;
use super::challenge;
use super::credentials::{Visitor, is_mirrored};
use super::error::Failure;
use super::gate::Caller;
use super::serve::Peer;
use super::shed::Admitted;
use super::site::{Front, Site};
use super::{REQUEST_ID, RequestId, answer as answers, list, pull, push};
use crate::mishap;
use crate::oci::operation::{Operation, ParseError, Request as Line};
use crate::oci::{ErrorCode, ImageName};
use crate::repository::router::Hints;

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

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
            let asked = Asked {
                front,
                site,
                parts,
                line,
                id: id.clone(),
            };
            let response = match Admitted::of(&asked.front, &asked.line.operation) {
                Ok(admitted) => {
                    let mut response = answer(asked, body).await;
                    admitted.until_sent(&mut response);
                    response
                }
                Err(failure) => failure.respond(&id),
            };
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
        repository = header_text(&response, &answers::REPOSITORY),
        cache = header_text(&response, &answers::CACHE),
        duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "answered"
    );
    response
}

fn header_text<'a>(response: &'a Response, name: &HeaderName) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// A request whose caller is not known yet.
struct Asked {
    front: Arc<Front>,
    site: Arc<Site>,
    parts: Parts,
    line: Line,
    id: RequestId,
}

async fn answer(asked: Asked, body: Body) -> Response {
    let Asked {
        front,
        site,
        parts,
        line,
        id,
    } = asked;
    let visitor = Visitor::of(&site, &parts);
    let is_key = |first: &str| site.repositories.keys().any(|key| key.as_str() == first);
    let caller = match Caller::of(&site, &visitor, is_mirrored(&line, is_key)).await {
        Ok(caller) => caller,
        Err(failure) => {
            let scope = challenge::scope(&line.operation);
            let failure = visitor.tell(failure, line.prefix.as_ref(), scope.as_deref());
            let told = Told::of(&id, &visitor, None).ended(failure.status(), Some(failure.message()));
            write_down(&site, &parts, &line, &told);
            return failure.respond(&id);
        }
    };
    let call = Call {
        front,
        site,
        parts,
        line,
        visitor,
        caller,
        id,
    };
    let answer = perform(&call, body).await.map_err(|failure| {
        let failure = match call.line.operation.name() {
            Some(name) => call.gate().not_found(failure, name),
            None => failure,
        };
        call.visitor.tell(failure, call.line.prefix.as_ref(), None)
    });
    let told = Told::of(&call.id, &call.visitor, Some(&call.caller.identity));
    let told = match &answer {
        Ok(response) => Told {
            repository: header_text(response, &answers::REPOSITORY),
            ..told.ended(response.status().as_u16(), None)
        },
        Err(failure) => told.ended(failure.status(), Some(failure.message())),
    };
    write_down(&call.site, &call.parts, &call.line, &told);
    answer.unwrap_or_else(|failure| failure.respond(&call.id))
}

/// Tells the audit of an answer, if it is one that it wants. Where no repository has answered, it is told which one the
/// name means.
fn write_down(site: &Site, parts: &Parts, line: &Line, told: &Told<'_>) {
    let (is_head, pulls) = (parts.method == Method::HEAD, site.audit.wants_pulls());
    let shown = told.visitor.shows_something();
    let Some(action) = audit::action(&line.operation, is_head, told.status, shown, pulls) else {
        return;
    };
    let hints = Hints {
        prefix: line.prefix.as_ref(),
        namespace: line.namespace.as_deref(),
        listener: parts.extensions.get::<Peer>().and_then(|peer| peer.repository.as_ref()),
        host: told.visitor.origin.host(),
    };
    let name = line.operation.name();
    let route = name.and_then(|name| site.repositories.route(name, hints).ok());
    let meant = route.as_ref().map(|route| route.repository.key().as_str());
    site.audit.tell_of(&Told {
        action,
        repository: told.repository.or(meant),
        image: route.as_ref().map(|route| &route.image).or(name).map(ImageName::as_str),
        reference: audit::reference(&line.operation).as_deref(),
        ..*told
    });
}

async fn perform(call: &Call, body: Body) -> Result<Response, Failure> {
    mishap::at("handler");
    let namespace = call.line.namespace.clone();
    let mut response = match call.line.operation.clone() {
        Operation::CheckVersion => {
            call.gate().version()?;
            pull::version()
        }
        Operation::Catalog { page } => list::catalog(call, &page).await?,
        Operation::PullManifest { name, reference } => pull::manifest(call, &name, &reference).await?,
        Operation::PullBlob { name, digest } => pull::blob(call, &name, &digest).await?,
        Operation::ListTags { name, page } => list::tags(call, &name, &page).await?,
        Operation::ListReferrers {
            name,
            subject,
            artifact_type,
        } => list::referrers(call, &name, &subject, artifact_type.as_deref()).await?,
        Operation::PushManifest { name, reference, tags } => {
            push::manifest(call, &name, &reference, &tags, body).await?
        }
        Operation::DeleteManifest { name, reference } => push::delete_manifest(call, &name, &reference).await?,
        Operation::DeleteBlob { name, digest } => push::delete_blob(call, &name, &digest).await?,
        Operation::StartUpload { name, start } => push::start(call, &name, start, body).await?,
        Operation::UploadStatus { name, id } => push::status(call, &name, id).await?,
        Operation::AppendUpload { name, id } => push::append(call, &name, id, body).await?,
        Operation::FinishUpload { name, id, digest } => push::finish(call, &name, id, &digest, body).await?,
        Operation::CancelUpload { name, id } => push::cancel(call, &name, id).await?,
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
pub(super) fn method_label(method: &Method) -> &'static str {
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
