//! Content that lies elsewhere on this machine comes in: read to its end and found to have its digest, and only then
//! given a place. Where the file system allows it, it is the same file under a second name, and takes no room.
//!
//! Blobs only: registry:2 moves them into place and never writes to them again. A manifest it writes anew where it lies,
//! so a manifest is always copied.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use super::blobs::Blobs;
use super::disk::{Disk, Scrap, is_absence};
use super::error::{Error, FinishError};
use super::growing::hash_file;
use super::spool::SpoolFile;
use crate::oci::Digest;

/// How much is copied at once.
const PIECE: usize = 256 << 10;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Adopted {
    /// It was here already.
    Present,
    /// It is the same file, of so many bytes.
    Linked(u64),
    /// It was copied.
    Copied(u64),
    /// It is not there.
    Absent,
    /// It cannot be had, and why.
    Refused(String),
}

impl Adopted {
    /// Whether it is here now.
    pub(super) const fn is_here(&self) -> bool {
        matches!(self, Self::Present | Self::Linked(_) | Self::Copied(_))
    }
}

impl Blobs {
    /// Takes in the content of a file, if it has this digest.
    pub(super) fn adopt(&self, source: &Path, digest: &Digest) -> Result<Adopted, Error> {
        let target = self.layout.blob(digest);
        let found = match fs::symlink_metadata(source) {
            Ok(found) => Some(found),
            Err(error) if is_absence(&error) => None,
            Err(error) => return Ok(Adopted::Refused(error.to_string())),
        };
        let Some(found) = found else {
            let here = self.size(digest)?;
            return Ok(here.map_or(Adopted::Absent, |_| Adopted::Present));
        };
        if found.is_file() && self.stands(&target, found.len())? {
            return self.disk.rely(&target).map(|()| Adopted::Present);
        }
        let parent = target.parent().map_or_else(Vec::new, |parent| vec![parent]);
        self.disk.make_directories(&parent)?;
        if found.is_file()
            && let Some(linked) = self.adopt_by_name(source, digest)?
        {
            return Ok(linked);
        }
        copy_from(&self.disk, source, digest, |verified| self.publish(verified))
    }

    /// None where there cannot be two names for one file.
    fn adopt_by_name(&self, source: &Path, digest: &Digest) -> Result<Option<Adopted>, Error> {
        self.disk.check()?;
        let scrap = Scrap::new(self.disk.spool_path());
        if fs::hard_link(source, scrap.path()).is_err() {
            return Ok(None);
        }
        let read = || {
            let file = File::open(scrap.path())?;
            let hasher = hash_file(&file, digest.algorithm())?;
            file.sync_all()?;
            Ok((file.metadata()?.len(), hasher.finish()))
        };
        let (size, actual) = match read() {
            Ok(read) => read,
            Err::<_, io::Error>(error) => return Ok(Some(Adopted::Refused(error.to_string()))),
        };
        if actual != *digest {
            return Ok(Some(wrong(&actual)));
        }
        self.disk.place(scrap, &self.layout.blob(digest))?;
        Ok(Some(Adopted::Linked(size)))
    }
}

fn wrong(actual: &Digest) -> Adopted {
    Adopted::Refused(format!("its bytes have the digest {actual}"))
}

/// Copies an open file whose bytes have this digest.
pub(super) fn copy(
    disk: &Arc<Disk>,
    source: &File,
    digest: &Digest,
    publish: impl FnOnce(super::VerifiedFile) -> Result<(), Error>,
) -> Result<Adopted, Error> {
    let mut copy = SpoolFile::create(disk, digest.algorithm())?;
    let mut piece = vec![0; PIECE];
    loop {
        match source.read_at(&mut piece, copy.written()) {
            Ok(0) => break,
            Ok(read) => copy.write(&piece[..read]).map_err(Error::disk(disk.root()))?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Ok(Adopted::Refused(error.to_string())),
        }
    }
    let size = copy.written();
    match copy.finish(digest, None) {
        Ok(verified) => publish(verified).map(|()| Adopted::Copied(size)),
        Err(Error::Mismatch(FinishError::Digest { actual, .. })) => Ok(wrong(&actual)),
        Err(error) => Err(error),
    }
}

/// The same by its name.
pub(super) fn copy_from(
    disk: &Arc<Disk>,
    source: &Path,
    digest: &Digest,
    publish: impl FnOnce(super::VerifiedFile) -> Result<(), Error>,
) -> Result<Adopted, Error> {
    match File::open(source) {
        Ok(file) => copy(disk, &file, digest, publish),
        Err(error) if is_absence(&error) => Ok(Adopted::Absent),
        Err(error) => Ok(Adopted::Refused(error.to_string())),
    }
}
