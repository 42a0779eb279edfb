//! What lets us in for a while: fetched when it is first wanted, by one for all who wait, and renewed before it ends.
//!
//! While it cannot be renewed, the old one is used for as long as it lasts; nobody waits for a renewal that can be done
//! beside them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::{Instant, timeout, timeout_at};

use super::super::Error;
use super::super::retry::random;
use super::Proof;

/// The longest that fetching may take, with all the questions that it needs.
const PATIENCE: Duration = Duration::from_secs(20);
/// It is renewed when this part of its life is over, or up to a quarter of its life later: servers that were started
/// together do not all ask together.
const EARLIEST: f64 = 0.5;
const JITTER: f64 = 0.25;
/// It is not shown any more for so long before its end: clocks and networks are not exact.
const SKEW: Duration = Duration::from_secs(60);
/// After a failure, nobody asks again for so long; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What was fetched so lately is not what is wrong when it is refused.
const YOUNG: Duration = Duration::from_secs(30);

/// What was fetched, and for how long it is good.
pub(super) struct Given {
    pub(super) proof: Proof,
    pub(super) life: Duration,
    pub(super) renewal: Renewal,
}

/// When there should be another one.
#[derive(Clone, Copy)]
pub(super) enum Renewal {
    /// When a part of its life is over.
    Half,
    /// After so long: it can change at any time.
    After(Duration),
}

pub(super) type Fetch = Box<dyn Fn() -> BoxFuture<'static, Result<Given, Error>> + Send + Sync>;
type Flight = Shared<BoxFuture<'static, Result<Proof, Error>>>;

/// What lets us in for a while.
pub(super) struct Renewed(Arc<Inner>);

struct Inner {
    repository: String,
    /// Who gives it.
    provider: &'static str,
    fetch: Fetch,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: Option<Kept>,
    flight: Option<Flight>,
    trouble: Option<Trouble>,
}

struct Kept {
    proof: Proof,
    since: Instant,
    renew: Instant,
    until: Instant,
}

struct Trouble {
    error: Error,
    until: Instant,
    count: u32,
}

impl Kept {
    fn new(given: Given, now: Instant) -> Self {
        let share = EARLIEST + JITTER * f64::from(u8::try_from(random() % 256).unwrap_or_default()) / 256.0;
        let renew = match given.renewal {
            Renewal::Half => given.life.mul_f64(share),
            Renewal::After(time) => time.mul_f64(0.5 + share),
        };
        Self {
            proof: given.proof,
            since: now,
            renew: now + renew.min(given.life),
            until: now + given.life.saturating_sub(SKEW.min(given.life / 10)),
        }
    }
}

impl Renewed {
    pub(super) fn new(repository: &str, provider: &'static str, fetch: Fetch) -> Self {
        Self(Arc::new(Inner {
            repository: repository.to_owned(),
            provider,
            fetch,
            state: Mutex::default(),
        }))
    }

    /// What is shown now.
    pub(super) async fn get(&self, deadline: Instant) -> Result<Proof, Error> {
        let flight = {
            let mut state = self.0.state();
            let now = Instant::now();
            let proof = state.kept.as_ref().filter(|kept| now < kept.until);
            let proof = proof.map(|kept| (kept.proof.clone(), kept.renew <= now));
            if let Some((proof, is_due)) = proof {
                if is_due {
                    // Who comes later profits; a failure has been told, and is tried again after a while.
                    drop(self.join_or_start(&mut state, now));
                }
                return Ok(proof);
            }
            self.join_or_start(&mut state, now)?
        };
        timeout_at(deadline, flight)
            .await
            .unwrap_or(Err(Error::Timeout("who gives us the credentials for it")))
    }

    /// Another one in the place of one that was refused, if that can be what is wrong.
    pub(super) async fn instead_of(&self, refused: &Proof, deadline: Instant) -> Option<Proof> {
        let flight = {
            let mut state = self.0.state();
            let now = Instant::now();
            let kept = state.kept.as_ref().filter(|kept| now < kept.until);
            match kept {
                Some(kept) if kept.proof != *refused => return Some(kept.proof.clone()),
                Some(kept) if now < kept.since + YOUNG => return None,
                _ => self.join_or_start(&mut state, now).ok()?,
            }
        };
        let fresh = timeout_at(deadline, flight).await.ok()?.ok()?;
        (fresh != *refused).then_some(fresh)
    }

