//! A directory of backups, in the order of their numbers.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::oci::{Algorithm, Digest};
use crate::store::claim;
use crate::store::disk::is_absence;
use crate::store::error::Error;
use crate::store::keep::entries;
use crate::store::layout::Layout;

/// It, for us alone.
#[derive(Debug)]
pub(super) struct Shelf {
    directory: PathBuf,
    _lock: File,
}

impl Shelf {
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        claim::make_root(directory)?;
        let shelf = Self {
            directory: directory.to_owned(),
            _lock: claim::lock(&directory.join("lock"), directory)?,
        };
        let unfinished = shelf.unfinished();
        claim::make_root(&unfinished)?;
        // Of a run that was cut short only the bytes are of use.
        let old = Layout::new(&unfinished);
        for path in [old.repositories(), old.documents()] {
            match fs::remove_dir_all(&path) {
                Err(error) if !is_absence(&error) => return Err(Error::disk(&path)(error)),
                _ => {}
            }
        }
        Ok(shelf)
    }

    pub(super) fn unfinished(&self) -> PathBuf {
        self.directory.join("unfinished")
    }

    pub(super) fn latest(&self) -> Result<Option<PathBuf>, Error> {
        latest(&self.directory)
    }

    /// Nobody goes on with what was begun.
    pub(super) fn give_up(&self) {
        if let Err(error) = fs::remove_dir_all(self.unfinished()) {
            tracing::warn!(%error, "what was begun of a backup stays");
        }
    }

    /// What was unfinished is a backup from now on. Where it is.
    pub(super) fn keep(&self) -> Result<PathBuf, Error> {
        let number = self.latest()?.as_deref().and_then(number).unwrap_or_default() + 1;
        let path = self.directory.join(format!("{number:06}"));
        fs::rename(self.unfinished(), &path).map_err(Error::disk(&path))?;
        let synced = File::open(&self.directory).and_then(|directory| directory.sync_all());
        synced.map_err(Error::disk(&self.directory))?;
        Ok(path)
    }
}

fn number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let is_number = name.len() >= 6 && name.bytes().all(|byte| byte.is_ascii_digit());
    name.parse().ok().filter(|_| is_number)
}

/// The latest backup in a directory.
pub(super) fn latest(directory: &Path) -> Result<Option<PathBuf>, Error> {
    let mut latest = None;
    for entry in fs::read_dir(directory).map_err(Error::disk(directory))? {
        let path = entry.map_err(Error::disk(directory))?.path();
        latest = latest.max(number(&path).map(|number| (number, path)));
    }
    Ok(latest.map(|(_, path)| path))
}

/// Every content in a tree, by its name.
pub(super) fn blobs(layout: &Layout) -> Result<Vec<Digest>, Error> {
    let mut found = Vec::new();
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let directory = layout.blobs().join(algorithm.as_str());
        for prefix in entries(&directory)? {
            for hex in entries(&directory.join(prefix))? {
                let digest = format!("{algorithm}:{hex}").parse::<Digest>();
                found.extend(digest.into_iter().filter(|digest| layout.blob(digest).is_file()));
            }
        }
    }
    Ok(found)
}
