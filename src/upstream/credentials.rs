//! Who may be shown the credentials of a remote.
//!
//! A registry chooses the address of its token endpoint itself (`realm`), so a registry that was taken over, or a
//! proxy in between, would only have to name its own to be handed the password: CVE-2020-15157 and its many siblings.
//! Hosts are compared as hosts, never as prefixes of a URL.

use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use http::HeaderValue;
use url::Url;

use crate::config::{Credentials, RemoteConfig};

/// The token endpoint that belongs to Docker Hub although it is another host.
const HUB_REALM: &str = "auth.docker.io";

/// The credentials of one remote, and where they may go.
pub(super) struct Keyring {
    credentials: Vec<Credentials>,
    registry: Url,
    is_hub: bool,
    realms: Vec<String>,
    warned: AtomicBool,
}

impl Keyring {
    /// `registry` is where the requests go, which for Docker Hub is not what the configuration says.
    pub(super) fn new(config: &RemoteConfig, registry: Url, is_hub: bool) -> Self {
        Self {
            credentials: config.credentials.clone(),
            registry,
            is_hub,
            realms: config
                .token_realms
                .iter()
                .map(|realm| realm.to_ascii_lowercase())
                .collect(),
            warned: AtomicBool::new(false),
        }
    }

    /// `Authorization: Basic …` of one of them, for the registry itself. `None` without credentials.
    pub(super) fn basic(&self, who: usize) -> Option<HeaderValue> {
        let credentials = self.credentials.get(who)?;
        let plain = format!("{}:{}", credentials.username, credentials.password.reveal());
        let text = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(plain));
        let mut value = HeaderValue::try_from(text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// The same for a token endpoint, if it is one of those that may see it; otherwise it is asked anonymously, and
    /// the log says so once.
    pub(super) fn for_realm(&self, repository: &str, realm: &Url, who: usize) -> Option<HeaderValue> {
        let basic = self.basic(who)?;
        if self.trusts(realm) {
            return Some(basic);
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
        None
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
        let is_hub = self.is_hub && host == HUB_REALM && realm.scheme() == "https" && port == Some(443);
        let with_port = port.map(|port| format!("{host}:{port}"));
        let is_listed = self
            .realms
            .iter()
            .any(|listed| listed == host || Some(listed) == with_port.as_ref());
        is_registry || is_hub || is_listed
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::remote;
    use super::*;
    use crate::config::Secret;

    fn keyring(registry: &str, realms: &[&str], is_hub: bool) -> Keyring {
        let mut config = remote(registry);
        config.token_realms = realms.iter().map(ToString::to_string).collect();
        config.credentials.push(Credentials {
            username: "ada".to_owned(),
            password: Secret::new("lovelace"),
        });
        let registry = config.url.clone();
        Keyring::new(&config, registry, is_hub)
    }

    #[test]
    fn only_the_registry_itself_and_listed_hosts_see_the_credentials() {
        let hub = keyring("https://registry-1.docker.io", &[], true);
        let own = keyring(
            "https://r.example.com",
            &["Auth.example.com", "b.example.com:8443"],
            false,
        );
        let plain = keyring("http://localhost:5000", &[], false);
        for (keyring, realm, sees) in [
            (&own, "https://r.example.com/token", true),
            (&own, "https://r.example.com:443/token?service=x", true),
            (&own, "https://r.example.com:444/token", false),
            (&own, "http://r.example.com/token", false),
            (&own, "http://r.example.com:443/token", false),
            (&own, "https://auth.example.com/token", true),
            (&own, "https://auth.example.com:9/token", true),
            (&own, "http://auth.example.com/token", false),
            (&own, "https://b.example.com:8443/token", true),
            (&own, "https://b.example.com/token", false),
            (&own, "https://r.example.com.evil.org/token", false),
            (&own, "https://evil.org/r.example.com", false),
            (&own, "https://example.com/token", false),
            (&own, "https://auth.docker.io/token", false),
            (&hub, "https://auth.docker.io/token", true),
            (&hub, "https://auth.docker.io:8443/token", false),
            (&hub, "http://auth.docker.io/token", false),
            (&plain, "http://localhost:5000/token", true),
            (&plain, "http://localhost:5001/token", false),
            (&plain, "https://localhost:5000/token", true),
        ] {
            let realm: Url = realm.parse().expect("a URL");
            assert_eq!(keyring.for_realm("r", &realm, 0).is_some(), sees, "{realm}");
        }
    }

    #[test]
    fn the_header_is_what_the_specification_says_and_is_not_printed() {
        let value = keyring("https://r.example.com", &[], false)
            .basic(0)
            .expect("credentials");
        assert_eq!(value.to_str().expect("text"), "Basic YWRhOmxvdmVsYWNl");
        assert!(!format!("{value:?}").contains("YWRh"));
    }
}
