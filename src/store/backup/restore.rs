//! From a backup to a store, where there is none yet.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{copy_documents, copy_in, copy_tree, shelf, sync_all};
use crate::store::adopt::{self, Adopted};
use crate::store::disk::is_absence;
use crate::store::error::Error;
use crate::store::layout::Layout;
use crate::store::{Options, Store, blocking, claim};

/// What was restored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// From which backup.
    pub from: PathBuf,
    /// Blobs and manifests.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is damaged in the backup and was left out: a line each.
    pub problems: Vec<String>,
}

impl Store {
    /// Copies a backup, or the latest in a directory of backups, to where nothing is yet. What was cut short is gone on
    /// with. Every byte is read and has to have its digest.
    pub async fn restore(options: &Options, from: PathBuf) -> Result<Restored, Error> {
        let path = options.path.clone();
        blocking(move || restore(&path, &from)).await
    }
}

fn restore(path: &Path, from: &Path) -> Result<Restored, Error> {
    let from = find(from)?;
    let (theirs, ours) = (Layout::new(&from), Layout::new(path));
    claim::check_format(&theirs)?;
    if !claim::is_being_restored(&ours)? && !is_empty(path)? {
        return Err(Error::NotEmpty { path: path.to_owned() });
    }
    claim::make_root(path)?;
    let _lock = claim::lock(&ours.lock(), path)?;
    // Whoever starts on what is half here is told so.
    fs::write(ours.format(), claim::RESTORING).map_err(Error::disk(path))?;
    let copy = copy_in(&ours)?;
    sync_all(path)?;
    let mut done = Restored {
        from: from.clone(),
        ..Restored::default()
    };
    for digest in shelf::blobs(&theirs)? {
        let source = theirs.blob(&digest);
        let came = if copy.layout.blob(&digest).is_file() {
            Adopted::Present
        } else {
            adopt::copy_from(&copy.disk, &source, &digest, |verified| copy.blobs.publish(verified))?
        };
        match came {
            Adopted::Refused(why) => done.problems.push(format!("{}: {why}", source.display())),
            Adopted::Copied(size) => done.bytes += size,
            _ => {}
        }
        done.blobs += 1;
    }
    copy_tree(&theirs.repositories(), &ours.repositories())?;
    copy_documents(&theirs, &copy)?;
    sync_all(path)?;
    copy.disk.write(&ours.format(), claim::stamp().as_bytes())?;
    Ok(done)
}

/// The backup that is meant.
fn find(from: &Path) -> Result<PathBuf, Error> {
    let is_one = |path: &Path| Layout::new(path).repositories().is_dir();
    if is_one(from) {
        return Ok(from.to_owned());
    }
    let none = || std::io::Error::new(ErrorKind::NotFound, "there is no backup in it");
    let latest = shelf::latest(from)?.filter(|path| is_one(path));
    latest.ok_or_else(|| Error::disk(from)(none()))
}

fn is_empty(path: &Path) -> Result<bool, Error> {
    match fs::read_dir(path) {
        // What a file system of its own has by itself.
        Ok(mut entries) => Ok(entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found"))),
        Err(error) if is_absence(&error) => Ok(true),
        Err(error) => Err(Error::disk(path)(error)),
    }
}
