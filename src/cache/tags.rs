//! What a tag means: what upstream says it does, followed at once or held back for a while, and what an operator says.

use std::time::SystemTime;

use super::manifests::Told;
use super::{Error, Inner};
use crate::clock;
use crate::oci::{self, Digest, ImageName, Manifest, Reference, Tag};
use crate::store::{Meaning, TagRecord};
use crate::upstream;

/// What is known of a tag here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What it means.
    pub record: TagRecord,
    /// What it has meant, the latest first.
    pub meanings: Vec<Meaning>,
}

impl Inner {
    /// Asks what a tag means: by HEAD if there is a copy, which registries do not count as a pull.
    pub(super) async fn ask_for_tag(&self, image: &ImageName, tag: &Tag) -> Result<Told, Error> {
        let reference = Reference::Tag(tag.clone());
        let record = self.here(image).tag(tag).await?;
        let is_here = match &record {
            Some(record) => self.here(image).manifest(&record.digest).await?.is_some(),
            None => false,
        };
        let Some(record) = record.filter(|_| is_here) else {
            return self.get(image, &reference, std::slice::from_ref(tag)).await;
        };
        let asked = clock::now();
        match self.upstream.head_manifest(image, &reference).await {
            Ok(Some(upstream::Head {
                digest: Some(digest), ..
            })) => {
                self.judge(Ok(()))?;
                if let Some(why) = self.reserved("says that this tag has moved")
                    && digest != record.digest
                    && self.here(image).manifest(&digest).await?.is_none()
                {
                    return Ok(Told::Kept(record.digest, why));
                }
                let told = self.settle(image, tag, &record, &digest, None, asked).await?;
                if !matches!(told, Told::Gone) {
                    return Ok(told);
                }
            }
            // Some registries answer a HEAD with less than a GET: without a digest, or with 403, 404 or 405.
            Ok(_) | Err(upstream::Error::Unexpected { .. } | upstream::Error::Refused { status: 403 }) => {}
            Err(error) => return self.judge(Err(error)),
        }
        if let Some(why) = self.reserved("does not say whether this tag has moved") {
            self.judge(Ok(()))?;
            return Ok(Told::Kept(record.digest, why));
        }
        match self.get(image, &reference, &[]).await? {
            Told::Is(manifest) => {
                let digest = manifest.digest.clone();
                self.settle(image, tag, &record, &digest, Some(manifest), asked).await
            }
            told => Ok(told),
        }
    }

    /// Upstream has said what a tag means that we have a copy of: it still does, or it is followed, or held back.
    /// `Gone` if upstream does not have what it is said to mean.
    async fn settle(
        &self,
        image: &ImageName,
        tag: &Tag,
        record: &TagRecord,
        upstream: &Digest,
        fetched: Option<Manifest>,
        asked: SystemTime,
    ) -> Result<Told, Error> {
        let here = self.here(image);
        let course = self.freshness.course(&record.digest, &record.moves, upstream, asked);
        let told = match &course.follow {
            None => {
                if course.is_news && fetched.is_none() {
                    // It may be gone from there when its time has come. If this fails, it is asked for then.
                    let _ = self.get(image, &Reference::Digest(upstream.clone()), &[]).await;
                }
                None
            }
            Some(to) => match self.follow(image, tag, to, fetched, asked).await? {
                Told::Gone if to == upstream => return Ok(Told::Gone),
                // It was replaced, and is gone, before its time had come: the tag stays and waits for the next.
                Told::Gone => None,
                told => Some(told),
            },
        };
        if course.is_news {
            let before = record.moves.last().map_or(&record.digest, |last| &last.to);
            self.tell_moved(image, tag, before, upstream);
        }
        if course.moves != *record.moves
            && let Err(error) = here.note_moves(tag, &course.moves).await
        {
            tracing::error!(repository = %self.key, %image, %tag, %error, "a move of a tag could not be noted");
        }
        if let Some(told) = told {
            return Ok(told);
        }
        here.touch_tag(tag, asked).await?;
        let digest = record.digest.clone();
        Ok(if course.moves.is_empty() {
            Told::Same(digest)
        } else {
            Told::Held(digest, course.moves.into())
        })
    }

    /// Lets a tag mean this from now on.
    async fn follow(
        &self,
        image: &ImageName,
        tag: &Tag,
        to: &Digest,
        fetched: Option<Manifest>,
        asked: SystemTime,
    ) -> Result<Told, Error> {
        let manifest = match fetched.filter(|manifest| manifest.digest == *to) {
            Some(manifest) => Some(manifest),
            None => self.here(image).manifest(to).await?,
        };
        let tags = std::slice::from_ref(tag);
        let Some(manifest) = manifest else {
            return self.get(image, &Reference::Digest(to.clone()), tags).await;
        };
        let stored = match manifest.contents() {
            Ok(contents) => self.put(image, &manifest, &contents, tags, asked).await,
            Err(error) => Err(self.lie(&error.to_string())),
        };
        if let Err(error) = stored {
            tracing::error!(repository = %self.key, %image, %tag, %error, "what a tag means could not be stored");
        }
        Ok(Told::Is(manifest))
    }

    /// What is known of a tag here. Asks nobody.
    pub(super) async fn known(&self, image: &ImageName, tag: &Tag) -> oci::Answer<Known, Error> {
        let here = self.here(image);
        let Some(record) = here.tag(tag).await? else {
            return Ok(None);
        };
        let meanings = here.history(tag).await?;
        Ok(Some(Known { record, meanings }))
    }

    /// Lets a tag mean this, or what it means now, until it is unpinned. `None` when there is no such tag or manifest.
    pub(super) async fn pin(
        &self,
        image: &ImageName,
        tag: &Tag,
        to: Option<&Digest>,
        origin: &'static str,
    ) -> oci::Answer<Digest, Error> {
        let here = self.here(image);
        let manifest = match to {
            Some(digest) => self.by_digest(image, digest).await?,
            None => match here.tag(tag).await? {
                // What it means here, held back or stale as it may be, and not what it would be if it was asked for.
                Some(record) => self.by_digest(image, &record.digest).await?,
                None => self.manifest(image, &Reference::Tag(tag.clone())).await?,
            },
        };
        let Some(manifest) = manifest else { return Ok(None) };
        let digest = manifest.value.digest;
        Ok(here.pin(tag, &digest, origin).await?.then_some(digest))
    }
}
