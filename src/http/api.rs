//! `/api/v1/…`: what the command line and the page use. Described in `openapi.json`, which a test holds to this file.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::audit::{Told, outcome};
use super::credentials::Visitor;
use super::error::Failure;
use super::gate::{Caller, Gate};
use super::image_text::{ImageText, digest_of};
use super::serve::Peer;
use super::site::{Front, Site};
use super::{REQUEST_ID, RequestId};
use crate::access::Identity;
use crate::clock;
use crate::oci::operation::Action;
use crate::oci::{ErrorCode, ImageName, RepositoryKey};
use crate::repository::router::Hints;
use crate::repository::{Route, TagChange};
use crate::telemetry::audit::Outcome;
use crate::telemetry::timestamp;

/// The longest body of a request.
const BODY: usize = 1 << 20;

/// One request of the API.
pub(super) struct Ask {
    site: Arc<Site>,
    parts: Parts,
    visitor: Visitor,
    /// Who asks, once that is known.
    identity: OnceLock<Identity>,
    /// What it is about, once that is known; the first, of several.
    subject: OnceLock<Subject>,
    /// What it is about that is no image: the name of a token, the directory of a backup.
    thing: OnceLock<String>,
    /// Whether it asked only to be told what would be done.
    only_looks: OnceLock<()>,
    id: RequestId,
    began: Instant,
}

/// What a request is about.
struct Subject {
    repository: RepositoryKey,
    image: ImageName,
    reference: String,
}

/// What is asked about a tag.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TagRequest {
    image: String,
    to: Option<String>,
}

#[derive(Serialize)]
struct History<'a> {
    repository: &'a str,
    image: &'a str,
    tag: &'a str,
    digest: &'a str,
    pinned: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<Held<'a>>,
    #[serde(rename = "history")]
    meanings: Vec<Meaning<'a>>,
}

#[derive(Serialize)]
struct Held<'a> {
    to: &'a str,
    seen: String,
    follows: Option<String>,
}

#[derive(Serialize)]
struct Meaning<'a> {
    digest: &'a str,
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<String>,
    origin: &'a str,
}

#[derive(Serialize)]
struct Changed<'a> {
    repository: &'a str,
    image: &'a str,
    tag: &'a str,
    digest: &'a str,
    pinned: bool,
}

/// `GET /api/v1/openapi.json`.
pub(super) async fn description() -> Response {
    json(StatusCode::OK, include_bytes!("openapi.json").to_vec())
}

/// `GET /api/v1/tags/history?image=…`.
pub(super) async fn history(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let (ask, _) = Ask::of(front, request);
    let result = ask.history().await;
    ask.respond(result)
}

/// `POST /api/v1/tags/pin`.
pub(super) async fn pin(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let (ask, body) = Ask::of(front, request);
    let result = ask.pin(body).await;
    ask.respond(result)
}

/// `POST /api/v1/tags/unpin`.
pub(super) async fn unpin(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let (ask, body) = Ask::of(front, request);
    let result = ask.unpin(body).await;
    ask.respond(result)
}

/// `POST /api/v1/tags/rollback`.
pub(super) async fn roll_back(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let (ask, body) = Ask::of(front, request);
    let result = ask.roll_back(body).await;
    ask.respond(result)
}

/// A path of the API with a method that it does not take.
pub(super) async fn wrong_method(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let (ask, _) = Ask::of(front, request);
    let message = "this path takes another method: /api/v1/openapi.json says which";
    let failure = Failure::new(ErrorCode::Unsupported, message);
    ask.respond(Err(failure.with_status(StatusCode::METHOD_NOT_ALLOWED)))
}

/// A path that the API does not have.
pub(super) async fn nothing(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let (ask, _) = Ask::of(front, request);
    let message = "there is no such thing in this API: /api/v1/openapi.json says what there is";
    ask.respond(Err(Failure::new(ErrorCode::NameUnknown, message)))
}

impl Ask {
    #[expect(clippy::needless_pass_by_value, reason = "as the framework hands it over")]
    pub(super) fn of(front: Arc<Front>, request: Request<Body>) -> (Self, Body) {
        let (parts, body) = request.into_parts();
        let site = front.site.load_full();
        let ask = Self {
            visitor: Visitor::of(&site, &parts),
            site,
            identity: OnceLock::new(),
            subject: OnceLock::new(),
            thing: OnceLock::new(),
            only_looks: OnceLock::new(),
            id: RequestId::of(&parts.headers),
            parts,
            began: Instant::now(),
        };
        (ask, body)
    }

