//! One image of one repository: the handle through which everything of it is read and written.

use std::sync::Arc;
use std::time::SystemTime;

use super::blobs::BlobFile;
use super::disk::Debts;
use super::error::Error;
use super::history::{Move, PUSH, Story};
use super::layout::Place;
use super::rows::Changes;
use super::{Inner, blocking, rebuild};
use crate::oci::manifest::Contents;
use crate::oci::{Descriptor, Digest, Manifest, Page, Pattern, Tag};

/// What a tag means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRecord {
    /// The manifest.
    pub digest: Digest,
    /// When it was last found to mean this, upstream. Not kept over a crash.
    pub verified: Option<SystemTime>,
    /// Whether it means this until it is unpinned.
    pub pinned: bool,
    /// Where it has moved upstream meanwhile without being followed, the oldest first.
    pub moves: Arc<[Move]>,
}

/// What has to be in an image for a manifest to be put into it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Blobs that may be read in it.
    pub blobs: Vec<Digest>,
    /// Manifests.
    pub manifests: Vec<Digest>,
}

impl TagRecord {
    pub(super) fn new(digest: Digest, verified: Option<SystemTime>, story: Story) -> Self {
        Self {
            digest,
            verified,
            pinned: story.pinned,
            moves: story.moves.into(),
        }
    }
}

/// One image of one repository. Making one touches nothing; cheap to clone.
#[derive(Clone, Debug)]
pub struct Image {
    pub(super) inner: Arc<Inner>,
    pub(super) place: Arc<Place>,
    pub(super) stripe: usize,
    /// Tags that, once they mean something, mean it for ever.
    immutable: Arc<[Pattern]>,
}

impl Image {
    pub(super) fn new(inner: Arc<Inner>, place: Place) -> Self {
        let stripe = inner.turns.stripe(&place);
        Self {
            inner,
            place: Arc::new(place),
            stripe,
            immutable: Arc::default(),
        }
    }

    /// The same image, of whose tags those that a pattern means neither move nor go.
    pub fn with_immutable_tags(mut self, immutable: Arc<[Pattern]>) -> Self {
        self.immutable = immutable;
        self
    }

    /// Refuses if any of these tags may not come to mean `to`. By who has the image's turn.
    pub(super) fn check_movable(&self, tags: &[Tag], to: Option<&Digest>) -> Result<(), Error> {
        self.inner.records.check_unpinned(&self.place, tags, to)?;
        self.check_mutable(tags, to)
    }

    /// Refuses what a push of something else under this tag would be refused for, as far as that is the tag's doing.
    pub async fn check_tag(&self, tag: &Tag) -> Result<(), Error> {
        let tag = tag.clone();
        self.read(move |image| image.check_movable(&[tag], None)).await
    }

    /// Refuses if any of these tags is immutable and means something else than `to`. By who has the image's turn.
    pub(super) fn check_mutable(&self, tags: &[Tag], to: Option<&Digest>) -> Result<(), Error> {
        let immutable = |tag: &&Tag| self.immutable.iter().any(|pattern| pattern.matches(tag.as_str()));
        for tag in tags.iter().filter(immutable) {
            let current = self.inner.records.tag(&self.place, tag)?;
            if current.is_some() && current.as_ref() != to {
                return Err(Error::Immutable(tag.clone()));
            }
        }
        Ok(())
    }

