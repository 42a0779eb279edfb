//! A remote repository: a pull-through cache of one upstream. Clients' bytes have no way in.

use std::sync::Arc;

use super::{Error, Listed, Served, TagHistory, Unknown};
use tokio::sync::mpsc;

use crate::cache::load::{Load, come_back};
use crate::cache::{self, Blob, Piece, Prefetched, PullThrough};
use crate::config::RemoteConfig;
use crate::oci::{Answer, Descriptor, Digest, ImageName, Manifest, Platform, Reference, RepositoryKey, Tag};
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::upstream;

/// A remote repository.
#[derive(Debug)]
pub struct RemoteRepository {
    key: RepositoryKey,
    config: RemoteConfig,
    manifest_limit: u64,
    store: Store,
    cache: PullThrough,
}

impl RemoteRepository {
    /// A remote repository over the store. Fails when a client for the upstream cannot be made.
    pub fn new(
        key: RepositoryKey,
        config: RemoteConfig,
        manifest_limit: u64,
        store: &Store,
        metrics: &Arc<Metrics>,
        load: &Arc<Load>,
    ) -> Result<Self, upstream::Error> {
        let cache = PullThrough::new(
            &key,
            &config,
            manifest_limit,
            store.clone(),
            Arc::clone(metrics),
            Arc::clone(load),
        )?;
        Ok(Self {
            key,
            config,
            manifest_limit,
            store: store.clone(),
            cache,
        })
    }

    /// Whether it would be built the same from this.
    pub fn is_configured_by(&self, config: &RemoteConfig, manifest_limit: u64) -> bool {
        self.config == *config && self.manifest_limit == manifest_limit
    }

    /// Its key.
    pub const fn key(&self) -> &RepositoryKey {
        &self.key
    }

    fn served<T>(&self, answer: Answer<cache::Cached<T>, cache::Error>) -> Answer<Served<T>, Error> {
        match answer {
            Ok(Some(cached)) => Ok(Some(Served::from_cache(&self.key, cached))),
            Ok(None) => Ok(None),
            Err(error) => Err(self.unknown(&error)),
        }
    }

    fn unknown(&self, error: &cache::Error) -> Error {
        let upstream = error.upstream();
        Error::Unknown(Unknown {
            rate_limited: matches!(upstream, Some(upstream::Error::RateLimited { .. })),
            retry_after: match error {
                cache::Error::Overloaded => Some(come_back()),
                _ => upstream.and_then(upstream::Error::retry_after),
            },
            ..Unknown::because(&self.key, error.to_string())
        })
    }

    /// A manifest, from the cache or upstream.
    pub async fn manifest(&self, image: &ImageName, reference: &Reference) -> Answer<Served<Manifest>, Error> {
        self.served(self.cache.manifest(image, reference).await)
    }

    /// Has what a manifest of its own refers to fetched.
    pub fn fetch_ahead(&self, image: &ImageName, served: &Served<Manifest>) {
        if served.by == self.key {
            self.cache.fetch_ahead(image, &served.value);
        }
    }

    /// A manifest, if it is cached.
    pub async fn stored_manifest(&self, image: &ImageName, digest: &Digest) -> Answer<Served<Manifest>, Error> {
        let reference = Reference::Digest(digest.clone());
        self.served(self.cache.cached_manifest(image, &reference).await)
    }

    /// A blob, from the cache or arriving from upstream.
    pub async fn blob(&self, image: &ImageName, digest: &Digest) -> Answer<Served<Blob>, Error> {
        self.served(self.cache.blob(image, digest).await)
    }

    /// A blob's length.
    pub async fn blob_size(&self, image: &ImageName, digest: &Digest) -> Answer<Served<u64>, Error> {
        self.served(self.cache.blob_size(image, digest).await)
    }

    /// A blob, if it is cached.
    pub async fn stored_blob(&self, image: &ImageName, digest: &Digest) -> Answer<Served<Blob>, Error> {
        self.served(self.cache.cached_blob(image, digest).await)
    }

    /// All tags that the upstream has, or while it fails, those that are cached.
    pub async fn tags(&self, image: &ImageName) -> Answer<Listed<String>, Error> {
        match self.cache.tags(image).await {
            Ok(answer) => Ok(answer.map(|cached| self.listed(cached, |tag| tag.to_string()))),
            Err(error) => Err(self.unknown(&error)),
        }
    }

