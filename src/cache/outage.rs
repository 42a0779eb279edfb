//! Whether an upstream is known to be in trouble, so that not everybody has to find out by waiting.
//!
//! While it is, copies are served at once and one probe goes on in the background. It asks for the tag that was wanted
//! last: one image that the upstream fails at is no trouble for long as long as another one is asked for.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::oci::{ImageName, Tag};

/// The pause before the first probe; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between probes.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How many probes an outage gets. After that, about an hour, nothing is known any more and the next who asks waits.
const PROBES: u32 = 65;

/// What is known about an upstream's trouble.
#[derive(Default)]
pub(super) struct Outage {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Counts outages: a probe of an earlier one ends.
    number: u64,
    current: Option<Trouble>,
}

struct Trouble {
    why: String,
    wanted: Option<(ImageName, Tag)>,
}

impl Outage {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the upstream is in trouble, if it is known to be.
    pub(super) fn why(&self) -> Option<String> {
        self.state().current.as_ref().map(|trouble| trouble.why.clone())
    }

    /// Notes trouble. The number of a new outage, which is to be probed; `None` if it was known.
    pub(super) fn noticed(&self, why: String) -> Option<u64> {
        let mut state = self.state();
        if let Some(trouble) = &mut state.current {
            trouble.why = why;
            return None;
        }
        state.number += 1;
        state.current = Some(Trouble { why, wanted: None });
        Some(state.number)
    }

    /// Notes what somebody wanted to know during an outage.
    pub(super) fn wanted(&self, image: &ImageName, tag: &Tag) {
        if let Some(trouble) = &mut self.state().current {
            trouble.wanted = Some((image.clone(), tag.clone()));
        }
    }

    /// The upstream has answered. True if that is news.
    pub(super) fn ended(&self) -> bool {
        self.state().current.take().is_some()
    }

    /// The end of one outage, if it still goes on.
    pub(super) fn give_up(&self, number: u64) {
        let mut state = self.state();
        if state.number == number {
            state.current = None;
        }
    }

    /// What to ask for to find out whether this outage still goes on. `None` if it does not, or if nobody has wanted
    /// anything during it.
    pub(super) fn question(&self, number: u64) -> Option<(ImageName, Tag)> {
        let state = self.state();
        let trouble = state.current.as_ref().filter(|_| state.number == number)?;
        trouble.wanted.clone()
    }
}

/// The pauses between the probes of one outage. The upstream's own `Retry-After` counts as far as it is sensible.
pub(super) fn pauses(retry_after: Option<Duration>) -> impl Iterator<Item = Duration> {
    let first = retry_after.unwrap_or_default().clamp(FIRST_PAUSE, LONGEST_PAUSE);
    std::iter::successors(Some(first), |pause| Some((*pause * 2).min(LONGEST_PAUSE))).take(PROBES as usize)
}

/// The pause before the next probe, where the last one was told how long it makes no sense.
pub(super) fn told(retry_after: Option<Duration>) -> Option<Duration> {
    let least = Duration::from_millis(100);
    retry_after.map(|wait| (wait + Duration::from_millis(10)).clamp(least, LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_outage_is_probed_once_and_ends_with_an_answer() {
        let outage = Outage::default();
        assert_eq!(outage.why(), None);
        let first = outage.noticed("down".to_owned()).expect("new");
        assert_eq!(outage.noticed("still down".to_owned()), None, "known");
        assert_eq!(outage.why().as_deref(), Some("still down"));
        assert_eq!(outage.question(first), None, "nothing to ask for");
        let (image, tag) = ("a".parse().expect("name"), "v1".parse().expect("tag"));
        outage.wanted(&image, &tag);
        assert_eq!(outage.question(first), Some((image, tag)));
        assert!(outage.ended());
        assert!(!outage.ended());
        assert_eq!(outage.question(first), None);

        let second = outage.noticed("down again".to_owned()).expect("new");
        assert_eq!(outage.question(first), None, "the first one's probe ends");
        outage.give_up(first);
        assert!(outage.why().is_some());
        outage.give_up(second);
        assert_eq!(outage.why(), None);
    }

    #[test]
    fn pauses_grow_to_a_minute_and_come_to_an_end() {
        let all: Vec<u64> = pauses(None).map(|pause| pause.as_secs()).collect();
        assert_eq!(all[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(all.iter().sum::<u64>() > 3000);
        assert_eq!(
            pauses(Some(Duration::from_secs(20))).next(),
            Some(Duration::from_secs(20))
        );
        assert_eq!(pauses(Some(Duration::from_secs(9999))).next(), Some(LONGEST_PAUSE));
    }
}
