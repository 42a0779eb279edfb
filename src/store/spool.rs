//! Bytes on their way into the store: hashed as they arrive, and not to be published before their digest is right.
//!
//! They may arrive out of order. What counts as written is what is there without a gap from the first byte on, and has
//! been hashed; what lies ahead of that is read again when its turn comes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::disk::{Disk, Scrap};
use super::error::{Error, FinishError};
use super::growing::Growing;
use super::partials::{Notes, Partials};
use crate::oci::{Algorithm, Digest, Hasher};

/// A file in the spool that is being written. Dropping it deletes it, unless there is enough of it for somebody to go
/// on with, see `partials`.
#[derive(Debug)]
pub struct SpoolFile {
    growing: Growing,
    scrap: Scrap,
    notes: Notes,
}

impl SpoolFile {
    pub(super) fn create(disk: &Disk, algorithm: Algorithm) -> Result<Self, Error> {
        let path = disk.spool_path();
        let growing = Growing::create(&path, algorithm).map_err(Error::disk(&path))?;
        Ok(Self {
            growing,
            scrap: Scrap::new(path),
            notes: Notes::default(),
        })
    }

    /// A file for the bytes of this digest. Nobody can go on with it if somebody else is at work on the same.
    pub(super) fn begin(disk: &Disk, partials: &Arc<Partials>, digest: &Digest) -> Result<Self, Error> {
        let Some(name) = partials.claim(digest) else {
            return Self::create(disk, digest.algorithm());
        };
        name.make_room();
        name.forget();
        let path = name.path();
        let growing = Growing::create_anew(&path, digest.algorithm()).map_err(Error::disk(&path))?;
        Ok(Self {
            growing,
            scrap: Scrap::named(name),
            notes: Notes::default(),
        })
    }

    /// Goes on with what there is of this digest, if that is what it was. Reads all of it.
    pub(super) fn resume(partials: &Arc<Partials>, digest: &Digest) -> Result<Option<Self>, Error> {
        if !partials.has(digest) {
            return Ok(None);
        }
        let Some(name) = partials.claim(digest) else {
            return Ok(None);
        };
        let reopened = Partials::reopen(&name).map_err(Error::disk(&name.path()))?;
        Ok(reopened.map(|(growing, notes)| {
            let mut scrap = Scrap::named(name);
            scrap.park();
            Self { growing, scrap, notes }
        }))
    }

    /// Appends and hashes, on the caller's task. After an error nothing of `bytes` counts as written.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.growing.append(bytes)?;
        self.note();
        Ok(())
    }

    /// Puts bytes where they belong, ahead of what is written.
    pub fn write_ahead(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.growing.write_ahead(offset, bytes)
    }

    /// Reads and hashes what was written ahead, now that nothing is missing before it: up to byte `end`, and not more
    /// than `most` at once.
    pub fn catch_up(&mut self, end: u64, most: u64) -> io::Result<()> {
        self.growing.catch_up(end.min(self.written().saturating_add(most)))?;
        self.note();
        Ok(())
    }

    fn note(&mut self) {
        if let Some(name) = self.scrap.name() {
            self.notes.follow(name, self.growing.written(), self.growing.hasher());
        }
        if self.notes.are_any() {
            self.scrap.park();
        }
    }

    /// How many bytes were written, from the first one on.
    pub const fn written(&self) -> u64 {
        self.growing.written()
    }

    /// The hash of them so far.
    pub const fn hasher(&self) -> &Hasher {
        self.growing.hasher()
    }

    /// A way to read what was written, while it is being written and afterwards, whatever becomes of the file's name.
    pub fn reader(&self) -> SpoolReader {
        SpoolReader {
            file: Arc::clone(self.growing.file()),
        }
    }

    /// Ends the writing: the digest must be this one, and, if it is given, the length too. A digest of another
    /// algorithm than the one hashed on the way makes the whole file be read again, on the caller's task.
    pub fn finish(mut self, expected: &Digest, expected_size: Option<u64>) -> Result<VerifiedFile, Error> {
        self.scrap.unpark();
        let actual = self.written();
        if let Some(expected) = expected_size
            && expected != actual
        {
            return Err(FinishError::Size { expected, actual }.into());
        }
        VerifiedFile::verify(self.growing, self.scrap, expected)
    }

    /// Deletes it, however much of it there is.
    pub fn discard(mut self) {
        self.scrap.unpark();
    }
}

/// Reads a file in the spool by position: cheap to clone, and no reader moves another.
#[derive(Clone, Debug)]
pub struct SpoolReader {
    file: Arc<File>,
}

impl SpoolReader {
    /// Reads up to `buffer.len()` bytes from `offset`; 0 when nothing is there (yet).
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    /// The file itself. Its position means nothing.
    pub const fn file(&self) -> &Arc<File> {
        &self.file
    }
}

/// A file whose bytes have been found to have its digest: the only thing that can be published. Dropping it deletes it.
#[derive(Debug)]
pub struct VerifiedFile {
    growing: Growing,
    scrap: Scrap,
    digest: Digest,
    synced: bool,
}

impl VerifiedFile {
    pub(super) fn verify(growing: Growing, scrap: Scrap, expected: &Digest) -> Result<Self, Error> {
        let actual = growing
            .digest(expected.algorithm())
            .map_err(Error::disk(scrap.path()))?;
        if actual != *expected {
            return Err(FinishError::Digest {
                expected: expected.clone(),
                actual,
            }
            .into());
        }
        Ok(Self {
            growing,
            scrap,
            digest: actual,
            synced: false,
        })
    }

    /// The digest of its bytes.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// How many there are.
    pub const fn size(&self) -> u64 {
        self.growing.written()
    }

    pub(super) const fn file(&self) -> &Arc<File> {
        self.growing.file()
    }

    /// Waits until they are on the disk.
    pub(super) fn sync(&mut self) -> Result<(), Error> {
        if !self.synced {
            self.growing.sync().map_err(Error::disk(self.scrap.path()))?;
            self.synced = true;
        }
        Ok(())
    }

    /// Whether somebody has waited for that.
    pub(super) const fn is_synced(&self) -> bool {
        self.synced
    }

    pub(super) fn into_scrap(self) -> Scrap {
        self.scrap
    }
}