    /// Reads, where it may block.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let image = self.clone();
        blocking(move || read(&image)).await
    }

    /// Writes, with the image's turn. The turn goes along: it ends with the work, not with the caller's patience.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = self.inner.turns.take(self.stripe).await?;
        let image = self.clone();
        blocking(move || {
            let result = write(&image);
            drop(turn);
            result
        })
        .await
    }

    /// Whether anything of it is here: a manifest, or a blob of one that is still being pushed.
    pub async fn exists(&self) -> Result<bool, Error> {
        self.read(|image| {
            let Inner { records, .. } = &*image.inner;
            let mut anything = records.revisions(&image.place).chain(records.layers(&image.place));
            Ok(anything.next().transpose()?.is_some())
        })
        .await
    }

    /// The size of a blob that may be read in this image.
    pub async fn has_blob(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let digest = digest.clone();
        self.read(move |image| {
            let Inner {
                records, blobs, keep, ..
            } = &*image.inner;
            if !records.has_layer(&image.place, &digest)? {
                return Ok(None);
            }
            keep.used(&image.place.repository, [&digest]);
            let Some(size) = image.inner.blob_size(&digest)? else {
                return Ok(None);
            };
            // Who is told that it is here relies on it: it has to be so when that is noted.
            let _stays = blobs.guards.share(&digest);
            let is_here = records.has_layer(&image.place, &digest)? && blobs.look(&digest)?.is_some();
            image.inner.promise(&image.place, &digest);
            Ok(is_here.then_some(size))
        })
        .await
    }

    /// A blob that may be read in this image.
    pub async fn blob(&self, digest: &Digest) -> Result<Option<BlobFile>, Error> {
        let digest = digest.clone();
        self.read(move |image| {
            if image.inner.records.has_layer(&image.place, &digest)? {
                image.inner.keep.used(&image.place.repository, [&digest]);
                image.inner.open_blob(&digest)
            } else {
                Ok(None)
            }
        })
        .await
    }

    /// Lets a blob be read in this image no more, durably. False when it could not be read anyway.
    pub async fn unlink_blob(&self, digest: &Digest) -> Result<bool, Error> {
        let digest = digest.clone();
        self.write(move |image| {
            let unlinked = image.unlink_blob_now(&digest)?;
            image.forget_unowned(&digest);
            Ok(unlinked)
        })
        .await
    }

    /// A link to a blob has gone: if it was the last one in the repository, it is not counted there any more.
    pub(super) fn forget_unowned(&self, digest: &Digest) {
        let Inner {
            index, records, keep, ..
        } = &*self.inner;
        let repository = &self.place.repository;
        let has_owner = match index.has_owner_in(repository, digest) {
            Err(Error::Index(_)) => rebuild::has_owner_in(records, repository, digest),
            answer => answer,
        };
        if matches!(has_owner, Ok(false)) {
            keep.unlinked(repository, digest);
        }
    }

    /// By who has the image's turn.
    pub(super) fn unlink_blob_now(&self, digest: &Digest) -> Result<bool, Error> {
        let unlinked = self.inner.records.unlink_layer(&self.place, digest);
        self.follow_blob(digest, None);
        unlinked
    }

    /// A manifest of this image.
    pub async fn manifest(&self, digest: &Digest) -> Result<Option<Manifest>, Error> {
        let key = (Arc::clone(&self.place), digest.clone());
        if let Some(manifest) = self.inner.hot.manifests.get(&key) {
            return Ok(Some(manifest));
        }
        self.read(move |image| {
            let inner = &image.inner;
            let generation = inner.hot.generation(image.stripe);
            let read = inner.records.manifest(&image.place, &key.1)?;
            let manifest = read.map(|(manifest, _)| manifest);
            if let Some(manifest) = &manifest {
                let keep = manifest.clone();
                inner
                    .hot
                    .keep(image.stripe, generation, |hot| hot.manifests.insert(key, keep));
            }
            Ok(manifest)
        })
        .await
    }

    /// What a tag means.
    pub async fn tag(&self, tag: &Tag) -> Result<Option<TagRecord>, Error> {
        let key = (Arc::clone(&self.place), tag.clone());
        if let Some(record) = self.inner.hot.tags.get(&key) {
            return Ok(Some(record));
        }
        self.read(move |image| {
            let inner = &image.inner;
            let generation = inner.hot.generation(image.stripe);
            let Some(digest) = inner.records.tag(&image.place, &key.1)? else {
                return Ok(None);
            };
            let verified = inner.index.verified(&image.place, &key.1, &digest);
            let story = inner.records.story(&image.place, &key.1, Some(&digest));
            let record = TagRecord::new(digest, verified, story);
            let keep = record.clone();
            inner
                .hot
                .keep(image.stripe, generation, |hot| hot.tags.insert(key, keep));
            Ok(Some(record))
        })
        .await
    }

    /// Stores a manifest that was pushed and lets these tags mean it, durably. Of what it refers to, `present` has to be
    /// here; whether there is more is the caller's business. Refused if one of the tags is pinned to something else.
    pub async fn put_manifest(
        &self,
        manifest: &Manifest,
        contents: &Contents,
        tags: &[Tag],
        present: Present,
    ) -> Result<(), Error> {
        let (manifest, contents, tags) = (manifest.clone(), contents.clone(), tags.to_vec());
        self.write(move |image| {
            image.inner.check_space(&image.place)?;
            // With the image's turn: what was here when the caller looked may have gone.
            image.check_present(&present)?;
            let records = &image.inner.records;
            image.check_movable(&tags, Some(&manifest.digest))?;
            let put = records.put_tagged(&image.place, &manifest, &tags, PUSH, None);
            // Again, before the turn ends: a pass that read the tree before the manifest was there waits for the turn, and
            // would take its blobs for what nothing needs. What it condemned meanwhile has no mark of the first promise.
            for digest in &present.blobs {
                let _stays = image.inner.blobs.guards.share(digest);
                image.inner.promise(&image.place, digest);
            }
            image.follow(&manifest.digest, put.is_ok().then_some((&manifest, &contents)), &tags);
            if put.is_ok() {
                image.inner.keep.put(&image.place.repository, &manifest.digest);
            }
            put
        })
        .await
    }

    /// By who has the image's turn.
    fn check_present(&self, present: &Present) -> Result<(), Error> {
        let mut debts = self.inner.disk.debts();
        for digest in &present.blobs {
            self.check_blob(digest, &mut debts)?;
        }
        debts.pay()?;
        for digest in &present.manifests {
            if self.inner.records.manifest(&self.place, digest)?.is_none() {
                return Err(Error::NoSuchBlob(digest.clone()));
            }
        }
        Ok(())
    }

    /// Whether a blob is here to stay, durably when the debts are paid.
    fn check_blob(&self, digest: &Digest, debts: &mut Debts<'_>) -> Result<(), Error> {
        let Inner { records, blobs, .. } = &*self.inner;
        {
            let _stays = blobs.guards.share(digest);
            if records.has_layer(&self.place, digest)? && blobs.look(digest)?.is_some() {
                debts.rely(&records.layout.layer(&self.place, digest));
                debts.rely(&records.layout.blob(digest));
                self.inner.promise(&self.place, digest);
                return Ok(());
            }
        }
        if self.inner.take_back(&self.place, digest)? {
            self.follow_blob(digest, self.inner.blob_size(digest)?);
            return Ok(());
        }
        Err(Error::NoSuchBlob(digest.clone()))
    }

    /// Takes a blob back that this image had, if it was taken away because nothing needed it. Its size.
    pub async fn take_back(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let digest = digest.clone();
        self.write(move |image| {
            let mut debts = image.inner.disk.debts();
            match image.check_blob(&digest, &mut debts) {
                Ok(()) => {
                    debts.pay()?;
                    image.inner.blob_size(&digest)
                }
                Err(Error::NoSuchBlob(_)) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Notes that a tag was found to mean what it means here. Not durable; no tag, no note.
    pub async fn touch_tag(&self, tag: &Tag, verified: SystemTime) -> Result<(), Error> {
        let tag = tag.clone();
        self.write(move |image| {
            let Some(digest) = image.inner.records.tag(&image.place, &tag)? else {
                return Ok(());
            };
            image.found(&tag, &digest, verified);
            Ok(())
        })
        .await
    }

    /// Removes a manifest and the tags that mean it, durably. False when it was not here.
    pub async fn delete_manifest(&self, digest: &Digest) -> Result<bool, Error> {
        let digest = digest.clone();
        self.write(move |image| image.delete_manifest_now(&digest)).await
    }

    /// By who has the image's turn.
    pub(super) fn delete_manifest_now(&self, digest: &Digest) -> Result<bool, Error> {
        let Inner { records, index, .. } = &*self.inner;
        let mut tags = index.tags_meaning(&self.place, digest);
        for read in records.tags(&self.place) {
            let (tag, meant) = read?;
            tags.extend((meant == *digest).then_some(tag));
        }
        tags.sort_unstable();
        tags.dedup();
        self.check_movable(&tags, None)?;
        let removed = tags
            .iter()
            .try_for_each(|tag| records.remove_tag(&self.place, tag).map(drop))
            // One that means something else now, or nothing, must not mean this again after a power cut.
            .and_then(|()| records.settle_tags(&self.place))
            .and_then(|()| records.remove_manifest(&self.place, digest));
        self.follow(digest, None, &tags);
        removed
    }

    /// Removes a tag, durably. False when there was none.
    pub async fn delete_tag(&self, tag: &Tag) -> Result<bool, Error> {
        let tag = tag.clone();
        self.write(move |image| {
            let records = &image.inner.records;
            image.check_movable(std::slice::from_ref(&tag), None)?;
            let removed = records.remove_tag(&image.place, &tag);
            let mut changes = Changes::default();
            image.follow_tag(&mut changes, &tag);
            image.inner.index.apply(changes);
            removed
        })
        .await
    }

    /// One page of its tags, sorted by bytes, and whether more follow.
    pub async fn tags(&self, page: &Page) -> Result<(Vec<String>, bool), Error> {
        let page = page.clone();
        self.read(move |image| match image.inner.index.tags(&image.place, &page) {
            Err(Error::Index(_)) => rebuild::tags(&image.inner.records, &image.place, &page),
            answer => answer,
        })
        .await
    }

    /// The manifests of this image that are about another, which need not be here.
    pub async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, Error> {
        let subject = subject.clone();
        self.read(move |image| {
            let Inner { records, index, .. } = &*image.inner;
            let rows = match index.referrers(&image.place, &subject) {
                Err(Error::Index(_)) => return rebuild::referrers(records, &image.place, &subject),
                rows => rows?,
            };
            let mut referrers = Vec::with_capacity(rows.len());
            for (digest, descriptor) in rows {
                if let Some(descriptor) = descriptor {
                    referrers.push(descriptor);
                } else if let Some((manifest, contents)) = records.manifest(&image.place, &digest)? {
                    referrers.push(manifest.as_referrer(&contents));
                }
            }
            Ok(referrers)
        })
        .await
    }

    /// Lets index and cache follow what has become of a manifest and of tags. Whether that went well or stopped half
    /// way, what is on the disk now counts; `put` is what it is if it went well.
    pub(super) fn follow(&self, digest: &Digest, put: Option<(&Manifest, &Contents)>, tags: &[Tag]) {
        let Inner {
            records, index, hot, ..
        } = &*self.inner;
        let mut changes = Changes::default();
        for tag in tags {
            self.follow_tag(&mut changes, tag);
        }
        let key = (Arc::clone(&self.place), digest.clone());
        hot.change(self.stripe, |hot| hot.manifests.invalidate(&key));
        if let Some((manifest, contents)) = put {
            changes.manifest(&self.place, manifest, contents);
        } else {
            match records.manifest(&self.place, digest) {
                Ok(Some((manifest, contents))) => changes.manifest(&self.place, &manifest, &contents),
                Ok(None) => changes.no_manifest(&self.place, digest, index.subject(&self.place, digest).as_ref()),
                Err(error) => index.doubt(&error.to_string()),
            }
        }
        index.apply(changes);
    }

    pub(super) fn follow_tag(&self, changes: &mut Changes, tag: &Tag) {
        let Inner {
            records, index, hot, ..
        } = &*self.inner;
        let key = (Arc::clone(&self.place), tag.clone());
        hot.change(self.stripe, |hot| hot.tags.invalidate(&key));
        match records.tag(&self.place, tag) {
            Ok(Some(digest)) => changes.tag(&self.place, tag, &digest, None),
            Ok(None) => changes.no_tag(&self.place, tag),
            Err(error) => index.doubt(&error.to_string()),
        }
    }

    /// `size` is the blob's, if it has just been linked.
    pub(super) fn follow_blob(&self, digest: &Digest, size: Option<u64>) {
        let Inner { records, index, .. } = &*self.inner;
        let mut changes = Changes::default();
        match records.has_layer(&self.place, digest) {
            Ok(true) => size
                .into_iter()
                .for_each(|size| changes.blob(&self.place, digest, size)),
            Ok(false) => changes.no_blob(&self.place, digest),
            Err(error) => index.doubt(&error.to_string()),
        }
        index.apply(changes);
    }
}
