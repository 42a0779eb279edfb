//! Blobs that arrived in part: what a fetch leaves behind that broke off, or that a restart ended, for the next one.
//!
//! Beside the bytes, a note says how far they are known and which digest that much of them has. It is written into the
//! page cache only: whether the bytes outlived whatever happened is seen by hashing them again before any is used.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::disk::{is_absence, read_small};
use super::error::Error;
use super::growing::Growing;
use crate::clock;
use crate::oci::{Digest, Hasher};

/// How much comes in between two notes; less than that is not worth going on with.
const NOTED_EVERY: u64 = 1 << 20;
/// How long a part is kept for somebody to go on with.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// How many parts are kept that nobody is at work on.
const MOST: usize = 16;

/// The parts in one spool.
#[derive(Debug)]
pub(super) struct Partials {
    spool: PathBuf,
    /// Those that somebody is at work on: nobody else opens them.
    open: Mutex<HashSet<Digest>>,
}

/// The right to work on the part of a digest, until dropped.
#[derive(Debug)]
pub(super) struct Name {
    partials: Arc<Partials>,
    digest: Digest,
}

impl Drop for Name {
    fn drop(&mut self) {
        self.partials.open().remove(&self.digest);
    }
}

impl Name {
    pub(super) fn path(&self) -> PathBuf {
        file(&self.partials.spool, &self.digest, "part")
    }

    fn note(&self) -> PathBuf {
        file(&self.partials.spool, &self.digest, "note")
    }

    /// Nothing can be gone on with from now on.
    pub(super) fn forget(&self) {
        remove(&self.note());
    }

    /// Makes room for this one among those that nobody is at work on.
    pub(super) fn make_room(&self) {
        self.partials.thin_out(clock::now(), MOST - 1);
    }
}

/// Notes how far a part is.
#[derive(Debug, Default)]
pub(super) struct Notes {
    file: Option<File>,
    noted: u64,
}

impl Notes {
    /// Whether there is anything to go on with.
    pub(super) const fn are_any(&self) -> bool {
        self.noted > 0
    }

    /// Takes a note now and then. Without one, the part cannot be gone on with, and nothing else is lost.
    pub(super) fn follow(&mut self, name: &Name, written: u64, hasher: &Hasher) {
        if written >= self.noted + NOTED_EVERY
            && let Err(error) = self.take(name, written, hasher)
        {
            tracing::debug!(%error, "a note on a blob in part cannot be written");
        }
    }

    fn take(&mut self, name: &Name, written: u64, hasher: &Hasher) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::create(name.note())?,
        };
        // Always of the same length: one note replaces the other as a whole.
        file.write_all_at(format!("{written:020} {}\n", hasher.clone().finish()).as_bytes(), 0)?;
        // Its age is counted by our clock, not by the file system's.
        file.set_modified(clock::now())?;
        (self.file, self.noted) = (Some(file), written);
        Ok(())
    }
}

/// What a note says: so many bytes, of this digest.
fn read_note(path: &Path) -> Option<(u64, Digest)> {
    let text = String::from_utf8(read_small(path, 256).ok()??).ok()?;
    let (written, digest) = text.strip_suffix('\n')?.split_once(' ')?;
    Some((written.parse().ok()?, digest.parse().ok()?))
}

impl Partials {
    /// Those that an earlier process left in the spool and that can be gone on with. Everything else in it is removed.
    pub(super) fn take_over(spool: &Path) -> Result<Arc<Self>, Error> {
        let partials = Self {
            spool: spool.to_owned(),
            open: Mutex::default(),
        };
        partials.thin_out(clock::now(), MOST);
        let good: HashSet<PathBuf> = partials
            .parked()
            .map_err(Error::disk(spool))?
            .into_iter()
            .flat_map(|parked| ["part", "note"].map(|kind| file(spool, &parked.digest, kind)))
            .collect();
        for entry in fs::read_dir(spool).map_err(Error::disk(spool))? {
            let path = entry.map_err(Error::disk(spool))?.path();
            if !good.contains(&path) {
                fs::remove_file(&path).map_err(Error::disk(&path))?;
            }
        }
        Ok(Arc::new(partials))
    }

