//! Who needs these bytes? The whole tree is searched, and nothing but the tree is believed.
//!
//! Unlike the walk that rebuilds the index, this one must not miss anything: what it does not find is removed. So what
//! cannot be read is an error, also a symbolic link, behind which an image could be; and names that mean nothing to us
//! are looked below all the same, since registry:2 may have left them there.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::oci::{Algorithm, Digest, RepositoryKey};
use crate::store::Error;
use crate::store::disk::is_absence;
use crate::store::layout::{Layout, Place};

/// With more digests than this, the links of an image are listed instead of asked for one by one.
const FEW: usize = 32;

/// What a link says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The blob may be read in the image.
    Layer,
    /// The manifest is in the image.
    Revision,
}

/// Where a digest is linked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// In which images of the repository in question, by links of the kind in question.
    pub(super) own: Vec<Place>,
    /// Whether there is any other link.
    pub(super) elsewhere: bool,
}

/// Finds every link to these digests. `repository` and `kind` say which of them are its own.
pub(super) fn find(
    layout: &Layout,
    digests: &[Digest],
    repository: &RepositoryKey,
    kind: Kind,
) -> Result<HashMap<Digest, Found>, Error> {
    let search = Search {
        root: layout.repositories(),
        wanted: digests.iter().map(|digest| (digest.hex(), digest)).collect(),
        repository,
        kind,
    };
    let mut found: HashMap<Digest, Found> = digests.iter().map(|d| (d.clone(), Found::default())).collect();
    let mut open = vec![search.root.clone()];
    while let Some(path) = open.pop() {
        for name in entries(&path)? {
            let below = path.join(&name);
            match &*name {
                "_layers" => search.look(&path, &below, Kind::Layer, &mut found)?,
                "_manifests" => search.look(&path, &below.join("revisions"), Kind::Revision, &mut found)?,
                _ if name.starts_with('_') => {}
                _ => open.push(below),
            }
        }
    }
    Ok(found)
}

struct Search<'a> {
    root: PathBuf,
    wanted: HashMap<&'a str, &'a Digest>,
    repository: &'a RepositoryKey,
    kind: Kind,
}

impl Search<'_> {
    /// Looks among the links of one kind of one image.
    fn look(&self, image: &Path, links: &Path, kind: Kind, found: &mut HashMap<Digest, Found>) -> Result<(), Error> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let directory = links.join(algorithm.as_str());
            for digest in self.linked(&directory, algorithm)? {
                let Some(found) = found.get_mut(digest) else { continue };
                let place = place_of(&self.root, image).filter(|place| place.repository == *self.repository);
                match place.filter(|_| kind == self.kind) {
                    Some(place) => found.own.push(place),
                    None => found.elsewhere = true,
                }
            }
        }
        Ok(())
    }

    /// The wanted digests that have a link in a directory, whatever is in it.
    fn linked(&self, directory: &Path, algorithm: Algorithm) -> Result<Vec<&Digest>, Error> {
        let wanted = self.wanted.values().copied();
        let mut wanted: Vec<&Digest> = wanted.filter(|digest| digest.algorithm() == algorithm).collect();
        if wanted.len() > FEW {
            let names = entries(directory)?.into_iter();
            wanted = names
                .filter_map(|name| self.wanted.get(&*name).copied())
                .filter(|digest| digest.algorithm() == algorithm)
                .collect();
        }
        let mut linked = Vec::new();
        for digest in wanted {
            let path = directory.join(digest.hex()).join("link");
            match fs::symlink_metadata(&path) {
                Ok(_) => linked.push(digest),
                Err(error) if is_absence(&error) => {}
                Err(error) => return Err(Error::disk(&path)(error)),
            }
        }
        Ok(linked)
    }
}

/// The image that a directory is, if it can be one.
pub(in crate::store) fn place_of(root: &Path, image: &Path) -> Option<Place> {
    let (repository, name) = image.strip_prefix(root).ok()?.to_str()?.split_once('/')?;
    Some(Place {
        repository: repository.parse().ok()?,
        image: name.parse().ok()?,
    })
}

/// The directories in a directory; none if it is not there.
pub(in crate::store) fn entries(path: &Path) -> Result<Vec<String>, Error> {
    let found = match fs::read_dir(path) {
        Err(error) if is_absence(&error) => return Ok(Vec::new()),
        found => found.map_err(Error::disk(path))?,
    };
    let mut entries = Vec::new();
    for entry in found {
        let entry = entry.map_err(Error::disk(path))?;
        let kind = entry.file_type().map_err(Error::disk(path))?;
        let unclear = |why| Error::disk(&entry.path())(io::Error::other(why));
        if kind.is_symlink() {
            return Err(unclear("a symbolic link: what is behind it cannot be told"));
        }
        if !kind.is_file() {
            let name = entry.file_name().into_string();
            entries.push(name.map_err(|_| unclear("a name that is no text"))?);
        }
    }
    Ok(entries)
}
