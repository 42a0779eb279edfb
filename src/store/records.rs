//! The small files that are the truth: which manifests and blobs an image has, and what its tags mean.
//!
//! Who writes has the image's turn ([`super::turns`]); who reads does not need it, since every file is replaced in one
//! step. What a broken file would say is taken for absent, and told.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use super::blobs::Blobs;
use super::disk::{Debts, Disk, Scrap, is_absence, read_small};
use super::error::Error;
use super::guards::Guards;
use super::layout::{Layout, Place, linked};
use crate::oci::manifest::Contents;
use crate::oci::{Algorithm, Digest, Manifest, Tag};
use crate::telemetry::Metrics;

/// A digest has 135 characters at most, a media type 255.
const LONGEST_RECORD: u64 = 1024;

/// What has become of a manifest that was on a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    /// It is here, and says this.
    Says(Box<Contents>),
    /// It was deleted since.
    Gone,
    /// It should be here, and cannot be read.
    Unreadable,
}

/// The records of every image.
#[derive(Debug)]
pub(super) struct Records {
    pub(super) layout: Layout,
    pub(super) disk: Arc<Disk>,
    pub(super) blobs: Arc<Blobs>,
}

impl Records {
    /// Those below a root. Nothing is looked at yet.
    pub(super) fn of(layout: &Layout, disk: &Arc<Disk>, metrics: &Arc<Metrics>) -> Self {
        let blobs = Blobs {
            layout: layout.clone(),
            disk: Arc::clone(disk),
            guards: Guards::new(),
            verdicts: Blobs::no_verdicts(),
            metrics: Arc::clone(metrics),
        };
        Self {
            layout: layout.clone(),
            disk: Arc::clone(disk),
            blobs: Arc::new(blobs),
        }
    }

    /// The digest that a link holds.
    pub(super) fn link(&self, path: &Path) -> Result<Option<Digest>, Error> {
        let digest = match read_small(path, LONGEST_RECORD) {
            Ok(None) => return Ok(None),
            Ok(Some(contents)) => parse(&contents),
            Err(Error::Disk { source, .. }) if source.kind() == ErrorKind::FileTooLarge => None,
            Err(error) => return Err(error),
        };
        if digest.is_none() {
            self.blobs.metrics.damage_found();
            tracing::warn!(path = %path.display(), "a link holds no digest and is taken for absent");
        }
        Ok(digest)
    }

    /// Whether a link that can only hold one digest is there and holds it.
    fn holds(&self, path: &Path, digest: &Digest) -> Result<bool, Error> {
        Ok(self.link(path)?.as_ref() == Some(digest))
    }

    pub(super) fn has_layer(&self, place: &Place, digest: &Digest) -> Result<bool, Error> {
        self.holds(&self.layout.layer(place, digest), digest)
    }

    /// Says that a stored blob may be read in this image, durably.
    pub(super) fn link_layer(&self, place: &Place, digest: &Digest) -> Result<(), Error> {
        let draft = self.draft_layer(place, digest)?;
        let mut debts = self.disk.debts();
        let named = self.name_layer(place, digest, draft, &mut debts);
        let paid = debts.pay();
        named.and(paid)
    }

    /// The link to a blob, if there is not one already.
    pub(super) fn draft_layer(&self, place: &Place, digest: &Digest) -> Result<Option<Scrap>, Error> {
        if self.disk.is_trusted() && self.has_layer(place, digest)? {
            return Ok(None);
        }
        self.disk.draft(digest.as_str().as_bytes()).map(Some)
    }

    /// Puts the link to a blob in its place. It is durable when the debts are paid.
    pub(super) fn name_layer(
        &self,
        place: &Place,
        digest: &Digest,
        draft: Option<Scrap>,
        debts: &mut Debts<'_>,
    ) -> Result<(), Error> {
        self.disk.check()?;
        let _stays = self.blobs.guards.share(digest);
        if self.blobs.size(digest)?.is_none() {
            return Err(Error::NoSuchBlob(digest.clone()));
        }
        debts.rely(&self.layout.blob(digest));
        let link = self.layout.layer(place, digest);
        // What was there may have gone since.
        let draft = match draft {
            None => self.draft_layer(place, digest)?,
            draft => draft,
        };
        let named = if let Some(draft) = draft {
            debts.make_parent(&link).and_then(|()| debts.place(draft, &link))
        } else {
            debts.rely(&link);
            Ok(())
        };
        // Even if it failed: the link may be there all the same.
        self.blobs.guards.linked(&place.repository, digest);
        named
    }

