//! What to do with a copy: a pure function of its age, and of nothing that has to be asked for.

use std::time::{Duration, SystemTime};

use crate::clock;
use crate::config::RemoteConfig;
use crate::oci::Digest;
use crate::store::Move;
use crate::upstream::Budget;

/// How many moves of a tag are held back at once.
const MOVES: usize = 20;
/// How many times as long a tag is served without asking when nothing is left to fetch what it may have moved to.
const STRETCHED: u64 = 12;

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
    hold: Duration,
    reserve: u64,
}

/// What to do about a tag that upstream says to mean something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Course {
    /// What the tag is to mean here from now on; `None`, what it means.
    pub(super) follow: Option<Digest>,
    /// The moves that it has not followed then, the oldest first.
    pub(super) moves: Vec<Move>,
    /// Whether the last of them was not known.
    pub(super) is_news: bool,
}

impl Freshness {
    pub(super) const fn new(config: &RemoteConfig) -> Self {
        Self {
            tag_ttl: config.tag_ttl,
            // Who is never asked does not fail: what is here counts for as long as it is so.
            stale_if_error: if config.offline { None } else { config.stale_if_error },
            hold: config.hold,
            reserve: config.reserve,
        }
    }

    /// The same with what is left of the upstream's budget in view: the less, the longer a tag is served without
    /// asking.
    pub(super) fn under(self, budget: Option<&Budget>) -> Self {
        let factor = budget.map_or(100, |budget| stretch(budget.remaining, budget.limit, self.reserve));
        Self {
            tag_ttl: self.tag_ttl.saturating_mul(factor) / 100,
            ..self
        }
    }

