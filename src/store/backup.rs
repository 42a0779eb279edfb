//! A backup: a directory that is a store itself, of what there was at one moment, made while the store is in use.
//!
//! First the bytes are brought over, which takes long and stops nobody. Then, with nothing being removed meanwhile, the
//! records, an image at a time under its turn, and the bytes that have come in between. What was acknowledged before has
//! its records by then; and whatever a record names was here when it was read and cannot go before it is copied.
//!
//! ```text
//! <directory>/lock          held by who makes one
//!             000001/       a backup: `docker/registry/v2`, `private`, `format`
//!             000002/       another; what is in both is one file
//!             unfinished/   what the next one goes on with
//! ```

mod restore;
mod shelf;

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::adopt::{self, Adopted};
use super::documents::Document;
use super::error::Error;
use super::keep::{entries, place_of};
use super::layout::{Layout, Place};
use super::records::Records;
use super::{Disk, Inner, Store, blocking, claim};
use crate::oci::Digest;
use crate::telemetry::Metrics;
pub use restore::Restored;
use shelf::Shelf;

/// More than any document of ours has.
const LONGEST_DOCUMENT: u64 = 64 << 20;

/// What a backup holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackedUp {
    /// Where it is.
    pub directory: PathBuf,
    /// Images.
    pub images: u64,
    /// Blobs and manifests that were copied.
    pub copied: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs and manifests that are one file with those of the backup before.
    pub linked: u64,
    /// What is not in it, because it is damaged or missing in the store: a line each.
    pub problems: Vec<String>,
}

impl Store {
    /// Makes a backup in a directory, which may have earlier ones in it.
    pub async fn back_up(&self, directory: PathBuf) -> Result<BackedUp, Error> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let backups = Shelf::open(&directory)?;
            let layout = Layout::new(&backups.unfinished());
            let made = Backup {
                inner: &inner,
                earlier: backups.latest()?.map(|path| Layout::new(&path)),
                copy: copy_in(&layout)?,
                here: HashSet::new(),
                done: BackedUp::default(),
            }
            .make(&backups);
            // It would be in the way of those who push, if it is on the same disk.
            if made.as_ref().is_err_and(Error::is_full) {
                backups.give_up();
            }
            made
        })
        .await
    }
}

/// Every image. What cannot be looked at is an error: a backup without it would be taken for one of everything.
fn places(layout: &Layout) -> Result<Vec<Place>, Error> {
    let root = layout.repositories();
    let mut places = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(path) = open.pop() {
        let below = entries(&path)?;
        if below.iter().any(|name| matches!(&**name, "_layers" | "_manifests")) {
            places.extend(place_of(&root, &path));
        }
        let nested = below.iter().filter(|name| !name.starts_with('_'));
        open.extend(nested.map(|name| path.join(name)));
    }
    Ok(places)
}

/// A tree that is written, on a disk whose failures say nothing of ours.
fn copy_in(layout: &Layout) -> Result<Records, Error> {
    let metrics = Arc::new(Metrics::new().map_err(|_| Error::Died)?);
    let disk = Arc::new(Disk::new(layout, &metrics));
    let old = layout.spool();
    if old.exists() {
        fs::remove_dir_all(&old).map_err(Error::disk(&old))?;
    }
    disk.make_directories(&[&old, &layout.blobs(), &layout.repositories()])?;
    Ok(Records::of(layout, &disk, &metrics))
}

/// One run.
struct Backup<'a> {
    inner: &'a Arc<Inner>,
    earlier: Option<Layout>,
    copy: Records,
    /// What has been brought over.
    here: HashSet<Digest>,
    done: BackedUp,
}

