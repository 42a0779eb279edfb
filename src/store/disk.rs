//! Making things durable: the few moves that survive a power cut, and nothing that skips one.
//!
//! A file is written in the spool, synced, renamed into place, and the directory it lies in is synced; so is the parent
//! of every directory made on the way. After any of these fails, the request fails: nothing is synced a second time,
//! because the kernel reports an error once and success afterwards. When that has happened a few times, the disk is not one
//! to write to: everything that writes is refused until the next start, and what is there is served.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::Error;
use super::layout::Layout;
use super::partials::Name;
use crate::telemetry::Metrics;

/// So many failed syncs, and nothing is written any more. One may be a cable; who goes on after several loses what they
/// acknowledge.
const FAILURES: u32 = 3;

/// The disk below one store.
#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    spool: PathBuf,
    names: AtomicU64,
    /// Directories in which others have been made that are not synced yet, and by how many. Who finds a directory
    /// made by somebody else must not rely on it before its name is durable.
    owed: Mutex<HashMap<PathBuf, usize>>,
    /// A sync has failed: what is found in place may never have become durable, so nothing is taken for done.
    failed: AtomicBool,
    failures: AtomicU32,
    /// Directories whose sync has failed: what has been put into them, or taken out, is seen, and may not be durable.
    unsettled: Mutex<BTreeSet<PathBuf>>,
    metrics: Arc<Metrics>,
}

impl Disk {
    pub(super) fn new(layout: &Layout, metrics: &Arc<Metrics>) -> Self {
        Self {
            root: layout.root().to_owned(),
            spool: layout.spool(),
            names: AtomicU64::new(0),
            owed: Mutex::default(),
            failed: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            unsettled: Mutex::default(),
            metrics: Arc::clone(metrics),
        }
    }

    #[cfg(test)]
    #[expect(clippy::unwrap_used, reason = "a test")]
    pub(super) fn of_tests(layout: &Layout) -> Self {
        Self::new(layout, &Arc::new(Metrics::new().unwrap()))
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Refuses to write to a disk that has lost what it was to keep.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.failures.load(Ordering::Acquire) < FAILURES {
            return Ok(());
        }
        Err(Error::ReadOnly)
    }

