//! What lets us in at an upstream, and which upstreams may see it.

use url::Url;

use super::{AmazonRegistry, Credentials, Environment};

/// What the hosts of Azure's registries end with.
const AZURE: [&str; 3] = [".azurecr.io", ".azurecr.cn", ".azurecr.us"];

/// What lets us in at an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// A user and password that are written down.
    Password(Credentials),
    /// Somebody gives it to us for a while, for what these variables say of who we are.
    Provided(Provider, Environment),
}

impl Login {
    /// What it is called in logs and metrics.
    pub fn name(&self) -> &str {
        match self {
            Self::Password(credentials) => &credentials.username,
            Self::Provided(provider, _) => provider.name(),
        }
    }
}

impl From<Credentials> for Login {
    fn from(credentials: Credentials) -> Self {
        Self::Password(credentials)
    }
}

/// Who gives us what lets us in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Amazon ECR.
    Ecr,
    /// Amazon's public registry.
    EcrPublic,
    /// Google's registries.
    Gcp,
    /// Azure's registries.
    Azure,
    /// docker's `config.json`, and the helper programs that it names.
    DockerConfig,
}

impl Provider {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ecr => "ecr",
            Self::EcrPublic => "ecr-public",
            Self::Gcp => "gcp",
            Self::Azure => "azure",
            Self::DockerConfig => "docker-config",
        }
    }

    /// What is wrong with showing a registry at this address what it gives. A host that was written down wrong, or
    /// registered by somebody who hopes for that, is shown nothing.
    pub fn objection(self, registry: &Url) -> Option<&'static str> {
        match self {
            Self::Ecr => AmazonRegistry::private(registry).err(),
            Self::EcrPublic => AmazonRegistry::public(registry).err(),
            Self::Gcp => objection(
                registry,
                |host| host == "gcr.io" || host.ends_with(".gcr.io") || host.ends_with(".pkg.dev"),
                "the url is none of Google's registries, https://LOCATION-docker.pkg.dev or https://gcr.io",
                "Google's registries are asked by https on port 443 and in no other way",
            ),
            Self::Azure => objection(
                registry,
                |host| AZURE.iter().any(|domain| host.ends_with(domain)),
                "the url is none of Azure's registries, https://NAME.azurecr.io",
                "Azure's registries are asked by https on port 443 and in no other way",
            ),
            // It holds logins by host.
            Self::DockerConfig => None,
        }
    }
}

fn objection(
    registry: &Url,
    is_theirs: fn(&str) -> bool,
    otherwise: &'static str,
    unusual: &'static str,
) -> Option<&'static str> {
    if !registry.host_str().is_some_and(is_theirs) {
        return Some(otherwise);
    }
    let is_usual = registry.scheme() == "https" && registry.port_or_known_default() == Some(443);
    (!is_usual).then_some(unusual)
}