impl Backup<'_> {
    fn make(mut self, backups: &Shelf) -> Result<BackedUp, Error> {
        self.bring_ahead()?;
        self.take()?;
        self.finish(backups)
    }

    /// Brings what an image has now. It may all have changed when the records are taken, but most of it will not.
    fn bring_ahead(&mut self) -> Result<(), Error> {
        let records = &self.inner.records;
        let mut wanted = HashSet::new();
        for place in places(&records.layout)? {
            for digest in records.revisions(&place).chain(records.layers(&place)) {
                wanted.insert(digest?);
            }
        }
        // What has gone meanwhile is no loss.
        wanted.iter().try_for_each(|digest| self.bring(digest).map(drop))
    }

    /// What there is at this moment.
    fn take(&mut self) -> Result<(), Error> {
        let _nothing_goes = self.inner.keep.one_at_a_time();
        let inner = self.inner;
        let places = places(&inner.records.layout)?;
        let mut wanted = HashSet::new();
        for place in &places {
            let _turn = inner.turns.take_now(inner.turns.stripe(place))?;
            let (from, to) = (inner.records.layout.image(place), self.copy.layout.image(place));
            for part in ["_layers", "_manifests"] {
                copy_tree(&from.join(part), &to.join(part))?;
            }
            for digest in inner.records.revisions(place).chain(inner.records.layers(place)) {
                wanted.insert(digest?);
            }
        }
        self.done.images = places.len() as u64;
        for digest in &wanted {
            match self.bring(digest)? {
                Adopted::Absent => self.problem(digest, "is not there"),
                Adopted::Refused(why) => self.problem(digest, &why),
                _ => {}
            }
        }
        self.here.retain(|digest| wanted.contains(digest));
        copy_documents(&inner.records.layout, &self.copy)
    }

    fn problem(&mut self, digest: &Digest, why: &str) {
        self.done.problems.push(format!("{digest}: {why}"));
    }

    /// Sees to it that some bytes are in the backup.
    fn bring(&mut self, digest: &Digest) -> Result<Adopted, Error> {
        if self.here.contains(digest) {
            return Ok(Adopted::Present);
        }
        let brought = self.bring_anew(digest)?;
        match brought {
            Adopted::Linked(_) => self.done.linked += 1,
            Adopted::Copied(size) => {
                self.done.copied += 1;
                self.done.bytes += size;
            }
            _ => {}
        }
        if brought.is_here() {
            self.here.insert(digest.clone());
        }
        Ok(brought)
    }

    fn bring_anew(&self, digest: &Digest) -> Result<Adopted, Error> {
        let target = self.copy.layout.blob(digest);
        // It came in a run that was not finished: by its name it is whole.
        if fs::symlink_metadata(&target).is_ok() {
            return Ok(Adopted::Linked(0));
        }
        if let Some(earlier) = &self.earlier {
            let earlier = earlier.blob(digest);
            if fs::symlink_metadata(&earlier).is_ok_and(|found| found.is_file()) {
                if let Some(parent) = target.parent() {
                    fs::create_dir_all(parent).map_err(Error::disk(parent))?;
                }
                if fs::hard_link(&earlier, &target).is_ok() {
                    return Ok(Adopted::Linked(0));
                }
            }
        }
        // Who reads it has it to its end, and nobody who makes room has to wait for that.
        let Some(blob) = self.inner.blobs.open(digest)? else {
            return Ok(Adopted::Absent);
        };
        adopt::copy(&self.copy.disk, blob.file(), digest, |verified| {
            self.copy.blobs.publish(verified)
        })
    }

    fn finish(mut self, backups: &Shelf) -> Result<BackedUp, Error> {
        let layout = &self.copy.layout;
        // What an earlier run brought that did not come to its end.
        for digest in shelf::blobs(layout)? {
            if !self.here.contains(&digest) {
                let path = layout.blob(&digest);
                fs::remove_file(&path).map_err(Error::disk(&path))?;
            }
        }
        self.copy.disk.write(&layout.format(), claim::stamp().as_bytes())?;
        fs::remove_dir_all(layout.spool()).map_err(Error::disk(layout.root()))?;
        sync_all(layout.root())?;
        self.done.directory = backups.keep()?;
        Ok(self.done)
    }
}

/// Copies a tree of small files, as they are. Not durable by itself.
fn copy_tree(from: &Path, to: &Path) -> Result<(), Error> {
    let mut open = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = open.pop() {
        let entries = match fs::read_dir(&from) {
            Err(error) if super::disk::is_absence(&error) => continue,
            entries => entries.map_err(Error::disk(&from))?,
        };
        fs::create_dir_all(&to).map_err(Error::disk(&to))?;
        for entry in entries {
            let entry = entry.map_err(Error::disk(&from))?;
            let kind = entry.file_type().map_err(Error::disk(&from))?;
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            if kind.is_dir() {
                open.push((from, to));
            } else if kind.is_file() {
                // Its time too: of a tag without notes it says since when it means what it means.
                let copy = || {
                    let modified = fs::metadata(&from)?.modified()?;
                    fs::copy(&from, &to)?;
                    File::options().write(true).open(&to)?.set_modified(modified)
                };
                copy().map_err(Error::disk(&to))?;
            }
        }
    }
    Ok(())
}

/// What nobody else may read goes along, and stays so.
fn copy_documents(from: &Layout, to: &Records) -> Result<(), Error> {
    for which in [Document::SigningKey, Document::Robots] {
        if let Some(contents) = super::disk::read_small(&from.document(which), LONGEST_DOCUMENT)? {
            super::documents::write(&to.layout, &to.disk, which, &contents)?;
        }
    }
    Ok(())
}

/// Waits until everything on a file system is durable: for a million small files much less than each by itself.
fn sync_all(path: &Path) -> Result<(), Error> {
    let synced = || {
        let directory = File::open(path)?;
        Ok(rustix::fs::syncfs(&directory)?)
    };
    synced().map_err(Error::disk(path))
}
