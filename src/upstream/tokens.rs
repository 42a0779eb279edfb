//! Bearer tokens: fetched from the endpoint that a challenge names, kept while they last, fetched once for all who wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use http::{HeaderValue, Method};
use moka::sync::Cache;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::credentials::Proof;
use super::range::Range;
use super::send::{Outgoing, Role, Sender};
use super::{Error, retry_after};
use crate::config::Secret;

/// The longest answer of a token endpoint that is read.
const BODY: u64 = 64 * 1024;
/// How many tokens are kept: one an image.
const KEPT: u64 = 10_000;
/// What a token is good for that does not say so, by Docker's specification.
const DEFAULT_LIFE: f64 = 60.0;
/// No token is believed to be good for longer.
const LONGEST_LIFE: f64 = 12.0 * 3600.0;
/// The part of its life in which it is used: clocks and networks are not exact.
const USED_LIFE: f64 = 0.85;

/// What a token is for: endpoint, service and scope, which are its URL, and which credentials were shown for it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) url: Url,
    pub(super) credentials: Option<usize>,
}

/// A token, ready to be sent.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) header: HeaderValue,
    until: Instant,
}

/// What somebody is told who cannot wait any longer.
const LATE: Error = Error::Timeout("the token endpoint");

type Flight = Shared<BoxFuture<'static, Result<Token, Error>>>;
type Flights = Arc<Mutex<HashMap<Key, Flight>>>;

/// The tokens of one remote.
pub(super) struct Tokens {
    sender: Arc<Sender>,
    kept: Cache<Key, Token>,
    flights: Flights,
}

impl Tokens {
    pub(super) fn new(sender: Arc<Sender>) -> Self {
        Self {
            sender,
            kept: Cache::new(KEPT),
            flights: Flights::default(),
        }
    }

    /// A token that is still good.
    pub(super) fn kept(&self, key: &Key) -> Option<Token> {
        self.kept.get(key).filter(|token| token.until > Instant::now())
    }

    /// Forgets a token that was refused, unless another one has taken its place.
    pub(super) fn forget(&self, key: &Key, refused: &HeaderValue) {
        if self.kept.get(key).is_some_and(|token| token.header == *refused) {
            self.kept.invalidate(key);
        }
    }

    /// Fetches a token, or waits with those who are already fetching it. The fetch is nobody's own: who gives up
    /// waiting does not end it for the others.
    pub(super) async fn fetch(&self, key: Key, proof: Option<Proof>, deadline: Instant) -> Result<Token, Error> {
        let (flight, joined) = self.join_or_start(key, proof, deadline);
        if !joined {
            // Its deadline is ours.
            return flight.await;
        }
        timeout_at(deadline, flight).await.unwrap_or(Err(LATE))
    }

    fn join_or_start(&self, key: Key, proof: Option<Proof>, deadline: Instant) -> (Flight, bool) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&key) {
            return (flight.clone(), true);
        }
        let (sender, kept, landing) = (
            Arc::clone(&self.sender),
            self.kept.clone(),
            Landing {
                flights: Arc::clone(&self.flights),
                key: key.clone(),
            },
        );
        let task = tokio::spawn(async move {
            let token = ask(&sender, &landing.key, proof, deadline).await?;
            kept.insert(landing.key.clone(), token.clone());
            Ok(token)
        });
        let flight = async move {
            task.await.unwrap_or_else(|error| {
                Err(Error::Unreachable(format!(
                    "the question for a token was lost: {error}"
                )))
            })
        };
        let flight = flight.boxed().shared();
        flights.insert(key, flight.clone());
        (flight, false)
    }
}

/// Makes room for the next fetch when this one is over, however it ends.
struct Landing {
    flights: Flights,
    key: Key,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.remove(&self.key);
    }
}

#[derive(Deserialize)]
struct Written {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<Value>,
}

async fn ask(sender: &Sender, key: &Key, proof: Option<Proof>, deadline: Instant) -> Result<Token, Error> {
    // Every token endpoint takes a user and password with GET, and some in no other way.
    let (method, (url, form), authorization) = match proof {
        None => (Method::GET, (key.url.clone(), None), None),
        Some(Proof::Basic(header)) => (Method::GET, (key.url.clone(), None), Some(header)),
        Some(Proof::Refresh(token)) => (Method::POST, as_form(&key.url, &token), None),
    };
    let is_form = form.is_some();
    let request = Outgoing {
        method,
        url,
        accept: None,
        range: Range::default(),
        validator: None,
        authorization,
        form,
    };
    let response = sender
        .follow(request, Role::Token, deadline)
        .await
        .map_err(|failure| failure.error)?;
    match response.status() {
        200 => {}
        429 => {
            return Err(Error::RateLimited {
                retry_after: retry_after::read(response.headers(), std::time::SystemTime::now()),
            });
        }
        status @ (401 | 403) => return Err(Error::Refused { status }),
        // What OAuth 2.0 answers to a token that has ended.
        status @ 400 if is_form => return Err(Error::Refused { status }),
        status @ 500.. => return Err(Error::Failing { status }),
        status => return Err(Error::Lies(format!("its token endpoint answers {status}"))),
    }
    let body = response.collect(BODY, deadline).await?;
    read(&body).ok_or_else(|| Error::Lies("its token endpoint gives no token".to_owned()))
}

