//! `/token`: Docker's token endpoint. What it gives says who somebody is and nothing else, so what a client asks for in
//! `scope` changes nothing in it; what they may is looked up at each request.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderValue, Request, StatusCode, header};

use super::audit::Told;
use super::challenge::TokenError;
use super::credentials::{Shown, Visitor};
use super::error::Failure;
use super::serve::Peer;
use super::site::{Front, Site};
use super::{REQUEST_ID, RequestId, api, dispatch};
use crate::access::Identity;
use crate::oci::operation::Action;
use crate::oci::{ErrorCode, ImageName};

/// The longest form that is read.
const BODY: usize = 64 << 10;
/// What it is called where requests are counted.
const HANDLER: &str = "token";

/// What a client asks for.
#[derive(Default)]
struct Asked {
    scopes: Vec<String>,
    /// The client's names are below a key, as the challenge said.
    has_prefix: bool,
    grant_type: Option<String>,
    username: Option<String>,
    password: Option<String>,
    refresh_token: Option<String>,
    access_type: Option<String>,
}

/// What a form shows for a token.
enum Proof {
    Shown(Shown),
    Refresh(String),
}

/// `GET /token`: credentials are in the headers, or there are none.
pub(super) async fn get(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let (parts, _) = request.into_parts();
    let asked = Asked::read(parts.uri.query().unwrap_or_default().as_bytes());
    Exchange::of(front, parts).answer(Ok((asked, None))).await
}

/// `POST /token`: a form, as OAuth 2 has it.
pub(super) async fn post(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let asked = form(&parts, body).await;
    Exchange::of(front, parts).answer(asked).await
}

/// Any other method.
pub(super) async fn wrong_method(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let (parts, _) = request.into_parts();
    let failure = Failure::method("GET, HEAD, POST");
    Exchange::of(front, parts).answer(Err(failure)).await
}

async fn form(parts: &Parts, body: Body) -> Result<(Asked, Option<Proof>), Failure> {
    if !api::is_of_type(parts, "application/x-www-form-urlencoded") {
        let message = "this takes a form, of Content-Type application/x-www-form-urlencoded";
        return Err(Failure::new(ErrorCode::Unsupported, message).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let body = axum::body::to_bytes(body, BODY).await.map_err(|_| {
        let message = format!("the form did not come whole, or is longer than {BODY} bytes");
        Failure::new(ErrorCode::TooLarge, message)
    })?;
    let mut asked = Asked::read(&body);
    // The query that the challenge gave it is sent along by every client, with a form too.
    asked.has_prefix |= Asked::read(parts.uri.query().unwrap_or_default().as_bytes()).has_prefix;
    let proof = asked.proof()?;
    Ok((asked, Some(proof)))
}

impl Asked {
    /// Reads a query or a form. Of what is to be there once, the first counts.
    fn read(text: &[u8]) -> Self {
        let mut asked = Self::default();
        for (key, value) in url::form_urlencoded::parse(text) {
            let place = match &*key {
                // Several of them, or several in one: clients differ.
                "scope" => {
                    asked.scopes.extend(value.split_ascii_whitespace().map(str::to_owned));
                    continue;
                }
                "prefix" => {
                    asked.has_prefix = true;
                    continue;
                }
                "grant_type" => &mut asked.grant_type,
                "username" => &mut asked.username,
                "password" => &mut asked.password,
                "refresh_token" => &mut asked.refresh_token,
                "access_type" => &mut asked.access_type,
                _ => continue,
            };
            if place.is_none() {
                *place = Some(value.into_owned());
            }
        }
        asked
    }

    /// What a form shows.
    fn proof(&mut self) -> Result<Proof, Failure> {
        let lacks =
            |what: &str| Failure::new(ErrorCode::Unsupported, what.to_owned()).with_status(StatusCode::BAD_REQUEST);
        match self.grant_type.as_deref() {
            Some("password") => match (self.username.take(), self.password.take()) {
                (Some(user), Some(password)) => Ok(Proof::Shown(Shown::password(&user, &password))),
                _ => Err(lacks("grant_type=password needs `username` and `password`")),
            },
            Some("refresh_token") => match self.refresh_token.take() {
                Some(token) => Ok(Proof::Refresh(token)),
                None => Err(lacks("grant_type=refresh_token needs `refresh_token`")),
            },
            _ => Err(lacks("this takes grant_type=password and grant_type=refresh_token")),
        }
    }

    /// Whether it asks for what a Docker daemon asks of a mirror of Docker Hub: to pull images by names without any key
    /// of ours. A login asks for nothing, and is no such request.
    fn is_mirrored(&self, is_key: impl Fn(&str) -> bool) -> bool {
        let mirrored = |scope: &String| {
            let Some((name, "pull")) = scope.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':')) else {
                return false;
            };
            name.parse::<ImageName>()
                .is_ok_and(|name| !name.split_first().is_some_and(|(first, _)| is_key(first)))
        };
        !self.has_prefix && !self.scopes.is_empty() && self.scopes.iter().all(mirrored)
    }

    /// Whether a token for new ones is wanted. `offline_token=true` is not it: docker sends that at every login, and
    /// would keep the token instead of the password, which others read from where it keeps it.
    fn is_offline(&self) -> bool {
        self.access_type.as_deref() == Some("offline")
    }
}

/// One request for a token.
struct Exchange {
    front: Arc<Front>,
    site: Arc<Site>,
    parts: Parts,
    visitor: Visitor,
    id: RequestId,
    began: Instant,
}

impl Exchange {
    fn of(front: Arc<Front>, parts: Parts) -> Self {
        let site = front.site.load_full();
        Self {
            visitor: Visitor::of(&site, &parts),
            id: RequestId::of(&parts.headers),
            began: Instant::now(),
            front,
            site,
            parts,
        }
    }

