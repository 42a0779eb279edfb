//! Who pays for a question: several credentials, used in turn as their budgets run out. Pure: time is an argument;
//! [`Purses`] only adds the lock and what is told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::budget::Budget;
use crate::config::RemoteConfig;
use crate::oci::RepositoryKey;
use crate::telemetry::Metrics;

/// The name of no credentials.
const ANONYMOUS: &str = "anonymous";
/// For how long a credential is left alone that was asked too often, where nobody said; it doubles.
const FIRST: Duration = Duration::from_secs(1);
/// The longest of that.
const LONGEST: Duration = Duration::from_secs(60);
/// Nobody is believed who says to come back later than this: a question an hour does no harm.
const LONGEST_TOLD: Duration = Duration::from_secs(60 * 60);
/// For how long a credential that was refused comes last.
const REFUSED: Duration = Duration::from_secs(60);

/// What a question costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// A pull, as Docker Hub counts: the GET of a manifest.
    Pull,
    /// Nothing, unless it is asked far too often.
    Nothing,
}

/// Until when something is not asked for.
#[derive(Clone, Copy, Debug, Default)]
struct Hold {
    until: Option<Instant>,
    count: u32,
}

impl Hold {
    fn is_on(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    fn left(&self, now: Instant) -> Duration {
        self.until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// 429. Of many answers to what was asked at once, the first counts.
    fn renew(&mut self, told: Option<Duration>, now: Instant) {
        if !self.is_on(now) {
            self.count = (self.count + 1).min(7);
        }
        let pause = (FIRST * 2_u32.pow(self.count.max(1) - 1)).min(LONGEST);
        let until = now + told.map_or(pause, |told| told.clamp(FIRST, LONGEST_TOLD));
        self.until = self.until.max(Some(until));
    }
}

/// What is known about one credential.
#[derive(Clone, Debug, Default)]
struct Purse {
    budget: Option<Budget>,
    pulls: Hold,
    all: Hold,
    refused: Option<Instant>,
}

impl Purse {
    fn is_held(&self, cost: Cost, now: Instant) -> bool {
        self.all.is_on(now) || (cost == Cost::Pull && self.pulls.is_on(now))
    }

    fn left(&self, cost: Cost, now: Instant) -> Duration {
        match cost {
            Cost::Pull => self.all.left(now).max(self.pulls.left(now)),
            Cost::Nothing => self.all.left(now),
        }
    }

    fn current(&self, now: Instant) -> Option<&Budget> {
        self.budget.as_ref().filter(|budget| budget.is_current(now))
    }

    /// How much is against using this one, though it may be used.
    fn reluctance(&self, cost: Cost, now: Instant) -> u8 {
        let is_empty = cost == Cost::Pull && self.current(now).is_some_and(|budget| budget.remaining == 0);
        let is_refused = self.refused.is_some_and(|until| now < until);
        u8::from(is_empty) + 2 * u8::from(is_refused)
    }

    /// What pulls it has left. `None` if nobody knows, so that there is nothing to be sparing with.
    fn told(&self, now: Instant) -> Option<Budget> {
        if self.is_held(Cost::Pull, now) {
            let known = self.current(now);
            return Some(Budget {
                limit: known.map_or(0, |budget| budget.limit),
                remaining: 0,
                window: self.left(Cost::Pull, now),
                seen: now,
                source: known.and_then(|budget| budget.source.clone()),
            });
        }
        self.current(now).cloned()
    }
}

#[derive(Debug)]
struct Row {
    purses: Vec<Purse>,
    /// Whose turn it is.
    current: usize,
}

impl Row {
    fn new(count: usize) -> Self {
        Self {
            purses: vec![Purse::default(); count.max(1)],
            current: 0,
        }
    }

    /// Who pays, of those who have not been tried: the one whose turn it is for as long as it can. Otherwise, how long
    /// until somebody can.
    fn choose(&mut self, cost: Cost, tried: &[usize], now: Instant) -> Result<usize, Duration> {
        let count = self.purses.len();
        let order = (0..count).map(|step| (self.current + step) % count);
        let chosen = order
            .filter(|who| !tried.contains(who) && !self.purses[*who].is_held(cost, now))
            .min_by_key(|who| self.purses[*who].reluctance(cost, now));
        let Some(chosen) = chosen else {
            let waits = self.purses.iter().map(|purse| purse.left(cost, now));
            return Err(waits.min().unwrap_or_default());
        };
        if cost == Cost::Pull {
            self.current = chosen;
        }
        Ok(chosen)
    }

    /// The most that any of them has. `None` if one that can be used has no known budget.
    fn best(&self, now: Instant) -> Option<Budget> {
        let usable = |purse: &&Purse| purse.refused.is_none_or(|until| until <= now);
        let all: Vec<&Purse> = self.purses.iter().filter(usable).collect();
        let all = if all.is_empty() {
            self.purses.iter().collect()
        } else {
            all
        };
        let told: Option<Vec<Budget>> = all.into_iter().map(|purse| purse.told(now)).collect();
        told?.into_iter().max_by_key(|budget| (budget.remaining, budget.limit))
    }
}

/// The credentials of one endpoint, and what is known about each.
pub(super) struct Purses {
    repository: RepositoryKey,
    names: Vec<String>,
    /// A mirror's budget is not the upstream's.
    is_mirror: bool,
    row: Mutex<Row>,
    metrics: Arc<Metrics>,
}

impl Purses {
    pub(super) fn new(
        repository: &RepositoryKey,
        config: &RemoteConfig,
        is_mirror: bool,
        metrics: Arc<Metrics>,
    ) -> Self {
        let mut names: Vec<String> = config.credentials.iter().map(|own| own.name().to_owned()).collect();
        if names.is_empty() {
            names.push(ANONYMOUS.to_owned());
        }
        Self {
            repository: repository.clone(),
            row: Mutex::new(Row::new(names.len())),
            names,
            is_mirror,
            metrics,
        }
    }

    fn row(&self) -> MutexGuard<'_, Row> {
        self.row.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) const fn count(&self) -> usize {
        self.names.len()
    }

    pub(super) fn choose(&self, cost: Cost, tried: &[usize]) -> Result<usize, Duration> {
        let mut row = self.row();
        let before = row.current;
        let chosen = row.choose(cost, tried, Instant::now());
        let after = row.current;
        drop(row);
        if before != after {
            tracing::info!(
                repository = %self.repository,
                before = self.names[before],
                now = self.names[after],
                "another credential's budget is used from now on"
            );
        }
        chosen
    }

    /// What an answer says about the budget.
    pub(super) fn noticed(&self, who: usize, budget: Budget) {
        if !self.is_mirror {
            self.metrics.budget_told(
                self.repository.as_str(),
                &self.names[who],
                budget.limit,
                budget.remaining,
            );
        }
        self.row().purses[who].budget = Some(budget);
    }

    /// A question was answered: whatever was held back is not any more.
    pub(super) fn paid(&self, who: usize, cost: Cost) {
        let mut row = self.row();
        let purse = &mut row.purses[who];
        let now = Instant::now();
        // An answer to what was asked before the hold does not end it.
        if cost == Cost::Pull && !purse.pulls.is_on(now) {
            purse.pulls = Hold::default();
        }
        if !purse.all.is_on(now) {
            purse.all = Hold::default();
        }
        purse.refused = None;
    }

    /// 429. A pull too many is no reason not to ask for what costs nothing.
    pub(super) fn limited(&self, who: usize, cost: Cost, told: Option<Duration>) {
        if !self.is_mirror {
            self.metrics.rate_limited(self.repository.as_str(), &self.names[who]);
        }
        let mut row = self.row();
        let purse = &mut row.purses[who];
        match cost {
            Cost::Pull => purse.pulls.renew(told, Instant::now()),
            Cost::Nothing => purse.all.renew(told, Instant::now()),
        }
    }

    /// The credential itself was refused, or could not be had.
    pub(super) fn refused(&self, who: usize) {
        let now = Instant::now();
        let previous = self.row().purses[who].refused.replace(now + REFUSED);
        if previous.is_none_or(|until| until <= now) {
            tracing::warn!(
                repository = %self.repository,
                credential = self.names[who],
                "this credential is refused, or cannot be had; the next one is used"
            );
        }
    }

    /// The most that any of them has left.
    pub(super) fn best(&self) -> Option<Budget> {
        self.row().best(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn budget(remaining: u64, now: Instant) -> Budget {
        Budget {
            limit: 100,
            remaining,
            window: Duration::from_secs(3600),
            seen: now,
            source: None,
        }
    }

    #[test]
    fn the_next_one_pays_when_this_one_cannot() {
        let now = Instant::now();
        let mut row = Row::new(3);
        assert_eq!(row.choose(Cost::Pull, &[], now), Ok(0));
        row.purses[0].budget = Some(budget(1, now));
        assert_eq!(row.choose(Cost::Pull, &[], now), Ok(0), "it has one left");
        row.purses[0].budget = Some(budget(0, now));
        assert_eq!(
            row.choose(Cost::Nothing, &[], now),
            Ok(0),
            "what costs nothing can be asked"
        );
        assert_eq!(row.choose(Cost::Pull, &[], now), Ok(1));
        row.purses[1].pulls.renew(Some(Duration::from_secs(30)), now);
        row.purses[2].refused = Some(now + REFUSED);
        assert_eq!(
            row.choose(Cost::Pull, &[], now),
            Ok(0),
            "better an empty one than one that is refused"
        );
        assert_eq!(row.choose(Cost::Pull, &[0], now), Ok(2));
        assert_eq!(
            row.choose(Cost::Pull, &[0, 2], now),
            Err(Duration::ZERO),
            "nobody else to try"
        );
        row.purses[0].pulls.renew(None, now);
        row.purses[2].all.renew(None, now);
        assert_eq!(row.choose(Cost::Pull, &[], now), Err(FIRST));
        assert_eq!(row.choose(Cost::Nothing, &[], now), Ok(0));
        let later = now + Duration::from_secs(3600);
        row.purses[0].refused = Some(later + REFUSED);
        assert_eq!(row.choose(Cost::Pull, &[], later), Ok(2), "whose turn it was");
        assert_eq!(row.choose(Cost::Pull, &[2], later), Ok(1), "a new window, a new budget");
    }

    #[test]
    fn the_best_is_told_and_nothing_if_somebody_is_not_counted() {
        let now = Instant::now();
        let mut row = Row::new(2);
        row.purses[0].budget = Some(budget(7, now));
        assert_eq!(row.best(now), None, "the second one may have any");
        row.purses[1].budget = Some(budget(9, now));
        assert_eq!(row.best(now).map(|budget| budget.remaining), Some(9));
        row.purses[1].pulls.renew(None, now);
        assert_eq!(row.best(now).map(|budget| budget.remaining), Some(7));
        row.purses[0].pulls.renew(None, now);
        assert_eq!(row.best(now).map(|budget| budget.remaining), Some(0));
        assert_eq!(row.best(now + Duration::from_secs(3600)), None);
    }

    #[test]
    fn back_off_doubles_and_many_answers_at_once_are_one() {
        let (mut hold, mut now) = (Hold::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..9 {
            for _ in 0..20 {
                hold.renew(None, now);
            }
            pauses.push(hold.left(now).as_secs());
            now += hold.left(now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        hold.renew(Some(Duration::from_secs(90_000)), now);
        assert_eq!(hold.left(now), LONGEST_TOLD);
    }

    proptest! {
        #[test]
        fn somebody_always_pays_again(
            events in proptest::collection::vec((0..4_u8, 0..3_usize, proptest::option::of(0..100_000_u64), 0..5000_u64), 0..60),
        ) {
            let mut row = Row::new(3);
            let mut now = Instant::now();
            for (kind, who, told, pause) in events {
                let told = told.map(Duration::from_secs);
                match kind {
                    0 => row.purses[who].pulls.renew(told, now),
                    1 => row.purses[who].all.renew(told, now),
                    2 => row.purses[who].refused = Some(now + REFUSED),
                    _ => row.purses[who].budget = Some(budget(pause % 3, now)),
                }
                now += Duration::from_secs(pause);
                if let Err(wait) = row.choose(Cost::Pull, &[], now) {
                    prop_assert!(wait > Duration::ZERO && wait <= LONGEST_TOLD);
                    prop_assert!(row.choose(Cost::Pull, &[], now + wait).is_ok());
                    prop_assert_eq!(row.best(now).map(|budget| budget.remaining), Some(0));
                }
            }
        }
    }
}