/// The question for a token by a token for tokens, as OAuth 2.0 has it: what it is for goes from the query into a form.
fn as_form(url: &Url, token: &Secret) -> (Url, Option<Secret>) {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token")
        .append_pair("client_id", "entrepot")
        .append_pair("refresh_token", token.reveal());
    let mut rest = url.clone();
    rest.set_query(None);
    for (name, value) in url.query_pairs() {
        if name == "service" || name == "scope" {
            form.append_pair(&name, &value);
        } else {
            rest.query_pairs_mut().append_pair(&name, &value);
        }
    }
    (rest, Some(Secret::new(form.finish())))
}

pub(super) fn read(body: &[u8]) -> Option<Token> {
    let written: Written = serde_json::from_slice(body).ok()?;
    let life = life(written.expires_in.as_ref());
    let token = [written.token, written.access_token]
        .into_iter()
        .flatten()
        .find(|token| !token.is_empty())?;
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    header.set_sensitive(true);
    Some(Token {
        header,
        until: Instant::now() + life,
    })
}

/// How long a token is used. What is no sensible number means the default.
fn life(expires_in: Option<&Value>) -> Duration {
    let seconds = match expires_in {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    let seconds = seconds
        .filter(|seconds| *seconds >= 1.0)
        .unwrap_or(DEFAULT_LIFE)
        .min(LONGEST_LIFE);
    Duration::from_secs_f64(seconds * USED_LIFE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_the_stated_one_within_reason() {
        for (text, seconds) in [
            ("{}", 51.0),
            (r#"{"expires_in":300}"#, 255.0),
            (r#"{"expires_in":"300"}"#, 255.0),
            (r#"{"expires_in":0}"#, 51.0),
            (r#"{"expires_in":-1}"#, 51.0),
            (r#"{"expires_in":"soon"}"#, 51.0),
            (r#"{"expires_in":"NaN"}"#, 51.0),
            (r#"{"expires_in":[1]}"#, 51.0),
            (r#"{"expires_in":null}"#, 51.0),
            (r#"{"expires_in":1e18}"#, 36720.0),
            (r#"{"expires_in":"inf"}"#, 36720.0),
        ] {
            let value: Value = serde_json::from_str(text).expect("JSON");
            let life = life(value.get("expires_in")).as_secs_f64();
            assert!((life - seconds).abs() < 0.001, "{text}: {life}");
        }
    }

    #[test]
    fn a_token_for_tokens_is_in_the_form_and_in_no_address() {
        let url = "https://r.example/token?account=me&service=a+b&scope=repository%3Aa%2Fb%3Apull";
        let (url, form) = as_form(&url.parse().expect("a URL"), &Secret::new("s&t"));
        assert_eq!(url.as_str(), "https://r.example/token?account=me");
        assert_eq!(
            form.expect("a form").reveal(),
            "grant_type=refresh_token&client_id=entrepot&refresh_token=s%26t&service=a+b&scope=repository%3Aa%2Fb%3Apull"
        );
    }

    #[tokio::test]
    async fn either_name_is_taken_and_nothing_that_cannot_be_sent() {
        for (body, header) in [
            (r#"{"token":"a"}"#, Some("Bearer a")),
            (r#"{"access_token":"b"}"#, Some("Bearer b")),
            (r#"{"token":"a","access_token":"b"}"#, Some("Bearer a")),
            (r#"{"token":"","access_token":"b"}"#, Some("Bearer b")),
            (r#"{"token":null}"#, None),
            (r#"{"token":"a\r\nX: y"}"#, None),
            (r#"{"token":7}"#, None),
            ("[]", None),
            ("<html>", None),
            ("", None),
        ] {
            let token = read(body.as_bytes());
            let read = token.as_ref().map(|token| token.header.to_str().expect("text"));
            assert_eq!(read, header, "{body}");
        }
    }
}
