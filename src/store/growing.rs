//! A file that bytes are appended to, hashed as they come: what a fill from upstream and a push have in common.
//!
//! Writing and hashing happen on the caller's own task: handing the bytes to other threads costs more than the page
//! cache write does. What is written is synced in the background as it piles up, so that the last sync is short.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::disk::create_new;
use crate::oci::{Algorithm, Digest, Hasher};

/// How much may pile up before it is synced in the background.
const SYNC_EVERY: u64 = 32 << 20;

/// A file that grows.
#[derive(Debug)]
pub(super) struct Growing {
    file: Arc<File>,
    progress: Progress,
}

/// How far a growing file is: what is left of it when its file is closed for a while.
#[derive(Debug)]
pub(super) struct Progress {
    written: u64,
    hasher: Hasher,
    unsynced: u64,
    syncing: Arc<Syncing>,
    /// A write failed and could not be taken back: the hash may not be that of the file.
    broken: bool,
}

/// The state of background syncing.
#[derive(Debug, Default)]
struct Syncing {
    queued: AtomicBool,
    /// Locked while a sync runs. True after one has failed: the kernel tells only one of those who ask.
    failed: Mutex<bool>,
}

impl Syncing {
    fn sync(&self, file: &File) -> io::Result<()> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if *failed {
            return Err(io::Error::other("an earlier sync of this file has failed"));
        }
        file.sync_data().inspect_err(|_| *failed = true)
    }
}

impl Progress {
    fn new(algorithm: Algorithm) -> Self {
        Self {
            written: 0,
            hasher: algorithm.hasher(),
            unsynced: 0,
            syncing: Arc::default(),
            broken: false,
        }
    }
}

impl Growing {
    /// A new, empty file.
    pub(super) fn create(path: &Path, algorithm: Algorithm) -> io::Result<Self> {
        Ok(Self {
            file: Arc::new(create_new(path)?),
            progress: Progress::new(algorithm),
        })
    }

    /// An empty file in the place of whatever is there.
    pub(super) fn create_anew(path: &Path, algorithm: Algorithm) -> io::Result<Self> {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Self {
            file: Arc::new(file),
            progress: Progress::new(algorithm),
        })
    }

    /// Goes on with a file. Without progress, or with one that the file does not bear out, the file is read again.
    pub(super) fn reopen(path: &Path, algorithm: Algorithm, progress: Option<Progress>) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let length = file.metadata()?.len();
        let progress = match progress {
            Some(progress) if progress.written == length && !progress.broken => progress,
            _ => Progress {
                hasher: hash_file(&file, algorithm)?,
                written: length,
                unsynced: length,
                ..Progress::new(algorithm)
            },
        };
        Ok(Self {
            file: Arc::new(file),
            progress,
        })
    }

    /// Closes the file, to go on later.
    pub(super) fn park(self) -> Progress {
        self.progress
    }

    pub(super) const fn written(&self) -> u64 {
        self.progress.written
    }

    pub(super) const fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Appends. After an error nothing of `bytes` counts as written.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let progress = &mut self.progress;
        if progress.broken {
            return Err(io::Error::other("an earlier write to this file has failed"));
        }
        if let Err(error) = self.file.write_all_at(bytes, progress.written) {
            progress.broken = self.file.set_len(progress.written).is_err();
            return Err(error);
        }
        progress.hasher.update(bytes);
        progress.written += bytes.len() as u64;
        self.piled_up(bytes.len());
        Ok(())
    }

    /// Puts bytes behind a gap, not hashed yet.
    pub(super) fn write_ahead(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)?;
        self.piled_up(bytes.len());
        Ok(())
    }

    /// Hashes what lies behind the written bytes without a gap, up to `end`.
    pub(super) fn catch_up(&mut self, end: u64) -> io::Result<()> {
        let mut buffer = vec![0; 256 << 10];
        while self.progress.written < end {
            let wanted =
                usize::try_from(end - self.progress.written).map_or(buffer.len(), |left| left.min(buffer.len()));
            match self.file.read_at(&mut buffer[..wanted], self.progress.written) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.progress.hasher.update(&buffer[..read]);
                    self.progress.written += read as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn piled_up(&mut self, bytes: usize) {
        self.progress.unsynced += bytes as u64;
        if self.progress.unsynced >= SYNC_EVERY {
            self.sync_in_background();
        }
    }

    /// The hash of what is written.
    pub(super) const fn hasher(&self) -> &Hasher {
        &self.progress.hasher
    }

    /// One sync at a time: while one is under way, more may pile up.
    fn sync_in_background(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if self.progress.syncing.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        self.progress.unsynced = 0;
        let (file, syncing) = (Arc::clone(&self.file), Arc::clone(&self.progress.syncing));
        runtime.spawn_blocking(move || {
            // The one who waits for the last sync reports the failure.
            let _ = syncing.sync(&file);
            syncing.queued.store(false, Ordering::Release);
        });
    }

    /// Waits until every byte is on the disk. Fails if any sync of this file ever has.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.progress.syncing.sync(&self.file)
    }

    /// The digest of what was written, in this algorithm: known already if it is the one that was hashed on the way.
    pub(super) fn digest(&self, algorithm: Algorithm) -> io::Result<Digest> {
        if self.progress.broken {
            return Err(io::Error::other("an earlier write to this file has failed"));
        }
        if self.progress.hasher.algorithm() == algorithm {
            Ok(self.progress.hasher.clone().finish())
        } else {
            Ok(hash_file(&self.file, algorithm)?.finish())
        }
    }
}