    fn open(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to work on the part of this digest, if nobody else does.
    pub(super) fn claim(self: &Arc<Self>, digest: &Digest) -> Option<Name> {
        self.open().insert(digest.clone()).then(|| Name {
            partials: Arc::clone(self),
            digest: digest.clone(),
        })
    }

    /// What there is of a digest, if it is what its note says. Reads all of it.
    pub(super) fn reopen(name: &Name) -> io::Result<Option<(Growing, Notes)>> {
        let path = name.path();
        let Some((written, expected)) = read_note(&name.note()) else {
            return Ok(None);
        };
        let truncated = File::options().write(true).open(&path).and_then(|file| {
            // Ahead of what is known lies whatever came out of order.
            let is_long_enough = file.metadata()?.len() >= written;
            is_long_enough.then(|| file.set_len(written)).transpose()
        });
        match truncated {
            Ok(Some(())) => {}
            Ok(None) => return Ok(None),
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
        let growing = Growing::reopen(&path, expected.algorithm(), None)?;
        let is_right = expected.algorithm() == name.digest.algorithm()
            && growing.written() == written
            && growing.hasher().clone().finish() == expected;
        if !is_right {
            tracing::warn!(path = %path.display(), "a blob in part is not what it was and is not gone on with");
            return Ok(None);
        }
        let notes = Notes {
            file: Some(File::options().write(true).open(name.note())?),
            noted: written,
        };
        Ok(Some((growing, notes)))
    }

    /// Whether there is anything of a digest that nobody is at work on.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        !self.open().contains(digest) && file(&self.spool, digest, "note").is_file()
    }

    /// Removes the parts that nobody is at work on: their room is needed.
    pub(super) fn clear(&self) {
        self.thin_out(clock::now(), 0);
    }

    /// Removes what is too old, and the oldest of what is too many.
    fn thin_out(&self, now: SystemTime, most: usize) {
        let Ok(mut parked) = self.parked() else { return };
        parked.sort_by_key(|parked| std::cmp::Reverse(parked.since));
        for (index, Parked { digest, since }) in parked.into_iter().enumerate() {
            let is_old = clock::age(since, now).is_some_and(|age| age > KEPT_FOR);
            // Held while it is removed: whoever wants it meanwhile finds it in use.
            if (index >= most || is_old) && self.open().insert(digest.clone()) {
                remove(&file(&self.spool, &digest, "note"));
                remove(&file(&self.spool, &digest, "part"));
                self.open().remove(&digest);
            }
        }
    }

    /// The parts with a note that nobody is at work on.
    fn parked(&self) -> io::Result<Vec<Parked>> {
        let mut parked = Vec::new();
        for entry in fs::read_dir(&self.spool)? {
            let path = entry?.path();
            let Some(digest) = digest_of(&path) else { continue };
            let since = path.metadata().and_then(|metadata| metadata.modified());
            let has_bytes = file(&self.spool, &digest, "part").is_file();
            if let Ok(since) = since
                && has_bytes
                && !self.open().contains(&digest)
            {
                parked.push(Parked { digest, since });
            }
        }
        Ok(parked)
    }
}

struct Parked {
    digest: Digest,
    since: SystemTime,
}

fn file(spool: &Path, digest: &Digest, kind: &str) -> PathBuf {
    spool.join(format!("{}-{}.{kind}", digest.algorithm(), digest.hex()))
}

/// Of which digest this is a note.
fn digest_of(path: &Path) -> Option<Digest> {
    let (algorithm, hex) = path.file_name()?.to_str()?.strip_suffix(".note")?.split_once('-')?;
    format!("{algorithm}:{hex}").parse().ok()
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && !is_absence(&error)
    {
        tracing::warn!(path = %path.display(), %error, "a file of no use is left behind");
    }
}

#[cfg(test)]
#[path = "partials/tests.rs"]
mod tests;
