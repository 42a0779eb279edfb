//! A blob gets to its place, and an image a link to it.
//!
//! All that waits for the disk is done without the image's turn: bytes and link are synced before it, the names that they
//! are given after it. So pushes into one image wait for the disk together, and its journal writes what all of them did
//! at once. Whoever relies on a name before it is durable makes it durable himself: see [`super::disk::Debts`].

use std::sync::Arc;

use super::blocking;
use super::disk::{Debts, Scrap};
use super::error::Error;
use super::image::Image;
use super::spool::VerifiedFile;
use crate::oci::Digest;

/// A blob whose bytes, and whose link to them, are durable and have no names yet.
#[derive(Debug)]
pub(super) struct Landing {
    digest: Digest,
    /// None if it is stored already.
    verified: Option<VerifiedFile>,
    /// None if it is linked already.
    link: Option<Scrap>,
}

impl Image {
    /// Lets a stored blob be read in this image, durably.
    pub async fn link_blob(&self, digest: &Digest) -> Result<(), Error> {
        let (image, digest) = (self.clone(), digest.clone());
        let landing = blocking(move || image.prepare(digest, None)).await?;
        self.land(landing, ()).await
    }

    /// Makes durable what a blob needs to land here.
    pub(super) fn prepare(&self, digest: Digest, mut verified: Option<VerifiedFile>) -> Result<Landing, Error> {
        let blobs = &self.inner.blobs;
        if let Some(verified) = &mut verified {
            blobs.settle(verified)?;
        } else if self.inner.blob_size(&digest)?.is_none() {
            return Err(Error::NoSuchBlob(digest));
        }
        let link = self.inner.records.draft_layer(&self.place, &digest)?;
        Ok(Landing { digest, verified, link })
    }

    /// Gives it its names, durably. What is passed along is dropped at last, where that may block.
    pub(super) async fn land<T: Send + 'static>(&self, landing: Landing, along: T) -> Result<(), Error> {
        let turn = self.inner.turns.take(self.stripe).await?;
        let image = self.clone();
        blocking(move || {
            let _along = along;
            let disk = Arc::clone(&image.inner.disk);
            let mut debts = disk.debts();
            let landed = image.land_now(landing, &mut debts);
            drop(turn);
            let paid = debts.pay();
            landed.and(paid)
        })
        .await
    }

    /// By who has the image's turn.
    fn land_now(&self, landing: Landing, debts: &mut Debts<'_>) -> Result<(), Error> {
        let inner = &self.inner;
        let (digest, repository) = (landing.digest, &self.place.repository);
        // As long as this is open, the bytes stay although nothing is linked to them yet.
        let _stays = landing.verified.as_ref().map(|verified| Arc::clone(verified.file()));
        let size = if let Some(verified) = landing.verified {
            let size = verified.size();
            inner.blobs.put(verified, debts)?;
            size
        } else if let Some(size) = inner.blob_size(&digest)? {
            size
        } else {
            return Err(Error::NoSuchBlob(digest));
        };
        let counted = inner.take_quota(repository, &digest, size)?;
        let linked = inner.records.name_layer(&self.place, &digest, landing.link, debts);
        if counted && linked.is_err() {
            self.forget_unowned(&digest);
        }
        inner.promise(&self.place, &digest);
        self.follow_blob(&digest, Some(size));
        if linked.is_ok() {
            inner.keep.linked(repository, &digest, size);
        }
        linked
    }
}
