//! Who may be shown the credentials of a remote.
//!
//! A registry chooses the address of its token endpoint itself (`realm`), so a registry that was taken over, or a
//! proxy in between, would only have to name its own to be handed the password: CVE-2020-15157 and its many siblings.
//! Hosts are compared as hosts, never as prefixes of a URL.
//!
//! What is shown the credentials: the registry itself, hosts in `token_realms`, and over https other names of the
//! registry's own domain, as `auth.docker.io` is one of `registry-1.docker.io`'s. Which part of a name can be owned, the
//! public suffix list says, its private section too, and [`SHARED`] for registries: `evil.azurecr.io` is not the neighbour
//! of `me.azurecr.io`.

mod amazon;
mod azure;
mod calls;
mod docker_config;
mod ecr;
mod files;
#[cfg(fuzzing)]
pub(super) mod fuzzing;
mod google;
mod oauth;
mod renewed;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use futures_util::FutureExt as _;
use http::HeaderValue;
use tokio::time::Instant;
use url::{Host, Url};

use super::Error;
use crate::config::{AmazonRegistry, Environment, Login, Provider, RemoteConfig, Secret};
use azure::Azure;
use calls::Caller;
use docker_config::DockerConfig;
use ecr::Ecr;
use google::Google;
use renewed::{Fetch, Given, Renewed};

/// Domains of clouds whose customers each get a name below them, and which the public suffix list does not have: nobody
/// is a neighbour there.
const SHARED: [&str; 19] = [
    "aliyuncs.com",
    "amazonaws.com",
    "amazonaws.com.cn",
    "amazonaws.eu",
    "amazonwebservices.com.cn",
    "amazonwebservices.eu",
    "api.aws",
    "azurecr.cn",
    "azurecr.io",
    "azurecr.us",
    "googleapis.com",
    "jfrog.io",
    "myhuaweicloud.com",
    "ocir.io",
    "on.aws",
    "oraclecloud.com",
    "ovh.net",
    "tencentcloudcr.com",
    "windows.net",
];

/// What we show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// A user and password, to the registry or to its token endpoint.
    Basic(HeaderValue),
    /// A token for tokens, to its token endpoint alone.
    Refresh(Secret),
}

/// What lets us in with one of the credentials.
enum Way {
    /// Written down, so always the same. `None` if it cannot be sent.
    Fixed(Option<Proof>),
    /// Given to us for a while.
    Renewed(Renewed),
}

/// The credentials of one remote, and where they may go.
pub(super) struct Keyring {
    ways: Vec<Way>,
    registry: Url,
    realms: Vec<String>,
    warned: AtomicBool,
}

impl Keyring {
    /// `registry` is where the requests go, which for Docker Hub is not what the configuration says.
    pub(super) fn new(repository: &str, config: &RemoteConfig, registry: Url) -> Result<Self, Error> {
        let way = |login: &Login| match login {
            Login::Password(known) => Ok(Way::Fixed(Proof::basic(&known.username, known.password.reveal()))),
            Login::Provided(provider, environment) => {
                provided(*provider, environment, repository, config, &registry).map(Way::Renewed)
            }
        };
        let ways: Result<Vec<Way>, Error> = config.credentials.iter().map(way).collect();
        Ok(Self {
            ways: ways?,
            realms: config
                .token_realms
                .iter()
                .map(|realm| realm.to_ascii_lowercase())
                .collect(),
            warned: AtomicBool::new(false),
            registry,
        })
    }

    /// Whether there are any.
    pub(super) fn has_any(&self) -> bool {
        !self.ways.is_empty()
    }

    /// One of them, for the registry or a token endpoint that may see it. `None` without credentials.
    pub(super) async fn proof(&self, who: usize, deadline: Instant) -> Result<Option<Proof>, Error> {
        match self.ways.get(who) {
            None => Ok(None),
            Some(Way::Fixed(value)) => Ok(value.clone()),
            Some(Way::Renewed(renewed)) => renewed.get(deadline).await.map(Some),
        }
    }

    /// Another one in the place of one that was refused. `None` if it is not that it was too old.
    pub(super) async fn instead_of(&self, who: usize, refused: &Proof, deadline: Instant) -> Option<Proof> {
        match self.ways.get(who)? {
            Way::Fixed(_) => None,
            Way::Renewed(renewed) => renewed.instead_of(refused, deadline).await,
        }
    }

