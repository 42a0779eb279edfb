//! What the handlers work with: the parts that a reload replaces as one, and those that stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

use crate::access::Access;
use crate::config::Limits;
use crate::repository::Repositories;
use crate::store::Store;
use crate::telemetry::Metrics;

/// What a configuration means, wired. A request keeps the one that it began with.
#[derive(Debug)]
pub struct Site {
    /// The repositories.
    pub repositories: Repositories,
    /// Who may.
    pub access: Access,
    /// What a request may cost.
    pub limits: Limits,
    /// Whether `/metrics` is answered on an address of its own instead of here.
    pub metrics_elsewhere: bool,
}

/// All that a handler can reach.
#[derive(Debug)]
pub struct Front {
    /// The current configuration, wired.
    pub site: ArcSwap<Site>,
    /// What is kept.
    pub store: Store,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    draining: AtomicBool,
}

impl Front {
    /// A front over a first site.
    pub fn new(site: Site, store: Store, metrics: Arc<Metrics>) -> Self {
        Self {
            site: ArcSwap::from_pointee(site),
            store,
            metrics,
            draining: AtomicBool::new(false),
        }
    }

    /// From now on we are not ready: no new work should be sent here.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether we were asked to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
