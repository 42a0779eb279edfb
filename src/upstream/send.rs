//! One exchange with an upstream and the redirects it leads to: the only file that sends it a request.
//!
//! Redirects are followed by hand, because what may go along on the way is not the client's to decide: see
//! [`Sender::follow`].

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, IF_RANGE, LOCATION, RANGE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use super::Error;
use super::clients::Clients;
use super::health::{Health, Watched};
use super::proxy::Proxy;
use super::range::{Range, Validator};
use crate::config::{RemoteConfig, Secret};
use crate::oci::RepositoryKey;
use crate::telemetry::Metrics;

/// How many redirects are followed.
const HOPS: usize = 5;
/// A body that nobody wants is read to its end up to this size, so that its connection can be used again.
const DRAINED: u64 = 16 * 1024;

/// Who is asked, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    /// The registry itself.
    Registry,
    /// A token endpoint.
    Token,
    /// Where a registry sends us for the bytes.
    Content,
}

impl Role {
    /// In a sentence whose subject is the upstream.
    pub(super) const fn called(self) -> &'static str {
        match self {
            Self::Registry => "it",
            Self::Token => "its token endpoint",
            Self::Content => "the host of its content",
        }
    }

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Token => "token",
            Self::Content => "content",
        }
    }
}

/// A request before it is sent.
#[derive(Clone)]
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) accept: Option<HeaderValue>,
    /// The bytes wanted.
    pub(super) range: Range,
    /// What they must still be a part of, if the host is the one that said what it is.
    pub(super) validator: Option<Validator>,
    /// For the origin of `url` and for no other.
    pub(super) authorization: Option<HeaderValue>,
    /// The body, which is a secret: with it, no redirect is followed.
    pub(super) form: Option<Secret>,
}

/// Why an exchange failed, and whether trying it once more makes sense.
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) again: bool,
}

impl Failure {
    pub(super) fn last(error: Error) -> Self {
        Self { error, again: false }
    }
}

/// Sends requests for one remote.
pub(super) struct Sender {
    clients: Clients,
    repository: RepositoryKey,
    insecure: bool,
    idle_timeout: Duration,
    /// Who of those that are asked fails too often to be asked.
    pub(super) health: Health,
    metrics: Arc<Metrics>,
}

impl Sender {
    pub(super) fn new(
        repository: &RepositoryKey,
        config: &RemoteConfig,
        health: Health,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let clients = Clients::new(config).map_err(|error| match error {
            Error::Configuration { key, reason } => Error::Configuration {
                key: format!("repositories.{repository}.{key}"),
                reason,
            },
            error => error,
        })?;
        Ok(Self {
            clients,
            repository: repository.clone(),
            insecure: config.insecure,
            idle_timeout: config.idle_timeout,
            health,
            metrics,
        })
    }

    /// Sends a request and follows where it leads: at most five times, to web addresses without a user in them, never
    /// from https to http, and without the `Authorization` as soon as scheme, host or port change. A signed address
    /// refuses a second kind of authorization, and an address that is not the registry's has no business seeing it.
    pub(super) async fn follow(
        &self,
        mut request: Outgoing,
        role: Role,
        deadline: Instant,
    ) -> Result<Response, Failure> {
        let home = request.url.origin();
        for _ in 0..=HOPS {
            let is_home = request.url.origin() == home;
            let asked = if is_home || role == Role::Token {
                role
            } else {
                Role::Content
            };
            let turn = self.health.enter(asked, &request.url).map_err(Failure::last)?;
            let (inner, watched) = match self.exchange(&request, asked, deadline).await {
                Ok(inner) => {
                    let watched = turn.answered(inner.status().as_u16(), inner.headers());
                    (inner, watched)
                }
                Err(failure) => {
                    turn.failed(&failure.error);
                    return Err(failure);
                }
            };
            let response = Response {
                inner,
                watched,
                url: request.url.clone(),
                is_foreign: !is_home,
                idle_timeout: self.idle_timeout,
            };
            let Some(next) = redirection(&response, self.insecure).map_err(Failure::last)? else {
                return Ok(response);
            };
            response.drain().await;
            if request.form.is_some() {
                return Err(Failure::last(Error::Lies(
                    "its token endpoint redirects what is for it alone".to_owned(),
                )));
            }
            if next.origin() != request.url.origin() {
                request.authorization = None;
            }
            request.url = next;
        }
        Err(Failure::last(Error::Lies(format!(
            "it redirects more than {HOPS} times"
        ))))
    }

