//! Mending: what is damaged is put aside, not removed, and what can be told from the rest is written again.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::Outcome;
use super::defect::{Mend, Problem};
use crate::clock;
use crate::oci::Digest;
use crate::store::disk::is_absence;
use crate::store::layout::Layout;
use crate::store::records::Records;
use crate::store::rows::Changes;
use crate::store::{Error, Image, Inner, blobs::Blobs, trash};

/// Where what is put aside by one pass goes.
pub(super) struct Quarantine {
    directory: PathBuf,
}

impl Quarantine {
    pub(super) fn of(layout: &Layout) -> Self {
        let since = clock::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let root = layout.quarantine();
        let names = (0_u64..).map(|number| root.join((since.as_secs() + number).to_string()));
        let mut free = names.skip_while(|path| path.exists());
        Self {
            directory: free.next().unwrap_or(root),
        }
    }

    /// Moves a file or a directory there, durably, under the path that it had.
    pub(super) fn take(&self, records: &Records, path: &Path) -> Result<(), Error> {
        let below = path.strip_prefix(records.layout.root()).unwrap_or(path);
        move_to(records, path, &self.directory.join(below))
    }
}

fn move_to(records: &Records, from: &Path, to: &Path) -> Result<(), Error> {
    if let Some(parent) = to.parent() {
        records.disk.make_directories(&[parent])?;
    }
    fs::rename(from, to).map_err(Error::disk(from))?;
    records.disk.sync_parent(to)?;
    records.disk.sync_parent(from)?;
    // A directory in which nothing is left means nothing.
    if let Some(directory) = from.parent().filter(|_| from.ends_with("data")) {
        let _ = fs::remove_dir(directory);
    }
    Ok(())
}

/// What belongs to no image.
pub(super) fn mend_file(
    records: &Records,
    quarantine: &Quarantine,
    problem: &Problem,
    digest: Option<&Digest>,
) -> Result<Outcome, Error> {
    match &problem.mend {
        Mend::PutAside => {
            let _alone = digest.map(|digest| records.blobs.guards.exclude(digest));
            quarantine.take(records, &problem.path)?;
            Ok(Outcome::Quarantined)
        }
        Mend::Permit => permit(&problem.path),
        Mend::Move(digest) => {
            let _alone = records.blobs.guards.exclude(digest);
            let place = records.layout.blob(digest);
            if place.exists() {
                quarantine.take(records, &problem.path)?;
                return Ok(Outcome::Quarantined);
            }
            move_to(records, &problem.path, &place)?;
            Ok(Outcome::Mended)
        }
        _ => Ok(Outcome::Left),
    }
}

fn permit(path: &Path) -> Result<Outcome, Error> {
    let metadata = fs::metadata(path).map_err(Error::disk(path))?;
    let more = if metadata.is_dir() { 0o700 } else { 0o600 };
    let permissions = fs::Permissions::from_mode((metadata.mode() | more) & 0o7777);
    fs::set_permissions(path, permissions).map_err(Error::disk(path))?;
    Ok(Outcome::Mended)
}

/// What belongs to an image. By who has its turn.
pub(super) fn mend_image(
    inner: &Arc<Inner>,
    image: &Image,
    quarantine: &Quarantine,
    problem: &Problem,
) -> Result<Outcome, Error> {
    let (records, place) = (&inner.records, &*image.place);
    match &problem.mend {
        Mend::Leave => return Ok(Outcome::Left),
        Mend::PutAside | Mend::Permit | Mend::Move(_) => return mend_file(records, quarantine, problem, None),
        Mend::Link(digest) => {
            if problem.path.is_dir() {
                quarantine.take(records, &problem.path)?;
            }
            let _stays = records.blobs.guards.share(digest);
            records.make_parents(&[&problem.path])?;
            records.write_link(&problem.path, digest)?;
            records.blobs.guards.linked(&place.repository, digest);
            follow(inner, image, digest)?;
        }
        Mend::Revision(digest) => {
            let _stays = records.blobs.guards.share(digest);
            let link = records.layout.revision(place, digest);
            records.make_parents(&[&link])?;
            records.write_link(&link, digest)?;
            records.blobs.guards.linked(&place.repository, digest);
            image.follow(digest, None, &[]);
        }
        Mend::LinkLayer(digest) => {
            records.link_layer(place, digest)?;
            follow(inner, image, digest)?;
        }
        Mend::PutBack(digest) => {
            put_back(&records.blobs, digest)?;
            follow(inner, image, digest)?;
        }
        Mend::Unlink(digest) => {
            if problem.path.is_dir() {
                quarantine.take(records, &problem.path)?;
            }
            image.unlink_blob_now(digest)?;
            if matches!(inner.index.has_owner_in(&place.repository, digest), Ok(false)) {
                inner.keep.unlinked(&place.repository, digest);
            }
        }
        Mend::ForgetManifest(digest) => {
            if problem.path.is_dir() {
                quarantine.take(records, &problem.path)?;
            }
            image.delete_manifest_now(digest)?;
        }
        Mend::ForgetTag(tag) => {
            if problem.path.is_dir() {
                quarantine.take(records, &problem.path)?;
            }
            records.remove_tag(place, tag)?;
            follow_tag(inner, image, tag);
        }
        Mend::SetTag(tag, digest) => {
            if problem.path.is_dir() {
                quarantine.take(records, &problem.path)?;
            }
            records.write_link(&problem.path, digest)?;
            follow_tag(inner, image, tag);
        }
        Mend::Untype(digest) => {
            quarantine.take(records, &problem.path)?;
            image.follow(digest, None, &[]);
            return Ok(Outcome::Quarantined);
        }
    }
    Ok(Outcome::Mended)
}

fn follow_tag(inner: &Inner, image: &Image, tag: &crate::oci::Tag) {
    let mut changes = Changes::default();
    image.follow_tag(&mut changes, tag);
    inner.index.apply(changes);
}

/// Lets the index follow what may be a manifest or a blob.
fn follow(inner: &Inner, image: &Image, digest: &Digest) -> Result<(), Error> {
    image.follow(digest, None, &[]);
    let size = inner.blobs.look(digest)?.map(|(size, _)| size);
    image.follow_blob(digest, size);
    Ok(())
}

fn put_back(blobs: &Blobs, digest: &Digest) -> Result<(), Error> {
    let _alone = blobs.guards.exclude(digest);
    match fs::symlink_metadata(blobs.layout.blob(digest)) {
        Err(error) if is_absence(&error) => trash::put_back(blobs, digest),
        // Somebody has pushed it again.
        _ => Ok(()),
    }
}
