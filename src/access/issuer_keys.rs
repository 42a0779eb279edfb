//! The keys of one issuer: where they come from, and how long they are good for. The only file of this room that makes
//! requests over HTTP (docs/decisions/0007).
//!
//! Whoever can reach us can show tokens with keys that nobody knows. So an issuer is asked at most once a minute, by a
//! task of its own, whatever comes meanwhile; and while it is away, the keys that it had go on being used.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Client, StatusCode, header};
use serde::Deserialize;
use tokio::sync::{OnceCell, watch};
use tokio::time::{Instant, timeout};
use url::{Host, Url};

use super::jws::{Keys, Token, Verdict};
use super::trust::Trust;
use crate::config::{IssuerKeys, OidcConfig};

/// How often an issuer is asked at most.
const PAUSE: Duration = Duration::from_secs(60);
/// Keys younger than this are not asked about again, if they are enough.
const FRESH: Duration = Duration::from_secs(15 * 60);
/// Keys older than this are asked about before they are used: the issuer may have taken one back.
const OLD: Duration = Duration::from_secs(60 * 60);
/// How long an issuer may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// For the connection and its TLS handshake.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest document read.
const LONGEST: usize = 1 << 20;

/// One issuer's keys.
pub(super) struct Source {
    place: Place,
    known: Mutex<Known>,
    /// Counts the times that it was asked.
    rounds: watch::Sender<u64>,
    client: OnceCell<Client>,
    trust: Trust,
}

enum Place {
    /// They were given.
    Given,
    /// They are there.
    At(Url),
    /// The issuer's discovery document says where they are, on its own host.
    Discovered { issuer: String, document: Url },
}

/// What is known, and how it came to be.
#[derive(Default)]
struct Known {
    keys: Option<Arc<Keys>>,
    /// When they came.
    fetched: Option<Instant>,
    /// When they were asked for last.
    asked: Option<Instant>,
    /// Somebody is asking now.
    is_asking: bool,
    /// Why asking failed the last time.
    failure: Option<String>,
}

/// What to do before an answer is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Next {
    ask: bool,
    wait: bool,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Source {
    /// Reads where an issuer's keys are; asks nobody yet.
    pub(super) fn new(config: &OidcConfig) -> Result<Self, String> {
        let mut known = Known::default();
        let place = match &config.keys {
            Some(IssuerKeys::Document(document)) => {
                known.keys = Some(Arc::new(
                    Keys::read(document).map_err(|error| format!("`keys`: {error}"))?,
                ));
                Place::Given
            }
            Some(IssuerKeys::Url(url)) => Place::At(safe(url.clone()).map_err(|error| format!("`keys`: {error}"))?),
            None => Place::Discovered {
                issuer: config.issuer.clone(),
                document: discovery(&config.issuer).map_err(|error| format!("`issuer`: {error}"))?,
            },
        };
        Ok(Self {
            place,
            known: Mutex::new(known),
            rounds: watch::Sender::new(0),
            client: OnceCell::new(),
            trust: Trust::read(config.ca.as_deref())?,
        })
    }

    /// Whether the issuer has signed a token. An error: it could not be asked for the key.
    pub(super) async fn has_signed(self: &Arc<Self>, token: &Token<'_>) -> Result<bool, String> {
        let mut rounds = self.rounds.subscribe();
        let (verdict, next) = self.look(token);
        if next.ask {
            tokio::spawn(Arc::clone(self).ask());
        }
        let (verdict, failure) = if next.wait {
            // Who is asked has less time than this; what is known then is what there is.
            let _ = timeout(PATIENCE + CONNECT, rounds.changed()).await;
            let known = self.known();
            (known.verdict(token), known.failure.clone())
        } else {
            (verdict, self.known().failure.clone())
        };
        match (verdict, failure) {
            (Some(Verdict::Signed), _) => Ok(true),
            (Some(Verdict::Forged), _) | (Some(Verdict::NoSuchKey), None) => Ok(false),
            (Some(Verdict::NoSuchKey) | None, failure) => {
                Err(failure.unwrap_or_else(|| "it has not answered yet".to_owned()))
            }
        }
    }

    fn look(&self, token: &Token<'_>) -> (Option<Verdict>, Next) {
        let mut known = self.known();
        let verdict = known.verdict(token);
        let now = Instant::now();
        let next = match self.place {
            Place::Given => Next {
                ask: false,
                wait: false,
            },
            Place::At(_) | Place::Discovered { .. } => known.next(verdict, now),
        };
        if next.ask {
            known.is_asking = true;
            known.asked = Some(now);
        }
        (verdict, next)
    }

    /// Asks the issuer, for everybody who waits.
    async fn ask(self: Arc<Self>) {
        let asking = Asking(&self);
        let found = timeout(PATIENCE, self.fetch())
            .await
            .unwrap_or_else(|_| Err(format!("it did not answer within {} s", PATIENCE.as_secs())));
        let mut known = self.known();
        match found {
            Ok(keys) => {
                known.keys = Some(Arc::new(keys));
                known.fetched = Some(Instant::now());
                known.failure = None;
            }
            Err(reason) => {
                tracing::warn!(issuer = ?self, reason, "an issuer's keys could not be fetched");
                known.failure = Some(reason);
            }
        }
        drop(known);
        drop(asking);
    }

    async fn fetch(&self) -> Result<Keys, String> {
        let place = match &self.place {
            Place::Given => return Err("its keys are in a file".to_owned()),
            Place::At(place) => place.clone(),
            Place::Discovered { issuer, document } => {
                let found = self.get(document).await?;
                let found: Discovery = serde_json::from_slice(&found)
                    .map_err(|error| format!("{document} is no discovery document: {error}"))?;
                keys_of(issuer, document, &found)?
            }
        };
        Keys::read(&self.get(&place).await?).map_err(|error| format!("{place}: {error}"))
    }

    async fn get(&self, url: &Url) -> Result<Vec<u8>, String> {
        let client = self.client.get_or_try_init(|| client(&self.trust)).await?;
        let failed = |error: reqwest::Error| format!("{url} cannot be asked: {}", reason(&error));
        let request = client.get(url.clone()).header(header::ACCEPT, "application/json");
        let mut answer = request.send().await.map_err(failed)?;
        if answer.status() != StatusCode::OK {
            return Err(format!("{url} answered {}", answer.status().as_u16()));
        }
        let mut document = Vec::new();
        while let Some(bytes) = answer.chunk().await.map_err(failed)? {
            if document.len() + bytes.len() > LONGEST {
                return Err(format!("{url} is longer than 1 MiB"));
            }
            document.extend_from_slice(&bytes);
        }
        Ok(document)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Given => f.write_str("(given)"),
            Place::At(url) => f.write_str(url.as_str()),
            Place::Discovered { issuer, .. } => f.write_str(issuer),
        }
    }
}

