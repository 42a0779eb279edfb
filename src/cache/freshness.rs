//! What to do with a copy: a pure function of its age, and of nothing that has to be asked for.

use std::time::{Duration, SystemTime};

use crate::config::RemoteConfig;

/// What to do with a stored copy of what a tag meant. (A digest always means the same: its copy is served.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Serve it: it is fresh.
    Serve,
    /// Serve it although it is not fresh: upstream is known to be in trouble.
    ServeStale,
    /// Ask upstream, for a short while; without an answer, serve it.
    Revalidate,
    /// Ask upstream; without an answer, there is none: it is older than the operator lets a copy be.
    Ask,
}

/// How old a copy may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Freshness {
    tag_ttl: Duration,
    stale_if_error: Option<Duration>,
}

impl Freshness {
    pub(super) const fn new(config: &RemoteConfig) -> Self {
        Self {
            tag_ttl: config.tag_ttl,
            // Who is never asked does not fail: what is here counts for as long as it is so.
            stale_if_error: if config.offline { None } else { config.stale_if_error },
        }
    }

    /// What to do with a copy of this age. An unknown age, as after a crash, is past its time but never past use: an
    /// upstream that answers settles it, and one that does not is no reason to refuse what we have.
    pub(super) fn step(&self, age: Option<Duration>, is_in_trouble: bool) -> Step {
        match age {
            Some(age) if age < self.tag_ttl => Step::Serve,
            Some(age) if !self.may_stand_in(age) => Step::Ask,
            _ if is_in_trouble => Step::ServeStale,
            _ => Step::Revalidate,
        }
    }

    fn may_stand_in(&self, age: Duration) -> bool {
        self.stale_if_error
            .is_none_or(|longest| age <= self.tag_ttl.saturating_add(longest))
    }

    /// The age to tell of a copy whose age is not known: it is past its time, by how much nobody knows.
    pub(super) fn told(&self, age: Option<Duration>) -> Duration {
        age.unwrap_or(self.tag_ttl)
    }
}

/// The age of what was verified then. Unknown if that is not known, or lies in the future: a clock that was put back
/// must not make a copy fresh until it has caught up.
pub(super) fn age(verified: Option<SystemTime>, now: SystemTime) -> Option<Duration> {
    now.duration_since(verified?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn freshness(tag_ttl: u64, stale_if_error: Option<u64>) -> Freshness {
        Freshness {
            tag_ttl: Duration::from_secs(tag_ttl),
            stale_if_error: stale_if_error.map(Duration::from_secs),
        }
    }

    #[test]
    fn a_copy_ages_from_fresh_over_stale_to_useless() {
        let policy = freshness(300, Some(3600));
        for (age, well, in_trouble) in [
            (Some(0), Step::Serve, Step::Serve),
            (Some(299), Step::Serve, Step::Serve),
            (Some(300), Step::Revalidate, Step::ServeStale),
            (Some(3900), Step::Revalidate, Step::ServeStale),
            (Some(3901), Step::Ask, Step::Ask),
            (None, Step::Revalidate, Step::ServeStale),
        ] {
            let age = age.map(Duration::from_secs);
            assert_eq!(policy.step(age, false), well, "{age:?}");
            assert_eq!(policy.step(age, true), in_trouble, "{age:?}");
        }
        let always = freshness(0, None);
        assert_eq!(always.step(Some(Duration::ZERO), false), Step::Revalidate);
        assert_eq!(always.step(Some(Duration::MAX), true), Step::ServeStale);
    }

    #[test]
    fn a_clock_that_was_put_back_makes_nothing_fresh() {
        let now = SystemTime::now();
        assert_eq!(age(Some(now + Duration::from_secs(1)), now), None);
        assert_eq!(
            age(Some(now), now + Duration::from_secs(7)),
            Some(Duration::from_secs(7))
        );
        assert_eq!(age(None, now), None);
    }

    const fn rank(step: Step) -> u8 {
        match step {
            Step::Serve => 0,
            Step::ServeStale | Step::Revalidate => 1,
            Step::Ask => 2,
        }
    }

    proptest! {
        #[test]
        fn nothing_gets_younger(
            ttl in 0..1000_u64,
            stale in proptest::option::of(0..1000_u64),
            ages in (0..3000_u64, 0..3000_u64),
            in_trouble: bool,
        ) {
            let policy = freshness(ttl, stale);
            let (young, old) = (ages.0.min(ages.1), ages.0.max(ages.1));
            let step = |age| policy.step(Some(Duration::from_secs(age)), in_trouble);
            prop_assert!(rank(step(young)) <= rank(step(old)));
        }

        #[test]
        fn trouble_only_spares_the_question(
            ttl in 0..1000_u64,
            stale in proptest::option::of(0..1000_u64),
            age in proptest::option::of(0..3000_u64),
        ) {
            let policy = freshness(ttl, stale);
            let age = age.map(Duration::from_secs);
            let expected = match policy.step(age, false) {
                Step::Revalidate => Step::ServeStale,
                other => other,
            };
            prop_assert_eq!(policy.step(age, true), expected);
            if stale.is_none() {
                prop_assert_ne!(policy.step(age, true), Step::Ask, "forever is forever");
            }
        }
    }
}