    async fn history(&self) -> Result<Response, Failure> {
        let caller = self.caller().await?;
        let image = url::form_urlencoded::parse(self.query().as_bytes()).find(|(key, _)| key == "image");
        let Some((_, image)) = image else {
            return Err(Failure::new(
                ErrorCode::NameInvalid,
                "`?image=` says which, as in `team/app:v1`",
            ));
        };
        let (named, route) = self.route(&caller, &image, Action::Pull)?;
        let tag = named.tag()?;
        let known = route.repository.tag_history(&route.image, tag).await?;
        let Some(known) = known else {
            let message = format!("`{}` knows no tag {tag} of {}", route.repository.key(), route.image);
            let failure = Failure::new(ErrorCode::ManifestUnknown, message);
            return Err(self.gate_to(&caller, &named).not_found(failure, &named.name));
        };
        let answer = History {
            repository: known.repository.as_str(),
            image: known.image.as_str(),
            tag: tag.as_str(),
            digest: known.record.digest.as_str(),
            pinned: known.record.pinned,
            held: known.record.moves.last().map(|last| Held {
                to: last.to.as_str(),
                seen: timestamp::of(clock::told(last.seen)),
                follows: known.follows().map(|at| timestamp::of(clock::told(at))),
            }),
            meanings: known
                .meanings
                .iter()
                .map(|known| Meaning {
                    digest: known.digest.as_str(),
                    since: timestamp::of(known.since),
                    verified: known.verified.map(|at| timestamp::of(clock::told(at))),
                    origin: &known.origin,
                })
                .collect(),
        };
        Ok(json(StatusCode::OK, serde_json::to_vec(&answer).unwrap_or_default()))
    }

    async fn pin(&self, body: Body) -> Result<Response, Failure> {
        let (asked, named, route) = self.change(body).await?;
        let to = asked.to.as_deref().map(digest_of).transpose()?;
        let changed = route
            .repository
            .pin_tag(&route.image, named.tag()?, to.as_ref())
            .await?;
        self.changed("pinned", &named, &route, &changed)
    }

    async fn unpin(&self, body: Body) -> Result<Response, Failure> {
        let (_, named, route) = self.change(body).await?;
        let changed = route.repository.unpin_tag(&route.image, named.tag()?).await?;
        self.changed("unpinned", &named, &route, &changed)
    }

    async fn roll_back(&self, body: Body) -> Result<Response, Failure> {
        let (asked, named, route) = self.change(body).await?;
        let to = asked.to.as_deref().map(digest_of).transpose()?;
        let tag = named.tag()?;
        let changed = route.repository.roll_back_tag(&route.image, tag, to.as_ref()).await?;
        self.changed("rolled back", &named, &route, &changed)
    }

    /// What a request to change a tag says.
    async fn change(&self, body: Body) -> Result<(TagRequest, ImageText, Route), Failure> {
        let caller = self.caller().await?;
        self.gate(&caller).somewhere(Action::Admin)?;
        let asked: TagRequest = self.read(body).await?;
        let (named, route) = self.route(&caller, &asked.image, Action::Admin)?;
        Ok((asked, named, route))
    }

    fn changed(&self, what: &str, named: &ImageText, route: &Route, changed: &TagChange) -> Result<Response, Failure> {
        let tag = named.tag()?;
        tracing::info!(
            request_id = %self.id,
            repository = %changed.repository,
            image = %route.image,
            %tag,
            digest = %changed.digest,
            what,
            "a tag was changed"
        );
        let answer = Changed {
            repository: changed.repository.as_str(),
            image: route.image.as_str(),
            tag: tag.as_str(),
            digest: changed.digest.as_str(),
            pinned: changed.pinned,
        };
        Ok(json(StatusCode::OK, serde_json::to_vec(&answer).unwrap_or_default()))
    }

    /// Who asks.
    pub(super) async fn caller(&self) -> Result<Caller, Failure> {
        let caller = Caller::of(&self.site, &self.visitor, false).await?;
        let _ = self.identity.set(caller.identity.clone());
        Ok(caller)
    }

    /// Who asks, if they may do this with everything.
    pub(super) async fn allowed_everywhere(&self, action: Action) -> Result<Caller, Failure> {
        let caller = self.caller().await?;
        self.gate(&caller).everywhere(action)?;
        Ok(caller)
    }

    /// What the configuration means.
    pub(super) fn site(&self) -> &Site {
        &self.site
    }

    /// What the request is called.
    pub(super) const fn id(&self) -> &RequestId {
        &self.id
    }

    /// What it asks.
    pub(super) fn query(&self) -> &str {
        self.parts.uri.query().unwrap_or_default()
    }

    /// What its path ends in. Ids and names have nothing in them that would be escaped.
    pub(super) fn last_segment(&self) -> &str {
        self.parts.uri.path().rsplit('/').next().unwrap_or_default()
    }

    /// That it is about this, for the audit.
    pub(super) fn about(&self, thing: &str) {
        let _ = self.thing.set(thing.to_owned());
    }

    /// That it changes nothing, for the audit.
    pub(super) fn only_looks(&self) {
        let _ = self.only_looks.set(());
    }

    /// The one way to the repositories.
    pub(super) fn gate<'a>(&'a self, caller: &'a Caller) -> Gate<'a> {
        let peer = self.parts.extensions.get::<Peer>();
        Gate {
            site: &self.site,
            caller,
            hints: Hints {
                listener: peer.and_then(|peer| peer.repository.as_ref()),
                host: self.visitor.origin.host(),
                ..Hints::default()
            },
            judged: None,
        }
    }