/// Tells everybody when asking is over, however it ended.
struct Asking<'a>(&'a Source);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.known().is_asking = false;
        self.0.rounds.send_modify(|rounds| *rounds += 1);
    }
}

impl Known {
    fn verdict(&self, token: &Token<'_>) -> Option<Verdict> {
        self.keys.as_ref().map(|keys| keys.verify(token))
    }

    /// What to do about a token of which the known keys say this.
    fn next(&self, verdict: Option<Verdict>, now: Instant) -> Next {
        let age = self.fetched.map(|fetched| now.saturating_duration_since(fetched));
        let is_older = |than| age.is_none_or(|age| age >= than);
        let wait = is_older(OLD) || verdict.is_none_or(|verdict| verdict == Verdict::NoSuchKey);
        let may = !self.is_asking
            && self
                .asked
                .is_none_or(|asked| now.saturating_duration_since(asked) >= PAUSE);
        let ask = may && (wait || is_older(FRESH));
        Next {
            ask,
            wait: wait && (ask || self.is_asking),
        }
    }
}

/// Where an issuer's discovery document is.
fn discovery(issuer: &str) -> Result<Url, String> {
    let url = Url::parse(issuer).map_err(|error| format!("`{issuer}` is no URL: {error}"))?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("`{issuer}` has more than a path behind its host"));
    }
    let document = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    safe(Url::parse(&document).map_err(|error| error.to_string())?)
}

/// Where a discovery document says that the keys are: on the issuer's own host, or whoever can write that document
/// could lead us anywhere.
fn keys_of(issuer: &str, document: &Url, found: &Discovery) -> Result<Url, String> {
    if found.issuer != issuer {
        return Err(format!(
            "{document} is about the issuer `{}`: write `issuer` as it stands there",
            found.issuer
        ));
    }
    let keys = Url::parse(&found.jwks_uri).map_err(|error| format!("{document}: its `jwks_uri` is no URL: {error}"))?;
    if keys.origin() != document.origin() {
        return Err(format!(
            "{document} says that the keys are at {keys}, on another host: if that is right, say so with `keys`"
        ));
    }
    Ok(keys)
}

