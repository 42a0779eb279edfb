//! Making things durable: the few moves that survive a power cut, and nothing that skips one.
//!
//! A file is written in the spool, synced, renamed into place, and the directory it lies in is synced; so is the parent
//! of every directory made on the way. Names may be given first and synced together later, see `debts`. After any of
//! these fails, the request fails: nothing is synced a second time, because the kernel reports an error once and success afterwards. When that has happened a few times, the disk is not one
//! to write to: everything that writes is refused until the next start, and what is there is served.

mod debts;
mod scrap;

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::Error;
use super::layout::Layout;
use crate::telemetry::Metrics;

pub(super) use debts::Debts;
pub(super) use scrap::Scrap;

/// So many failed syncs, and nothing is written any more. One may be a cable; who goes on after several loses what they
/// acknowledge.
const FAILURES: u32 = 3;

/// The disk below one store.
#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    spool: PathBuf,
    names: AtomicU64,
    /// Directories in which there are names that are not synced yet, and by how many. Who finds a name that somebody else
    /// gave must not rely on it before it is durable.
    owed: Mutex<HashMap<PathBuf, usize>>,
    /// What an earlier process left may never have become durable, as it was killed before its sync.
    inherited: AtomicBool,
    /// A sync has failed: what is found in place may never have become durable, so nothing is taken for done.
    failed: AtomicBool,
    failures: AtomicU32,
    /// Directories whose sync has failed, or was not come to: what has been put into them, or taken out, is seen, and may not
    /// be durable.
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
            inherited: AtomicBool::new(false),
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
        !self.failed.load(Ordering::Acquire) && !self.inherited.load(Ordering::Acquire)
    }

    /// What is found in place is somebody else's, until [`Disk::settle_inheritance`] is through.
    pub(super) fn inherit(&self) {
        self.inherited.store(true, Ordering::Release);
    }

    /// Makes durable whatever earlier processes left, however long that takes.
    pub(super) fn settle_inheritance(&self) {
        let synced = File::open(&self.root).and_then(|root| Ok(rustix::fs::syncfs(root)?));
        if self.synced(synced.map_err(Error::disk(&self.root))).is_ok() {
            self.inherited.store(false, Ordering::Release);
        }
    }

    /// For names that are given together, and made durable together.
    pub(super) const fn debts(&self) -> Debts<'_> {
        Debts::new(self)
    }

    fn owed(&self) -> MutexGuard<'_, HashMap<PathBuf, usize>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owe_less(&self, directory: &Path) {
        let mut owed = self.owed();
        if let Some(count) = owed.get_mut(directory) {
            *count -= 1;
            if *count == 0 {
                owed.remove(directory);
            }
        }
    }

    fn below_root<'a>(&self, path: &'a Path) -> impl Iterator<Item = &'a Path> {
        path.ancestors().take_while(|above| *above != self.root)
    }

    /// A path in the spool that nothing has. Nothing with a number for a name outlives a restart, so counting is enough.
    pub(super) fn spool_path(&self) -> PathBuf {
        self.spool.join(self.names.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Makes directories below the root, and all above them, durably.
    pub(super) fn make_directories(&self, wanted: &[&Path]) -> Result<(), Error> {
        self.check()?;
        let mut debts = self.debts();
        wanted.iter().try_for_each(|path| debts.make(path))?;
        debts.pay()
    }

    /// Makes the name of what has been found durable, if somebody else has not come to that yet.
    pub(super) fn rely(&self, path: &Path) -> Result<(), Error> {
        let mut debts = self.debts();
        debts.rely(path);
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
        let scrap = self.draft_with(create, contents)?;
        self.place(scrap, target)
    }

    /// A small file in the spool, synced, that can be placed.
    pub(super) fn draft(&self, contents: &[u8]) -> Result<Scrap, Error> {
        self.draft_with(create_new, contents)
    }

    fn draft_with(&self, create: impl FnOnce(&Path) -> io::Result<File>, contents: &[u8]) -> Result<Scrap, Error> {
        self.check()?;
        let scrap = Scrap::new(self.spool_path());
        let write = || {
            let mut file = create(scrap.path())?;
            file.write_all(contents)?;
            Ok(file)
        };
        let file = write().map_err(Error::disk(scrap.path()))?;
        self.synced(file.sync_all().map_err(Error::disk(scrap.path())))?;
        Ok(scrap)
    }

    /// Moves a synced file to where it belongs; the directory must be there.
    pub(super) fn place(&self, scrap: Scrap, target: &Path) -> Result<(), Error> {
        let mut debts = self.debts();
        debts.place(scrap, target)?;
        debts.pay()
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
        self.sync_opened(path, File::open(path))
    }

    /// Of a directory that somebody has removed meanwhile, the nearest that is left knows.
    fn sync_nearest(&self, path: &Path) -> Result<(), Error> {
        for above in path.ancestors() {
            match File::open(above) {
                Err(error) if is_absence(&error) => {}
                opened => return self.sync_opened(above, opened),
            }
        }
        Ok(())
    }

    fn sync_opened(&self, path: &Path, directory: io::Result<File>) -> Result<(), Error> {
        // What cannot be opened is not durable either, but that passes.
        let directory = directory.inspect_err(|_| self.failed.store(true, Ordering::Release));
        let directory = directory.map_err(Error::disk(path));
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
            self.sync_nearest(&path)?;
            self.unsettled().remove(&path);
        }
        Ok(())
    }

    fn unsettled(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
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
