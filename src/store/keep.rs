//! What is kept of repositories that can be fetched again, and what goes when there is too much of it.
//!
//! Such a repository has an account in memory: which blobs it has, how long they are, when each was wanted last. A blob
//! that several of its images have counts once; one that another repository has too counts in both. The account is read
//! from the index when it is first needed; uses are written there now and then, and when they are lost, a blob counts as
//! used when its file was written.
//!
//! - `max_size` bounds the bytes of blobs, with those that are about to come: [`Store::reserve`] makes room before a
//!   fetch, by letting go what was wanted longest ago until the account is down to 90 %. Above 95 %, [`Store::tidy`] does
//!   the same before anybody needs it. Manifests and tags do not count, and never go to make room: they are small, and
//!   without them nothing can be served while the upstream is away.
//! - `unused_after` lets blobs go that nobody wanted for so long; and manifests, with the tags that mean them, after
//!   twice that. A pinned tag keeps its manifest, and the manifests of an index, for ever.
//! - `min_free` is for the whole disk: below it pushes are refused, and fills have room only if blobs of repositories
//!   with a `max_size` can make way.
//!
//! What is being read does not go. Neither do bytes that any other image needs, as a blob or as a manifest: then only
//! this repository's own links go. How that is made certain is in [`evict`].

mod account;
mod evict;
mod links;
mod quota;
mod reservation;
mod tidy;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

pub(super) use links::{entries, place_of};
pub use reservation::Reservation;
use tokio::sync::Semaphore;

use super::layout::Place;
use super::rows::Changes;
use super::{Error, Inner, Store, blocking, rebuild};
use crate::clock;
use crate::oci::{Digest, RepositoryKey};
use crate::telemetry::Metrics;
use account::Account;

/// How many fetches are given room at once.
const WAITING: usize = 16;
/// How many uses are written at once.
const NOTES: usize = 4096;

/// What may be kept of a repository that can be fetched again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeping {
    /// The most bytes of blobs; without it, as many as fit.
    pub max_size: Option<u64>,
    /// For how long a blob stays that nobody wants; without it, for ever.
    pub unused_after: Option<Duration>,
}

/// What a round of housekeeping has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Manifests.
    pub manifests: u64,
}

/// The accounts of all repositories that have one.
#[derive(Debug)]
pub(super) struct Keep {
    repositories: RwLock<HashMap<RepositoryKey, Arc<Kept>>>,
    /// Bytes that are about to come, in all repositories.
    reserved: AtomicU64,
    /// Held by the one who evicts.
    evicting: Mutex<()>,
    /// How many may wait for that, each on a thread.
    waiting: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// One repository.
#[derive(Debug)]
pub(super) struct Kept {
    repository: RepositoryKey,
    /// Whether what it has can be fetched again. What cannot is only counted, against a quota.
    evictable: bool,
    account: Mutex<Account>,
    /// Whether the account says all there is. Locked while it is read.
    is_read: Mutex<bool>,
    /// It is not to be kept so any more.
    released: AtomicBool,
}

impl Kept {
    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }
}

impl Keep {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            repositories: RwLock::default(),
            reserved: AtomicU64::new(0),
            evicting: Mutex::default(),
            waiting: Arc::new(Semaphore::new(WAITING)),
            metrics,
        }
    }

    fn get(&self, repository: &RepositoryKey) -> Option<Arc<Kept>> {
        let repositories = self.repositories.read().unwrap_or_else(PoisonError::into_inner);
        repositories.get(repository).map(Arc::clone)
    }

    fn all(&self) -> Vec<Arc<Kept>> {
        let repositories = self.repositories.read().unwrap_or_else(PoisonError::into_inner);
        repositories.values().map(Arc::clone).collect()
    }

    /// Those whose blobs can be fetched again.
    fn caches(&self) -> Vec<Arc<Kept>> {
        let mut all = self.all();
        all.retain(|kept| kept.evictable);
        all
    }

    /// Whether what is in a repository can be fetched again.
    pub(super) fn knows(&self, repository: &RepositoryKey) -> bool {
        self.get(repository).is_some_and(|kept| kept.evictable)
    }

    /// Counts what is in a repository from now on.
    fn count(&self, repository: &RepositoryKey, keeping: Keeping, evictable: bool) {
        if self.get(repository).is_some_and(|kept| kept.evictable != evictable) {
            self.forget(repository);
        }
        let kept = {
            let mut repositories = self.repositories.write().unwrap_or_else(PoisonError::into_inner);
            let kept = repositories.entry(repository.clone()).or_insert_with(|| {
                Arc::new(Kept {
                    repository: repository.clone(),
                    evictable,
                    account: Mutex::new(Account::new(keeping)),
                    is_read: Mutex::default(),
                    released: AtomicBool::new(false),
                })
            });
            Arc::clone(kept)
        };
        kept.account().keeping = keeping;
        self.show(&kept);
    }

    fn forget(&self, repository: &RepositoryKey) {
        let forgotten = {
            let mut repositories = self.repositories.write().unwrap_or_else(PoisonError::into_inner);
            repositories.remove(repository)
        };
        if let Some(kept) = forgotten {
            kept.released.store(true, Ordering::Release);
            if kept.evictable {
                self.metrics.cache_is_gone(repository.as_str());
            } else {
                self.metrics.quota_is_gone(repository.as_str());
            }
        }
    }

    /// Whoever removes bytes does so alone.
    pub(super) fn one_at_a_time(&self) -> MutexGuard<'_, ()> {
        self.evicting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A blob was linked in an image of this repository.
    pub(super) fn linked(&self, repository: &RepositoryKey, digest: &Digest, size: u64) {
        if let Some(kept) = self.get(repository) {
            kept.account().add(digest, size, now());
            self.show(&kept);
        }
    }

    /// A blob is in no image of this repository any more.
    pub(super) fn unlinked(&self, repository: &RepositoryKey, digest: &Digest) {
        if let Some(kept) = self.get(repository) {
            kept.account().remove(digest);
            self.show(&kept);
        }
    }

    /// A manifest was put into an image of this repository.
    pub(super) fn put(&self, repository: &RepositoryKey, digest: &Digest) {
        if let Some(kept) = self.get(repository) {
            kept.account().add_manifest(digest, now());
        }
    }

    pub(super) fn used<'a>(&self, repository: &RepositoryKey, digests: impl IntoIterator<Item = &'a Digest>) {
        if let Some(kept) = self.get(repository) {
            let now = now();
            let mut account = kept.account();
            digests.into_iter().for_each(|digest| account.touch(digest, now));
        }
    }

    /// Shows the account in the metrics.
    fn show(&self, kept: &Kept) {
        if kept.is_released() {
            return;
        }
        let account = kept.account();
        let (bytes, reserved, limit) = (account.bytes(), account.reserved(), account.keeping.max_size);
        drop(account);
        if !kept.evictable {
            let quota = limit.unwrap_or(u64::MAX);
            return self.metrics.quota_is_used(kept.repository.as_str(), bytes, quota);
        }
        self.metrics
            .cache_holds(kept.repository.as_str(), bytes, reserved, limit);
    }

    /// The index forgot what was written to it.
    pub(super) fn forget_notes(&self) {
        for kept in self.all() {
            kept.account().forget_notes();
        }
    }
}

