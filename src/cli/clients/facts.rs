//! What of a configuration clients have to know.

use url::Url;

use crate::access::{Identity, Policies};
use crate::config::{Config, RepositoryConfig};
use crate::oci::RepositoryKey;
use crate::oci::operation::Action;
use crate::repository::router::namespaces;

/// What clients have to know of a server.
#[derive(Debug)]
pub(super) struct Facts {
    /// How its addresses begin: `https://registry.example.com`.
    pub(super) base: String,
    /// What names of images begin with: `registry.example.com`.
    pub(super) name: String,
    /// Whether it is reached by TLS.
    pub(super) secure: bool,
    /// Whose images it has: each upstream's host, and the repository that answers for it.
    pub(super) mirrored: Vec<Mirrored>,
    /// Where Docker Hub's images are for who can name no repository.
    pub(super) hub: Option<String>,
    /// A repository to pull from.
    pub(super) pull: Option<RepositoryKey>,
    /// A repository to push to.
    pub(super) push: Option<RepositoryKey>,
    /// What is not known.
    pub(super) warnings: Vec<String>,
}

/// A registry whose images are here.
#[derive(Debug)]
pub(super) struct Mirrored {
    /// What its images' names begin with.
    pub(super) host: String,
    /// Where requests go by themselves.
    pub(super) server: String,
    /// The repository.
    pub(super) key: RepositoryKey,
    /// Whether anybody may pull from it.
    pub(super) open: bool,
}

impl Facts {
    /// Those of a configuration, with another address than it says, if one is given.
    pub(super) fn of(config: &Config, url: Option<&str>) -> Result<Self, String> {
        let mut warnings = Vec::new();
        let base = base(config, url, &mut warnings)?;
        let policies = Policies::new(&config.auth);
        let is_open = |key: &RepositoryKey| policies.allow_all_of(&Identity::Anonymous, Action::Pull, key);
        let mirrored: Vec<Mirrored> = namespaces(config)
            .into_iter()
            .map(|(host, key)| Mirrored {
                server: match host.as_str() {
                    "docker.io" => "https://registry-1.docker.io".to_owned(),
                    host => format!("https://{host}"),
                },
                open: is_open(&key),
                host,
                key,
            })
            .collect();
        let spelled = base.as_str().trim_end_matches('/').to_owned();
        let hub = mirrored
            .iter()
            .find(|mirrored| mirrored.host == "docker.io")
            .map(|hub| &hub.key);
        let is_remote = |key| matches!(config.repositories.get(key), Some(RepositoryConfig::Remote(_)));
        // Images of Docker Hub are to be had by the default repository, or else by their own.
        let by_default = config
            .default
            .as_ref()
            .filter(|default| hub.is_some_and(|hub| hub == *default || is_remote(hub)));
        let pull = by_default
            .or(hub)
            .or(config.default.as_ref())
            .or_else(|| config.repositories.keys().next())
            .cloned();
        let hub = hub.map(|hub| match by_default {
            Some(_) => spelled.clone(),
            None => format!("{spelled}/{hub}"),
        });
        let has = |wanted: fn(&RepositoryConfig) -> bool| {
            let mut all = config.repositories.iter();
            all.find(|(_, written)| wanted(written)).map(|(key, _)| key.clone())
        };
        let push = has(|written| matches!(written, RepositoryConfig::Virtual(several) if several.push_to.is_some()))
            .or_else(|| has(|written| matches!(written, RepositoryConfig::Local(_))));
        if base.path() != "/" {
            warnings.push(format!(
                "names of images have no place for the path of {base}: what is printed by names or by the host alone needs this server at the root \
                 of its host"
            ));
        }
        let host = base.host_str().unwrap_or_default();
        Ok(Self {
            name: base
                .port()
                .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
            secure: base.scheme() == "https",
            base: spelled,
            mirrored,
            hub,
            pull,
            push,
            warnings,
        })
    }
}

/// What clients call the server.
fn base(config: &Config, url: Option<&str>, warnings: &mut Vec<String>) -> Result<Url, String> {
    if let Some(text) = url {
        let wrong = || format!("`--url {text}`: write what clients call the server, `https://registry.example.com`");
        let url: Url = text.parse().map_err(|_| wrong())?;
        let is_plain = matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty());
        let is_bare = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        return if is_plain && is_bare && url.fragment().is_none() {
            Ok(url)
        } else {
            Err(wrong())
        };
    }
    if let Some(url) = &config.server.external_url {
        return Ok(url.clone());
    }
    let scheme = if config.server.tls.is_some() { "https" } else { "http" };
    let first = config.server.listen.iter().find(|listen| listen.repository.is_none());
    let address = first
        .or_else(|| config.server.listen.first())
        .map(|listen| listen.address);
    let address = address.ok_or("the server listens nowhere: say what clients call it with `--url`")?;
    let address = if address.ip().is_unspecified() {
        warnings.push(
            "nothing says what clients call the server, so this is for clients on its own machine: set `server.external_url`, or \
             say it with `--url`"
                .to_owned(),
        );
        format!("127.0.0.1:{}", address.port())
    } else {
        address.to_string()
    };
    let text = format!("{scheme}://{address}");
    text.parse()
        .map_err(|_| format!("`{text}` is no address that clients can use: say it with `--url`"))
}
