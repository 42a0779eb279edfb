//! How many questions may be under way to one upstream, and which kind may take how many.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::Error;

/// How many connections blobs leave to others: a manifest, which is small and which a client waits for before it can
/// ask for anything else, never queues behind layers.
const KEPT_FREE: usize = 2;

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// A manifest, a list, a HEAD: soon over.
    Short,
    /// A blob's body: as long as it takes.
    Body,
    /// Something that can be done without: one more connection for a blob, or one for what nobody has asked for yet.
    /// Never waits, and never takes more than half of what bodies may have.
    Spare,
}

/// The connections of one upstream.
pub(super) struct Lanes {
    all: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    spare: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// The right to have one connection in use, until dropped.
pub(super) struct Permit {
    _any: OwnedSemaphorePermit,
    _body: Option<OwnedSemaphorePermit>,
    _spare: Option<OwnedSemaphorePermit>,
}

/// Somebody who waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn at(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lanes {
    pub(super) fn new(connections: usize) -> Self {
        let connections = connections.clamp(1, Semaphore::MAX_PERMITS);
        let bodies = if connections >= 2 * KEPT_FREE {
            connections - KEPT_FREE
        } else {
            connections
        };
        Self {
            all: Arc::new(Semaphore::new(connections)),
            bodies: Arc::new(Semaphore::new(bodies)),
            spare: Arc::new(Semaphore::new(bodies / 2)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Whether somebody waits for a connection.
    pub(super) fn is_crowded(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Waits for a free connection, but not for ever.
    pub(super) async fn enter(&self, lane: Lane, patience: Duration) -> Result<Permit, Error> {
        timeout(patience, self.wait(lane)).await.unwrap_or(Err(Error::Busy))
    }

    async fn wait(&self, lane: Lane) -> Result<Permit, Error> {
        // The narrow door first: who waits there takes no place in the wide one.
        let body = match lane {
            Lane::Spare => return self.spare().ok_or(Error::Busy),
            Lane::Short => None,
            Lane::Body => Some(self.acquire(&self.bodies).await?),
        };
        Ok(Permit {
            _any: self.acquire(&self.all).await?,
            _body: body,
            _spare: None,
        })
    }

    async fn acquire(&self, semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Error> {
        if let Some(permit) = try_acquire(semaphore) {
            return Ok(permit);
        }
        let _waiting = Waiting::at(&self.waiting);
        Arc::clone(semaphore).acquire_owned().await.map_err(|_| Error::Busy)
    }

    fn spare(&self) -> Option<Permit> {
        if self.is_crowded() {
            return None;
        }
        Some(Permit {
            _spare: Some(try_acquire(&self.spare)?),
            _body: Some(try_acquire(&self.bodies)?),
            _any: try_acquire(&self.all)?,
        })
    }
}

fn try_acquire(semaphore: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(semaphore).try_acquire_owned().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn blobs_leave_room_for_manifests() {
        let lanes = Lanes::new(4);
        let first = lanes.enter(Lane::Body, AT_ONCE).await;
        let _second = lanes.enter(Lane::Body, AT_ONCE).await;
        assert_eq!(lanes.enter(Lane::Body, AT_ONCE).await.err(), Some(Error::Busy));
        let _short = lanes.enter(Lane::Short, AT_ONCE).await.expect("a lane kept free");
        let _other = lanes.enter(Lane::Short, AT_ONCE).await.expect("another one");
        assert_eq!(lanes.enter(Lane::Short, AT_ONCE).await.err(), Some(Error::Busy));
        drop(first);
        assert!(lanes.enter(Lane::Body, AT_ONCE).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_is_enough_for_both_in_turn() {
        let lanes = Lanes::new(1);
        let body = lanes.enter(Lane::Body, AT_ONCE).await.expect("the connection");
        assert!(lanes.enter(Lane::Short, AT_ONCE).await.is_err());
        drop(body);
        assert!(lanes.enter(Lane::Short, AT_ONCE).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_be_done_without_leaves_room_and_gives_way() {
        let lanes = Lanes::new(6);
        let first = lanes.enter(Lane::Spare, AT_ONCE).await.expect("spare");
        let _second = lanes.enter(Lane::Spare, AT_ONCE).await.expect("spare");
        assert!(lanes.enter(Lane::Spare, AT_ONCE).await.is_err(), "half of four");
        let _bodies = [
            lanes.enter(Lane::Body, AT_ONCE).await.expect("left for it"),
            lanes.enter(Lane::Body, AT_ONCE).await.expect("left for it"),
        ];
        assert!(!lanes.is_crowded());
        let waiter = lanes.enter(Lane::Body, Duration::from_secs(9));
        tokio::pin!(waiter);
        assert!(timeout(Duration::ZERO, &mut waiter).await.is_err(), "it waits");
        assert!(lanes.is_crowded(), "it shows");
        drop(first);
        let _third = waiter.await.expect("what was given back");
        assert!(!lanes.is_crowded());
        assert!(lanes.enter(Lane::Spare, AT_ONCE).await.is_err(), "bodies are all taken");
        assert!(lanes.enter(Lane::Short, AT_ONCE).await.is_ok());
    }
}