    /// Answers what was asked. Without a proof of its own, what the headers show is one.
    async fn answer(mut self, asked: Result<(Asked, Option<Proof>), Failure>) -> Response {
        let _in_flight = self.front.metrics.request_begins(HANDLER);
        let result = match asked {
            Ok((asked, proof)) => self.mint(&asked, proof).await,
            Err(failure) => Err(failure),
        };
        let mut response = result.unwrap_or_else(|failure| failure.respond(&self.id));
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(value) = HeaderValue::from_str(self.id.as_str()) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        let (status, took) = (response.status().as_u16(), self.began.elapsed());
        let method = dispatch::method_label(&self.parts.method);
        self.front.metrics.request_answered(HANDLER, method, status, took);
        tracing::info!(
            request_id = %self.id,
            client = self.parts.extensions.get::<Peer>().map(|peer| tracing::field::display(peer.address)),
            method,
            path = self.parts.uri.path(),
            status,
            duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "answered"
        );
        response
    }

    async fn mint(&mut self, asked: &Asked, proof: Option<Proof>) -> Result<Response, Failure> {
        let identified = match proof {
            Some(Proof::Refresh(token)) => {
                let identified = self.site.access.identify_refresh(&token);
                self.visitor.shown = Shown::Token(token);
                identified.map_err(|error| Failure::from(error).of_token(TokenError::Invalid))
            }
            Some(Proof::Shown(shown)) => {
                self.visitor.shown = shown;
                self.identify(asked).await
            }
            None => self.identify(asked).await,
        };
        let identity = identified.map_err(|failure| self.refuse(failure))?;
        let access = &self.site.access;
        let minted = access.mint(&identity);
        let mut document = serde_json::json!({
            "token": minted.token,
            "access_token": minted.token,
            "expires_in": minted.expires_in.as_secs(),
        });
        let is_form = self.parts.method == http::Method::POST;
        if is_form
            && asked.is_offline()
            && let Some(refresh) = access.mint_refresh(&identity)
        {
            document["refresh_token"] = refresh.token.into();
        }
        Ok(api::json(StatusCode::OK, document.to_string().into_bytes()))
    }

    /// Whether somebody whom nobody here knows is taken for nobody.
    fn is_mirrored(&self, asked: &Asked) -> bool {
        let repositories = &self.site.repositories;
        let is_open = |key| {
            let policies = &self.site.access.policies;
            policies.allow_some_of(&Identity::Anonymous, Action::Pull, key)
        };
        asked.is_mirrored(|first| repositories.keys().any(|key| key.as_str() == first))
            && repositories.keys().any(is_open)
    }

    async fn identify(&self, asked: &Asked) -> Result<Identity, Failure> {
        let mirrored = !self.visitor.shown.is_token() && self.is_mirrored(asked);
        self.visitor.identify(&self.site, mirrored).await
    }

    fn refuse(&self, failure: Failure) -> Failure {
        let told = Told::of(&self.id, &self.visitor, None).ended(failure.status(), Some(failure.message()));
        let action = "login";
        self.site.audit.tell_of(&Told { action, ..told });
        self.visitor.tell(failure, None, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrored(query: &str) -> bool {
        Asked::read(query.as_bytes()).is_mirrored(|key| key == "docker")
    }

    #[test]
    fn scopes_are_read_in_every_form_that_clients_send() {
        let asked = Asked::read(b"scope=repository:a:pull%20repository:b:pull&scope=registry:catalog:*&service=x");
        assert_eq!(
            asked.scopes,
            ["repository:a:pull", "repository:b:pull", "registry:catalog:*"]
        );
        assert!(!asked.has_prefix);
        assert!(Asked::read(b"prefix=docker").has_prefix);
        assert!(Asked::read(b"access_type=offline").is_offline());
        assert!(!Asked::read(b"offline_token=true").is_offline());
    }

    #[test]
    fn only_pulls_of_names_without_a_key_are_a_mirrors() {
        for (query, expected) in [
            ("scope=repository:library/alpine:pull", true),
            ("scope=repository:alpine:pull", true),
            ("scope=repository:a:pull&scope=repository:b/c:pull", true),
            ("", false),
            ("account=ada", false),
            ("scope=repository:docker/library/alpine:pull", false),
            ("scope=repository:library/alpine:pull&prefix=docker", false),
            ("scope=repository:library/alpine:pull,push", false),
            ("scope=repository:library/alpine:push,pull", false),
            ("scope=repository:a:pull repository:docker/b:pull", false),
            ("scope=registry:catalog:*", false),
            ("scope=repository(plugin):a:pull", false),
            ("scope=aws", false),
            ("scope=repository::pull", false),
            ("scope=repository:A:pull", false),
        ] {
            assert_eq!(mirrored(query), expected, "{query}");
        }
    }

    #[test]
    fn a_form_shows_what_its_grant_says() {
        let proof = |form: &str| Asked::read(form.as_bytes()).proof();
        assert!(matches!(
            proof("grant_type=password&username=ada&password=p%26w"),
            Ok(Proof::Shown(Shown::Password { user, password })) if user == "ada" && password == "p&w"
        ));
        assert!(matches!(
            proof("grant_type=refresh_token&refresh_token=x"),
            Ok(Proof::Refresh(token)) if token == "x"
        ));
        for form in [
            "",
            "grant_type=client_credentials",
            "grant_type=password&username=ada",
            "grant_type=refresh_token",
            "username=ada&password=pw",
        ] {
            assert_eq!(proof(form).err().expect(form).status(), 400, "{form}");
        }
    }
}
