//! What can be done with a tag besides pushing it: its history, pins, and moves upstream that are not followed yet.

use std::sync::Arc;
use std::time::SystemTime;

use super::Inner;
use super::error::Error;
use super::history::{MOVES, Meaning, Move, ROLLBACK, UNKNOWN};
use super::image::{Image, TagRecord};
use super::rows::Changes;
use crate::oci::manifest::Contents;
use crate::oci::{Digest, Manifest, Tag};

impl Image {
    /// Stores a manifest that an upstream was asked for at that time, and lets these tags mean it: all but those that
    /// are pinned.
    pub async fn put_pulled(
        &self,
        manifest: &Manifest,
        contents: &Contents,
        tags: &[Tag],
        asked: SystemTime,
        upstream: &str,
    ) -> Result<(), Error> {
        let (manifest, contents, tags) = (manifest.clone(), contents.clone(), tags.to_vec());
        let upstream = upstream.to_owned();
        self.write(move |image| {
            let records = &image.inner.records;
            let mut free = Vec::with_capacity(tags.len());
            for tag in tags {
                match records.check_unpinned(&image.place, std::slice::from_ref(&tag), Some(&manifest.digest)) {
                    Err(Error::Pinned(_)) => {}
                    checked => free.push(checked.map(|()| tag)?),
                }
            }
            let put = records.put_tagged(&image.place, &manifest, &free, &upstream, Some(asked));
            image.follow(&manifest.digest, put.is_ok().then_some((&manifest, &contents)), &free);
            put?;
            image.inner.keep.put(&image.place.repository, &manifest.digest);
            for tag in &free {
                image.found(tag, &manifest.digest, asked);
            }
            Ok(())
        })
        .await
    }

    /// What a tag has meant, the latest first. Empty when there is no such tag.
    pub async fn history(&self, tag: &Tag) -> Result<Vec<Meaning>, Error> {
        let tag = tag.clone();
        self.read(move |image| {
            let records = &image.inner.records;
            let Some(current) = records.tag(&image.place, &tag)? else {
                return Ok(Vec::new());
            };
            let mut meanings = records.story(&image.place, &tag, Some(&current)).meanings;
            let verified = image.inner.index.verified(&image.place, &tag, &current);
            if let Some(last) = meanings.last_mut() {
                last.verified = verified.or(last.verified);
            }
            meanings.reverse();
            Ok(meanings)
        })
        .await
    }

    /// Lets a tag mean a manifest of this image until it is unpinned, durably. False when the manifest is not here.
    pub async fn pin(&self, tag: &Tag, digest: &Digest, origin: &'static str) -> Result<bool, Error> {
        self.set(tag, digest, origin, true).await
    }

    /// Lets a tag mean a manifest of this image again, durably. False when the manifest is not here.
    pub async fn put_back(&self, tag: &Tag, digest: &Digest) -> Result<bool, Error> {
        self.set(tag, digest, ROLLBACK, false).await
    }

    async fn set(&self, tag: &Tag, digest: &Digest, origin: &'static str, pin: bool) -> Result<bool, Error> {
        let (tag, digest) = (tag.clone(), digest.clone());
        self.write(move |image| {
            let records = &image.inner.records;
            let Some((manifest, _)) = records.manifest(&image.place, &digest)? else {
                return Ok(false);
            };
            let tags = std::slice::from_ref(&tag);
            if !pin {
                records.check_unpinned(&image.place, tags, None)?;
            }
            image.check_mutable(tags, Some(&digest))?;
            let set = records
                .put_tagged(&image.place, &manifest, tags, origin, None)
                .and_then(|()| {
                    let mut story = records.story(&image.place, &tag, Some(&digest));
                    story.pinned = pin;
                    records.tell(&image.place, &tag, &story)
                });
            image.forget_tag(&tag);
            set.map(|()| true)
        })
        .await
    }

    /// Lets a tag follow again what it is said to mean. False when it was not pinned.
    pub async fn unpin(&self, tag: &Tag) -> Result<bool, Error> {
        let tag = tag.clone();
        self.write(move |image| {
            let records = &image.inner.records;
            let current = records.tag(&image.place, &tag)?;
            let mut story = records.story(&image.place, &tag, current.as_ref());
            if current.is_none() || !story.pinned {
                return Ok(false);
            }
            story.pinned = false;
            let told = records.tell(&image.place, &tag, &story);
            // When it was found to mean this counts no more: the next who asks for it asks upstream.
            image.forget_tag(&tag);
            told.map(|()| true)
        })
        .await
    }

    /// Notes the moves of a tag upstream that it has not followed, durably.
    pub async fn note_moves(&self, tag: &Tag, moves: &[Move]) -> Result<(), Error> {
        let tag = tag.clone();
        let moves = moves[moves.len().saturating_sub(MOVES)..].to_vec();
        self.write(move |image| {
            let records = &image.inner.records;
            let Some(current) = records.tag(&image.place, &tag)? else {
                return Ok(());
            };
            let mut story = records.story(&image.place, &tag, Some(&current));
            if story.moves == moves {
                return Ok(());
            }
            story.moves = moves;
            let told = records.tell(&image.place, &tag, &story);
            let key = (Arc::clone(&image.place), tag);
            image.inner.hot.change(image.stripe, |hot| hot.tags.invalidate(&key));
            told
        })
        .await
    }

    /// Notes, for those who ask next, that a tag was found to mean this at that time. On the disk it is noted only if
    /// that was not done for long, and it may not succeed.
    pub(super) fn found(&self, tag: &Tag, digest: &Digest, verified: SystemTime) {
        let Inner {
            records, index, hot, ..
        } = &*self.inner;
        let mut story = records.story(&self.place, tag, Some(digest));
        if story.is_outdated(verified) {
            story.add(digest, UNKNOWN, verified, Some(verified));
            if let Err(error) = records.tell(&self.place, tag, &story) {
                let place = &self.place;
                tracing::warn!(repository = %place.repository, image = %place.image, %tag, %error, "the history of a tag could not be written");
            }
        }
        let mut changes = Changes::default();
        changes.tag(&self.place, tag, digest, Some(verified));
        index.apply(changes);
        let record = TagRecord::new(digest.clone(), Some(verified), story);
        let key = (Arc::clone(&self.place), tag.clone());
        hot.change(self.stripe, |hot| hot.tags.insert(key, record));
    }

    /// Lets index and cache follow a tag that was changed: when it was verified is not known any more.
    fn forget_tag(&self, tag: &Tag) {
        let mut changes = Changes::default();
        self.follow_tag(&mut changes, tag);
        self.inner.index.apply(changes);
    }
}
