//! Eviction: a repository lets go of blobs or manifests, and their bytes go if nobody else needs them.
//!
//! In this order, so that whatever ends it in between, nothing that is there speaks of something that is not, and nobody
//! who was told "it is here" is lied to:
//!
//! 1. The digests are condemned: from now on, whoever links one leaves a mark ([`crate::store::guards`]).
//! 2. The whole tree is searched for links to them ([`super::links`]). The index is not asked: what it does not know of
//!    would be lost.
//! 3. The repository's own links go, durably, each with its image's turn, unless the repository wants the blob again.
//! 4. With the digest's lock: if the search found no other link, and no mark has been left, and nobody reads them, the
//!    bytes go.
//!
//! A crash between 3 and 4 leaves bytes that nothing speaks of. Bytes that stay because they are being read stay in the
//! account, without links, and are the first to go the next time.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::Arc;

use super::account::Candidate;
use super::links::{self, Found, Kind};
use super::{Kept, Tidied, now};
use crate::oci::Digest;
use crate::store::disk::is_absence;
use crate::store::guards::{Condemned, Rescue};
use crate::store::layout::Place;
use crate::store::rows::Changes;
use crate::store::{Error, Image, Inner};

/// How many go at once: the tree is searched once for all of them.
const BATCH: usize = 4096;

/// Why something goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Why {
    MaxSize,
    Unused,
    MinFree,
}

impl Why {
    const fn as_str(self) -> &'static str {
        match self {
            Self::MaxSize => "max_size",
            Self::Unused => "unused",
            Self::MinFree => "min_free",
        }
    }
}

/// What becomes of one that was to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The repository has it no more.
    Gone,
    /// It is in use, or wanted again.
    Stays,
}

/// Lets these go. By one at a time ([`super::Keep::one_at_a_time`]).
pub(super) fn evict(
    inner: &Arc<Inner>,
    kept: &Kept,
    kind: Kind,
    candidates: &[Candidate],
    why: Why,
) -> Result<Tidied, Error> {
    let mut tidied = Tidied::default();
    for batch in candidates.chunks(BATCH) {
        let digests: Vec<Digest> = batch.iter().map(|candidate| candidate.digest.clone()).collect();
        let condemned = inner.blobs.guards.condemn(Some(&kept.repository), &digests);
        let mut round = Round {
            inner,
            kept,
            kind,
            found: links::find(&inner.records.layout, &digests, &kept.repository, kind)?,
            pinned: HashMap::new(),
            condemned,
        };
        for candidate in batch {
            if kept.is_released() {
                return Ok(tidied);
            }
            if round.let_go(&candidate.digest)? == Fate::Gone {
                tidied += round.gone(candidate, why);
            }
        }
    }
    inner.keep.show(kept);
    if tidied != Tidied::default() {
        let Tidied {
            blobs,
            bytes,
            manifests,
        } = tidied;
        tracing::info!(repository = %kept.repository, blobs, bytes, manifests, why = why.as_str(), "evicted");
    }
    Ok(tidied)
}

struct Round<'a> {
    inner: &'a Arc<Inner>,
    kept: &'a Kept,
    kind: Kind,
    found: HashMap<Digest, Found>,
    /// The manifests of an image that stay because of a pinned tag.
    pinned: HashMap<Place, HashSet<Digest>>,
    condemned: Condemned<'a>,
}

impl Round<'_> {
    fn let_go(&mut self, digest: &Digest) -> Result<Fate, Error> {
        let Found { own, elsewhere } = self.found.remove(digest).unwrap_or_default();
        if self.kind == Kind::Layer && self.inner.blobs.guards.is_being_read(digest) {
            return Ok(Fate::Stays);
        }
        for place in own {
            if self.unlink(place, digest)? == Fate::Stays {
                return Ok(Fate::Stays);
            }
        }
        if elsewhere {
            return Ok(Fate::Gone);
        }
        self.remove_bytes(digest)
    }

    fn unlink(&mut self, place: Place, digest: &Digest) -> Result<Fate, Error> {
        if self.kind == Kind::Revision && self.is_pinned(&place, digest)? {
            self.kept.account().touch(digest, now());
            return Ok(Fate::Stays);
        }
        let image = Image::new(Arc::clone(self.inner), place);
        let _turn = self.inner.turns.take_now(image.stripe)?;
        // With the image's turn: who links it there has done so, and left a mark, or will after us.
        if self.condemned.rescue(digest) == Rescue::Own {
            return Ok(Fate::Stays);
        }
        match self.kind {
            Kind::Layer => image.unlink_blob_now(digest)?,
            Kind::Revision => image.delete_manifest_now(digest)?,
        };
        Ok(Fate::Gone)
    }

    fn is_pinned(&mut self, place: &Place, digest: &Digest) -> Result<bool, Error> {
        if !self.pinned.contains_key(place) {
            let pinned = self.inner.records.pinned(place)?;
            self.pinned.insert(place.clone(), pinned);
        }
        Ok(self.pinned.get(place).is_some_and(|pinned| pinned.contains(digest)))
    }

    fn remove_bytes(&self, digest: &Digest) -> Result<Fate, Error> {
        let blobs = &self.inner.blobs;
        let _alone = blobs.guards.exclude(digest);
        match self.condemned.rescue(digest) {
            Rescue::Own => return Ok(Fate::Stays),
            Rescue::Others => return Ok(Fate::Gone),
            Rescue::None if blobs.guards.is_being_read(digest) => return Ok(Fate::Stays),
            Rescue::None => {}
        }
        let path = blobs.layout.blob(digest);
        // Not durably: should they be there again after a crash, nothing speaks of them.
        match fs::remove_file(&path) {
            Err(error) if !is_absence(&error) => return Err(Error::disk(&path)(error)),
            _ => {}
        }
        if let Some(directory) = path.parent() {
            let _ = fs::remove_dir(directory);
        }
        Ok(Fate::Gone)
    }

    fn gone(&self, candidate: &Candidate, why: Why) -> Tidied {
        let Candidate { digest, size, .. } = candidate;
        let mut changes = Changes::default();
        changes.not_used(&self.kept.repository, digest);
        self.inner.index.apply(changes);
        match self.kind {
            Kind::Layer => {
                self.kept.account().remove(digest);
                let metrics = &self.inner.blobs.metrics;
                metrics.evicted(self.kept.repository.as_str(), why.as_str(), *size);
                Tidied {
                    blobs: 1,
                    bytes: *size,
                    manifests: 0,
                }
            }
            Kind::Revision => {
                self.kept.account().remove_manifest(digest);
                Tidied {
                    manifests: 1,
                    ..Tidied::default()
                }
            }
        }
    }
}
