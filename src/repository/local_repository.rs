//! A local repository: images that are pushed here and live nowhere else.

use std::sync::Arc;

use bytes::Bytes;

use super::{Error, Listed, Repository, Served, Unknown, upload_unknown};
use crate::cache::Blob;
use crate::config::LocalConfig;
use crate::oci::manifest::{Contents, ManifestError};
use crate::oci::operation::UploadId;
use crate::oci::{
    Algorithm, Answer, Descriptor, Digest, ErrorCode, ImageName, Manifest, Page, Pattern, Reference, Refusal,
    RepositoryKey, Tag,
};
use crate::store::{self, LocalRules, Present, Store, Upload};

/// How many missing blobs a refusal names: enough to act on, bounded whatever the manifest says.
const NAMED_MISSING: usize = 10;

/// A manifest that was stored.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// Its digest.
    pub digest: Digest,
    /// The manifest that it is about, when it is about one.
    pub subject: Option<Digest>,
}

/// A local repository.
#[derive(Debug)]
pub struct LocalRepository {
    key: RepositoryKey,
    config: LocalConfig,
    immutable_tags: Arc<[Pattern]>,
    store: Store,
}

impl LocalRepository {
    /// A local repository over the store.
    pub fn new(key: RepositoryKey, config: LocalConfig, store: Store) -> Self {
        // It may have been a remote: what is pushed from now on can be had nowhere else.
        store.release(&key, config.quota);
        let immutable_tags = config.immutable_tags.clone().into();
        Self {
            key,
            config,
            immutable_tags,
            store,
        }
    }

    /// Its key.
    pub const fn key(&self) -> &RepositoryKey {
        &self.key
    }

    /// What of it goes although it could be asked for.
    pub fn rules(&self) -> LocalRules {
        LocalRules::of(&self.key, &self.config)
    }

    pub(super) fn image(&self, image: &ImageName) -> store::Image {
        let tags = Arc::clone(&self.immutable_tags);
        self.store.image(&self.key, image).with_immutable_tags(tags)
    }

    fn serve<T>(&self, value: T) -> Served<T> {
        Served::from_local(&self.key, value)
    }

    /// A manifest.
    pub async fn manifest(&self, image: &ImageName, reference: &Reference) -> Answer<Served<Manifest>, Error> {
        let image = self.image(image);
        let manifest = match reference {
            Reference::Digest(digest) => image.manifest(digest).await?,
            Reference::Tag(tag) => match image.tag(tag).await? {
                Some(record) => image.manifest(&record.digest).await?,
                None => None,
            },
        };
        Ok(manifest.map(|manifest| self.serve(manifest)))
    }

    /// A manifest by digest.
    pub async fn stored_manifest(&self, image: &ImageName, digest: &Digest) -> Answer<Served<Manifest>, Error> {
        Ok(self
            .image(image)
            .manifest(digest)
            .await?
            .map(|manifest| self.serve(manifest)))
    }

    /// A blob of an image.
    pub async fn blob(&self, image: &ImageName, digest: &Digest) -> Answer<Served<Blob>, Error> {
        let blob = self.image(image).blob(digest).await?;
        Ok(blob.map(|file| self.serve(Blob::Stored(file))))
    }

    /// A blob's length.
    pub async fn blob_size(&self, image: &ImageName, digest: &Digest) -> Answer<Served<u64>, Error> {
        let size = self.image(image).has_blob(digest).await?;
        Ok(size.map(|size| self.serve(size)))
    }

    /// All tags of an image.
    pub async fn tags(&self, image: &ImageName) -> Answer<Listed<String>, Error> {
        let image = self.image(image);
        let (entries, _) = image.tags(&Page::default()).await?;
        if entries.is_empty() && !image.exists().await? {
            return Ok(None);
        }
        Ok(Some(Listed {
            entries,
            warnings: Vec::new(),
        }))
    }

    /// What refers to a manifest.
    pub async fn referrers(&self, image: &ImageName, subject: &Digest) -> Result<Listed<Descriptor>, Error> {
        Ok(Listed {
            entries: self.image(image).referrers(subject).await?,
            warnings: Vec::new(),
        })
    }

    /// All images.
    pub async fn images(&self) -> Result<Listed<ImageName>, Error> {
        Ok(Listed {
            entries: self.store.images(&self.key).await?,
            warnings: Vec::new(),
        })
    }

    /// Whether an image lives here.
    pub async fn holds(&self, image: &ImageName) -> Result<bool, Error> {
        Ok(self.image(image).exists().await?)
    }

    /// Refuses if a push of something new could not take this tag.
    pub async fn check_tag(&self, image: &ImageName, tag: &Tag) -> Result<(), Error> {
        Ok(self.image(image).check_tag(tag).await?)
    }

    /// Opens an upload, for whoever is to go on with it.
    pub async fn begin_upload(
        &self,
        image: &ImageName,
        algorithm: Option<Algorithm>,
        owner: &str,
    ) -> Result<Upload, Error> {
        Ok(self.image(image).begin_upload(algorithm, owner).await?)
    }

    /// Takes up an upload again.
    pub async fn upload(&self, image: &ImageName, id: UploadId, owner: &str) -> Result<Upload, Error> {
        match self.image(image).upload(id, owner).await? {
            Some(upload) => Ok(upload),
            None => Err(upload_unknown(id).into()),
        }
    }

    /// Takes over a blob that is stored already, for another image. The caller has checked that whoever asks may read
    /// it there. `false`: there is no such blob.
    pub async fn mount(&self, image: &ImageName, digest: &Digest) -> Result<bool, Error> {
        // It stays at least as long as it is open.
        let Some(_open) = self.store.open_blob(digest).await? else {
            return Ok(false);
        };
        self.image(image).link_blob(digest).await?;
        Ok(true)
    }

