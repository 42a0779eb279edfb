//! One registry somewhere else.
//!
//! Asks it for manifests, blobs, tags and referrers, and says what it answers in three outcomes that are never mixed
//! up: here, certainly not here (its own 404), could not tell ([`Error`]). What it sends is checked before it is
//! believed. This room knows nothing of our store; it holds back no copy and serves none.
//!
//! Start reading at [`Upstream`]; `ask` is the road that every question takes, `send` the one exchange within it.

mod admission;
mod ask;
mod blobs;
mod breaker;
mod budget;
mod challenge;
mod clients;
mod credentials;
mod endpoint;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod guard;
mod health;
mod lanes;
mod lists;
mod manifests;
mod proxy;
mod purses;
mod range;
mod retry;
mod retry_after;
mod send;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderValue, Method};
use moka::sync::Cache;
use tokio::time::Instant;
use url::Url;

use crate::config::RemoteConfig;
use crate::oci::{ImageName, Reference, RepositoryKey};
use crate::telemetry::Metrics;
use ask::{Ask, Registry};
use endpoint::Endpoint;
use lanes::{Lane, Lanes};
use purses::Cost;
use retry::Allowance;

pub use blobs::BlobStream;
pub use budget::Budget;
pub use error::Error;
pub use lists::Referrers;
pub use manifests::Head;
pub use range::{Range, Validator};

/// The longest that a manifest or a page of a list may take as a whole.
const TOTAL: Duration = Duration::from_secs(30);
/// For how many blobs it is remembered which mirrors sent them.
const GIVERS: u64 = 1000;
/// The names that Docker Hub goes by.
const HUB_NAMES: [&str; 4] = [
    "docker.io",
    "index.docker.io",
    "registry-1.docker.io",
    "registry.hub.docker.com",
];
/// The one that answers the distribution API.
const HUB_REGISTRY: &str = "registry-1.docker.io";
/// What clients call it, `?ns=` among them.
const HUB_NAMESPACE: &str = "docker.io";

/// What a registry is called, of the names that it goes by; in lower case.
pub fn known_as(host: &str) -> &str {
    if HUB_NAMES.contains(&host) { HUB_NAMESPACE } else { host }
}

/// One registry somewhere else.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    repository: RepositoryKey,
    manifest_limit: u64,
    idle_timeout: Duration,
    registry: Registry,
    metrics: Arc<Metrics>,
}

impl Upstream {
    /// The upstream of a remote. Asks nothing yet.
    pub fn new(
        repository: &RepositoryKey,
        config: &RemoteConfig,
        manifest_limit: u64,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let home = Endpoint::home(repository, config, &metrics)?;
        let mirrors: Result<Vec<_>, Error> = config
            .mirrors
            .iter()
            .map(|url| Endpoint::mirror(repository, config, url, &metrics).map(Arc::new))
            .collect();
        if config.insecure {
            tracing::warn!(
                %repository,
                upstream = home.host,
                "insecure: nothing proves that this upstream is who it says, and credentials can be read on the way"
            );
        }
        Ok(Self(Arc::new(Inner {
            repository: repository.clone(),
            manifest_limit,
            idle_timeout: config.idle_timeout,
            registry: Registry {
                mirrors: mirrors?,
                home: Arc::new(home),
                lanes: Lanes::new(config.connections),
                first_byte_timeout: config.first_byte_timeout,
                allowance: Mutex::new(Allowance::new(Instant::now())),
                givers: Cache::new(GIVERS),
                metrics: Arc::clone(&metrics),
                repository: repository.as_str().into(),
            },
            metrics,
        })))
    }

    fn home(&self) -> &Endpoint {
        &self.0.registry.home
    }

    /// What is left of the pulls that the upstream allows, of whichever credential has most. `None` if there is nothing
    /// to be sparing with: nobody has said how many there are, or one that can be used is not counted.
    pub fn budget(&self) -> Option<Budget> {
        self.home().purses.best()
    }

    /// The registry's `host[:port]`, for messages; Docker Hub's is `docker.io`.
    pub fn host(&self) -> &str {
        &self.home().host
    }

    /// The one name of an image that may be called several: on Docker Hub `alpine` is `library/alpine`.
    pub fn canonical(&self, image: &ImageName) -> ImageName {
        self.home().canonical(image)
    }

    /// Where a manifest is asked for, in this order: the mirrors, and last the registry itself.
    pub fn places(&self, image: &ImageName, reference: &Reference) -> Vec<Url> {
        let image = self.canonical(image);
        let rest = format!("manifests/{reference}");
        let registry = &self.0.registry;
        let all = registry.mirrors.iter().chain([&registry.home]);
        all.filter_map(|endpoint| Some(endpoint.place(&image, &rest)?.url))
            .collect()
    }

    /// A question about an image. `None` when its name with the prefix would be longer than names are.
    fn question(&self, method: Method, image: &ImageName, rest: &str) -> Option<Ask> {
        let image = self.canonical(image);
        let place = self.home().place(&image, rest)?;
        let is_manifest = rest.starts_with("manifests/");
        // A list proves nothing by itself: what a mirror leaves out may be there all the same.
        let is_content = is_manifest || rest.starts_with("blobs/");
        let cost = if is_manifest && method == Method::GET {
            Cost::Pull
        } else {
            Cost::Nothing
        };
        Some(Ask {
            method,
            url: place.url,
            scope: place.scope,
            mirrored: is_content.then(|| (image, rest.to_owned())),
            accept: None,
            range: Range::default(),
            validator: None,
            lane: Lane::Short,
            cost,
            is_patient: true,
        })
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({} at {})", self.0.repository, self.host())
    }
}

/// The `?ns=` host that a remote stands for; none where only a part of that host's images is here, under other names.
pub fn namespace(config: &RemoteConfig) -> Option<String> {
    let (base, prefix, is_hub) = locate(config).ok()?;
    prefix.is_none().then(|| endpoint::host(&base, is_hub))
}

/// Where requests go, what names begin with there, and whether it is Docker Hub.
fn locate(config: &RemoteConfig) -> Result<(Url, Option<ImageName>, bool), Error> {
    let url = &config.url;
    let host = url.host_str().unwrap_or_default();
    if !matches!(url.scheme(), "http" | "https") || host.is_empty() {
        return Err(Error::Url("it is not an http or https address".to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::Url("credentials do not belong into it".to_owned()));
    }
    let path = url.path().trim_matches('/');
    let prefix = match path {
        "" => None,
        path => Some(
            path.parse()
                .map_err(|error| Error::Url(format!("its path is no prefix of image names: {error}")))?,
        ),
    };
    let is_hub = HUB_NAMES.contains(&host) && url.port_or_known_default() == Some(443);
    let mut base = url.clone();
    base.set_query(None);
    base.set_fragment(None);
    base.set_path("/");
    if is_hub {
        base.set_host(Some(HUB_REGISTRY))
            .map_err(|error| Error::Url(error.to_string()))?;
    }
    Ok((base, prefix, is_hub))
}

/// An `Accept` header of these types.
fn accept(types: &[&str]) -> Option<HeaderValue> {
    HeaderValue::try_from(types.join(", ")).ok()
}
