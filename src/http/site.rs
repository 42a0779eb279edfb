//! What the handlers work with: the parts that a reload replaces as one, and those that stay.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header;
use http::request::Parts;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::origin::{Origin, Proxies};
use super::pulse::Pulse;
use super::serve::Peer;
use crate::access::{Access, Robots};
use crate::clock;
use crate::config::Limits;
use crate::oci::RepositoryKey;
use crate::repository::Repositories;
use crate::store::{self, Keeps, Reclaimed, Reclaiming, Repair, Store, Verified, Verifying};
use crate::telemetry::audit::{Entry, Outcome};
use crate::telemetry::{Audit, Metrics};

/// How long a store that could be written is taken to be writable: a probe writes and syncs, and anybody may probe.
const BELIEVED: Duration = Duration::from_secs(5);

/// What a configuration means, wired. A request keeps the one that it began with.
#[derive(Debug)]
pub struct Site {
    /// The repositories.
    pub repositories: Repositories,
    /// Who may.
    pub access: Access,
    /// What stands in front of us.
    pub proxies: Proxies,
    /// Where is written down who did what.
    pub audit: Audit,
    /// What a request may cost.
    pub limits: Limits,
    /// How long something has to have been needed by nothing before its room is given back.
    pub grace: Duration,
    /// What each repository promises of what its manifests need.
    pub keeps: HashMap<RepositoryKey, Keeps>,
    /// Below which directory backups are made.
    pub backups: Option<PathBuf>,
    /// Whether `/metrics` is answered on an address of its own instead of here.
    pub metrics_elsewhere: bool,
}

impl Site {
    /// Where a request comes from, and by which address the client knows us.
    pub(super) fn origin(&self, parts: &Parts) -> Origin {
        let peer = parts.extensions.get::<Peer>();
        let authority = match parts.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()),
        };
        let address = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.address.ip());
        let secure = peer.is_some_and(|peer| peer.secure);
        self.proxies.origin(address, secure, authority, &parts.headers)
    }
}

/// All that a handler can reach.
#[derive(Debug)]
pub struct Front {
    /// The current configuration, wired.
    pub site: ArcSwap<Site>,
    /// What is kept.
    pub store: Store,
    /// The robots, whatever the configuration says of them.
    pub robots: Arc<Robots>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    pub(super) pulse: Pulse,
    draining: AtomicBool,
    /// When the store was last found to be writable.
    writable: Mutex<Option<Instant>>,
}

impl Front {
    /// A front over a first site. To be called within the runtime, whose pulse it watches.
    pub fn new(site: Site, store: Store, robots: Arc<Robots>, metrics: Arc<Metrics>) -> Self {
        Self {
            site: ArcSwap::from_pointee(site),
            store,
            robots,
            pulse: Pulse::start(Arc::clone(&metrics)),
            metrics,
            draining: AtomicBool::new(false),
            writable: Mutex::new(None),
        }
    }

    /// Whether the store can be written. One look at a time, and none while a good one is fresh; whether there is room
    /// for pushes costs nothing to ask.
    pub(super) async fn check_writable(&self) -> Result<(), store::Error> {
        let mut writable = self.writable.lock().await;
        if writable.is_none_or(|found| found.elapsed() >= BELIEVED) {
            *writable = None;
            self.store.check_writable().await?;
            *writable = Some(Instant::now());
        }
        drop(writable);
        self.store.check_room().await
    }

    /// Gives back what nothing needs, or says what would be.
    pub async fn reclaim(&self, dry_run: bool) -> Result<Reclaimed, store::Error> {
        let what = {
            let site = self.site.load();
            Reclaiming {
                local: site.repositories.locals().map(|local| local.rules()).collect(),
                grace: site.grace,
            }
        };
        if dry_run {
            return self.store.would_reclaim(what).await;
        }
        let done = self.store.reclaim(what).await?;
        let site = self.site.load();
        for name in &done.expired {
            let entry = Entry {
                reference: Some(name),
                ..Entry::of_system("expire", Outcome::Allowed, None)
            };
            site.audit.tell(entry, clock::told(clock::now()));
        }
        Ok(done)
    }

    /// Looks for damage, reading so many bytes in a second at most.
    pub async fn verify(&self, repair: Repair, rate: Option<u64>) -> Result<Verified, store::Error> {
        let what = Verifying {
            repositories: self.site.load().keeps.clone(),
            repair,
            rate,
        };
        self.store.verify(what).await
    }

    /// Tells the audit of something that the server does by itself.
    pub fn tell_of_system(&self, action: &str, outcome: Outcome, why: Option<&str>) {
        let entry = Entry::of_system(action, outcome, why);
        self.site.load().audit.tell(entry, clock::told(clock::now()));
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
