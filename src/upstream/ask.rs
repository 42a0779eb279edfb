//! A whole question to an upstream: a free connection, one endpoint after the other, a few attempts; and what the
//! answer's status means.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Method};
use moka::sync::Cache;
use tokio::time::{Instant, sleep};
use url::Url;

use super::endpoint::{Endpoint, Place};
use super::health::Watched;
use super::lanes::{Lane, Lanes, Permit};
use super::purses::Cost;
use super::range::{Range, Validator};
use super::retry::{self, Allowance, jitter};
use super::send::{Failure, Response};
use super::{Error, retry_after};
use crate::oci::{Answer, Digest, ImageName};
use crate::telemetry::Metrics;

/// How long a blob may wait for a connection: its turn comes when another blob is done, and clients wait 30 s.
const QUEUE: Duration = Duration::from_secs(20);

/// A question.
pub(super) struct Ask {
    pub(super) method: Method,
    /// Where the upstream itself is asked.
    pub(super) url: Url,
    /// What a token must allow there, where the challenge does not say.
    pub(super) scope: Arc<str>,
    /// What mirrors are asked for, each at its own address. `None` for what only the upstream itself can say.
    pub(super) mirrored: Option<(ImageName, String)>,
    pub(super) accept: Option<HeaderValue>,
    /// The bytes wanted.
    pub(super) range: Range,
    /// What they must still be a part of.
    pub(super) validator: Option<Validator>,
    pub(super) lane: Lane,
    pub(super) cost: Cost,
    /// Whether a failure may be slept over. Not for a question that somebody asks who has a copy: the copy is better
    /// than the wait.
    pub(super) is_patient: bool,
}

/// An answer, and the connection it comes on.
pub(super) struct Given {
    pub(super) response: Response,
    pub(super) permit: Permit,
    pub(super) witness: Witness,
}

/// Who gave an answer: to be told how it ended.
#[derive(Clone)]
pub(super) struct Witness {
    endpoint: Arc<Endpoint>,
    /// Who sends the body: the endpoint itself, or where it sent us.
    sending: Arc<Watched>,
}

impl Witness {
    /// Its `host[:port]`.
    pub(super) fn host(&self) -> &str {
        &self.endpoint.host
    }

    /// The answer came to a bad end after so many bytes of its body.
    pub(super) fn failed(&self, bytes: u64, error: &Error) {
        match error {
            Error::Lies(_) | Error::TooLarge { .. } => self.lied(error),
            Error::Broken(_) | Error::Timeout(_) | Error::Slow { .. } => self.broke_off(bytes, error),
            _ => {}
        }
    }

    /// A mirror is passed over for a moment, so that the rest is asked for elsewhere.
    fn broke_off(&self, bytes: u64, error: &Error) {
        self.sending.broke_off(bytes, error);
        let registry = self.endpoint.sender.health.registry();
        if self.endpoint.is_mirror && !Arc::ptr_eq(registry, &self.sending) {
            registry.broke_off(bytes, error);
        }
    }

    /// What it sent is not what it was asked for. A mirror that lies is not asked for a while; the upstream itself is,
    /// for there is nobody else.
    fn lied(&self, error: &Error) {
        if self.endpoint.is_mirror {
            self.endpoint.sender.health.registry().distrust(error);
        }
    }
}

impl std::fmt::Debug for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Witness({})", self.host())
    }
}

/// Which endpoint comes next for one question: none twice.
#[derive(Default)]
pub(super) struct Tour {
    next: usize,
}

/// Everything that is needed to ask one upstream.
pub(super) struct Registry {
    /// In the order in which they are asked.
    pub(super) mirrors: Vec<Arc<Endpoint>>,
    pub(super) home: Arc<Endpoint>,
    pub(super) lanes: Lanes,
    pub(super) first_byte_timeout: Duration,
    pub(super) allowance: Mutex<Allowance>,
    /// Which mirrors have sent bytes of a blob: whether they are right shows when the last one is here.
    pub(super) givers: Cache<Digest, Arc<[Witness]>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) repository: Arc<str>,
}

impl Registry {
    /// Asks. `None` only for the upstream's own 404: everything else that is no success is an error. The wait for the
    /// answer's headers, with mirrors, tokens, redirects and further attempts, is never longer than
    /// `first_byte_timeout`.
    pub(super) async fn ask(&self, ask: &Ask) -> Answer<Given, Error> {
        self.ask_next(ask, &mut Tour::default()).await
    }