impl Inner {
    /// Sees to it that an account says all there is. Where the index does not know, the tree is read.
    fn read_account(&self, kept: &Kept) -> Result<(), Error> {
        let mut is_read = kept.is_read.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_read {
            return Ok(());
        }
        kept.account().begin_reading();
        let result = self.fill_account(kept);
        kept.account().end_reading();
        *is_read = result.is_ok();
        self.keep.show(kept);
        result
    }

    fn fill_account(&self, kept: &Kept) -> Result<(), Error> {
        let (blobs, manifests) = match self.index.contents(&kept.repository) {
            Err(Error::Index(_)) => rebuild::contents(&self.records, &kept.repository)?,
            contents => contents?,
        };
        let noted = self.index.uses(&kept.repository).unwrap_or_default();
        let used = |digest: &Digest, written: Option<SystemTime>| match noted.get(digest) {
            Some(seconds) => believed(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(*seconds))),
            None => written.map_or(0, believed),
        };
        for digest in blobs {
            if let Some((size, written)) = self.blobs.look(&digest)? {
                kept.account().found(&digest, size, used(&digest, written));
            }
        }
        for digest in manifests {
            let written = self.blobs.look(&digest)?.and_then(|(_, written)| written);
            kept.account().found_manifest(&digest, used(&digest, written));
        }
        Ok(())
    }

    /// Writes down when blobs were used.
    pub(super) fn write_notes(&self, all: bool) {
        for kept in self.keep.all() {
            loop {
                let notes = kept.account().take_notes(all, NOTES);
                let mut changes = Changes::default();
                for (digest, seconds) in &notes {
                    changes.used(&kept.repository, digest, *seconds);
                }
                if notes.is_empty() {
                    break;
                }
                self.index.apply(changes);
            }
        }
    }

    /// Whether clients may push into this repository as far as the disk is concerned. What comes from upstreams is
    /// asked for its room in [`Store::reserve`], and manifests are always tried.
    pub(super) fn check_space(&self, place: &Place) -> Result<(), Error> {
        if self.keep.knows(&place.repository) {
            return Ok(());
        }
        self.space.check()
    }
}

impl Store {
    /// From now on this repository's blobs are evicted to fit. To be called when its cache is made, and again when that
    /// is configured anew.
    pub fn keep(&self, repository: &RepositoryKey, keeping: Keeping) {
        let keep = &self.inner.keep;
        keep.count(repository, keeping, true);
    }

    /// From now on nothing of this repository is evicted: what is pushed there can be had nowhere else. With a quota, its
    /// blobs have at most so many bytes.
    pub fn release(&self, repository: &RepositoryKey, quota: Option<u64>) {
        let keep = &self.inner.keep;
        if quota.is_none() || keep.knows(repository) {
            keep.forget(repository);
        }
        if quota.is_some() {
            let keeping = Keeping {
                max_size: quota,
                unused_after: None,
            };
            keep.count(repository, keeping, false);
        }
    }

    /// Notes that blobs or manifests were wanted. Cheap: it is written down now and then.
    pub fn used(&self, repository: &RepositoryKey, digests: &[Digest]) {
        self.inner.keep.used(repository, digests);
    }

    /// One round of housekeeping: what is unused goes, and what is above the high mark, and what the disk has no room
    /// for.
    pub async fn tidy(&self) -> Result<Tidied, Error> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.tidy()).await
    }
}

impl std::ops::AddAssign for Tidied {
    fn add_assign(&mut self, more: Self) {
        self.blobs += more.blobs;
        self.bytes += more.bytes;
        self.manifests += more.manifests;
    }
}

fn now() -> u64 {
    milliseconds(clock::now())
}

/// When something was used, by what an earlier process wrote. What no right clock can have said was just now: it goes later
/// than it might, not sooner than it may.
fn believed(used: SystemTime) -> u64 {
    let now = clock::now();
    milliseconds(clock::age(used, now).map_or(now, |_| used))
}

fn milliseconds(time: SystemTime) -> u64 {
    to_milliseconds(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn to_milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
