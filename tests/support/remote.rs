//! A remote in front of a registry that misbehaves, over a real store in a directory of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use entrepot::cache::load::Load;
use entrepot::cache::{Blob, Cached, Error, Follower, Outcome, PullThrough};
use entrepot::config::{RemoteConfig, Share};
use entrepot::oci::{Digest, ImageName, Manifest, Reference, RepositoryKey};
use entrepot::store::{Options, Store};
use entrepot::telemetry::Metrics;
use tempfile::TempDir;

pub const MIB: usize = 1 << 20;

pub struct Remote {
    pub cache: PullThrough,
    pub store: Store,
    pub metrics: Arc<Metrics>,
    pub directory: TempDir,
}

pub fn key() -> RepositoryKey {
    "remote".parse().unwrap()
}

pub async fn pulling(config: &RemoteConfig) -> Remote {
    let directory = TempDir::new().unwrap();
    let metrics = Arc::new(Metrics::new().unwrap());
    let options = Options {
        path: directory.path().to_owned(),
        uploads: 1,
        upload_idle: Duration::from_secs(60),
        upload_limit: 1 << 30,
        min_free: Share::Bytes(0),
    };
    let store = Store::open(options, Arc::clone(&metrics)).await.unwrap();
    Remote {
        cache: again(config, &store, &metrics),
        store,
        metrics,
        directory,
    }
}

/// Another remote over the same store: as after a reload.
pub fn again(config: &RemoteConfig, store: &Store, metrics: &Arc<Metrics>) -> PullThrough {
    let load = Load::new(1000);
    PullThrough::new(&key(), config, 4 << 20, store.clone(), Arc::clone(metrics), load).unwrap()
}

pub fn image(name: &str) -> ImageName {
    name.parse().unwrap()
}

pub fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

impl Remote {
    pub async fn tag(&self, name: &str, tag: &str) -> Result<Option<Cached<Manifest>>, Error> {
        self.cache.manifest(&image(name), &reference(tag)).await
    }

    pub async fn blob(&self, name: &str, digest: &Digest) -> Result<Option<Cached<Blob>>, Error> {
        self.cache.blob(&image(name), digest).await
    }

    pub async fn arriving(&self, name: &str, digest: &Digest) -> Follower {
        let blob = self.blob(name, digest).await.unwrap().expect("the blob");
        assert_eq!(blob.outcome, Outcome::Miss);
        match blob.value {
            Blob::Arriving(follower) => follower,
            Blob::Stored(_) => panic!("it is stored already"),
        }
    }

    /// The whole of a blob, however it comes.
    pub async fn whole(&self, name: &str, digest: &Digest) -> Result<(Outcome, Vec<u8>), Error> {
        let blob = self.blob(name, digest).await?.expect("the blob");
        let bytes = match blob.value {
            Blob::Arriving(mut follower) => drain(&mut follower).await?,
            Blob::Stored(file) => {
                let mut bytes = vec![0; usize::try_from(file.size).unwrap()];
                let mut at = 0;
                while at < bytes.len() {
                    at += file.read_at(at as u64, &mut bytes[at..]).unwrap();
                }
                bytes
            }
        };
        Ok((blob.outcome, bytes))
    }

    pub fn counted(&self, series: &str) -> u64 {
        let text = String::from_utf8(self.metrics.render().unwrap()).unwrap();
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
            .unwrap_or(0)
    }

    /// That nothing of a fetch is left: no file in the spool, no blob, no fetch counted as under way.
    pub async fn assert_nothing_kept(&self, digest: &Digest) {
        assert!(self.store.open_blob(digest).await.unwrap().is_none());
        let spool = self.directory.path().join("spool");
        until("the spool is empty", || files(&spool) == 0).await;
        until("no fetch is under way", || {
            self.counted("entrepot_fetches{repository=\"remote\"}") == 0
        })
        .await;
    }
}

pub fn files(directory: &Path) -> usize {
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}

pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(10), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn drain(follower: &mut Follower) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = follower.next_chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
