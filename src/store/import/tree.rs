//! A tree of `registry:2`, read and never written. It has names where we have a repository and an image, and years of
//! leftovers; what means nothing is told and passed over.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::oci::manifest::Contents;
use crate::oci::{Digest, Manifest, Tag};
use crate::store::Inner;
use crate::store::disk::is_absence;
use crate::store::error::Error;
use crate::store::layout::Layout;
use crate::store::records::{Records, names};

/// An image of theirs.
pub(super) struct Found {
    /// What it is called there.
    pub(super) name: String,
    path: PathBuf,
}

/// The whole of it.
pub(super) struct Tree {
    records: Records,
    /// What was met and left alone.
    pub(super) problems: Vec<String>,
}

impl Tree {
    /// Their tree and its images.
    pub(super) fn open(theirs: &Layout, ours: &Inner) -> Result<(Self, Vec<Found>), Error> {
        let root = theirs.repositories();
        let no_store = |why: &str| Error::disk(&root)(std::io::Error::new(ErrorKind::InvalidInput, why.to_owned()));
        let canonical = |path: &Path| fs::canonicalize(path).map_err(Error::disk(path));
        let found = match canonical(&root) {
            Err(Error::Disk { source, .. }) if is_absence(&source) => {
                return Err(no_store(
                    "not there: name the directory that has `docker/registry/v2` in it",
                ));
            }
            found => found?,
        };
        if found == canonical(&ours.records.layout.repositories())? {
            return Err(no_store("that is the store itself"));
        }
        let mut tree = Self {
            records: Records::of(theirs, &ours.disk, &Arc::clone(&ours.blobs.metrics)),
            problems: Vec::new(),
        };
        let mut images = Vec::new();
        let mut open = vec![(root, String::new())];
        while let Some((path, name)) = open.pop() {
            let below = tree.directories(&path)?;
            if below.iter().any(|below| matches!(&**below, "_manifests" | "_layers")) {
                let (path, name) = (path.clone(), name.clone());
                images.push(Found { name, path });
            }
            for below in below.into_iter().filter(|below| !below.starts_with('_')) {
                let slash = if name.is_empty() { "" } else { "/" };
                open.push((path.join(&below), format!("{name}{slash}{below}")));
            }
        }
        images.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok((tree, images))
    }

    /// The directories in one.
    fn directories(&mut self, path: &Path) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        for entry in fs::read_dir(path).map_err(Error::disk(path))? {
            let entry = entry.map_err(Error::disk(path))?;
            let kind = entry.file_type().map_err(Error::disk(path))?;
            match entry.file_name().into_string() {
                Ok(name) if kind.is_dir() => found.push(name),
                Ok(_) if !kind.is_symlink() => {}
                _ => self.problems.push(format!(
                    "{}: a symbolic link, or a name that is no text: it is passed over",
                    entry.path().display()
                )),
            }
        }
        Ok(found)
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.records.layout.blob(digest)
    }

    pub(super) fn revisions(&self, found: &Found) -> Result<Vec<Digest>, Error> {
        self.records.linked(found.path.join("_manifests/revisions")).collect()
    }

    pub(super) fn layers(&self, found: &Found) -> Result<Vec<Digest>, Error> {
        self.records.linked(found.path.join("_layers")).collect()
    }

    pub(super) fn tags(&mut self, found: &Found) -> Result<Vec<(Tag, Digest)>, Error> {
        let directory = found.path.join("_manifests/tags");
        let mut tags = Vec::new();
        for name in names::<String>(directory.clone()) {
            let name = name?;
            let Ok(tag) = name.parse() else {
                let image = &found.name;
                self.problems
                    .push(format!("{image}: `{}` is no tag", name.escape_debug()));
                continue;
            };
            // A tag that was deleted leaves its directory.
            if let Some(digest) = self.records.link(&directory.join(&name).join("current/link"))? {
                tags.push((tag, digest));
            }
        }
        Ok(tags)
    }

    /// A manifest, or what is wrong with it.
    pub(super) fn manifest(&self, digest: &Digest) -> Result<Result<(Manifest, Contents), String>, Error> {
        let bytes = match self.records.blobs.read_manifest(digest) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Err("is not there, or has other bytes".to_owned())),
            Err(Error::Disk { source, .. }) => return Ok(Err(format!("cannot be read: {source}"))),
            Err(error) => return Err(error),
        };
        let read = Manifest::from_elsewhere(bytes, None, digest.algorithm());
        Ok(read.map_err(|error| format!("cannot be served: {error}")))
    }
}
