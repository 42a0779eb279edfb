//! Who writes the records of an image: one at a time.
//!
//! Two pushes of one tag, or a push and a delete, would otherwise leave records, index and cache telling different
//! stories. Images share a bounded number of locks.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::error::Error;
use super::layout::Place;

/// How many images can be written at once, when their hashes agree to it.
pub(super) const STRIPES: usize = 1024;

/// The locks of all images.
#[derive(Debug)]
pub(super) struct Turns {
    stripes: Box<[Arc<Mutex<()>>]>,
    hashing: RandomState,
    closed: AtomicBool,
}

/// Permission to write, for as long as it lives.
#[derive(Debug)]
pub(super) struct Turn {
    _locked: OwnedMutexGuard<()>,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Arc::default()).collect(),
            hashing: RandomState::new(),
            closed: AtomicBool::new(false),
        }
    }

    /// Which lock is an image's.
    pub(super) fn stripe(&self, place: &Place) -> usize {
        usize::try_from(self.hashing.hash_one(place) % STRIPES as u64).unwrap_or_default()
    }

    /// Waits for a turn.
    pub(super) async fn take(&self, stripe: usize) -> Result<Turn, Error> {
        let locked = Arc::clone(&self.stripes[stripe]).lock_owned().await;
        // Asked for under the lock: after a close nothing is written.
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        Ok(Turn { _locked: locked })
    }

    /// The same on a thread that may block.
    pub(super) fn take_now(&self, stripe: usize) -> Result<Turn, Error> {
        let locked = Arc::clone(&self.stripes[stripe]).blocking_lock_owned();
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        Ok(Turn { _locked: locked })
    }

    /// Waits until nobody writes, and keeps it so. Everybody who has a turn has only one, so this comes to an end.
    pub(super) async fn take_all(&self) -> Result<Vec<Turn>, Error> {
        let mut all = Vec::with_capacity(self.stripes.len());
        for stripe in 0..self.stripes.len() {
            all.push(self.take(stripe).await?);
        }
        Ok(all)
    }

    /// Whether no turn is given any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// No turn is given any more. To be called with all of them taken.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}
