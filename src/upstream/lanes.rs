//! How many questions may be under way to one upstream, and which kind may take how many.

use std::sync::Arc;
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
}

/// The connections of one upstream.
pub(super) struct Lanes {
    all: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
}

/// The right to have one connection in use, until dropped.
pub(super) struct Permit {
    _any: OwnedSemaphorePermit,
    _body: Option<OwnedSemaphorePermit>,
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
        }
    }

    /// Waits for a free connection, but not for ever.
    pub(super) async fn enter(&self, lane: Lane, patience: Duration) -> Result<Permit, Error> {
        timeout(patience, self.wait(lane)).await.unwrap_or(Err(Error::Busy))
    }

    async fn wait(&self, lane: Lane) -> Result<Permit, Error> {
        // The narrow door first: who waits there takes no place in the wide one.
        let body = match lane {
            Lane::Short => None,
            Lane::Body => Some(acquire(&self.bodies).await?),
        };
        Ok(Permit {
            _any: acquire(&self.all).await?,
            _body: body,
        })
    }
}

async fn acquire(semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Error> {
    Arc::clone(semaphore).acquire_owned().await.map_err(|_| Error::Busy)
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
}