    /// Whether a token endpoint may see them; otherwise it is asked anonymously, and the log says so once.
    pub(super) fn may_see(&self, repository: &str, realm: &Url, who: usize) -> bool {
        if who >= self.ways.len() {
            return false;
        }
        if self.trusts(realm) {
            return true;
        }
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                repository,
                upstream = self.registry.host_str().unwrap_or_default(),
                realm = realm.host_str().unwrap_or_default(),
                "the upstream names a token endpoint on another host, which is not shown the credentials: if it is \
                 right, list it in token_realms"
            );
        }
        false
    }

    /// Whether an address may be asked at all: never in the clear on behalf of an upstream that is not.
    pub(super) fn may_ask(&self, realm: &Url) -> bool {
        realm.scheme() == "https" || self.registry.scheme() == "http"
    }

    fn trusts(&self, realm: &Url) -> bool {
        if !self.may_ask(realm) {
            return false;
        }
        let Some(host) = realm.host_str() else { return false };
        let port = realm.port_or_known_default();
        let is_registry = Some(host) == self.registry.host_str() && port == self.registry.port_or_known_default();
        let is_neighbour = realm.scheme() == "https" && port == Some(443) && share_a_domain(&self.registry, realm);
        let with_port = port.map(|port| format!("{host}:{port}"));
        let is_listed = self
            .realms
            .iter()
            .any(|listed| listed == host || Some(listed) == with_port.as_ref());
        is_registry || is_neighbour || is_listed
    }
}

/// What the word in the configuration stands for.
fn provided(
    provider: Provider,
    environment: &Environment,
    repository: &str,
    config: &RemoteConfig,
    registry: &Url,
) -> Result<Renewed, Error> {
    let unfit = |reason| Error::Configuration {
        key: format!("repositories.{repository}.credentials"),
        reason: format!("`{}` cannot be shown there: {reason}", provider.name()),
    };
    if let Some(objection) = provider.objection(registry) {
        return Err(unfit(objection));
    }
    let caller = || Caller::new(config).map(Arc::new);
    let own = environment.clone();
    let fetch = match provider {
        Provider::Ecr => {
            let registry = AmazonRegistry::private(registry).map_err(unfit)?;
            repeat(Ecr::new(registry, own, caller()?), Ecr::fetch)
        }
        Provider::EcrPublic => {
            let registry = AmazonRegistry::public(registry).map_err(unfit)?;
            repeat(Ecr::new(registry, own, caller()?), Ecr::fetch)
        }
        Provider::Gcp => repeat(Google::new(own, caller()?), Google::fetch),
        Provider::Azure => repeat(Azure::new(registry, own, caller()?), Azure::fetch),
        Provider::DockerConfig => repeat(DockerConfig::new(registry, own), DockerConfig::fetch),
    };
    Ok(Renewed::new(repository, provider.name(), fetch))
}

/// A question that can be asked again and again.
fn repeat<T, F>(giver: T, fetch: fn(Arc<T>) -> F) -> Fetch
where
    T: Send + Sync + 'static,
    F: Future<Output = Result<Given, Error>> + Send + 'static,
{
    let giver = Arc::new(giver);
    Box::new(move || fetch(Arc::clone(&giver)).boxed())
}

impl Proof {
    /// `Authorization: Basic …`. `None` if it cannot be sent.
    fn basic(username: &str, password: &str) -> Option<Self> {
        let plain = format!("{username}:{password}");
        let text = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(plain));
        let mut value = HeaderValue::try_from(text).ok()?;
        value.set_sensitive(true);
        Some(Self::Basic(value))
    }

    /// What is in it.
    #[cfg(test)]
    fn revealed(&self) -> String {
        match self {
            Self::Basic(header) => {
                let text = header.to_str().expect("text").strip_prefix("Basic ").expect("Basic");
                let plain = base64::engine::general_purpose::STANDARD.decode(text);
                String::from_utf8(plain.expect("base64")).expect("text")
            }
            Self::Refresh(token) => format!("refresh {}", token.reveal()),
        }
    }
}

/// That there is nothing that lets us in, and why.
fn missing(why: impl Into<String>) -> Error {
    Error::Credentials(why.into())
}

/// Whether two hosts are names of one domain that somebody has registered. Addresses are names of nothing, and below an
/// ending that the public suffix list does not know (`cluster.local`, `internal`), who knows who owns what.
fn share_a_domain(one: &Url, other: &Url) -> bool {
    let domain = |url: &Url| match url.host()? {
        Host::Domain(name) => registrable(name).map(str::to_owned),
        Host::Ipv4(_) | Host::Ipv6(_) => None,
    };
    domain(one).is_some_and(|one| domain(other) == Some(one))
}

fn registrable(name: &str) -> Option<&str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let domain = psl::domain(name.as_bytes()).filter(|domain| domain.suffix().is_known())?;
    let domain = std::str::from_utf8(domain.as_bytes()).ok()?;
    let is_shared = SHARED
        .iter()
        .any(|shared| domain == *shared || domain.strip_suffix(shared).is_some_and(|rest| rest.ends_with('.')));
    (!is_shared).then_some(domain)
}

#[cfg(test)]
mod tests {
    use super::super::tests::remote;
    use super::*;
    use crate::config::Credentials;