    /// Stores a manifest under its digest and these tags. All that it refers to must be here, or be had from `through`,
    /// the repository that the client pushes to: it may have told the client that a layer is there already.
    pub async fn push_manifest(
        &self,
        through: &Repository,
        image: &ImageName,
        reference: &Reference,
        tags: &[Tag],
        bytes: Bytes,
        content_type: Option<&str>,
    ) -> Result<Pushed, Error> {
        let algorithm = match reference {
            Reference::Digest(digest) => digest.algorithm(),
            Reference::Tag(_) => Algorithm::Sha256,
        };
        let (manifest, contents) =
            Manifest::from_push(bytes, content_type, algorithm).map_err(|error| manifest_invalid(&error))?;
        let mut all_tags = tags.to_vec();
        match reference {
            Reference::Digest(digest) if *digest != manifest.digest => {
                let message = format!("the manifest's digest is {}, not {digest}", manifest.digest);
                return Err(Refusal::new(ErrorCode::DigestInvalid, message).into());
            }
            Reference::Digest(_) => {}
            Reference::Tag(tag) => all_tags.push(tag.clone()),
        }
        let present = self.check_references(through, image, &contents).await?;
        self.image(image)
            .put_manifest(&manifest, &contents, &all_tags, present)
            .await?;
        through.forget_absences(image);
        Ok(Pushed {
            digest: manifest.digest,
            subject: contents.subject.map(|subject| subject.digest),
        })
    }

    /// What a manifest refers to, and is here.
    async fn check_references(
        &self,
        through: &Repository,
        image: &ImageName,
        contents: &Contents,
    ) -> Result<Present, Error> {
        let records = self.image(image);
        let (mut present, mut missing) = (Present::default(), Vec::new());
        let blobs = contents.config.iter().chain(&contents.layers);
        for descriptor in blobs.filter(|descriptor| !descriptor.may_be_absent()) {
            let mut size = records.has_blob(&descriptor.digest).await?;
            if size.is_none() {
                size = records.take_back(&descriptor.digest).await?;
            }
            if size.is_none() {
                size = self.adopt(through, image, &descriptor.digest).await?;
            }
            match size {
                None => missing.push(&descriptor.digest),
                Some(size) if size != descriptor.size => {
                    let message = format!(
                        "the manifest says that {} has {} bytes, but it has {size}",
                        descriptor.digest, descriptor.size
                    );
                    return Err(Refusal::new(ErrorCode::ManifestInvalid, message).into());
                }
                Some(_) => present.blobs.push(descriptor.digest.clone()),
            }
        }
        for descriptor in &contents.manifests {
            if records.manifest(&descriptor.digest).await?.is_some() {
                present.manifests.push(descriptor.digest.clone());
            } else {
                missing.push(&descriptor.digest);
            }
        }
        if missing.is_empty() || self.config.allow_sparse {
            return Ok(present);
        }
        let named: Vec<&str> = missing
            .iter()
            .take(NAMED_MISSING)
            .map(|digest| digest.as_str())
            .collect();
        let more = missing.len().saturating_sub(NAMED_MISSING);
        let rest = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let message = format!(
            "the manifest refers to what is not in this image: {}{rest}; push that first, or set `allow_sparse: true` on `{}`",
            named.join(", "),
            self.key
        );
        Err(Refusal::new(ErrorCode::ManifestBlobUnknown, message).into())
    }

    /// Takes in a blob that another member of the virtual repository has for this image. A client that was told "it is
    /// there" does not send it, and from now on it has to be here.
    async fn adopt(&self, through: &Repository, image: &ImageName, digest: &Digest) -> Answer<u64, Error> {
        if let Repository::Local(_) = through {
            return Ok(None);
        }
        let served = match (through.blob(image, digest).await?, through) {
            // With the first blob that was pushed, the image has come to live here, before the others.
            (None, Repository::Virtual(several)) => several.kept_blob(image, digest).await?,
            (served, _) => served,
        };
        let Some(served) = served else {
            return Ok(None);
        };
        if let Blob::Arriving(mut follower) = served.value {
            // Nothing of it is wanted but its end.
            follower.narrow(u64::MAX, u64::MAX);
            let ended = follower.next_chunk().await;
            ended.map_err(|error| Error::Unknown(Unknown::because(&served.by, error.to_string())))?;
        }
        if !self.mount(image, digest).await? {
            return Ok(None);
        }
        Ok(self.image(image).has_blob(digest).await?)
    }

    fn check_deletable(&self) -> Result<(), Refusal> {
        if self.config.allow_delete {
            return Ok(());
        }
        let message = format!("`{}` does not allow deletion: `allow_delete` is false", self.key);
        Err(Refusal::new(ErrorCode::Unsupported, message))
    }

    /// Deletes a tag, or a manifest with all its tags. `false`: there was none.
    pub async fn delete_manifest(&self, image: &ImageName, reference: &Reference) -> Result<bool, Error> {
        self.check_deletable()?;
        let image = self.image(image);
        Ok(match reference {
            Reference::Tag(tag) => image.delete_tag(tag).await?,
            Reference::Digest(digest) => image.delete_manifest(digest).await?,
        })
    }

    /// Takes a blob out of an image. `false`: it was not in it.
    pub async fn delete_blob(&self, image: &ImageName, digest: &Digest) -> Result<bool, Error> {
        self.check_deletable()?;
        Ok(self.image(image).unlink_blob(digest).await?)
    }
}

fn manifest_invalid(error: &ManifestError) -> Refusal {
    Refusal::new(ErrorCode::ManifestInvalid, error.to_string())
}