/// What is not encrypted could be anybody's, unless it never leaves this machine.
fn safe(url: Url) -> Result<Url, String> {
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err("there is a user in the URL".to_owned());
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_here => Ok(url),
        _ => Err(format!("{url} is not https")),
    }
}

async fn client(trust: &Trust) -> Result<Client, String> {
    let trust = trust.clone();
    let tls = tokio::task::spawn_blocking(move || trust.client())
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    // The environment's proxies are not ours: what goes where, the configuration says.
    Client::builder()
        .no_proxy()
        .tls_backend_preconfigured(tls)
        .http1_only()
        .referer(false)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("entrepot/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|error| format!("the client cannot be set up: {}", reason(&error)))
}

/// The innermost reason: what is around it only says that something failed.
fn reason(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_issuer_is_asked_when_it_must_and_once_a_minute_at_most() {
        const NOTHING: Next = Next {
            ask: false,
            wait: false,
        };
        const BEHIND: Next = Next { ask: true, wait: false };
        const BEFORE: Next = Next { ask: true, wait: true };
        const OTHERS: Next = Next { ask: false, wait: true };
        let now = Instant::now() + Duration::from_secs(100_000);
        let ago = |seconds: u64| Some(now - Duration::from_secs(seconds));
        let (good, bad, unknown) = (Some(Verdict::Signed), Some(Verdict::Forged), Some(Verdict::NoSuchKey));
        for (fetched, asked, is_asking, verdict, expected) in [
            // At first.
            (None, None, false, None, BEFORE),
            (None, ago(1), true, None, OTHERS),
            (None, ago(1), false, None, NOTHING),
            (None, ago(60), false, None, BEFORE),
            // Keys that are enough.
            (ago(1), ago(1), false, good, NOTHING),
            (ago(1), ago(1), false, bad, NOTHING),
            (ago(899), ago(899), false, good, NOTHING),
            (ago(900), ago(900), false, good, BEHIND),
            (ago(901), ago(1), true, good, NOTHING),
            (ago(3600), ago(3600), false, good, BEFORE),
            // The issuer is away: the old ones are used in between.
            (ago(3600), ago(59), false, good, NOTHING),
            (ago(3600), ago(60), false, good, BEFORE),
            // A key that is not among them.
            (ago(59), ago(59), false, unknown, NOTHING),
            (ago(60), ago(60), false, unknown, BEFORE),
            (ago(60), ago(1), true, unknown, OTHERS),
        ] {
            let known = Known {
                fetched,
                asked,
                is_asking,
                ..Known::default()
            };
            let case = (fetched.map(|it| now - it), asked.map(|it| now - it), is_asking, verdict);
            assert_eq!(known.next(verdict, now), expected, "{case:?}");
        }
    }

    #[test]
    fn keys_are_fetched_from_the_issuer_itself_over_https() {
        for (issuer, document) in [
            (
                "https://i.test",
                Some("https://i.test/.well-known/openid-configuration"),
            ),
            (
                "https://i.test/a/",
                Some("https://i.test/a/.well-known/openid-configuration"),
            ),
            (
                "http://127.0.0.1:8080",
                Some("http://127.0.0.1:8080/.well-known/openid-configuration"),
            ),
            ("http://i.test", None),
            ("http://127.0.0.1.i.test", None),
            ("https://u:p@i.test", None),
            ("https://i.test?a", None),
            ("ftp://i.test", None),
            ("acme", None),
        ] {
            assert_eq!(discovery(issuer).ok().as_ref().map(Url::as_str), document, "{issuer}");
        }
        let from = |issuer: &str, keys: &str| {
            let found = Discovery {
                issuer: issuer.to_owned(),
                jwks_uri: keys.to_owned(),
            };
            keys_of("https://i.test", &discovery("https://i.test").expect("a URL"), &found)
        };
        assert!(from("https://i.test", "https://i.test/keys").is_ok());
        for (issuer, keys) in [
            ("https://i.test/", "https://i.test/keys"),
            ("https://i.test", "https://j.test/keys"),
            ("https://i.test", "http://i.test/keys"),
            ("https://i.test", "https://i.test:444/keys"),
            ("https://i.test", "http://169.254.169.254/keys"),
            ("https://i.test", "/keys"),
        ] {
            assert!(from(issuer, keys).is_err(), "{issuer} {keys}");
        }
    }
}