    pub(super) fn unlink_layer(&self, place: &Place, digest: &Digest) -> Result<bool, Error> {
        let link = self.layout.layer(place, digest);
        let was_there = self.disk.remove(&link)?;
        tidy(link.parent());
        Ok(was_there)
    }

    pub(super) fn tag(&self, place: &Place, tag: &Tag) -> Result<Option<Digest>, Error> {
        self.link(&self.layout.current(place, tag))
    }

    /// The manifest and what it says, if this image has it and its bytes are what they should be.
    pub(super) fn manifest(&self, place: &Place, digest: &Digest) -> Result<Option<(Manifest, Contents)>, Error> {
        if !self.holds(&self.layout.revision(place, digest), digest)? {
            return Ok(None);
        }
        let Some(bytes) = self.blobs.read_manifest(digest)? else {
            return Ok(None);
        };
        let media_type = read_small(&self.layout.media_type(place, digest), LONGEST_RECORD)?;
        let media_type = media_type.and_then(|text| String::from_utf8(text).ok());
        let read = match &media_type {
            Some(media_type) => Manifest::from_store(bytes, media_type, digest.algorithm()),
            None => Manifest::from_elsewhere(bytes, None, digest.algorithm()),
        };
        read.map(Some).or_else(|error| {
            tracing::warn!(%digest, %error, "a stored manifest is of no kind that can be served");
            Ok(None)
        })
    }

    /// What a manifest says that was on a list. Whoever does not have the image's turn may find that it has gone since.
    pub(super) fn listed(&self, place: &Place, digest: &Digest) -> Result<Listed, Error> {
        let link = self.layout.revision(place, digest);
        let mut before = written(&link)?;
        while before.is_some() {
            if let Some((_, contents)) = self.manifest(place, digest)? {
                return Ok(Listed::Says(Box::new(contents)));
            }
            let now = written(&link)?;
            if now == before {
                return Ok(Listed::Unreadable);
            }
            // It was deleted, and maybe pushed again, while it was read.
            before = now;
        }
        Ok(Listed::Gone)
    }

    /// The manifests of an image that stay because a tag is pinned: what it means, and what that is an index of.
    pub(super) fn pinned(&self, place: &Place) -> Result<HashSet<Digest>, Error> {
        let mut pinned = HashSet::new();
        for read in self.tags(place) {
            let (tag, digest) = read?;
            if !self.story(place, &tag, Some(&digest)).pinned {
                continue;
            }
            if let Some((_, contents)) = self.manifest(place, &digest)? {
                pinned.extend(contents.manifests.into_iter().map(|descriptor| descriptor.digest));
            }
            pinned.insert(digest);
        }
        Ok(pinned)
    }

    /// Stores a manifest and lets tags mean it. In this order, so that whenever it is cut short, nothing that is there
    /// speaks of something that is not.
    pub(super) fn put_manifest(&self, place: &Place, manifest: &Manifest, tags: &[Tag]) -> Result<(), Error> {
        let digest = &manifest.digest;
        let _stays = self.blobs.guards.share(digest);
        self.blobs.publish_manifest(digest, &manifest.bytes)?;
        let revision = self.layout.revision(place, digest);
        let meanings = tags.iter().map(|tag| self.layout.meaning(place, tag, digest));
        let currents = tags.iter().map(|tag| self.layout.current(place, tag));
        let links: Vec<PathBuf> = meanings.chain(currents).collect();
        let mut all: Vec<&Path> = links.iter().map(PathBuf::as_path).collect();
        all.push(&revision);
        self.make_parents(&all)?;
        let media_type = self.layout.media_type(place, digest);
        if says_its_type(manifest) {
            self.disk.remove(&media_type)?;
        } else {
            self.disk.write(&media_type, manifest.media_type.as_str().as_bytes())?;
        }
        // Pushed again, it begins anew to be without a tag.
        let _ = fs::remove_file(self.layout.untagged(place, digest));
        let written = self.write_link(&revision, digest);
        // Even if it failed: the link may be there all the same.
        self.blobs.guards.linked(&place.repository, digest);
        written?;
        links.iter().try_for_each(|link| self.write_link(link, digest))
    }

    /// Forgets a tag. Only what it means now is gone durably; what it has meant goes when it goes.
    pub(super) fn remove_tag(&self, place: &Place, tag: &Tag) -> Result<bool, Error> {
        let was_there = self.disk.remove(&self.layout.current(place, tag))?;
        let directory = self.layout.tag(place, tag);
        if let Err(error) = fs::remove_dir_all(&directory)
            && !is_absence(&error)
        {
            tracing::warn!(path = %directory.display(), %error, "what is left of a removed tag stays");
        }
        Ok(was_there)
    }

