//! An upstream, asked without a store behind it.

use std::sync::Arc;

use entrepot::config::RemoteConfig;
use entrepot::oci::{Digest, ImageName, Reference};
use entrepot::telemetry::Metrics;
use entrepot::upstream::{Error, Upstream};

/// The longest manifest that is taken.
pub(super) const LIMIT: u64 = 64 * 1024;

pub(super) fn upstream(config: &RemoteConfig) -> Result<Upstream, Error> {
    let metrics = Arc::new(Metrics::new().unwrap());
    Upstream::new(&"remote".parse().unwrap(), config, LIMIT, metrics)
}

pub(super) fn asking(config: &RemoteConfig) -> Upstream {
    upstream(config).unwrap()
}

pub(super) fn image(name: &str) -> ImageName {
    name.parse().unwrap()
}

pub(super) async fn manifest(upstream: &Upstream, name: &str, what: &str) -> Result<Option<Digest>, Error> {
    let reference: Reference = what.parse().unwrap();
    let answer = upstream.manifest(&image(name), &reference).await?;
    Ok(answer.map(|(manifest, _)| manifest.digest))
}

pub(super) async fn blob(upstream: &Upstream, name: &str, digest: &Digest) -> Result<Vec<u8>, Error> {
    let mut stream = upstream.blob(&image(name), digest, 0).await?.expect("the blob");
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
