//! The index: what would take a walk through the tree to find out. The only file that knows sled.
//!
//! It is derived, and doubted: sled opens damaged files without a word, or panics over them. So it is believed only
//! as [`super::stamp`] says, every call of it is fenced, and after the first that fails nothing more is believed and
//! the next start rebuilds it. Nothing in it needs to survive a crash, so nothing waits for its disk but closing.

use std::collections::HashMap;
use std::fs::{self, File};
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use super::IndexCounts;
use super::disk::Disk;
use super::error::Error;
use super::layout::{Layout, Place};
use super::rows::{self, Changes};
use super::stamp::{self, Reason, Totals};
use crate::mishap;
use crate::oci::{Descriptor, Digest, ImageName, Page, RepositoryKey, Tag};

/// How much of itself the engine may keep in memory.
const CACHE: u64 = 32 << 20;
/// How long another holder of the engine's files, in this process, may take to let go of them.
const PATIENCE: Duration = Duration::from_secs(2);

/// The index of one store.
#[derive(Debug)]
pub(super) struct Index {
    layout: Layout,
    disk: Arc<Disk>,
    /// None when it could not be opened, and once it is closed.
    engine: RwLock<Option<Engine>>,
    /// Whether all that was to be written was written.
    sound: AtomicBool,
    /// Whether it has been told of all that was there before it: not while it is rebuilt.
    full: AtomicBool,
}

#[derive(Debug)]
struct Engine {
    tree: sled::Db,
    /// Locked while something is written.
    totals: Mutex<Totals>,
}

impl Index {
    /// Opens what is there, if it is beyond doubt; otherwise the reason why it has to be rebuilt. `has_changed` tells
    /// whether the tree has since then.
    pub(super) fn open(
        layout: &Layout,
        disk: &Arc<Disk>,
        has_changed: impl FnOnce(SystemTime) -> bool,
    ) -> (Self, Option<Reason>) {
        let opened = Engine::open_trusted(layout, disk, has_changed);
        let (engine, reason) = match opened {
            Ok(engine) => (Some(engine), None),
            Err(reason) => (None, Some(reason)),
        };
        let index = Self {
            layout: layout.clone(),
            disk: Arc::clone(disk),
            full: AtomicBool::new(engine.is_some()),
            engine: RwLock::new(engine),
            sound: AtomicBool::new(true),
        };
        (index, reason)
    }

    /// Begins anew, with nothing in it; by who has all turns. From here on it follows what is written, and answers
    /// nothing until [`Index::complete`].
    pub(super) fn begin(&self, reason: Reason) -> Result<(), Error> {
        self.full.store(false, Ordering::Release);
        drop(self.take());
        wait_until_closed(&stamp::engine(&self.layout));
        stamp::set_aside(&self.layout, &self.disk, reason)?;
        let path = stamp::engine(&self.layout);
        self.disk.make_directories(&[&path])?;
        stamp::begin(&self.layout, &self.disk)?;
        let engine = Engine::open(&path).map_err(Error::Index)?;
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = Some(engine);
        self.sound.store(true, Ordering::Release);
        Ok(())
    }

    /// It has been told of all that was there when it began. What went wrong meanwhile counts.
    pub(super) fn complete(&self) -> Result<(), Error> {
        self.with_engine(|tree| tree.flush().map(drop))?;
        self.full.store(true, Ordering::Release);
        Ok(())
    }

    /// Closes it and says what is in it, unless that is not certain.
    pub(super) fn close(&self) -> Result<(), Error> {
        let Some(engine) = self.take() else { return Ok(()) };
        let totals = *engine.totals.lock().unwrap_or_else(PoisonError::into_inner);
        fenced(|| engine.tree.flush().map(drop)).map_err(Error::Index)?;
        drop(engine);
        let is_whole = self.sound.load(Ordering::Acquire) && self.full.load(Ordering::Acquire);
        if !is_whole || !wait_until_closed(&stamp::engine(&self.layout)) {
            return Err(Error::Index(
                "it is not whole, and will be rebuilt at the next start".to_owned(),
            ));
        }
        stamp::end(&self.layout, &self.disk, totals)
    }

