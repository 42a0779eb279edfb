//! A whole question to the registry: a free connection, getting in, redirects, a few attempts; and what the answer's
//! status means.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderValue, Method};
use tokio::time::{Instant, sleep};
use url::Url;

use super::admission::{Admission, Visit};
use super::lanes::{Lane, Lanes, Permit};
use super::range::{Range, Validator};
use super::send::{Failure, Outgoing, Response, Role, Sender};
use super::{Error, retry_after};
use crate::oci::Answer;

/// How often a question is asked before its failure is believed.
const ATTEMPTS: u32 = 3;
/// The longest pause before the second attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(100);
/// How often one attempt may be sent: as it is, with a kept token, with two fresh ones. Bounds a registry that asks
/// for something else each time.
const ROUNDS: u32 = 4;
/// How long a blob may wait for a connection: its turn comes when another blob is done, and clients wait 30 s.
const QUEUE: Duration = Duration::from_secs(20);

/// A question.
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) accept: Option<HeaderValue>,
    /// The bytes wanted.
    pub(super) range: Range,
    /// What they must still be a part of.
    pub(super) validator: Option<Validator>,
    /// What a token must allow, where the challenge does not say.
    pub(super) scope: Arc<str>,
    pub(super) lane: Lane,
    /// Whether a failure may be slept over. Not for a question that somebody asks who has a copy: the copy is better
    /// than the wait.
    pub(super) is_patient: bool,
}

/// An answer, and the connection it comes on.
pub(super) struct Given {
    pub(super) response: Response,
    pub(super) permit: Permit,
}

/// Everything that is needed to ask one registry.
pub(super) struct Registry {
    pub(super) sender: Arc<Sender>,
    pub(super) admission: Admission,
    pub(super) lanes: Lanes,
    pub(super) first_byte_timeout: Duration,
}

impl Registry {
    /// Asks. `None` only for a 404: everything else that is no success is an error. The wait for the answer's headers,
    /// with tokens, redirects and further attempts, is never longer than `first_byte_timeout`.
    pub(super) async fn ask(&self, ask: &Ask) -> Answer<Given, Error> {
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
        let mut visit = Visit::new(&ask.scope, begin + self.first_byte_timeout);
        let mut attempt = 1;
        let response = loop {
            let result = self.attempt(ask, &mut visit).await;
            let pause = jitter(attempt);
            let is_last = !ask.is_patient
                || attempt == ATTEMPTS
                || Instant::now() + pause >= visit.deadline
                || !is_passing(&result);
            match result {
                Ok(response) if is_last => break response,
                Err(failure) if is_last => return Err(failure.error),
                Ok(response) => response.drain().await,
                Err(_) => {}
            }
            sleep(pause).await;
            attempt += 1;
        };
        judge(&response).map(|found| found.then_some(Given { response, permit }))
    }

    /// One attempt: as often as the registry wants to see something else, within reason.
    async fn attempt(&self, ask: &Ask, visit: &mut Visit<'_>) -> Result<Response, Failure> {
        let mut pass = self.admission.in_advance(visit).await.map_err(Failure::last)?;
        let mut url = ask.url.clone();
        let mut is_foreign = false;
        for _ in 0..ROUNDS {
            let request = Outgoing {
                method: ask.method.clone(),
                url,
                accept: ask.accept.clone(),
                range: ask.range,
                validator: ask.validator.clone(),
                authorization: pass.as_ref().map(|pass| pass.header.clone()),
            };
            let mut response = self.sender.follow(request, Role::Registry, visit.deadline).await?;
            response.is_foreign |= is_foreign;
            if response.status() != 401 {
                return Ok(response);
            }
            if response.is_foreign && !is_foreign {
                // What was shown was for the registry, and has not been seen by this host.
                pass = None;
            }
            pass = self
                .admission
                .after(&response, pass.as_ref(), visit)
                .await
                .map_err(Failure::last)?;
            if pass.is_none() {
                return Ok(response);
            }
            (url, is_foreign) = (response.url.clone(), response.is_foreign);
            if !is_foreign {
                url = ask.url.clone();
            }
            response.drain().await;
        }
        Err(Failure::last(Error::Refused { status: 401 }))
    }
}

/// Whether the next attempt may well do better. Not when the upstream itself says how long it will not.
fn is_passing(result: &Result<Response, Failure>) -> bool {
    match result {
        Ok(response) => matches!(response.status(), 502..=504) && !response.headers().contains_key(RETRY_AFTER),
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

/// "Full jitter": anything up to the longest pause, so that those who failed together do not come back together.
fn jitter(attempt: u32) -> Duration {
    let longest = PAUSE * 2_u32.pow(attempt.min(8) - 1);
    // The keys of a new hasher are random; nothing here needs more than that.
    let random = RandomState::new().build_hasher().finish();
    let millis = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random % (millis + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_differ_and_are_bounded() {
        let pauses: Vec<Duration> = (0..64).map(|_| jitter(2)).collect();
        assert!(pauses.iter().all(|pause| *pause <= 2 * PAUSE));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
