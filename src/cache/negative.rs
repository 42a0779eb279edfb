//! What an upstream has itself said that it does not have: its own 404, and nothing else, for a short while.
//!
//! Without this every pull of an image that another member of a virtual repository has asks this upstream first, each
//! time. With more than this an image that was pushed meanwhile could not be found.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::oci::{Digest, ImageName, Reference};

/// How many absences are remembered. When there are more, the new ones are not.
const REMEMBERED: usize = 10_000;
/// How often those that are over are looked for when there are so many.
const PAUSE: Duration = Duration::from_secs(1);

/// What of an image is not there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum What {
    Manifest(Reference),
    Blob(Digest),
}

/// The absences of one upstream.
pub(super) struct Negative {
    ttl: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Until when each counts.
    absences: HashMap<ImageName, HashMap<What, Instant>>,
    count: usize,
    purged: Option<Instant>,
    /// Counts what was forgotten: an answer to a question that was asked before is not noted after.
    forgotten: u64,
}

/// When a question was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked(u64);

impl Negative {
    pub(super) fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called before upstream is asked.
    pub(super) fn asked(&self) -> Asked {
        Asked(self.state().forgotten)
    }

    /// Upstream has said that it does not have this.
    pub(super) fn note(&self, asked: Asked, image: &ImageName, what: &What) {
        if self.ttl.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut state = self.state();
        if state.forgotten != asked.0 || !state.make_room(now) {
            return;
        }
        let Some(until) = now.checked_add(self.ttl) else { return };
        let of_image = state.absences.entry(image.clone()).or_default();
        if of_image.insert(what.clone(), until).is_none() {
            state.count += 1;
        }
    }

    /// Whether upstream has said so not long ago.
    pub(super) fn knows(&self, image: &ImageName, what: &What) -> bool {
        let state = self.state();
        let until = state.absences.get(image).and_then(|of_image| of_image.get(what));
        until.is_some_and(|until| Instant::now() < *until)
    }

    /// It is there now.
    pub(super) fn found(&self, image: &ImageName, what: &What) {
        let mut state = self.state();
        let Some(of_image) = state.absences.get_mut(image) else {
            return;
        };
        let was_there = of_image.remove(what).is_some();
        if of_image.is_empty() {
            state.absences.remove(image);
        }
        state.count -= usize::from(was_there);
    }

    /// Something of this image has come: what was said before it counts no more.
    pub(super) fn forget(&self, image: &ImageName) {
        let mut state = self.state();
        state.forgotten += 1;
        state.count -= state.absences.remove(image).map_or(0, |of_image| of_image.len());
    }

    /// Nothing that was said before counts any more.
    pub(super) fn forget_all(&self) {
        let mut state = self.state();
        let forgotten = state.forgotten + 1;
        *state = State {
            forgotten,
            ..State::default()
        };
    }
}

impl State {
    fn make_room(&mut self, now: Instant) -> bool {
        if self.count >= REMEMBERED && self.purged.is_none_or(|purged| now.duration_since(purged) >= PAUSE) {
            self.purged = Some(now);
            self.absences.retain(|_, of_image| {
                of_image.retain(|_, until| now < *until);
                !of_image.is_empty()
            });
            self.count = self.absences.values().map(HashMap::len).sum();
        }
        self.count < REMEMBERED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str) -> ImageName {
        name.parse().expect("a name")
    }

    fn manifest(reference: &str) -> What {
        What::Manifest(reference.parse().expect("a reference"))
    }

    #[tokio::test(start_paused = true)]
    async fn an_absence_counts_until_its_time_is_over() {
        let negative = Negative::new(Duration::from_secs(30));
        let (a, v1) = (image("a"), manifest("v1"));
        negative.note(negative.asked(), &a, &v1);
        tokio::time::advance(Duration::from_millis(29_999)).await;
        assert!(negative.knows(&a, &v1));
        assert!(!negative.knows(&a, &manifest("v2")) && !negative.knows(&image("b"), &v1));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!negative.knows(&a, &v1));
        let never = Negative::new(Duration::ZERO);
        never.note(never.asked(), &a, &v1);
        assert!(!never.knows(&a, &v1));
    }

    #[tokio::test]
    async fn what_was_forgotten_is_not_noted_by_the_answer_to_an_older_question() {
        let negative = Negative::new(Duration::from_secs(30));
        let (a, b, v1) = (image("a"), image("b"), manifest("v1"));
        let asked = negative.asked();
        negative.note(asked, &a, &v1);
        negative.note(asked, &b, &v1);
        negative.forget(&a);
        assert!(!negative.knows(&a, &v1), "forgotten");
        assert!(negative.knows(&b, &v1), "another image");
        negative.note(asked, &a, &v1);
        assert!(!negative.knows(&a, &v1), "it was asked before");
        negative.note(negative.asked(), &a, &v1);
        assert!(negative.knows(&a, &v1));
        negative.found(&a, &v1);
        assert!(!negative.knows(&a, &v1));
        negative.forget_all();
        assert!(!negative.knows(&b, &v1));
        assert_eq!(negative.state().count, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_remembered_than_there_is_room_for() {
        let negative = Negative::new(Duration::from_secs(30));
        let fill = |from: usize, to: usize| {
            for n in from..to {
                negative.note(
                    negative.asked(),
                    &image(&format!("i{}", n % 7)),
                    &manifest(&format!("t{n}")),
                );
            }
        };
        fill(0, REMEMBERED + 5);
        assert_eq!(negative.state().count, REMEMBERED);
        assert!(!negative.knows(&image("i0"), &manifest(&format!("t{REMEMBERED}"))));
        tokio::time::advance(Duration::from_secs(31)).await;
        fill(20_000, 20_003);
        assert_eq!(negative.state().count, 3);
    }
}