    /// Whether what is left of the budget is for images that are not here at all.
    pub(super) fn is_reserved(&self, budget: Option<&Budget>) -> bool {
        budget.is_some_and(|budget| budget.remaining <= self.reserve)
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

    /// What to do about a tag that means `here` in our copy and `upstream` there. Each move is followed when `hold` is
    /// over since it was first seen, one that comes later has its own time; a tag that is back where it was has not
    /// moved.
    pub(super) fn course(&self, here: &Digest, moves: &[Move], upstream: &Digest, now: SystemTime) -> Course {
        if here == upstream {
            return Course {
                follow: None,
                moves: Vec::new(),
                is_news: false,
            };
        }
        let is_news = moves.last().is_none_or(|last| last.to != *upstream);
        let mut moves: Vec<Move> = moves.iter().map(|known| known.seen_before(now)).collect();
        if is_news {
            // When there are too many, the older ones stay: a tag that moves all the time is followed all the same.
            moves.truncate(MOVES - 1);
            let to = upstream.clone();
            moves.push(Move { to, seen: now });
        }
        let due = moves.iter().rposition(|known| self.is_due(known, now));
        let follow = due
            .map(|due| moves.drain(..=due).next_back().map(|last| last.to))
            .unwrap_or_default();
        Course { follow, moves, is_news }
    }

    /// Whether a move that was held back is to be followed.
    pub(super) fn is_due(&self, held: &Move, now: SystemTime) -> bool {
        clock::age(held.seen, now).is_some_and(|since| since >= self.hold)
    }

    /// When a move that is held back will be followed, at the latest question after it.
    pub(super) fn due(&self, held: &Move) -> Option<SystemTime> {
        held.seen.checked_add(self.hold)
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

impl Move {
    /// The same, but seen now if a wrong clock said when: a tag is held neither for longer than it is meant, nor shorter.
    fn seen_before(&self, now: SystemTime) -> Self {
        Self {
            to: self.to.clone(),
            seen: clock::age(self.seen, now).map_or(now, |_| self.seen),
        }
    }
}

/// How much longer a tag is fresh, in hundredths: as long as ever while half of the budget is left, and from there on
/// longer with every pull, until the rest is reserved.
fn stretch(remaining: u64, limit: u64, reserve: u64) -> u32 {
    let half = (limit / 2).max(reserve);
    let spent = half.saturating_sub(remaining.max(reserve));
    let whole = u128::from(half - reserve).max(1);
    let factor = if remaining <= reserve {
        u128::from(STRETCHED) * 100
    } else {
        100 + u128::from(spent) * u128::from(STRETCHED - 1) * 100 / whole
    };
    u32::try_from(factor).unwrap_or(u32::MAX)
}

/// The age of what was verified then. Unknown if that is not known, or cannot be: what a wrong clock wrote must not make a
/// copy fresh until a right one has caught up.
pub(super) fn age(verified: Option<SystemTime>, now: SystemTime) -> Option<Duration> {
    clock::age(verified?, now)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn freshness(tag_ttl: u64, stale_if_error: Option<u64>) -> Freshness {
        Freshness {
            tag_ttl: Duration::from_secs(tag_ttl),
            stale_if_error: stale_if_error.map(Duration::from_secs),
            hold: Duration::ZERO,
            reserve: 0,
        }
    }

    #[test]
    fn the_time_of_a_tag_is_stretched_from_half_of_the_budget_to_the_reserve() {
        for (remaining, limit, reserve, factor) in [
            (100, 100, 0, 100),
            (50, 100, 0, 100),
            (25, 100, 0, 650),
            (0, 100, 0, 1200),
            (20, 100, 20, 1200),
            (35, 100, 20, 650),
            (99, 100, 99, 1200),
            (100, 100, 99, 100),
            (0, 0, 0, 1200),
            (u64::MAX, u64::MAX, 0, 100),
        ] {
            assert_eq!(
                stretch(remaining, limit, reserve),
                factor,
                "{remaining} of {limit}, {reserve}"
            );
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
        let now = clock::now();
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

        /// Of a tag that is asked for every second.
        #[test]
        fn a_tag_is_followed_after_the_hold_and_not_before(
            hold in 0..50_usize,
            said in prop::collection::vec(0..3_u8, 1..200),
        ) {
            let policy = Freshness { hold: Duration::from_secs(hold as u64), ..freshness(0, None) };
            let digests: Vec<Digest> = said.iter().map(|byte| Digest::of(crate::oci::Algorithm::Sha256, &[*byte])).collect();
            let at = |second: usize| SystemTime::UNIX_EPOCH + Duration::from_secs(second as u64);
            let mut here = digests[0].clone();
            let mut moves: Vec<Move> = Vec::new();
            for (second, upstream) in digests.iter().enumerate() {
                let course = policy.course(&here, &moves, upstream, at(second));
                prop_assert!(course.moves.iter().all(|held| !policy.is_due(held, at(second))));
                if let Some(to) = course.follow {
                    prop_assert!(digests[..=second - hold].contains(&to), "it was there that long ago");
                    here = to;
                }
                moves = course.moves;
                prop_assert!(moves.len() <= MOVES);
                if second >= hold && digests[second - hold..=second].iter().all(|said| said == upstream) {
                    prop_assert_eq!(&here, upstream, "it has meant nothing else for so long");
                }
            }
        }

        #[test]
        fn a_move_is_held_for_its_time_and_no_longer(hold in 1..1000_u64, asked in 0..3000_u64, back in 0..3000_u64) {
            let policy = Freshness { hold: Duration::from_secs(hold), ..freshness(0, None) };
            let digest = |byte: u8| Digest::of(crate::oci::Algorithm::Sha256, &[byte]);
            let at = |second: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(10_000 + second);
            let (one, two) = (digest(1), digest(2));
            let seen = policy.course(&one, &[], &two, at(0));
            prop_assert!(seen.is_news && seen.follow.is_none());
            let later = policy.course(&one, &seen.moves, &two, at(asked));
            prop_assert_eq!(later.follow.is_some(), asked >= hold);
            prop_assert!(!later.is_news);
            prop_assert_eq!(policy.course(&one, &seen.moves, &one, at(asked)).moves, Vec::new());
            // With a clock that was put back it is held anew, once.
            let again = policy.course(&one, &seen.moves, &two, at(0) - Duration::from_secs(back + 1));
            prop_assert!(again.follow.is_none());
            let then = policy.course(&one, &again.moves, &two, at(0) - Duration::from_secs(back + 1) + Duration::from_secs(hold));
            prop_assert_eq!(then.follow, Some(two));
        }

        #[test]
        fn the_less_is_left_the_longer_it_is_fresh(
            limit: u64,
            remaining in (any::<u64>(), any::<u64>()),
            reserve: u64,
        ) {
            let (less, more) = (remaining.0.min(remaining.1), remaining.0.max(remaining.1));
            let (long, short) = (stretch(less, limit, reserve), stretch(more, limit, reserve));
            prop_assert!(long >= short, "{long} {short}");
            prop_assert!((100..=1200).contains(&long) && (100..=1200).contains(&short));
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
