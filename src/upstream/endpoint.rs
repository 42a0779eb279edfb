//! One of the places where an upstream can be asked: its own address, or a mirror of it.
//!
//! A mirror sees no credentials of ours, and no token but the anonymous one that its own challenge leads to. What it
//! says is believed only where it proves itself, so it is asked for manifests and blobs and for no lists. For tags it
//! is trusted as Docker's `registry-mirrors` and containerd trust theirs: a mirror that lags gives what the tag meant
//! there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use moka::sync::Cache;
use tokio::time::Instant;
use url::Url;

use super::admission::{Admission, Visit};
use super::ask::Ask;
use super::budget::Budget;
use super::credentials::Keyring;
use super::health::Health;
use super::purses::{Cost, Purses};
use super::send::{Failure, Outgoing, Response, Role, Sender};
use super::tokens::Tokens;
use super::{Error, locate, retry_after};
use crate::config::RemoteConfig;
use crate::oci::{ImageName, RepositoryKey};
use crate::telemetry::Metrics;

/// How often one attempt may be sent: as it is, with a kept token, with two fresh ones. Bounds a registry that asks
/// for something else each time.
const ROUNDS: u32 = 4;
/// For how many things an upstream's wish not to be asked for them is remembered.
const PAUSES: u64 = 10_000;
/// The longest such wish that is heeded.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// None of our credentials.
const NOBODY: usize = usize::MAX;
/// For how long an image is asked for as nobody where that was answered and our credentials were refused. Who is refused
/// again and again is taken for an attacker.
const AS_NOBODY: Duration = Duration::from_secs(300);

/// One of the places where an upstream can be asked.
pub(super) struct Endpoint {
    repository: RepositoryKey,
    pub(super) host: String,
    pub(super) base: Url,
    /// The path of its URL: what every image's name begins with there.
    pub(super) prefix: Option<ImageName>,
    pub(super) is_hub: bool,
    pub(super) is_mirror: bool,
    pub(super) sender: Arc<Sender>,
    admission: Admission,
    pub(super) purses: Purses,
    /// What it said that it cannot give for a while: by path, until when, and what it said.
    pauses: Cache<Box<str>, (Instant, u16)>,
    /// Until when an image is asked for as nobody, by scope.
    open_to_all: Cache<Arc<str>, Instant>,
    /// A mirror that does not serve what it is asked, so that this is told once.
    is_failing: AtomicBool,
}

/// Where something is at one endpoint, and what a token for it must allow.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) url: Url,
    pub(super) scope: Arc<str>,
}

/// What a registry is called: its `host[:port]`; Docker Hub's is `docker.io`.
pub(super) fn host(base: &Url, is_hub: bool) -> String {
    match (base.host_str().unwrap_or_default(), base.port()) {
        _ if is_hub => super::HUB_NAMESPACE.to_owned(),
        (host, None) => host.to_owned(),
        (host, Some(port)) => format!("{host}:{port}"),
    }
}

