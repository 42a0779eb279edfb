//! A remote repository: a pull-through cache of one upstream. Clients' bytes have no way in.

use std::sync::Arc;

use super::{Error, Listed, Served, Unknown};
use crate::cache::{self, Blob, PullThrough};
use crate::config::RemoteConfig;
use crate::oci::{Answer, Descriptor, Digest, ImageName, Manifest, Reference, RepositoryKey};
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
    ) -> Result<Self, upstream::Error> {
        let cache = PullThrough::new(&key, &config, manifest_limit, store.clone(), Arc::clone(metrics))?;
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

    /// The `?ns=` hosts that mean its upstream.
    pub fn namespaces(&self) -> Vec<String> {
        self.cache.namespaces().into_iter().map(str::to_owned).collect()
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
            retry_after: upstream.and_then(upstream::Error::retry_after),
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