pub(super) fn hash_file(file: &File, algorithm: Algorithm) -> io::Result<Hasher> {
    let mut hasher = algorithm.hasher();
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(hasher),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                at += read as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_parked_goes_on_where_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let mut growing = Growing::create(&path, Algorithm::Sha256).unwrap();
        growing.append(b"one ").unwrap();
        let mut growing = Growing::reopen(&path, Algorithm::Sha256, Some(growing.park())).unwrap();
        growing.append(b"two ").unwrap();
        drop(growing);
        let mut growing = Growing::reopen(&path, Algorithm::Sha256, None).unwrap();
        growing.append(b"three").unwrap();
        growing.sync().unwrap();
        assert_eq!(growing.written(), 13);
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            assert_eq!(
                growing.digest(algorithm).unwrap(),
                Digest::of(algorithm, b"one two three")
            );
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"one two three");
    }

    #[test]
    fn what_came_ahead_is_hashed_in_its_turn() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let mut growing = Growing::create_anew(&path, Algorithm::Sha256).unwrap();
        growing.write_ahead(4, b"two three").unwrap();
        growing.append(b"one ").unwrap();
        assert_eq!(growing.written(), 4);
        growing.catch_up(8).unwrap();
        assert_eq!(
            growing.hasher().clone().finish(),
            Digest::of(Algorithm::Sha256, b"one two ")
        );
        growing.catch_up(13).unwrap();
        assert_eq!(
            growing.digest(Algorithm::Sha256).unwrap(),
            Digest::of(Algorithm::Sha256, b"one two three")
        );
        assert!(growing.catch_up(14).is_err(), "there is no more");
    }

    #[test]
    fn a_progress_that_the_file_does_not_bear_out_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let mut growing = Growing::create(&path, Algorithm::Sha256).unwrap();
        growing.append(b"one two").unwrap();
        growing.file.set_len(3).unwrap();
        let growing = Growing::reopen(&path, Algorithm::Sha256, Some(growing.park())).unwrap();
        assert_eq!(growing.written(), 3);
        let expected = Digest::of(Algorithm::Sha256, b"one");
        assert_eq!(growing.digest(Algorithm::Sha256).unwrap(), expected);
    }

    #[test]
    fn a_failed_write_leaves_the_hash_in_step_with_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let mut growing = Growing::create(&path, Algorithm::Sha256).unwrap();
        growing.append(b"one").unwrap();
        // A descriptor that cannot be written to fails every write, and cannot be truncated either.
        growing.file = Arc::new(File::open(&path).unwrap());
        assert!(growing.append(b"two").is_err());
        assert_eq!(growing.written(), 3);
        assert!(
            growing.digest(Algorithm::Sha256).is_err(),
            "nothing vouches for the file"
        );
    }

    #[test]
    fn a_sync_that_failed_once_is_not_tried_again() {
        let syncing = Syncing::default();
        *syncing.failed.lock().unwrap() = true;
        let file = tempfile::tempfile().unwrap();
        assert!(syncing.sync(&file).is_err());
    }
}
