//! Upstreams that refuse, fail, or ask for patience: how often they are asked all the same, and who notices.

mod breakers;
mod budget;
mod mirrors;
mod storms;

use std::sync::Arc;

use entrepot::cache::Outcome;
use entrepot::config::RemoteConfig;
use entrepot::oci::{Digest, Reference};
use entrepot::telemetry::Metrics;
use entrepot::upstream::{Error, Upstream};

use super::support::remote::{Remote, image};

/// An upstream, asked without a store behind it.
fn asking(config: &RemoteConfig) -> Upstream {
    let metrics = Arc::new(Metrics::new().unwrap());
    Upstream::new(&"remote".parse().unwrap(), config, 64 * 1024, metrics).unwrap()
}

async fn manifest(upstream: &Upstream, name: &str, what: &str) -> Result<Option<Digest>, Error> {
    let reference: Reference = what.parse().unwrap();
    let answer = upstream.manifest(&image(name), &reference).await?;
    Ok(answer.map(|(manifest, _)| manifest.digest))
}

/// A pull that must be answered, and how it was.
async fn pull(remote: &Remote, name: &str, what: &str) -> (Outcome, Digest, Option<String>) {
    let answer = remote.tag(name, what).await.unwrap().expect("the manifest");
    (answer.outcome, answer.value.digest, answer.warning)
}
