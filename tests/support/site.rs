//! Repositories of a configuration, without a server in front of them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use entrepot::cache::Blob;
use entrepot::config::{Config, Environment, RemoteConfig, RepositoryConfig, load_text};
use entrepot::oci::media_type::OCI_MANIFEST;
use entrepot::oci::{Digest, ImageName, Manifest, Reference};
use entrepot::repository::router::Hints;
use entrepot::repository::{Error, Repositories, Route, Served};
use entrepot::store::{NOBODY, Store};
use entrepot::telemetry::Metrics;
use tempfile::TempDir;

use super::upstream::digest;

pub struct Site {
    pub repositories: Repositories,
    pub config: Config,
    pub store: Store,
    pub metrics: Arc<Metrics>,
    pub directory: TempDir,
}

/// The repositories of this text. Of every remote, what cannot be said in it yet, or takes too long for a test, is set
/// by `change`.
pub async fn site(text: &str, change: impl Fn(&str, &mut RemoteConfig)) -> Site {
    let directory = TempDir::new().unwrap();
    let environment: Environment = std::iter::empty::<(String, String)>().collect();
    let loaded = load_text("(test)", text, Path::new("."), &environment);
    let mut config = loaded.unwrap_or_else(|problems| panic!("{problems:?}")).config;
    for (key, repository) in &mut config.repositories {
        if let RepositoryConfig::Remote(remote) = repository {
            remote.revalidate_timeout = Duration::from_millis(300);
            remote.first_byte_timeout = Duration::from_secs(2);
            remote.fetch_parts = 1;
            remote.prefetch_layers = false;
            change(key.as_str(), remote);
        }
    }
    let metrics = Arc::new(Metrics::new().unwrap());
    config.storage.path = directory.path().to_owned();
    let store = Store::open(entrepot::app::store_options(&config), Arc::clone(&metrics))
        .await
        .unwrap();
    Site {
        repositories: Repositories::new(&config, &store, &metrics, None).unwrap(),
        config,
        store,
        metrics,
        directory,
    }
}

impl Site {
    /// As a reload with the same configuration does it.
    pub fn reload(&mut self) {
        let before = &self.repositories;
        self.repositories = Repositories::new(&self.config, &self.store, &self.metrics, Some(before)).unwrap();
    }

    pub fn route(&self, name: &str) -> Route {
        let name: ImageName = name.parse().unwrap();
        self.repositories.route(&name, Hints::default()).unwrap()
    }

    pub async fn manifest(&self, name: &str, reference: &str) -> Result<Option<Served<Manifest>>, Error> {
        let route = self.route(name);
        let reference: Reference = reference.parse().unwrap();
        route.repository.manifest(&route.image, &reference).await
    }

    pub async fn blob(&self, name: &str, digest: &Digest) -> Result<Option<Served<Blob>>, Error> {
        let route = self.route(name);
        route.repository.blob(&route.image, digest).await
    }

    pub async fn blob_size(&self, name: &str, digest: &Digest) -> Result<Option<Served<u64>>, Error> {
        let route = self.route(name);
        route.repository.blob_size(&route.image, digest).await
    }

    /// Pushes an image without layers.
    pub async fn push(&self, name: &str, tag: &str, content: &str) -> Result<Digest, Error> {
        let route = self.route(name);
        let target = route.repository.push_target().expect("it takes pushes");
        let config = Bytes::from(content.to_owned());
        let mut upload = target.begin_upload(&route.image, None, NOBODY).await?;
        upload.append(&config)?;
        upload.finish(&digest(&config)).await?;
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[]}}"#,
            digest(&config),
            config.len()
        );
        let reference: Reference = tag.parse().unwrap();
        let pushed = target.push_manifest(&route.repository, &route.image, &reference, &[], text.into(), None);
        Ok(pushed.await?.digest)
    }
}
