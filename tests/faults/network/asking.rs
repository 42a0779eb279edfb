//! An upstream, asked without a store behind it.

use std::sync::Arc;

use entrepot::config::RemoteConfig;
use entrepot::oci::{Digest, ImageName, Reference};
use entrepot::telemetry::Metrics;
use entrepot::upstream::{Error, Range, Upstream};

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
    let mut stream = upstream
        .blob(&image(name), digest, Range::from(0), None)
        .await?
        .expect("the blob");
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Every kind of question about an image with one blob, whatever comes of it.
pub(super) async fn ask_everything(upstream: &Upstream, name: &str, digest: &Digest, blob_digest: &Digest) {
    let name = image(name);
    let tag: Reference = "v1".parse().unwrap();
    let _ = upstream.head_manifest(&name, &tag).await;
    let _ = upstream.manifest(&name, &tag).await;
    let _ = upstream.manifest(&name, &Reference::Digest(digest.clone())).await;
    let _ = upstream.head_blob(&name, blob_digest).await;
    if let Ok(Some(mut stream)) = upstream.blob(&name, blob_digest, Range::from(0), None).await {
        while let Ok(Some(_)) = stream.chunk().await {}
    }
    let _ = upstream.tags(&name).await;
    let _ = upstream.referrers(&name, digest).await;
}
