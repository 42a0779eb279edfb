//! The blobs of one image.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;

use super::tree::Found;
use super::{Import, Theirs, blobs_of};
use crate::oci::Digest;
use crate::store::Error;
use crate::store::adopt::Adopted;
use crate::store::layout::Place;

/// Which there are.
pub(super) struct Content {
    /// What its manifests need.
    needed: BTreeSet<Digest>,
    /// What is linked to it.
    linked: BTreeSet<Digest>,
}

impl Content {
    fn all(&self) -> impl Iterator<Item = &Digest> {
        self.needed.union(&self.linked)
    }
}

impl Import<'_> {
    pub(super) fn content(&mut self, found: &Found, manifests: &BTreeMap<Digest, Theirs>) -> Result<Content, Error> {
        let needed = manifests.values().flat_map(|theirs| blobs_of(&theirs.contents));
        Ok(Content {
            needed: needed.cloned().collect(),
            linked: self.tree.layers(found)?.into_iter().collect(),
        })
    }

    /// Refuses an image that would be too much for the repository's quota: half of it is of no use.
    pub(super) fn check_room(&self, place: &Place, content: &Content) -> Result<(), Error> {
        let mut sizes = Vec::new();
        for digest in content.all() {
            let size = match fs::metadata(self.tree.blob(digest)) {
                Ok(found) => Some(found.len()),
                Err(_) => self.inner.blobs.size(digest)?,
            };
            sizes.extend(size.map(|size| (digest, size)));
        }
        self.inner.check_quota_for_all(&place.repository, &sizes)
    }

    /// Takes in what can be had, links it, and says what is here now.
    pub(super) fn take_over_blobs(
        &mut self,
        found: &Found,
        place: &Place,
        content: &Content,
    ) -> Result<HashSet<Digest>, Error> {
        let mut here = HashSet::new();
        for digest in content.all() {
            let adopted = self.inner.blobs.adopt(&self.tree.blob(digest), digest)?;
            match &adopted {
                Adopted::Present => self.done.present += 1,
                Adopted::Linked(size) => {
                    self.done.linked += 1;
                    self.done.bytes += size;
                }
                Adopted::Copied(size) => {
                    self.done.copied += 1;
                    self.done.bytes += size;
                }
                Adopted::Absent => self.done.dangling += u64::from(!content.needed.contains(digest)),
                Adopted::Refused(why) => self.problem(&found.name, &format!("the blob {digest} is left out: {why}")),
            }
            if adopted.is_here() {
                if !self.inner.records.has_layer(place, digest)? {
                    let size = self.inner.blobs.size(digest)?.unwrap_or_default();
                    self.inner.take_quota(&place.repository, digest, size)?;
                    self.inner.records.link_layer(place, digest)?;
                }
                here.insert(digest.clone());
            }
        }
        Ok(here)
    }
}
