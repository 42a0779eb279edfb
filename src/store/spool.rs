//! Bytes on their way into the store: hashed as they arrive, and not to be published before their digest is right.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::disk::{Disk, Scrap};
use super::error::{Error, FinishError};
use super::growing::Growing;
use crate::oci::{Algorithm, Digest};

/// A file in the spool that is being written. Dropping it deletes it.
#[derive(Debug)]
pub struct SpoolFile {
    growing: Growing,
    scrap: Scrap,
}

impl SpoolFile {
    pub(super) fn create(disk: &Disk, algorithm: Algorithm) -> Result<Self, Error> {
        let path = disk.spool_path();
        let growing = Growing::create(&path, algorithm).map_err(Error::disk(&path))?;
        Ok(Self {
            growing,
            scrap: Scrap::new(path),
        })
    }

    /// Appends and hashes, on the caller's task. After an error nothing of `bytes` counts as written.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.growing.append(bytes)
    }

    /// How many bytes were written.
    pub const fn written(&self) -> u64 {
        self.growing.written()
    }

    /// A way to read what was written, while it is being written and afterwards, whatever becomes of the file's name.
    pub fn reader(&self) -> SpoolReader {
        SpoolReader {
            file: Arc::clone(self.growing.file()),
        }
    }

    /// Ends the writing: the digest must be this one, and, if it is given, the length too. A digest of another
    /// algorithm than the one hashed on the way makes the whole file be read again, on the caller's task.
    pub fn finish(self, expected: &Digest, expected_size: Option<u64>) -> Result<VerifiedFile, Error> {
        let actual = self.written();
        if let Some(expected) = expected_size
            && expected != actual
        {
            return Err(FinishError::Size { expected, actual }.into());
        }
        VerifiedFile::verify(self.growing, self.scrap, expected)
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

    /// Waits until they are on the disk.
    pub(super) fn sync(&self) -> Result<(), Error> {
        self.growing.sync().map_err(Error::disk(self.scrap.path()))
    }

    pub(super) fn into_scrap(self) -> Scrap {
        self.scrap
    }
}
