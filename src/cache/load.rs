//! What may be under way at once, so that there always is something left for those who cost least: what is fetched has
//! half of it, together with what is pushed three quarters, and what is here already all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of manifests that are on their way in.
const GATHERED: usize = 64 << 20;
/// In what portions they are counted.
const PORTION: usize = 1024;
/// Those who are refused come back after one to this many seconds: not all at once.
const COME_BACK: u64 = 8;

/// What something costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A question to an upstream, or a fetch: as long as that takes.
    Miss,
    /// A push.
    Push,
    /// Any request, until the end of its answer.
    Request,
}

impl Class {
    /// As a metric says it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Miss => "miss",
            Self::Push => "push",
            Self::Request => "request",
        }
    }
}

/// What is under way.
#[derive(Debug)]
pub struct Load {
    most: usize,
    under_way: Mutex<UnderWay>,
    gathered: Arc<Semaphore>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct UnderWay {
    misses: usize,
    pushes: usize,
    requests: usize,
}

impl UnderWay {
    const fn has_room_for(self, class: Class, most: usize) -> bool {
        let dear = self.misses + self.pushes;
        match class {
            Class::Miss => self.misses < share(most, 1, 2) && dear < share(most, 3, 4),
            Class::Push => dear < share(most, 3, 4),
            Class::Request => self.requests < most,
        }
    }

    const fn count(&mut self, class: Class) -> &mut usize {
        match class {
            Class::Miss => &mut self.misses,
            Class::Push => &mut self.pushes,
            Class::Request => &mut self.requests,
        }
    }
}

/// A part of all, and never nothing.
const fn share(most: usize, numerator: usize, denominator: usize) -> usize {
    let share = most / denominator * numerator;
    if share == 0 { 1 } else { share }
}

/// Something under way, until dropped.
#[derive(Debug)]
pub struct Held {
    load: Arc<Load>,
    class: Class,
}

impl Drop for Held {
    fn drop(&mut self) {
        *self.load.under_way().count(self.class) -= 1;
    }
}

impl Load {
    /// Room for so much at once.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most: most.max(1),
            under_way: Mutex::default(),
            gathered: Arc::new(Semaphore::new(GATHERED / PORTION)),
        })
    }

    /// Begins something, if there is room for it.
    pub fn begin(self: &Arc<Self>, class: Class) -> Option<Held> {
        let mut under_way = self.under_way();
        if !under_way.has_room_for(class, self.most) {
            return None;
        }
        *under_way.count(class) += 1;
        Some(Held {
            load: Arc::clone(self),
            class,
        })
    }

    /// Room for so many more bytes in memory, if there is any.
    pub fn gather(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let portions = u32::try_from(bytes.div_ceil(PORTION)).ok()?;
        Arc::clone(&self.gathered).try_acquire_many_owned(portions).ok()
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When to come back, for somebody who is refused now.
pub fn come_back() -> Duration {
    let random = u64::from(uuid::Uuid::new_v4().as_bytes()[0]);
    Duration::from_secs(1 + random % COME_BACK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(load: &Arc<Load>, class: Class) -> Vec<Held> {
        std::iter::from_fn(|| load.begin(class)).collect()
    }

    #[test]
    fn misses_leave_room_for_pushes_and_both_for_hits() {
        let load = Load::new(16);
        let misses = fill(&load, Class::Miss);
        let pushes = fill(&load, Class::Push);
        let requests = fill(&load, Class::Request);
        assert_eq!((misses.len(), pushes.len(), requests.len()), (8, 4, 16));
        drop(misses);
        let pushes_too = fill(&load, Class::Push);
        assert_eq!(pushes_too.len(), 8);
        assert!(
            load.begin(Class::Miss).is_none(),
            "pushes have all of what both may have"
        );
        drop((pushes, pushes_too, requests));
        assert_eq!(*load.under_way(), UnderWay::default());
    }

    #[test]
    fn the_smallest_server_does_everything_one_at_a_time() {
        let load = Load::new(1);
        for class in [Class::Miss, Class::Push, Class::Request] {
            let held = load.begin(class);
            assert!(held.is_some() && load.begin(class).is_none(), "{class:?}");
        }
    }

    #[test]
    fn memory_has_an_end() {
        let load = Load::new(1);
        let half = load.gather(GATHERED / 2);
        assert!(half.is_some() && load.gather(GATHERED / 2 + 1).is_none());
        drop(half);
        assert!(load.gather(GATHERED).is_some());
    }
}