    fn keyring(registry: &str, realms: &[&str]) -> Keyring {
        let mut config = remote(registry);
        config.token_realms = realms.iter().map(ToString::to_string).collect();
        config.credentials.push(Login::Password(Credentials {
            username: "ada".to_owned(),
            password: Secret::new("lovelace"),
        }));
        let registry = config.url.clone();
        Keyring::new("r", &config, registry).expect("a keyring")
    }

    #[test]
    fn only_the_registry_itself_and_listed_hosts_see_the_credentials() {
        let hub = keyring("https://registry-1.docker.io", &[]);
        let own = keyring("https://r.example.com", &["Auth.example.org", "b.example.org:8443"]);
        let plain = keyring("http://localhost:5000", &[]);
        for (keyring, realm, sees) in [
            (&own, "https://r.example.com/token", true),
            (&own, "https://r.example.com:443/token?service=x", true),
            (&own, "https://r.example.com:444/token", false),
            (&own, "http://r.example.com/token", false),
            (&own, "http://r.example.com:443/token", false),
            (&own, "https://auth.example.org/token", true),
            (&own, "https://auth.example.org:9/token", true),
            (&own, "http://auth.example.org/token", false),
            (&own, "https://b.example.org:8443/token", true),
            (&own, "https://b.example.org/token", false),
            (&own, "https://r.example.com.evil.org/token", false),
            (&own, "https://evil.org/r.example.com", false),
            (&own, "https://example.com/token", true),
            (&own, "https://auth.example.com./token", true),
            (&own, "https://auth.example.com:8443/token", false),
            (&own, "http://auth.example.com/token", false),
            (&own, "https://auth.example.co/token", false),
            (&own, "https://badexample.com/token", false),
            (&own, "https://com/token", false),
            (&own, "https://127.0.0.1/token", false),
            (&own, "https://[::1]/token", false),
            (&own, "https://localhost/token", false),
            (&own, "https://auth.docker.io/token", false),
            (&hub, "https://auth.docker.io/token", true),
            (&hub, "https://auth.docker.io:8443/token", false),
            (&hub, "http://auth.docker.io/token", false),
            (&plain, "http://localhost:5000/token", true),
            (&plain, "http://localhost:5001/token", false),
            (&plain, "https://localhost:5000/token", true),
        ] {
            let realm: Url = realm.parse().expect("a URL");
            assert_eq!(keyring.may_see("r", &realm, 0), sees, "{realm}");
        }
    }

    /// Names of one domain, and those that only look so: whoever rents a name below a public suffix is no neighbour.
    #[test]
    fn a_domain_is_what_somebody_has_registered() {
        for (registry, realm, sees) in [
            ("https://me.azurecr.io", "https://me.azurecr.io/oauth2/token", true),
            ("https://me.azurecr.io", "https://evil.azurecr.io/oauth2/token", false),
            ("https://me.azurecr.io", "https://azurecr.io/oauth2/token", false),
            (
                "https://1.dkr-ecr.us-east-1.on.aws",
                "https://x.vpc-lattice-svcs.us-east-1.on.aws/token",
                false,
            ),
            ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth", true),
            ("https://git.example.co.uk:5050", "https://example.co.uk/jwt/auth", true),
            ("https://git.example.co.uk", "https://other.co.uk/jwt/auth", false),
            (
                "https://1.dkr.ecr.us-east-1.amazonaws.com",
                "https://2.dkr.ecr.us-east-1.amazonaws.com/",
                false,
            ),
            ("https://acme.jfrog.io", "https://evil.jfrog.io/token", false),
            ("https://ada.github.io", "https://eve.github.io/token", false),
            ("https://a.s3.amazonaws.com", "https://b.s3.amazonaws.com/token", false),
            ("https://a.web.app", "https://b.web.app/token", false),
            (
                "https://r.registry.svc.cluster.local",
                "https://x.evil.svc.cluster.local/t",
                false,
            ),
            (
                "https://registry.corp.internal",
                "https://auth.corp.internal/token",
                false,
            ),
            ("https://registry.lan", "https://registry.lan/token", true),
            ("https://10.0.0.1", "https://10.0.0.2/token", false),
            ("https://10.0.0.1", "https://10.0.0.1/token", true),
            ("http://r.example.com", "http://auth.example.com/token", false),
            ("http://r.example.com", "https://auth.example.com/token", true),
            (
                "https://xn--bcher-kva.example",
                "https://b\u{fc}cher.example/token",
                true,
            ),
        ] {
            let url: Url = realm.parse().expect("a URL");
            assert_eq!(
                keyring(registry, &[]).may_see("r", &url, 0),
                sees,
                "{registry} -> {realm}"
            );
        }
    }

    #[test]
    fn the_header_is_what_the_specification_says_and_is_not_printed() {
        let Some(Way::Fixed(Some(Proof::Basic(value)))) = keyring("https://r.example.com", &[]).ways.pop() else {
            panic!("no password");
        };
        assert_eq!(value.to_str().expect("text"), "Basic YWRhOmxvdmVsYWNl");
        assert!(!format!("{value:?}").contains("YWRh"));
    }
}