impl Endpoint {
    /// The upstream's own address.
    pub(super) fn home(
        repository: &RepositoryKey,
        config: &RemoteConfig,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, Error> {
        Self::new(repository, config, false, metrics)
    }

    /// A mirror. It is configured like the upstream, but for all that is for the upstream alone.
    pub(super) fn mirror(
        repository: &RepositoryKey,
        config: &RemoteConfig,
        url: &Url,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, Error> {
        let config = RemoteConfig {
            url: url.clone(),
            credentials: Vec::new(),
            token_realms: Vec::new(),
            ..config.clone()
        };
        Self::new(repository, &config, true, metrics)
    }

    fn new(
        repository: &RepositoryKey,
        config: &RemoteConfig,
        is_mirror: bool,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, Error> {
        let (base, prefix, is_hub) = locate(config)?;
        let host = host(&base, is_hub);
        let health = Health::new(repository, config, is_mirror, Arc::clone(metrics));
        let sender = Arc::new(Sender::new(repository, config, health, Arc::clone(metrics))?);
        let tokens = Tokens::new(Arc::clone(&sender));
        let keyring = Keyring::new(repository.as_str(), config, base.clone())?;
        Ok(Self {
            repository: repository.clone(),
            host,
            base,
            prefix,
            is_hub,
            is_mirror,
            sender,
            admission: Admission::new(repository.as_str(), keyring, tokens, config.insecure),
            purses: Purses::new(repository, config, is_mirror, Arc::clone(metrics)),
            pauses: Cache::new(PAUSES),
            open_to_all: Cache::new(PAUSES),
            is_failing: AtomicBool::new(false),
        })
    }

    /// The one name of an image that may be called several: on Docker Hub `alpine` is `library/alpine`.
    pub(super) fn canonical(&self, image: &ImageName) -> ImageName {
        if self.is_hub && self.prefix.is_none() && image.split_first().is_none() {
            return image.under("library").unwrap_or_else(|_| image.clone());
        }
        image.clone()
    }

    /// Where something of an image is. `None` when its name with the prefix would be longer than names are.
    pub(super) fn place(&self, image: &ImageName, rest: &str) -> Option<Place> {
        let image = self.canonical(image);
        let image = match &self.prefix {
            Some(prefix) => image.under(prefix.as_str()).ok()?,
            None => image,
        };
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{image}/{rest}"));
        Some(Place {
            url,
            scope: format!("repository:{image}:pull").into(),
        })
    }

    /// Whether it has said not to ask for this so soon.
    pub(super) fn check_pause(&self, url: &Url) -> Result<(), Error> {
        let Some((until, status)) = self.pauses.get(url.path()) else {
            return Ok(());
        };
        match until.checked_duration_since(Instant::now()) {
            None | Some(Duration::ZERO) => Ok(()),
            Some(retry_after) => Err(Error::Open {
                who: Role::Registry.called(),
                why: Error::Failing { status }.to_string(),
                retry_after,
            }),
        }
    }

    /// Remembers that it does not want to be asked for this so soon: for how long.
    pub(super) fn note_pause(&self, url: &Url, response: &Response) -> Option<Duration> {
        if response.status() < 500 || response.is_foreign {
            return None;
        }
        let told = retry_after::read(response.headers(), SystemTime::now())?;
        let until = Instant::now() + told.min(LONGEST_PAUSE);
        self.pauses.insert(url.path().into(), (until, response.status()));
        Some(told)
    }

    /// Tells when a mirror begins to fail, and when it serves again.
    pub(super) fn tell(&self, failing: Option<&Error>) {
        if self.is_failing.swap(failing.is_some(), Ordering::Relaxed) == failing.is_some() {
            return;
        }
        let (repository, mirror) = (&self.repository, &self.host);
        if let Some(error) = failing {
            tracing::warn!(
                %repository,
                mirror,
                %error,
                "a mirror does not answer as it should; others are asked in its place"
            );
        } else {
            tracing::info!(%repository, mirror, "a mirror serves again");
        }
    }

    /// One attempt: with the credential whose turn it is, and with the next where that one is used up or refused.
    pub(super) async fn attempt(&self, ask: &Ask, place: &Place, deadline: Instant) -> Result<Response, Failure> {
        let until = self.open_to_all.get(&place.scope);
        if until.is_some_and(|until| Instant::now() < until)
            && let Some(response) = self.visit_as_nobody(ask, place, deadline).await
        {
            return Ok(response);
        }
        let mut tried = Vec::new();
        let mut last = None;
        loop {
            let who = match self.purses.choose(ask.cost, &tried) {
                Ok(who) => who,
                // Those who answered have said why better than a wait can.
                Err(_) if last.is_some() => break,
                Err(wait) => {
                    return Err(Failure::last(Error::RateLimited {
                        retry_after: Some(wait),
                    }));
                }
            };
            tried.push(who);
            let result = self.visit(ask, place, deadline, who).await;
            let is_final = self.note(ask.cost, who, &result) || tried.len() == self.purses.count();
            if let Some(Ok(previous)) = last.replace(result) {
                previous.drain().await;
            }
            if is_final {
                break;
            }
        }
        let last = last.unwrap_or_else(|| Err(Failure::last(Error::Busy)));
        let is_refused = matches!(&last, Err(failure) if matches!(failure.error, Error::Refused { .. }));
        if is_refused
            && self.admission.shows_tokens()
            && let Some(response) = self.visit_as_nobody(ask, place, deadline).await
        {
            self.open_to_all
                .insert(Arc::clone(&place.scope), Instant::now() + AS_NOBODY);
            return Ok(response);
        }
        last
    }

    /// A token endpoint that refuses who we are may let anybody in: GitHub's does, for what is public. What is answered to
    /// nobody counts if it is what was asked for; that nobody finds it does not mean that it is not there.
    async fn visit_as_nobody(&self, ask: &Ask, place: &Place, deadline: Instant) -> Option<Response> {
        match self.visit(ask, place, deadline, NOBODY).await {
            Ok(response) if (200..300).contains(&response.status()) => {
                self.admission.tell_that_nobody_may();
                Some(response)
            }
            Ok(response) => {
                response.drain().await;
                None
            }
            Err(_) => None,
        }
    }

    /// What an answer says about who paid for it. False if somebody else may do better.
    fn note(&self, cost: Cost, who: usize, result: &Result<Response, Failure>) -> bool {
        let response = match result {
            Ok(response) if !response.is_foreign => response,
            // The token endpoint does not know this user, or does not want to see it; or who is to say who we are does not.
            Err(failure) if matches!(failure.error, Error::Refused { .. } | Error::Credentials(_)) => {
                if self.purses.count() > 1 {
                    self.purses.refused(who);
                }
                return false;
            }
            _ => return true,
        };
        if let Some(budget) = Budget::read(response.headers(), Instant::now(), SystemTime::now()) {
            self.purses.noticed(who, budget);
        }
        match response.status() {
            429 => {
                let told = retry_after::read(response.headers(), SystemTime::now());
                self.purses.limited(who, cost, told);
                false
            }
            401 => {
                if self.admission.shows_basic() && self.purses.count() > 1 {
                    self.purses.refused(who);
                }
                false
            }
            // Others say so with 403; what is not there is not there for anybody.
            200..=299 | 404 => {
                self.purses.paid(who, cost);
                true
            }
            _ => true,
        }
    }

    /// One attempt with one credential: as often as the registry wants to see something else, within reason.
    async fn visit(&self, ask: &Ask, place: &Place, deadline: Instant, who: usize) -> Result<Response, Failure> {
        let mut visit = Visit::new(&place.scope, deadline, who);
        let mut pass = self.admission.in_advance(&mut visit).await.map_err(Failure::last)?;
        let mut url = place.url.clone();
        let mut is_foreign = false;
        for _ in 0..ROUNDS {
            let request = Outgoing {
                method: ask.method.clone(),
                url,
                accept: ask.accept.clone(),
                range: ask.range,
                validator: ask.validator.clone(),
                authorization: pass.as_ref().map(|pass| pass.header.clone()),
                form: None,
            };
            let mut response = self.sender.follow(request, Role::Registry, deadline).await?;
            response.is_foreign |= is_foreign;
            if response.status() == 403 && !response.is_foreign {
                // Some say so of what has run out.
                pass = match self.admission.after_forbidden(pass.as_ref(), &mut visit).await {
                    None => return Ok(response),
                    fresh => fresh,
                };
                url = place.url.clone();
                response.drain().await;
                continue;
            }
            if response.status() != 401 {
                return Ok(response);
            }
            if response.is_foreign && !is_foreign {
                // What was shown was for the registry, and has not been seen by this host.
                pass = None;
            }
            pass = self
                .admission
                .after(&response, pass.as_ref(), &mut visit)
                .await
                .map_err(Failure::last)?;
            if pass.is_none() {
                return Ok(response);
            }
            (url, is_foreign) = (response.url.clone(), response.is_foreign);
            if !is_foreign {
                url = place.url.clone();
            }
            response.drain().await;
        }
        Err(Failure::last(Error::Refused { status: 401 }))
    }
}