    async fn exchange(&self, request: &Outgoing, role: Role, deadline: Instant) -> Result<reqwest::Response, Failure> {
        let client = self.clients.of(&request.url).await.map_err(Failure::last)?;
        let mut builder = client
            .request(request.method.clone(), request.url.clone())
            .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(accept) = &request.accept {
            builder = builder.header(ACCEPT, accept);
        }
        if let Some(authorization) = &request.authorization {
            builder = builder.header(AUTHORIZATION, authorization);
        }
        if let Some(form) = &request.form {
            builder = builder
                .header(
                    CONTENT_TYPE,
                    HeaderValue::from_static("application/x-www-form-urlencoded"),
                )
                .body(form.reveal().to_owned());
        }
        if let Some(range) = request.range.header() {
            builder = builder.header(RANGE, range);
            let validator = request.validator.as_ref();
            if let Some(tag) = validator.and_then(|validator| validator.for_host(&request.url)) {
                builder = builder.header(IF_RANGE, tag);
            }
        }
        let answer = timeout_at(deadline, builder.send()).await;
        let code = match &answer {
            Ok(Ok(response)) => Some(response.status().as_u16()),
            _ => None,
        };
        self.metrics
            .upstream_asked(self.repository.as_str(), role.label(), code);
        let proxy = self.clients.proxy();
        match (answer, proxy) {
            (Ok(Ok(response)), Some(proxy)) if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Err(proxy.refusal())
            }
            (Ok(Ok(response)), _) => Ok(response),
            (Ok(Err(error)), proxy) => Err(unsent(&error, &request.url, proxy)),
            (Err(_), _) => Err(Failure::last(Error::Timeout("the first byte of the answer"))),
        }
    }
}

/// An answer whose headers are in.
pub(super) struct Response {
    inner: reqwest::Response,
    /// Who is answering.
    pub(super) watched: Arc<Watched>,
    /// Whose answer it is, after redirects. Its query may be a signature: never to be printed.
    pub(super) url: Url,
    /// Whether redirects led to another origin than the one that was asked.
    pub(super) is_foreign: bool,
    idle_timeout: Duration,
}

impl Response {
    pub(super) fn status(&self) -> u16 {
        self.inner.status().as_u16()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    /// A header's text; one that is no text is none.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// What `Content-Length` says: of the body, or for HEAD of the body there would be.
    pub(super) fn length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH.as_str())?.trim().parse().ok()
    }

    /// Content is kept as it is named by its digest: a body in another encoding than itself cannot be.
    pub(super) fn check_encoding(&self) -> Result<(), Error> {
        let is_identity = |value: &HeaderValue| value.is_empty() || value.as_bytes().eq_ignore_ascii_case(b"identity");
        if self.headers().get_all(CONTENT_ENCODING).iter().all(is_identity) {
            return Ok(());
        }
        Err(Error::Lies(
            "it compresses the body although it was asked not to".to_owned(),
        ))
    }

    /// The next piece of the body. `None` at its end, which is the announced one: a shorter body is an error.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        self.inner.chunk().await.map_err(|error| Error::Broken(reason(&error)))
    }

    /// The whole body, if it is not longer than `limit` and comes without a long pause.
    pub(super) async fn collect(mut self, limit: u64, deadline: Instant) -> Result<Bytes, Error> {
        self.check_encoding()?;
        let announced = self.length();
        if announced.is_some_and(|length| length > limit) {
            return Err(Error::TooLarge { limit });
        }
        let mut body = BytesMut::new();
        loop {
            let pause = Instant::now() + self.idle_timeout;
            let chunk = timeout_at(deadline.min(pause), self.chunk())
                .await
                .map_err(|_| Error::Timeout("the end of the body"))??;
            let Some(chunk) = chunk else { break };
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(Error::TooLarge { limit });
            }
            body.extend_from_slice(&chunk);
        }
        if announced.is_some_and(|length| length != body.len() as u64) {
            return Err(Error::Broken("it is not as long as announced".to_owned()));
        }
        Ok(body.freeze())
    }

    /// Reads a small body that nobody wants, so that the connection is free for the next request.
    pub(super) async fn drain(mut self) {
        if self.length().is_some_and(|length| length <= DRAINED) {
            let rest = async { while let Ok(Some(_)) = self.inner.chunk().await {} };
            // Only a saving: what takes long is closed instead.
            let _ = timeout(Duration::from_millis(200), rest).await;
        }
    }
}