    /// Makes durable what the tags of an image mean, where a sync has failed.
    pub(super) fn settle_tags(&self, place: &Place) -> Result<(), Error> {
        self.disk.settle(&self.layout.tags(place))
    }

    /// Forgets a manifest; no tag must mean it any more, durably.
    pub(super) fn remove_manifest(&self, place: &Place, digest: &Digest) -> Result<bool, Error> {
        let link = self.layout.revision(place, digest);
        let was_there = self.disk.remove(&link)?;
        let _ = fs::remove_file(self.layout.media_type(place, digest));
        let _ = fs::remove_file(self.layout.untagged(place, digest));
        tidy(link.parent());
        Ok(was_there)
    }

    /// The tags that mean something, in no order. Like the next two, it reads on as it is asked to.
    pub(super) fn tags(&self, place: &Place) -> impl Iterator<Item = Result<(Tag, Digest), Error>> {
        names::<Tag>(self.layout.tags(place)).filter_map(|tag| {
            let meant = tag.and_then(|tag| Ok(self.tag(place, &tag)?.map(|digest| (tag, digest))));
            meant.transpose()
        })
    }

    /// The manifests that the image says it has.
    pub(super) fn revisions(&self, place: &Place) -> impl Iterator<Item = Result<Digest, Error>> {
        self.linked(self.layout.revisions(place))
    }

    /// The blobs that may be read in the image.
    pub(super) fn layers(&self, place: &Place) -> impl Iterator<Item = Result<Digest, Error>> {
        self.linked(self.layout.layers(place))
    }

    /// The digests that have a sound link below a directory.
    pub(super) fn linked(&self, directory: PathBuf) -> impl Iterator<Item = Result<Digest, Error>> {
        let algorithms = [Algorithm::Sha256, Algorithm::Sha512].into_iter();
        let named = algorithms.flat_map({
            let directory = directory.clone();
            move |algorithm| {
                names::<String>(directory.join(algorithm.as_str()))
                    .map(move |name| name.map(|name| format!("{algorithm}:{name}").parse().ok()))
            }
        });
        named.filter_map(move |digest: Result<Option<Digest>, Error>| {
            let sound = digest.and_then(|digest| match digest {
                Some(digest) if self.holds(&linked(directory.clone(), &digest), &digest)? => Ok(Some(digest)),
                _ => Ok(None),
            });
            sound.transpose()
        })
    }

    pub(super) fn make_parents(&self, paths: &[&Path]) -> Result<(), Error> {
        let parents: Vec<&Path> = paths.iter().filter_map(|path| path.parent()).collect();
        self.disk.make_directories(&parents)
    }

    pub(super) fn write_link(&self, path: &Path, digest: &Digest) -> Result<(), Error> {
        self.disk.write(path, digest.as_str().as_bytes())
    }
}

/// Which file lies at a path, and since when; none if there is none.
fn written(path: &Path) -> Result<Option<(u64, SystemTime)>, Error> {
    let found = fs::symlink_metadata(path).and_then(|found| Ok((found.ino(), found.modified()?)));
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => Err(Error::disk(path)(error)),
    }
}

/// A link's contents. registry:2 writes no line end, people do.
pub(super) fn parse(contents: &[u8]) -> Option<Digest> {
    std::str::from_utf8(contents).ok()?.trim_end().parse().ok()
}

/// Whether the type of a manifest can be told from its bytes alone.
fn says_its_type(manifest: &Manifest) -> bool {
    Manifest::from_elsewhere(manifest.bytes.clone(), None, manifest.digest.algorithm())
        .is_ok_and(|(read, _)| read.media_type == manifest.media_type)
}

/// Removes a directory in which nothing is left, as best it can: an empty one means nothing.
fn tidy(directory: Option<&Path>) {
    if let Some(directory) = directory {
        let _ = fs::remove_dir(directory);
    }
}

/// The entries of a directory whose names are of a kind; none when it is not there.
pub(super) fn names<T: FromStr>(directory: PathBuf) -> impl Iterator<Item = Result<T, Error>> {
    let (entries, failed) = match fs::read_dir(&directory) {
        Ok(entries) => (Some(entries), None),
        Err(error) if is_absence(&error) => (None, None),
        Err(error) => (None, Some(Error::disk(&directory)(error))),
    };
    let names = entries.into_iter().flatten().filter_map(move |entry| match entry {
        Ok(entry) => entry.file_name().to_str()?.parse().ok().map(Ok),
        Err(error) => Some(Err(Error::disk(&directory)(error))),
    });
    names.chain(failed.map(Err))
}