    /// Takes note of how a sync went. That there is no room says nothing about the disk.
    pub(super) fn synced<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result
            && !error.is_full()
            && !error.is_crowded()
        {
            self.failed.store(true, Ordering::Release);
            let failures = self.failures.fetch_add(1, Ordering::AcqRel) + 1;
            self.metrics.sync_failed(failures >= FAILURES);
            if failures == FAILURES {
                tracing::error!(
                    %error,
                    "the disk has failed to keep what was written, several times: nothing is written any more until the next start"
                );
            }
        }
        result
    }

    /// Whether what is found in place can be taken to be durable.
    pub(super) fn is_trusted(&self) -> bool {
        !self.failed.load(Ordering::Acquire)
    }

    /// A path in the spool that nothing has. Nothing with a number for a name outlives a restart, so counting is enough.
    pub(super) fn spool_path(&self) -> PathBuf {
        self.spool.join(self.names.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Makes directories below the root, and all above them, durably.
    pub(super) fn make_directories(&self, wanted: &[&Path]) -> Result<(), Error> {
        self.check()?;
        let mut debts = Debts {
            disk: self,
            parents: Vec::new(),
        };
        wanted.iter().try_for_each(|path| debts.make(path))?;
        debts.pay()
    }

    /// Writes a small file whole, in place of the one that may be there.
    pub(super) fn write(&self, target: &Path, contents: &[u8]) -> Result<(), Error> {
        self.write_with(create_new, target, contents)
    }

    /// The same, for what nobody else may read: not for a moment.
    pub(super) fn write_private(&self, target: &Path, contents: &[u8]) -> Result<(), Error> {
        self.write_with(create_private, target, contents)
    }

    fn write_with(
        &self,
        create: impl FnOnce(&Path) -> io::Result<File>,
        target: &Path,
        contents: &[u8],
    ) -> Result<(), Error> {
        self.check()?;
        let scrap = Scrap::new(self.spool_path());
        let write = || {
            let mut file = create(scrap.path())?;
            file.write_all(contents)?;
            Ok(file)
        };
        let file = write().map_err(Error::disk(scrap.path()))?;
        self.synced(file.sync_all().map_err(Error::disk(scrap.path())))?;
        self.place(scrap, target)
    }

    /// Moves a synced file to where it belongs; the directory must be there.
    pub(super) fn place(&self, scrap: Scrap, target: &Path) -> Result<(), Error> {
        fs::rename(scrap.path(), target).map_err(Error::disk(target))?;
        scrap.keep();
        self.sync_parent(target)
    }

    /// Removes a file durably. False when there was none.
    pub(super) fn remove(&self, path: &Path) -> Result<bool, Error> {
        self.check()?;
        match fs::remove_file(path) {
            Ok(()) => self.sync_parent(path).map(|()| true),
            Err(error) if is_absence(&error) => Ok(false),
            Err(error) => Err(Error::disk(path)(error)),
        }
    }

    pub(super) fn sync_parent(&self, path: &Path) -> Result<(), Error> {
        path.parent().map_or(Ok(()), |parent| self.sync_directory(parent))
    }

    fn sync_directory(&self, path: &Path) -> Result<(), Error> {
        let directory = File::open(path).map_err(Error::disk(path));
        // What cannot be opened is not durable either, but that passes.
        let directory = directory.inspect_err(|_| self.failed.store(true, Ordering::Release));
        let synced = directory.and_then(|directory| self.synced(directory.sync_all().map_err(Error::disk(path))));
        if synced.is_err() {
            self.unsettled().insert(path.to_owned());
        }
        synced
    }

    /// Makes durable what is seen below a directory: what goes because of it must not go before. Another descriptor is
    /// synced than the one that failed.
    pub(super) fn settle(&self, below: &Path) -> Result<(), Error> {
        let unsettled: Vec<PathBuf> = self
            .unsettled()
            .iter()
            .filter(|path| path.starts_with(below))
            .cloned()
            .collect();
        for path in unsettled {
            // Of one that is gone, the nearest that is left knows.
            let left = path.ancestors().find(|above| above.is_dir());
            left.map_or(Ok(()), |left| self.sync_directory(left))?;
            self.unsettled().remove(&path);
        }
        Ok(())
    }

    fn unsettled(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Directories made and not yet durable. However this ends, the count in [`Disk::owed`] is taken back.
struct Debts<'a> {
    disk: &'a Disk,
    parents: Vec<PathBuf>,
}

impl Debts<'_> {
    fn make(&mut self, path: &Path) -> Result<(), Error> {
        let below_root = || path.ancestors().take_while(|above| *above != self.disk.root);
        let missing: Vec<&Path> = below_root().take_while(|above| !above.is_dir()).collect();
        // Looked up after the directories were seen: who makes one enters it first.
        let foreign: Vec<&Path> = {
            let owed = self.disk.owed.lock().unwrap_or_else(PoisonError::into_inner);
            let trusted = self.disk.is_trusted();
            below_root()
                .skip(missing.len())
                .filter_map(Path::parent)
                .filter(|parent| !trusted || (!owed.is_empty() && owed.contains_key(*parent)))
                .collect()
        };
        for parent in foreign {
            self.owe(parent);
        }
        for directory in missing.into_iter().rev() {
            if let Some(parent) = directory.parent() {
                self.owe(parent);
            }
            match fs::create_dir(directory) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(Error::disk(directory)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    fn owe(&mut self, parent: &Path) {
        if self.parents.iter().any(|known| known == parent) {
            return;
        }
        let mut owed = self.disk.owed.lock().unwrap_or_else(PoisonError::into_inner);
        *owed.entry(parent.to_owned()).or_default() += 1;
        self.parents.push(parent.to_owned());
    }

    fn pay(&self) -> Result<(), Error> {
        // From the deepest: on a journalling filesystem the first one writes all of them, and the rest are cheap.
        let mut deepest_first = self.parents.iter().rev();
        deepest_first.try_for_each(|parent| self.disk.sync_directory(parent))
    }
}

impl Drop for Debts<'_> {
    fn drop(&mut self) {
        let mut owed = self.disk.owed.lock().unwrap_or_else(PoisonError::into_inner);
        for parent in &self.parents {
            if let Some(count) = owed.get_mut(parent) {
                *count -= 1;
                if *count == 0 {
                    owed.remove(parent);
                }
            }
        }
    }
}

/// A file that is removed again unless it is kept.
#[derive(Debug)]
pub(super) struct Scrap {
    path: PathBuf,
    kept: bool,
    /// Held until the file is gone from its path: nobody else takes it for his before.
    name: Option<Name>,
}

impl Scrap {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            kept: false,
            name: None,
        }
    }

    /// The part of a digest.
    pub(super) fn named(name: Name) -> Self {
        Self {
            path: name.path(),
            kept: false,
            name: Some(name),
        }
    }

    pub(super) const fn name(&self) -> Option<&Name> {
        self.name.as_ref()
    }

    /// From now on it stays for somebody to go on with it.
    pub(super) fn park(&mut self) {
        self.kept = true;
    }

    /// From now on nobody shall go on with it.
    pub(super) fn unpark(&mut self) {
        if let Some(name) = &self.name {
            name.forget();
        }
        self.kept = false;
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the file where it is, or where it was moved to.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Scrap {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = fs::remove_file(&self.path)
            && !is_absence(&error)
        {
            tracing::warn!(path = %self.path.display(), %error, "a file of no use is left behind");
        }
    }
}

/// Opens a file that must not be there yet.
pub(super) fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Whether an error says that a path is not there, and not that we could not tell.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Reads a small file whole; none when it is not there. More than `limit` bytes are an error.
pub(super) fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, Error> {
    use io::Read as _;
    let read = || {
        let file = File::open(path)?;
        let mut contents = Vec::new();
        file.take(limit + 1).read_to_end(&mut contents)?;
        if contents.len() as u64 > limit {
            return Err(io::Error::new(
                ErrorKind::FileTooLarge,
                format!("longer than {limit} bytes"),
            ));
        }
        Ok(contents)
    };
    match read() {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => Err(Error::disk(path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (tempfile::TempDir, Disk) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        fs::create_dir(layout.spool()).unwrap();
        (root, Disk::of_tests(&layout))
    }

    #[test]
    fn a_record_is_replaced_whole_and_leaves_nothing_behind() {
        let (root, disk) = disk();
        let target = root.path().join("a/b/link");
        disk.make_directories(&[target.parent().unwrap()]).unwrap();
        for contents in ["sha256:longer", "short"] {
            disk.write(&target, contents.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), contents);
        }
        assert_eq!(fs::read_dir(root.path().join("spool")).unwrap().count(), 0);
        assert!(disk.owed.lock().unwrap().is_empty());
        assert!(disk.remove(&target).unwrap());
        assert!(!disk.remove(&target).unwrap());
        assert!(!disk.remove(&root.path().join("no/such/place")).unwrap());
    }

    #[test]
    fn a_directory_that_another_has_not_synced_yet_is_synced_by_who_relies_on_it() {
        let (root, disk) = disk();
        let (a, b) = (root.path().join("a"), root.path().join("a/b"));
        fs::create_dir_all(&b).unwrap();
        let debts = || Debts {
            disk: &disk,
            parents: Vec::new(),
        };
        let mut mine = debts();
        mine.make(&b).unwrap();
        assert!(mine.parents.is_empty(), "it has long been there");
        let mut other = debts();
        other.owe(&a);
        mine.make(&b).unwrap();
        assert_eq!(mine.parents, std::slice::from_ref(&a));
        drop(other);
        assert_eq!(disk.owed.lock().unwrap().get(&a), Some(&1));
        drop(mine);
        disk.failed.store(true, Ordering::Release);
        let mut wary = debts();
        wary.make(&b).unwrap();
        assert_eq!(wary.parents, [a, root.path().to_owned()]);
    }

    #[test]
    fn a_disk_that_has_failed_a_few_times_is_not_written_any_more() {
        let (root, disk) = disk();
        let failure = |kind: ErrorKind| -> Result<(), Error> { Err(Error::disk(root.path())(kind.into())) };
        let target = root.path().join("link");
        for _ in 0..10 {
            assert!(disk.synced(failure(ErrorKind::StorageFull)).is_err());
        }
        disk.write(&target, b"what was there").unwrap();
        for _ in 0..FAILURES {
            disk.write(&target, b"what is there").unwrap();
            assert!(disk.synced(failure(ErrorKind::Other)).is_err());
        }
        assert!(matches!(disk.write(&target, b"more"), Err(Error::ReadOnly)));
        assert!(matches!(disk.remove(&target), Err(Error::ReadOnly)));
        assert!(matches!(
            disk.make_directories(&[&root.path().join("a")]),
            Err(Error::ReadOnly)
        ));
        assert_eq!(fs::read_to_string(&target).unwrap(), "what is there");
    }

    #[test]
    fn what_could_not_be_synced_is_synced_before_anybody_relies_on_it() {
        let (root, disk) = disk();
        let (a, b) = (root.path().join("a"), root.path().join("b/c"));
        assert!(disk.sync_parent(&a.join("link")).is_err() && disk.sync_parent(&b.join("link")).is_err());
        fs::create_dir(&a).unwrap();
        disk.settle(&a).unwrap();
        assert_eq!(
            disk.unsettled().iter().collect::<Vec<_>>(),
            [&b],
            "only what lies there"
        );
        disk.settle(root.path()).unwrap();
        assert!(disk.unsettled().is_empty(), "one that is gone is settled where it was");
    }

    #[test]
    fn what_fails_leaves_nothing_in_the_spool() {
        let (root, disk) = disk();
        assert!(disk.write(&root.path().join("no/such/place"), b"x").is_err());
        assert_eq!(fs::read_dir(root.path().join("spool")).unwrap().count(), 0);
    }
}
