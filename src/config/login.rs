//! What lets us in at an upstream, and which upstreams may see it.

use url::Url;

use super::{AmazonRegistry, Credentials, Environment};

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
    /// docker's `config.json`, and the helper programs that it names.
    DockerConfig,
}

impl Provider {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ecr => "ecr",
            Self::EcrPublic => "ecr-public",
            Self::DockerConfig => "docker-config",
        }
    }

    /// What is wrong with showing a registry at this address what it gives. A host that was written down wrong, or
    /// registered by somebody who hopes for that, is shown nothing.
    pub fn objection(self, registry: &Url) -> Option<&'static str> {
        match self {
            Self::Ecr => AmazonRegistry::private(registry).err(),
            Self::EcrPublic => AmazonRegistry::public(registry).err(),
            // It holds logins by host.
            Self::DockerConfig => None,
        }
    }
}