/// Where an answer leads, if it is a redirect.
fn redirection(response: &Response, insecure: bool) -> Result<Option<Url>, Error> {
    if !matches!(response.status(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    match response.header(LOCATION.as_str()) {
        Some(location) => next_hop(&response.url, location, insecure).map(Some),
        None => Err(Error::Lies("it redirects to nowhere".to_owned())),
    }
}

fn next_hop(from: &Url, location: &str, insecure: bool) -> Result<Url, Error> {
    let Ok(next) = from.join(location) else {
        return Err(Error::Lies("it redirects to what is no address".to_owned()));
    };
    let is_web = matches!(next.scheme(), "http" | "https") && next.host_str().is_some();
    if !is_web || !next.username().is_empty() || next.password().is_some() {
        return Err(Error::Lies("it redirects to what is no plain web address".to_owned()));
    }
    if from.scheme() == "https" && next.scheme() == "http" && !insecure {
        return Err(Error::Lies("it redirects from https to http".to_owned()));
    }
    Ok(next)
}

/// Why a request got no answer. All of these are about the connection, and it may be better the next time.
/// But for an address that may not be dialled, which stays one.
fn unsent(error: &reqwest::Error, to: &Url, proxy: Option<&Proxy>) -> Failure {
    if let Some(refused) = refused(error) {
        return Failure::last(refused.clone());
    }
    if let Some(failure) = proxy.and_then(|proxy| proxy.failure(error, to)) {
        return failure;
    }
    let error = if error.is_timeout() {
        Error::Timeout("the connection")
    } else {
        Error::Unreachable(reason(error))
    };
    Failure { error, again: true }
}

/// Our own word in the middle of the client's.
fn refused(error: &reqwest::Error) -> Option<&Error> {
    let mut cause = error.source();
    while let Some(source) = cause {
        if let Some(refused) = source.downcast_ref() {
            return Some(refused);
        }
        cause = source.source();
    }
    None
}

/// The innermost cause: the outer ones only say that a request failed, and for which URL, which may hold a signature.
pub(super) fn reason(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match error.source() {
        Some(_) => cause.to_string(),
        None => "the request failed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_to_the_web_and_not_out_of_tls() {
        let hop = |from: &str, location: &str, insecure| {
            let from = from.parse().expect("a URL");
            next_hop(&from, location, insecure).map(|url| url.to_string()).ok()
        };
        let https = "https://r.example/v2/a";
        assert_eq!(hop(https, "b", false).as_deref(), Some("https://r.example/v2/b"));
        assert_eq!(
            hop(https, "//c.example/b", false).as_deref(),
            Some("https://c.example/b")
        );
        assert_eq!(hop("http://r.example/", https, false).as_deref(), Some(https));
        assert_eq!(hop(https, "http://r.example/", false), None);
        assert!(hop(https, "http://r.example/", true).is_some());
        for location in [
            "https://u@r.example/",
            "https://:p@r.example/",
            "file:///x",
            "data:,x",
            "https://",
        ] {
            assert_eq!(hop(https, location, true), None, "{location}");
        }
    }
}