    fn join_or_start(&self, state: &mut State, now: Instant) -> Result<Flight, Error> {
        if let Some(flight) = &state.flight {
            return Ok(flight.clone());
        }
        if let Some(trouble) = state.trouble.as_ref().filter(|trouble| now < trouble.until) {
            return Err(trouble.error.clone());
        }
        let landing = Landing(Arc::clone(&self.0));
        let task = tokio::spawn(async move {
            let fetched = timeout(PATIENCE, (landing.0.fetch)()).await;
            landing
                .0
                .landed(fetched.unwrap_or_else(|_| Err(Error::Credentials("nobody answered in time".to_owned()))))
        });
        let flight = async move {
            task.await
                .unwrap_or_else(|error| Err(Error::Credentials(format!("fetching them was cut short: {error}"))))
        };
        let flight = flight.boxed().shared();
        state.flight = Some(flight.clone());
        Ok(flight)
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn landed(&self, fetched: Result<Given, Error>) -> Result<Proof, Error> {
        let mut state = self.state();
        let now = Instant::now();
        match fetched {
            Ok(given) => {
                let kept = Kept::new(given, now);
                let proof = kept.proof.clone();
                state.kept = Some(kept);
                let was_trouble = state.trouble.take().is_some();
                drop(state);
                if was_trouble {
                    tracing::info!(
                        repository = self.repository,
                        "there are new {} credentials again",
                        self.provider
                    );
                }
                Ok(proof)
            }
            Err(error) => {
                let count = state.trouble.as_ref().map_or(0, |trouble| trouble.count);
                let pause = (FIRST_PAUSE * 2_u32.pow(count.min(6))).min(LONGEST_PAUSE);
                // Somewhere in its second half, so that servers that failed together do not come back together.
                let pause =
                    pause.mul_f64(1.0 - 0.5 * f64::from(u8::try_from(random() % 256).unwrap_or_default()) / 256.0);
                state.trouble = Some(Trouble {
                    error: error.clone(),
                    until: now + pause,
                    count: count + 1,
                });
                let has_old = state.kept.as_ref().is_some_and(|kept| now < kept.until);
                drop(state);
                if count == 0 {
                    tracing::warn!(
                        repository = self.repository,
                        %error,
                        has_old,
                        "the {} credentials cannot be renewed; the old ones are used for as long as they last",
                        self.provider
                    );
                }
                Err(error)
            }
        }
    }
}

/// Makes room for the next fetch when this one is over, however it ends.
struct Landing(Arc<Inner>);

impl Drop for Landing {
    fn drop(&mut self) {
        self.0.state().flight = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::config::Secret;

    const LIFE: Duration = Duration::from_secs(12 * 3600);

    /// Gives `1`, `2`, … or, while there is trouble, nothing.
    #[derive(Clone, Default)]
    struct Giver {
        asked: Arc<AtomicU64>,
        is_away: Arc<AtomicU64>,
    }

    impl Giver {
        fn renewed(&self) -> Renewed {
            let giver = self.clone();
            let fetch = move || {
                let number = giver.asked.fetch_add(1, Ordering::SeqCst) + 1;
                let is_away = giver.is_away.load(Ordering::SeqCst) == 1;
                async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    if is_away {
                        return Err(Error::Credentials("away".to_owned()));
                    }
                    Ok(Given {
                        proof: shown(number),
                        life: LIFE,
                        renewal: Renewal::Half,
                    })
                }
                .boxed()
            };
            Renewed::new("r", "test", Box::new(fetch))
        }

        fn asked(&self) -> u64 {
            self.asked.load(Ordering::SeqCst)
        }

        fn be_away(&self, is_away: bool) {
            self.is_away.store(u64::from(is_away), Ordering::SeqCst);
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    fn shown(number: u64) -> Proof {
        Proof::Refresh(Secret::new(number.to_string()))
    }

    async fn number(renewed: &Renewed) -> Result<String, Error> {
        match renewed.get(soon()).await? {
            Proof::Refresh(number) => Ok(number.reveal().to_owned()),
            Proof::Basic(_) => panic!("not what was given"),
        }
    }

    /// Lets what was begun beside us come to its end.
    async fn settle(renewed: &Renewed) {
        let flight = renewed.0.state().flight.clone();
        if let Some(flight) = flight {
            drop(flight.await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_wait_are_one_question_and_it_is_renewed_before_it_ends() {
        let giver = Giver::default();
        let renewed = giver.renewed();
        let all = futures_util::future::join_all((0..50).map(|_| number(&renewed))).await;
        assert!(all.iter().all(|one| one.as_deref() == Ok("1")), "{all:?}");
        assert_eq!(giver.asked(), 1);

        tokio::time::advance(LIFE.mul_f64(0.49)).await;
        assert_eq!(number(&renewed).await.as_deref(), Ok("1"));
        settle(&renewed).await;
        assert_eq!(giver.asked(), 1, "too early");
        tokio::time::advance(LIFE.mul_f64(0.27)).await;
        assert_eq!(
            number(&renewed).await.as_deref(),
            Ok("1"),
            "nobody waits for the new one"
        );
        settle(&renewed).await;
        assert_eq!(number(&renewed).await.as_deref(), Ok("2"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_old_one_is_kept_while_there_is_no_new_one_and_nobody_is_pestered() {
        let giver = Giver::default();
        let renewed = giver.renewed();
        assert_eq!(number(&renewed).await.as_deref(), Ok("1"));
        giver.be_away(true);
        tokio::time::advance(LIFE.mul_f64(0.8)).await;
        for _ in 0..600 {
            assert_eq!(number(&renewed).await.as_deref(), Ok("1"));
            settle(&renewed).await;
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!((10..40).contains(&giver.asked()), "{}", giver.asked());
        tokio::time::advance(LIFE).await;
        assert_eq!(number(&renewed).await, Err(Error::Credentials("away".to_owned())));
        giver.be_away(false);
        tokio::time::advance(LONGEST_PAUSE).await;
        assert!(number(&renewed).await.is_ok(), "trouble does not stick");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_refused_is_replaced_once_unless_it_is_new() {
        let giver = Giver::default();
        let renewed = giver.renewed();
        let first = renewed.get(soon()).await.expect("the first");
        assert_eq!(
            renewed.instead_of(&first, soon()).await,
            None,
            "it was fetched just now"
        );
        tokio::time::advance(YOUNG).await;
        let both = futures_util::future::join(renewed.instead_of(&first, soon()), renewed.instead_of(&first, soon()));
        let (one, other) = both.await;
        assert_eq!(one, Some(shown(2)));
        assert_eq!(other, one);
        assert_eq!(
            renewed.instead_of(&first, soon()).await,
            one,
            "somebody has fetched it already"
        );
        assert_eq!(giver.asked(), 2);

        giver.be_away(true);
        tokio::time::advance(YOUNG).await;
        assert_eq!(renewed.instead_of(&shown(2), soon()).await, None);
        assert_eq!(
            number(&renewed).await.as_deref(),
            Ok("2"),
            "better a doubtful one than none"
        );
    }
}