    fn take(&self) -> Option<Engine> {
        self.engine.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Follows a change of the disk. It never fails what has been done there; what is missing in the index from then on
    /// makes the next start rebuild it.
    pub(super) fn apply(&self, changes: Changes) {
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        let result = match engine.as_ref() {
            Some(engine) => engine.apply(changes),
            None => Err("it is not open".to_owned()),
        };
        if let Err(error) = result {
            self.doubt(&error);
        }
    }

    /// Something may be missing in it.
    pub(super) fn doubt(&self, error: &str) {
        if self.sound.swap(false, Ordering::AcqRel) {
            tracing::error!(%error, "the index is not complete any more: restart, or run `entrepot reindex`");
        }
    }

    fn read<T>(&self, read: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, Error> {
        if !self.full.load(Ordering::Acquire) {
            return Err(Error::Index("it is being rebuilt".to_owned()));
        }
        self.with_engine(read)
    }

    /// Reads what is there, which while it is rebuilt is not all.
    fn with_engine<T>(&self, read: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, Error> {
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        let Some(engine) = engine.as_ref() else {
            return Err(Error::Index("it is not open".to_owned()));
        };
        if !self.sound.load(Ordering::Acquire) {
            return Err(Error::Index("it is not complete".to_owned()));
        }
        fenced(|| read(&engine.tree)).map_err(|error| {
            self.doubt(&error);
            Error::Index(error)
        })
    }

    /// One page of an image's tags, and whether more follow.
    pub(super) fn tags(&self, place: &Place, page: &Page) -> Result<(Vec<String>, bool), Error> {
        let prefix = rows::tags_of(place);
        let after = page.last.as_ref().map(|last| [&prefix, last.as_bytes()].concat());
        let most = page.n.map_or(usize::MAX, |n| n.saturating_add(1));
        let tags = self.read(|tree| {
            let keys = tree.range((
                after.map_or_else(|| Bound::Included(prefix.clone()), Bound::Excluded),
                Bound::Unbounded,
            ));
            let of_image = keys
                .keys()
                .take_while(|key| !matches!(key, Ok(key) if !key.starts_with(&prefix)));
            let tag = |key: &sled::IVec| rows::last_part(key).unwrap_or_default().to_owned();
            of_image.take(most).map(|key| key.map(|key| tag(&key))).collect()
        })?;
        let tags: Vec<String> = tags;
        Ok(page.cut(tags))
    }

    /// The images of a repository that have a manifest, sorted.
    pub(super) fn images(&self, repository: &RepositoryKey) -> Result<Vec<ImageName>, Error> {
        let prefix = rows::manifests_of(repository);
        self.read(|tree| {
            let mut images: Vec<ImageName> = Vec::new();
            let mut from = prefix.clone();
            // From image to image, past the manifests of each.
            while let Some(row) = tree.range(from..).next() {
                let (key, _) = row?;
                let Some(name) = key.starts_with(&prefix).then(|| rows::second_part(&key)).flatten() else {
                    break;
                };
                images.extend(name.parse());
                from = rows::after_image(repository, name);
            }
            Ok(images)
        })
    }

    /// The manifests of an image that are about a subject; without a descriptor those whose own is too long for a row.
    pub(super) fn referrers(
        &self,
        place: &Place,
        subject: &Digest,
    ) -> Result<Vec<(Digest, Option<Descriptor>)>, Error> {
        let prefix = rows::referrers_of(place, subject);
        self.read(|tree| {
            let mut referrers = Vec::new();
            for row in tree.scan_prefix(&prefix) {
                let (key, value) = row?;
                if let Some(digest) = rows::last_part(&key).and_then(|text| text.parse().ok()) {
                    referrers.push((digest, serde_json::from_slice(&value).ok()));
                }
            }
            Ok(referrers)
        })
    }

    /// Some images in which a blob may be read, `most` at most.
    pub(super) fn owners(&self, digest: &Digest, most: usize) -> Result<Vec<Place>, Error> {
        let prefix = rows::owners_of(digest);
        self.read(|tree| {
            let keys = tree.scan_prefix(&prefix).keys().take(most);
            keys.filter_map(|key| key.map(|key| rows::owner(&key)).transpose())
                .collect()
        })
    }

    /// Whether a repository has a blob in some image.
    pub(super) fn has_owner_in(&self, repository: &RepositoryKey, digest: &Digest) -> Result<bool, Error> {
        let prefix = rows::owners_in(repository, digest);
        self.read(|tree| Ok(tree.scan_prefix(&prefix).keys().next().transpose()?.is_some()))
    }

    /// Whether a blob is known to be so long; `None` when its length is not known.
    pub(super) fn bears_out(&self, digest: &Digest, size: u64) -> Option<bool> {
        let prefix = rows::owners_of(digest);
        let known = self.read(|tree| {
            let mut known = None;
            for row in tree.scan_prefix(&prefix) {
                match rows::size(&row?.1) {
                    Some(same) if same == size => return Ok(Some(true)),
                    Some(_) => known = Some(false),
                    None => {}
                }
            }
            Ok(known)
        });
        known.ok().flatten()
    }

    /// The blobs and the manifests of a repository, each once.
    pub(super) fn contents(&self, repository: &RepositoryKey) -> Result<(Vec<Digest>, Vec<Digest>), Error> {
        self.read(|tree| {
            let (mut blobs, mut manifests): (Vec<Digest>, Vec<Digest>) = (Vec::new(), Vec::new());
            for key in tree.scan_prefix(rows::BLOBS).keys() {
                let key = key?;
                if rows::second_part(&key) == Some(repository.as_str())
                    && let Some(digest) = rows::blob_of(&key)
                    && blobs.last() != Some(&digest)
                {
                    blobs.push(digest);
                }
            }
            for key in tree.scan_prefix(rows::manifests_of(repository)).keys() {
                manifests.extend(rows::last_part(&key?).and_then(|text| text.parse().ok()));
            }
            manifests.sort_unstable();
            manifests.dedup();
            Ok((blobs, manifests))
        })
    }

    /// When what is in a repository was used, in seconds since 1970, as far as that was written down.
    pub(super) fn uses(&self, repository: &RepositoryKey) -> Result<HashMap<Digest, u32>, Error> {
        let prefix = rows::uses_of(repository);
        self.read(|tree| {
            let mut uses = HashMap::new();
            for row in tree.scan_prefix(&prefix) {
                let (key, value) = row?;
                let digest = rows::last_part(&key).and_then(|text| text.parse().ok());
                uses.extend(digest.zip(rows::seconds(&value)));
            }
            Ok(uses)
        })
    }

    /// When a tag was last found to mean this digest.
    pub(super) fn verified(&self, place: &Place, tag: &Tag, digest: &Digest) -> Option<SystemTime> {
        let row = self.read(|tree| tree.get(rows::tag_key(place, tag))).ok()??;
        let (meant, verified) = rows::read_tag(&row)?;
        verified.filter(|_| meant == *digest)
    }

    /// What a manifest that the index knows is about. One that a rebuild has not come to yet has no row to be removed.
    pub(super) fn subject(&self, place: &Place, digest: &Digest) -> Option<Digest> {
        let row = self
            .with_engine(|tree| tree.get(rows::manifest_key(place, digest)))
            .ok()??;
        std::str::from_utf8(&row).ok()?.parse().ok()
    }

    /// The tags that mean a manifest, as far as the index knows.
    pub(super) fn tags_meaning(&self, place: &Place, digest: &Digest) -> Vec<Tag> {
        let prefix = rows::tags_of(place);
        let tags = self.read(|tree| {
            let mut tags: Vec<Tag> = Vec::new();
            for row in tree.scan_prefix(&prefix) {
                let (key, value) = row?;
                if rows::read_tag(&value).is_some_and(|(meant, _)| meant == *digest) {
                    tags.extend(rows::last_part(&key).and_then(|text| text.parse().ok()));
                }
            }
            Ok(tags)
        });
        tags.unwrap_or_default()
    }

    /// How much of everything there is.
    pub(super) fn counts(&self) -> Result<IndexCounts, Error> {
        self.read(|tree| {
            let mut counts = IndexCounts::default();
            let mut last = sled::IVec::default();
            for key in tree.iter().keys() {
                let key = key?;
                let another = rows::but_last_part(&key) != rows::but_last_part(&last);
                match key.first() {
                    Some(b't') => counts.tags += 1,
                    Some(b'm') => {
                        counts.manifests += 1;
                        counts.images += u64::from(another);
                    }
                    Some(b'b') => counts.blobs += u64::from(rows::blob(&key) != rows::blob(&last)),
                    _ => {}
                }
                last = key;
            }
            Ok(counts)
        })
    }
}

impl Engine {
    fn open_trusted(
        layout: &Layout,
        disk: &Disk,
        has_changed: impl FnOnce(SystemTime) -> bool,
    ) -> Result<Self, Reason> {
        let (expected, closed) = stamp::examine(layout)?;
        if has_changed(closed) {
            return Err(Reason::Outdated);
        }
        stamp::begin(layout, disk).map_err(|_| Reason::Damaged)?;
        let doubt = |error: String| {
            tracing::warn!(%error, "the index does not open as it was closed");
            Reason::Damaged
        };
        let engine = Self::open(&stamp::engine(layout)).map_err(doubt)?;
        let found = engine.count().map_err(doubt)?;
        if found != expected {
            return Err(doubt(format!(
                "it has {} rows, not the {} it had",
                found.rows, expected.rows
            )));
        }
        *engine.totals.lock().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(engine)
    }

    fn open(path: &Path) -> Result<Self, String> {
        let began = Instant::now();
        loop {
            let config = sled::Config::new()
                .path(path)
                .cache_capacity(CACHE)
                .mode(sled::Mode::LowSpace)
                .flush_every_ms(Some(500));
            match fenced(|| config.open()) {
                Ok(tree) => {
                    return Ok(Self {
                        tree,
                        totals: Mutex::default(),
                    });
                }
                // An engine that was dropped lets go of its files a little later.
                Err(_) if began.elapsed() < PATIENCE && is_locked(path) => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn count(&self) -> Result<Totals, String> {
        fenced(|| {
            let mut totals = Totals::default();
            for row in self.tree.iter() {
                let (key, value) = row?;
                totals.add(&key, &value);
            }
            Ok(totals)
        })
    }

    fn apply(&self, Changes(changes): Changes) -> Result<(), String> {
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        let next = fenced(|| {
            let mut next = *totals;
            let is_one = changes.len() == 1;
            let mut batch = sled::Batch::default();
            for (key, value) in changes {
                if let Some(old) = self.tree.get(&key)? {
                    next.subtract(&key, &old);
                }
                if let Some(value) = &value {
                    next.add(&key, value);
                }
                match value {
                    // The end of a batch is written at once, by one thread after the other waking up for it.
                    Some(value) if is_one => drop(self.tree.insert(key, value)?),
                    None if is_one => drop(self.tree.remove(key)?),
                    Some(value) => batch.insert(key, value),
                    None => batch.remove(key),
                }
            }
            if !is_one {
                self.tree.apply_batch(batch)?;
            }
            Ok(next)
        })?;
        *totals = next;
        Ok(())
    }
}

/// Calls the engine, which panics where others return an error.
fn fenced<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, String> {
    let call = move || {
        mishap::at("index");
        call()
    };
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the engine panicked".to_owned()),
    }
}

/// Whether somebody has the engine's files open: the engine itself locks this one.
fn is_locked(path: &Path) -> bool {
    File::open(path.join("db")).is_ok_and(|file| matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)))
}

/// Waits until the engine's threads are gone, so that they write nothing any more.
fn wait_until_closed(path: &Path) -> bool {
    let began = Instant::now();
    while is_locked(path) {
        if began.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed_index(root: &Path) -> (Layout, Arc<Disk>, Totals) {
        let layout = Layout::new(root);
        let disk = Arc::new(Disk::of_tests(&layout));
        for directory in [layout.spool(), layout.repositories()] {
            fs::create_dir_all(directory).unwrap();
        }
        let (index, reason) = Index::open(&layout, &disk, |_| false);
        assert_eq!(reason, Some(Reason::Missing));
        let place = Place {
            repository: "r".parse().unwrap(),
            image: "i".parse().unwrap(),
        };
        index.begin(Reason::Missing).unwrap();
        let mut changes = Changes::default();
        for n in 0..1000 {
            let tag: Tag = format!("v{n}").parse().unwrap();
            let digest = Digest::of(crate::oci::Algorithm::Sha256, &[0]);
            changes.tag(&place, &tag, &digest, None);
        }
        index.apply(changes);
        assert!(index.counts().is_err(), "it does not know yet that this is all");
        index.complete().unwrap();
        let totals = *index.engine.read().unwrap().as_ref().unwrap().totals.lock().unwrap();
        index.close().unwrap();
        (layout, disk, totals)
    }

    /// Damages the index in a way that its stamp vouches for, as a bug of the engine would.
    fn after(damage: impl FnOnce(&Path)) -> Option<Reason> {
        let root = tempfile::tempdir().unwrap();
        let (layout, disk, totals) = closed_index(root.path());
        let engine = stamp::engine(&layout);
        damage(&engine);
        assert!(wait_until_closed(&engine));
        stamp::end(&layout, &disk, totals).unwrap();
        Index::open(&layout, &disk, |_| false).1
    }

    #[test]
    fn an_engine_that_does_not_give_back_what_it_was_given_is_found_out() {
        assert_eq!(after(|_| ()), None);
        let lost_row = |path: &Path| {
            let tree = sled::open(path).unwrap();
            tree.pop_max().unwrap();
            tree.flush().unwrap();
        };
        assert_eq!(after(lost_row), Some(Reason::Damaged));
        let other_row = |path: &Path| {
            let tree = sled::open(path).unwrap();
            let (key, _) = tree.pop_max().unwrap().unwrap();
            tree.insert(key, "another").unwrap();
            tree.flush().unwrap();
        };
        assert_eq!(after(other_row), Some(Reason::Damaged));
    }

    #[test]
    fn a10_an_engine_that_panics_or_opens_empty_is_found_out() {
        assert_eq!(
            after(|path| fs::write(path.join("db"), "").unwrap()),
            Some(Reason::Damaged)
        );
        assert_eq!(
            after(|path| fs::write(path.join("conf"), [0xff; 62]).unwrap()),
            Some(Reason::Damaged)
        );
        for at in [0, 100, 10_000, 20_000] {
            let junk = |path: &Path| {
                use std::os::unix::fs::FileExt as _;
                let file = File::options().write(true).open(path.join("db")).unwrap();
                file.write_all_at(&vec![0xff; 40_000], at).unwrap();
            };
            assert_eq!(after(junk), Some(Reason::Damaged), "junk at {at}");
        }
    }

    #[test]
    fn a10_a_call_that_panics_is_an_error_and_nothing_is_believed_after_it() {
        let root = tempfile::tempdir().unwrap();
        let (layout, disk, _) = closed_index(root.path());
        let (index, reason) = Index::open(&layout, &disk, |_| false);
        assert_eq!(reason, None);
        assert_eq!(index.counts().unwrap().tags, 1000);
        let died: Result<(), Error> = index.read(|_| panic!("as the engine does"));
        assert!(matches!(died, Err(Error::Index(_))));
        assert!(matches!(index.counts(), Err(Error::Index(_))));
        assert!(index.close().is_err());
        drop(index);
        assert_eq!(Index::open(&layout, &disk, |_| false).1, Some(Reason::Unclean));
    }
}