    /// What refers to a manifest, upstream and in the cache.
    pub async fn referrers(&self, image: &ImageName, subject: &Digest) -> Result<Listed<Descriptor>, Error> {
        match self.cache.referrers(image, subject).await {
            Ok(answer) => Ok(answer
                .map(|cached| self.listed(cached, |descriptor| descriptor))
                .unwrap_or_default()),
            Err(error) => Err(self.unknown(&error)),
        }
    }

    fn listed<T, U>(&self, cached: cache::Cached<Vec<T>>, entry: impl Fn(T) -> U) -> Listed<U> {
        Listed {
            entries: cached.value.into_iter().map(entry).collect(),
            warnings: cached
                .warning
                .map(|warning| format!("`{}`: {warning}", self.key))
                .into_iter()
                .collect(),
        }
    }

    /// The images that something is cached of.
    pub async fn images(&self) -> Result<Listed<ImageName>, Error> {
        let mut entries = self.store.images(&self.key).await?;
        entries.retain(|image| self.cache.admits(image));
        Ok(Listed {
            entries,
            warnings: Vec::new(),
        })
    }

    /// Whether it is for this image at all.
    pub fn admits(&self, image: &ImageName) -> bool {
        self.cache.admits(image)
    }

    /// The one name of an image that may be called several.
    pub fn canonical(&self, image: &ImageName) -> ImageName {
        self.cache.canonical(image)
    }

    /// Where a manifest of it is asked for, the last being the upstream itself.
    pub fn places(&self, image: &ImageName, reference: &Reference) -> Vec<url::Url> {
        self.cache.places(image, reference)
    }

    /// Why the upstream would certainly not be asked for this, were nothing of it here.
    pub fn why_not_asked(&self, image: &ImageName, reference: &Reference) -> Option<&'static str> {
        if !self.cache.admits(image) {
            return Some("`include` and `exclude` leave it out: its upstream is never told of this name");
        }
        let remembers = self.cache.remembers_absence(image, reference);
        remembers.then_some("its upstream has said not long ago that it does not have it (`negative_ttl`)")
    }

    /// What it was built from.
    pub(super) const fn config(&self) -> &RemoteConfig {
        &self.config
    }

    /// Fetches an image ahead of time.
    pub async fn prefetch(
        &self,
        image: &ImageName,
        reference: &Reference,
        platforms: Option<&[Platform]>,
        tell: &mpsc::Sender<Piece>,
    ) -> Answer<Prefetched, Error> {
        let prefetched = self.cache.prefetch(image, reference, platforms, tell).await;
        prefetched.map_err(|error| self.unknown(&error))
    }

    /// What a tag means here, and has meant. Nobody is asked.
    pub async fn history(&self, image: &ImageName, tag: &Tag) -> Answer<TagHistory, Error> {
        let known = self
            .cache
            .known(image, tag)
            .await
            .map_err(|error| self.unknown(&error))?;
        Ok(known.map(|known| TagHistory {
            repository: self.key.clone(),
            image: image.clone(),
            record: known.record,
            meanings: known.meanings,
            hold: self.config.hold,
        }))
    }

    /// Lets a tag mean a digest until it is unpinned; without one, what it means. `origin` is for its history.
    pub async fn pin(
        &self,
        image: &ImageName,
        tag: &Tag,
        to: Option<&Digest>,
        origin: &'static str,
    ) -> Answer<Digest, Error> {
        let pinned = self.cache.pin(image, tag, to, origin).await;
        pinned.map_err(|error| self.unknown(&error))
    }

    /// Lets a tag mean again what upstream says. False when it was not pinned.
    pub async fn unpin(&self, image: &ImageName, tag: &Tag) -> Result<bool, Error> {
        let unpinned = self.cache.unpin(image, tag).await;
        unpinned.map_err(|error| self.unknown(&error))
    }

    /// That upstream did not have something of an image counts no more.
    pub fn forget_absences(&self, image: &ImageName) {
        self.cache.forget_absences(image);
    }

    /// What upstream did not have is asked for again.
    pub fn forget_all_absences(&self) {
        self.cache.forget_all_absences();
    }

    /// Whether something of an image is cached.
    pub async fn holds(&self, image: &ImageName) -> Result<bool, Error> {
        self.cache.holds(image).await.map_err(|error| self.unknown(&error))
    }
}