    /// Asks those who have not been asked yet.
    pub(super) async fn ask_next(&self, ask: &Ask, tour: &mut Tour) -> Answer<Given, Error> {
        let patience = match ask.lane {
            Lane::Short => self.first_byte_timeout,
            Lane::Body => QUEUE,
            Lane::Spare => Duration::ZERO,
        };
        let arrival = Instant::now();
        let permit = self.lanes.enter(ask.lane, patience).await?;
        let begin = match ask.lane {
            Lane::Short => arrival,
            Lane::Body | Lane::Spare => Instant::now(),
        };
        let deadline = begin + self.first_byte_timeout;
        self.allowance.lock().unwrap_or_else(PoisonError::into_inner).asked();
        while let (Some(mirror), Some((image, rest))) = (self.mirrors.get(tour.next), &ask.mirrored) {
            // Whoever hangs leaves the others their part of the time.
            let others = u32::try_from(self.mirrors.len() - tour.next).unwrap_or(u32::MAX);
            tour.next += 1;
            let now = Instant::now();
            let share = now + deadline.saturating_duration_since(now) / (others + 1);
            let Some(place) = mirror.place(image, rest) else {
                continue;
            };
            match self.ask_at(mirror, ask, &place, share).await {
                Ok(Some(response)) => {
                    mirror.tell(None);
                    return Ok(Some(Given::new(response, permit, mirror)));
                }
                // A mirror need not have everything.
                Ok(None) => {}
                Err(error) => mirror.tell(Some(&error)),
            }
        }
        tour.next = usize::MAX;
        let place = Place {
            url: ask.url.clone(),
            scope: Arc::clone(&ask.scope),
        };
        let response = self.ask_at(&self.home, ask, &place, deadline).await?;
        Ok(response.map(|response| Given::new(response, permit, &self.home)))
    }

    /// Asks one endpoint: a mirror once, the upstream itself as often as makes sense.
    async fn ask_at(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        place: &Place,
        deadline: Instant,
    ) -> Answer<Response, Error> {
        endpoint.check_pause(&place.url)?;
        let mut attempt = 1;
        let response = loop {
            let result = endpoint.attempt(ask, place, deadline).await;
            let told = result
                .as_ref()
                .ok()
                .and_then(|response| endpoint.note_pause(&place.url, response));
            let pause = told.unwrap_or_default() + jitter(attempt);
            let is_last = endpoint.is_mirror
                || !ask.is_patient
                || attempt == retry::ATTEMPTS
                || pause > retry::LONGEST
                || Instant::now() + pause >= deadline
                || !is_passing(&result)
                || !self.may_repeat();
            match result {
                Ok(response) if is_last => break response,
                Err(failure) if is_last => return Err(failure.error),
                Ok(response) => response.drain().await,
                Err(_) => {}
            }
            sleep(pause).await;
            attempt += 1;
        };
        Ok(judge(&response)?.then_some(response))
    }

    /// Remembers who sends a blob, if there is anybody else to ask for it.
    pub(super) fn remember(&self, digest: &Digest, witness: &Witness) {
        if !witness.endpoint.is_mirror {
            return;
        }
        let known = self.givers.get(digest).unwrap_or_default();
        if known
            .iter()
            .all(|giver| !Arc::ptr_eq(&giver.endpoint, &witness.endpoint))
        {
            let all = known.iter().chain([witness]).cloned().collect();
            self.givers.insert(digest.clone(), all);
        }
    }

    /// What was sent for a blob is not it: none of the mirrors that sent some of it is asked for a while.
    pub(super) fn doubt(&self, digest: &Digest, error: &Error) {
        for giver in self.givers.remove(digest).iter().flat_map(|givers| givers.iter()) {
            giver.lied(error);
        }
    }

    fn may_repeat(&self) -> bool {
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        let may = allowance.take(Instant::now());
        drop(allowance);
        if may {
            self.metrics.upstream_retried(&self.repository);
        }
        may
    }
}

impl Given {
    fn new(response: Response, permit: Permit, endpoint: &Arc<Endpoint>) -> Self {
        Self {
            witness: Witness {
                endpoint: Arc::clone(endpoint),
                sending: Arc::clone(&response.watched),
            },
            response,
            permit,
        }
    }
}

impl Tour {
    /// Whether anybody is left to be asked.
    pub(super) const fn is_over(&self) -> bool {
        self.next == usize::MAX
    }
}

/// Whether the next attempt may well do better.
fn is_passing(result: &Result<Response, Failure>) -> bool {
    match result {
        Ok(response) => matches!(response.status(), 408 | 502..=504),
        Err(failure) => failure.again,
    }
}

/// What a status means: there, not there, or we could not tell.
fn judge(response: &Response) -> Result<bool, Error> {
    match response.status() {
        200 | 206 => Ok(true),
        404 => Ok(false),
        status @ (401 | 403) => Err(Error::Refused { status }),
        429 => Err(Error::RateLimited {
            retry_after: retry_after::read(response.headers(), SystemTime::now()),
        }),
        status @ 500.. => Err(Error::Failing { status }),
        status => Err(Error::Unexpected { status }),
    }
}
