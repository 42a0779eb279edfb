//! Whether, and when, a failed question is asked once more. Pure: time is an argument.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use tokio::time::Instant;

/// How often a question is asked before its failure is believed.
pub(super) const ATTEMPTS: u32 = 3;
/// The longest pause before the second attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause before any, and the longest `Retry-After` that is waited for rather than told.
pub(super) const LONGEST: Duration = Duration::from_secs(5);
/// What a question adds to what may be asked again. Together with what time adds, a storm makes a tenth more at most.
const SHARE: f64 = 0.08;
/// What may be asked again at once.
const CAPACITY: f64 = 10.0;
/// What time alone fills up to, by one a second: where little is asked, a tenth of it would be nothing.
const FLOOR: f64 = 3.0;

/// How many questions may be asked again: one upstream in trouble is not helped by three times as many.
#[derive(Debug)]
pub(super) struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    pub(super) const fn new(now: Instant) -> Self {
        Self { left: FLOOR, at: now }
    }

    /// A question is asked for the first time.
    pub(super) fn asked(&mut self) {
        self.left = (self.left + SHARE).min(CAPACITY);
    }

    /// Takes leave to ask once more.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        if self.left < FLOOR {
            self.left = (self.left + passed).min(FLOOR);
        }
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

/// "Full jitter": anything up to the longest pause, so that those who failed together do not come back together.
pub(super) fn jitter(attempt: u32) -> Duration {
    let longest = (PAUSE * 2_u32.pow(attempt.clamp(1, 8) - 1)).min(LONGEST);
    let millis = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random() % (millis + 1))
}

/// Chance enough for a pause: the keys of a new hasher are random.
pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_differ_and_are_bounded() {
        let pauses: Vec<Duration> = (0..64).map(|_| jitter(2)).collect();
        assert!(pauses.iter().all(|pause| *pause <= 2 * PAUSE));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        assert!(jitter(u32::MAX) <= LONGEST);
    }

    #[test]
    fn a_storm_is_asked_a_tenth_more_and_a_trickle_now_and_then() {
        for (requests, milliseconds) in [(1000, 1), (1000, 10), (10_000, 0), (2000, 5)] {
            let begin = Instant::now();
            let mut allowance = Allowance::new(begin);
            let mut again = 0;
            for number in 0..requests {
                allowance.asked();
                for _ in 1..ATTEMPTS {
                    again += u32::from(allowance.take(begin + Duration::from_millis(number * milliseconds)));
                }
            }
            assert!(u64::from(again) * 10 <= requests, "{again} of {requests}");
            assert!(u64::from(again) * 13 >= requests, "{again} of {requests}");
        }
        // One a minute, which fails: it is always asked again.
        let begin = Instant::now();
        let mut allowance = Allowance::new(begin);
        for minute in 0..60 {
            allowance.asked();
            let now = begin + Duration::from_secs(60 * minute);
            assert!(allowance.take(now) && allowance.take(now), "{minute}");
        }
    }
}