    /// The same for an image that was written with a registry in front: one of ours by its host name, or else, as in `?ns=`,
    /// where it comes from.
    pub(super) fn gate_to<'a>(&'a self, caller: &'a Caller, named: &'a ImageText) -> Gate<'a> {
        let gate = self.gate(caller);
        let Some(registry) = named.registry.as_deref() else {
            return gate;
        };
        let hints = match self.site.repositories.host_of(registry) {
            Some(host) => Hints {
                host: Some(host),
                ..Hints::default()
            },
            None => Hints {
                namespace: Some(registry),
                ..gate.hints
            },
        };
        Gate { hints, ..gate }
    }

    /// Reads an image that somebody has written.
    pub(super) fn named(&self, image: &str) -> Result<ImageText, Failure> {
        let origin = &self.visitor.origin;
        let is_key = |text: &str| self.site.repositories.keys().any(|key| key.as_str() == text);
        let named = ImageText::parse(image, origin.authority.as_deref())?;
        if named.registry.as_deref() != Some(origin.base.authority.as_str()) {
            return Ok(named.settled(is_key)?);
        }
        // What clients call us (`external_url`), and not what this one does.
        Ok(ImageText {
            registry: None,
            ..named
        })
    }

    /// What an image means to this caller that somebody has written.
    pub(super) fn route(&self, caller: &Caller, image: &str, action: Action) -> Result<(ImageText, Route), Failure> {
        let named = self.named(image)?;
        let route = self.gate_to(caller, &named).route(&named.name, action)?;
        let _ = self.subject.set(Subject {
            repository: route.repository.key().clone(),
            image: route.image.clone(),
            reference: named.reference.to_string(),
        });
        Ok((named, route))
    }

    /// Reads a body. Only JSON that says so: a page of another site can make a browser send anything else.
    pub(super) async fn read<T: DeserializeOwned>(&self, body: Body) -> Result<T, Failure> {
        if !is_of_type(&self.parts, "application/json") {
            let message = "this takes a body of Content-Type application/json";
            return Err(Failure::new(ErrorCode::Unsupported, message).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let bytes = axum::body::to_bytes(body, BODY).await.map_err(|_| {
            let message = format!("the body did not come whole, or is longer than {BODY} bytes");
            Failure::new(ErrorCode::TooLarge, message)
        })?;
        serde_json::from_slice(&bytes).map_err(|error| {
            let message = format!("the body is not what this takes: {error}");
            Failure::new(ErrorCode::NameInvalid, message)
        })
    }

    pub(super) fn respond(&self, result: Result<Response, Failure>) -> Response {
        let result = result.map_err(|failure| self.visitor.tell(failure, None, None));
        self.write_down(&result);
        let mut response = result.unwrap_or_else(|failure| failure.respond_plainly(&self.id));
        if let Ok(value) = HeaderValue::from_str(self.id.as_str()) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        tracing::info!(
            request_id = %self.id,
            client = self.parts.extensions.get::<Peer>().map(|peer| tracing::field::display(peer.address)),
            method = %self.parts.method,
            path = self.parts.uri.path(),
            status = response.status().as_u16(),
            duration_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "answered"
        );
        response
    }
}

impl Ask {
    /// Tells the audit of changes and refusals.
    fn write_down(&self, result: &Result<Response, Failure>) {
        let told = Told::of(&self.id, &self.visitor, self.identity.get());
        let told = match result {
            Ok(response) => told.ended(response.status().as_u16(), None),
            Err(failure) => told.ended(failure.status(), Some(failure.message())),
        };
        let looks = matches!(self.parts.method, Method::GET | Method::HEAD) || self.only_looks.get().is_some();
        let Some(action) = audited(&self.parts.method, self.parts.uri.path()) else {
            return;
        };
        if looks && outcome(told.status) != Outcome::Denied {
            return;
        }
        let subject = self.subject.get();
        self.site.audit.tell_of(&Told {
            action,
            repository: subject.map(|subject| subject.repository.as_str()),
            image: subject.map(|subject| subject.image.as_str()),
            reference: subject
                .map(|subject| subject.reference.as_str())
                .or_else(|| self.thing.get().map(String::as_str)),
            ..told
        });
    }
}

/// What the audit calls what is done at a path.
fn audited(method: &Method, path: &str) -> Option<&'static str> {
    Some(match path.strip_prefix("/api/v1/")? {
        "tags/history" => "history",
        "tags/pin" => "pin",
        "tags/unpin" => "unpin",
        "tags/rollback" => "rollback",
        "prefetch" => "prefetch",
        "gc" => "gc",
        "verify" => "verify",
        "backup" => "backup",
        "resolve" => "resolve",
        "tokens" if *method == Method::POST => "create-token",
        "tokens" => "list-tokens",
        token if token.starts_with("tokens/") => "revoke-token",
        _ => return None,
    })
}

/// Whether a body is said to be of a type, whatever its parameters.
pub(super) fn is_of_type(parts: &Parts, wanted: &str) -> bool {
    let said = parts.headers.get(header::CONTENT_TYPE);
    let said = said.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = said.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(wanted)
}

pub(super) fn json(status: StatusCode, bytes: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    let never = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, never);
    response
}
