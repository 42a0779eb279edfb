//! How those are doing whom one endpoint's questions go to: its registry, its token endpoint, the hosts of its
//! content. Each has a [`Breaker`] of its own, so that a content host that is down keeps no manifest away.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use moka::sync::Cache;
use tokio::time::Instant;
use url::Url;

use super::breaker::{Breaker, Policy, Ticket, Verdict};
use super::send::Role;
use super::{Error, retry, retry_after};
use crate::config::RemoteConfig;
use crate::oci::RepositoryKey;
use crate::telemetry::Metrics;

/// How many hosts other than the registry's are remembered: redirects may name any.
const ELSEWHERE: u64 = 64;
/// How many failures in a row make the one upstream go unasked. A mirror goes unasked after one: there is somebody
/// else to ask.
const IN_A_ROW: u32 = 5;
/// What a probe may take on top of the time for an answer before it counts as lost.
const SLACK: Duration = Duration::from_secs(2);
/// A body that breaks off after so much was no failure of a host that can be asked for the rest.
const HEADWAY: u64 = 256 * 1024;

/// What is known about those whom one endpoint's questions go to.
pub(super) struct Health {
    about: Arc<About>,
    registry: Arc<Watched>,
    elsewhere: Cache<(Role, Box<str>), Arc<Watched>>,
}

struct About {
    repository: RepositoryKey,
    endpoint: String,
    policy: Policy,
    /// An answer that was waited for less than this says nothing by not coming.
    least_patience: Duration,
    metrics: Arc<Metrics>,
}

/// One who is asked.
pub(super) struct Watched {
    about: Arc<About>,
    role: Role,
    state: Mutex<State>,
}

struct State {
    breaker: Breaker,
    /// What failed last.
    why: String,
}

impl Health {
    pub(super) fn new(
        repository: &RepositoryKey,
        config: &RemoteConfig,
        is_mirror: bool,
        metrics: Arc<Metrics>,
    ) -> Self {
        let about = Arc::new(About {
            repository: repository.clone(),
            endpoint: config.url.host_str().unwrap_or_default().to_owned(),
            policy: Policy {
                in_a_row: if is_mirror { 1 } else { IN_A_ROW },
                lease: config.first_byte_timeout + SLACK,
            },
            least_patience: (config.first_byte_timeout / 8).min(Duration::from_secs(1)),
            metrics,
        });
        Self {
            registry: Watched::new(&about, Role::Registry),
            elsewhere: Cache::new(ELSEWHERE),
            about,
        }
    }

    /// The registry itself.
    pub(super) const fn registry(&self) -> &Arc<Watched> {
        &self.registry
    }

    fn of(&self, role: Role, url: &Url) -> Arc<Watched> {
        if role == Role::Registry {
            return Arc::clone(&self.registry);
        }
        let host = url.host_str().unwrap_or_default();
        let host = format!("{host}:{}", url.port_or_known_default().unwrap_or_default());
        self.elsewhere
            .get_with((role, host.into()), || Watched::new(&self.about, role))
    }

    /// Leave to send one request, whose end is to be told to what comes back.
    pub(super) fn enter(&self, role: Role, url: &Url) -> Result<Turn, Error> {
        self.of(role, url).enter()
    }
}

impl Watched {
    fn new(about: &Arc<About>, role: Role) -> Arc<Self> {
        Arc::new(Self {
            about: Arc::clone(about),
            role,
            state: Mutex::new(State {
                breaker: Breaker::new(about.policy),
                why: String::new(),
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: Arc<Self>) -> Result<Turn, Error> {
        let begin = Instant::now();
        let mut state = self.state();
        let ticket = state.breaker.admit(begin).map_err(|retry_after| Error::Open {
            who: self.role.called(),
            why: state.why.clone(),
            retry_after,
        })?;
        drop(state);
        Ok(Turn {
            watched: self,
            ticket,
            begin,
            verdict: Verdict::Unknown,
            why: String::new(),
        })
    }

    /// A body that had begun came to a bad end after so many bytes.
    pub(super) fn broke_off(&self, bytes: u64, error: &Error) {
        if bytes >= HEADWAY && self.about.policy.in_a_row > 1 {
            return;
        }
        let mut state = self.state();
        let opened = state.breaker.fail(None, Instant::now(), retry::random());
        if opened {
            state.why = error.to_string();
            drop(state);
            self.tell(&error.to_string());
        }
    }

    /// It was caught lying: it is not asked for as long as that can be said.
    pub(super) fn distrust(&self, error: &Error) {
        let mut state = self.state();
        let longest = Some(super::breaker::LONGEST);
        state.breaker.open(longest, Instant::now(), retry::random());
        state.why = error.to_string();
        drop(state);
        self.tell(&error.to_string());
    }

    fn tell(&self, why: &str) {
        self.about
            .metrics
            .breaker_opened(self.about.repository.as_str(), self.role.label());
        tracing::warn!(
            repository = %self.about.repository,
            endpoint = self.about.endpoint,
            role = self.role.label(),
            why,
            "it fails too often and is left alone for a while"
        );
    }
}

/// One request to one who is watched. However it ends, its end is reported when this is dropped: a request that nobody
/// waited for, or whose task died, says nothing, and leaves the way to the next one free.
pub(super) struct Turn {
    watched: Arc<Watched>,
    ticket: Ticket,
    begin: Instant,
    verdict: Verdict,
    why: String,
}

impl Turn {
    /// An answer came.
    pub(super) fn answered(mut self, status: u16, headers: &HeaderMap) -> Arc<Watched> {
        // That the registry was asked too often is about who asks: the budget's. Elsewhere nobody keeps one.
        let is_failure = match status {
            408 | 500 | 502..=599 => true,
            429 => self.watched.role != Role::Registry,
            _ => false,
        };
        self.verdict = Verdict::Alive;
        if is_failure {
            self.verdict = Verdict::Failed {
                wait: retry_after::read(headers, std::time::SystemTime::now()),
            };
            self.why = match status {
                429 => Error::RateLimited { retry_after: None },
                status => Error::Failing { status },
            }
            .to_string();
        }
        Arc::clone(&self.watched)
    }

    /// No answer came. Only what is the other side's fault counts: not what we refuse, nor an answer that had no time
    /// to come because we had spent it elsewhere.
    pub(super) fn failed(mut self, error: &Error) {
        let counts = match error {
            Error::Unreachable(_) | Error::Proxy { .. } => true,
            Error::Timeout(_) => self.begin.elapsed() >= self.watched.about.least_patience,
            _ => false,
        };
        if counts {
            self.verdict = Verdict::Failed { wait: None };
            self.why = error.to_string();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.watched.state();
        let opened = state
            .breaker
            .report(self.ticket, self.verdict, Instant::now(), retry::random());
        if matches!(self.verdict, Verdict::Failed { .. }) {
            state.why.clone_from(&self.why);
        }
        drop(state);
        if opened {
            self.watched.tell(&self.why);
        }
    }
}
