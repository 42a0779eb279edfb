//! From the name that a client writes to the repository and image that it means.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::virtual_repository::Member;
use super::{LocalRepository, RemoteRepository, Repository, VirtualRepository};
use crate::cache::load::Load;
use crate::config::{Config, RepositoryConfig};
use crate::oci::{ErrorCode, ImageName, Refusal, RepositoryKey};
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::upstream;

/// All repositories, and the ways to reach them.
#[derive(Debug)]
pub struct Repositories {
    by_key: BTreeMap<RepositoryKey, Repository>,
    /// The virtual repository that a host name is.
    by_host: HashMap<String, RepositoryKey>,
    /// `?ns=` host → the repository that answers for it.
    by_namespace: BTreeMap<String, RepositoryKey>,
    default: Option<RepositoryKey>,
    load: Arc<Load>,
}

/// What the request says, besides the name, of which repository it means.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hints<'a> {
    /// The key before `/v2`.
    pub prefix: Option<&'a RepositoryKey>,
    /// `?ns=`.
    pub namespace: Option<&'a str>,
    /// The repository that the listening address is.
    pub listener: Option<&'a RepositoryKey>,
    /// The `Host`, without its port.
    pub host: Option<&'a str>,
}

/// What a name means.
#[derive(Clone, Debug)]
pub struct Route {
    /// The repository.
    pub repository: Repository,
    /// The image in it.
    pub image: ImageName,
    /// `?ns=` decided; the answer says so in `OCI-Namespace`.
    pub by_namespace: bool,
}

impl Repositories {
    /// Builds every repository of a checked configuration. What can still fail is making an upstream's client.
    ///
    /// A remote whose configuration is the same as in `before` is taken over as it is, with the fetches under way and
    /// the tokens it has.
    pub fn new(
        config: &Config,
        store: &Store,
        metrics: &Arc<Metrics>,
        before: Option<&Self>,
    ) -> Result<Self, upstream::Error> {
        let load = match before {
            Some(before) => Arc::clone(&before.load),
            None => Load::new(config.server.limits.connections),
        };
        let mut by_key: BTreeMap<RepositoryKey, Repository> = BTreeMap::new();
        for (key, written) in &config.repositories {
            let repository = match written {
                RepositoryConfig::Local(local) => Repository::Local(Arc::new(LocalRepository::new(
                    key.clone(),
                    local.clone(),
                    store.clone(),
                ))),
                RepositoryConfig::Remote(remote) => {
                    let limit = config.server.limits.manifest;
                    match before.and_then(|before| before.by_key.get(key)) {
                        Some(Repository::Remote(same)) if same.is_configured_by(remote, limit) => {
                            // Who reloads wants to see what is there now.
                            same.forget_all_absences();
                            Repository::Remote(Arc::clone(same))
                        }
                        _ => Repository::Remote(Arc::new(RemoteRepository::new(
                            key.clone(),
                            (**remote).clone(),
                            limit,
                            store,
                            metrics,
                            &load,
                        )?)),
                    }
                }
                RepositoryConfig::Virtual(_) => continue,
            };
            by_key.insert(key.clone(), repository);
        }
        add_virtuals(config, &mut by_key);
        let mut by_host = HashMap::new();
        for (key, written) in &config.repositories {
            if let RepositoryConfig::Virtual(several) = written {
                by_host.extend(several.hosts.iter().map(|host| (host.clone(), key.clone())));
            }
        }
        Ok(Self {
            by_namespace: namespaces(config),
            by_key,
            by_host,
            default: config.default.clone(),
            load,
        })
    }

    /// What is under way, and what may be.
    pub const fn load(&self) -> &Arc<Load> {
        &self.load
    }

    /// The repository with this key.
    pub fn get(&self, key: &RepositoryKey) -> Option<&Repository> {
        self.by_key.get(key)
    }

    /// The remote repositories.
    pub fn remotes(&self) -> impl Iterator<Item = &Arc<RemoteRepository>> {
        self.by_key.values().filter_map(|repository| match repository {
            Repository::Remote(remote) => Some(remote),
            _ => None,
        })
    }

    /// Those that are pushed to.
    pub fn locals(&self) -> impl Iterator<Item = &Arc<LocalRepository>> {
        self.by_key.values().filter_map(|repository| match repository {
            Repository::Local(local) => Some(local),
            _ => None,
        })
    }

    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &RepositoryKey> {
        self.by_key.keys()
    }

    /// What a name means, by the first rule that fits: a key before `/v2` or in front of the name; `?ns=`; the address
    /// or host; the default.
    pub fn route(&self, name: &ImageName, hints: Hints<'_>) -> Result<Route, Lost> {
        if hints.prefix.is_some() {
            return Ok(Route {
                repository: self.surface(hints)?.ok_or(Lost::NoRepository)?,
                image: name.clone(),
                by_namespace: false,
            });
        }
        if let Some((first, image)) = name.split_first()
            && let Some(repository) = self.by_key.get(first)
        {
            return Ok(Route {
                repository: repository.clone(),
                image,
                by_namespace: false,
            });
        }
        let by_namespace = hints.namespace.is_some();
        let repository = self.surface(hints)?.ok_or(Lost::NoRepository)?;
        Ok(Route {
            repository,
            image: name.clone(),
            by_namespace,
        })
    }

    /// The repository that a request is addressed to apart from any name in it, if any.
    pub fn surface(&self, hints: Hints<'_>) -> Result<Option<Repository>, Lost> {
        if let Some(key) = hints.prefix {
            return match self.by_key.get(key) {
                Some(repository) => Ok(Some(repository.clone())),
                None => Err(Lost::NoRepository),
            };
        }
        let key = match hints.namespace {
            Some(namespace) => {
                let host = namespace.to_ascii_lowercase();
                let key = self.by_namespace.get(upstream::known_as(&host));
                // Nobody configured this host: it is never dialled.
                Some(key.ok_or(Lost::NoNamespace(host))?)
            }
            None => hints
                .listener
                .or_else(|| hints.host.and_then(|host| self.by_host.get(&host.to_ascii_lowercase())))
                .or(self.default.as_ref()),
        };
        Ok(key.and_then(|key| self.by_key.get(key)).cloned())
    }

    /// The host, without a port, that a registry in front of a name is, if it is one of a virtual repository's.
    pub fn host_of<'a>(&self, registry: &'a str) -> Option<&'a str> {
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        self.by_host.contains_key(&host.to_ascii_lowercase()).then_some(host)
    }

    /// Where a name goes that names no repository.
    pub const fn default_key(&self) -> Option<&RepositoryKey> {
        self.default.as_ref()
    }
}

/// Why a name leads to no repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It begins with none, and there is no default.
    NoRepository,
    /// Nobody answers for this `?ns=` host.
    NoNamespace(String),
}

impl Lost {
    /// What a client is told, who may know of these repositories.
    pub fn refusal<'a>(&self, keys: impl Iterator<Item = &'a RepositoryKey>) -> Refusal {
        let message = match self {
            Self::NoRepository => {
                let keys: Vec<&str> = keys.map(RepositoryKey::as_str).collect();
                format!(
                    "the name begins with no repository, and there is no default; the repositories are: {}",
                    keys.join(", ")
                )
            }
            Self::NoNamespace(host) => {
                let shown: String = host.chars().take(100).filter(|c| !c.is_control()).collect();
                format!("no repository here answers for `{shown}`: list it under a virtual repository's `serves`")
            }
        };
        Refusal::new(ErrorCode::NameUnknown, message)
    }
}

/// Virtual repositories, each after its members. The configuration was checked: there is no circle.
fn add_virtuals(config: &Config, by_key: &mut BTreeMap<RepositoryKey, Repository>) {
    let mut waiting: Vec<_> = config
        .repositories
        .iter()
        .filter_map(|(key, written)| match written {
            RepositoryConfig::Virtual(several) => Some((key, several)),
            _ => None,
        })
        .collect();
    while !waiting.is_empty() {
        let before = waiting.len();
        waiting.retain(|(key, several)| {
            let members: Option<Vec<Member>> = several
                .members
                .iter()
                .map(|member| {
                    Some(Member {
                        repository: by_key.get(&member.repository)?.clone(),
                        priority: member.priority,
                        hidden: false,
                    })
                })
                .collect();
            let Some(members) = members else {
                return true;
            };
            let push_to = several
                .push_to
                .as_ref()
                .and_then(|key| by_key.get(key)?.push_target().cloned());
            let repository = VirtualRepository::new((*key).clone(), members, push_to);
            by_key.insert((*key).clone(), Repository::Virtual(Arc::new(repository)));
            false
        });
        if waiting.len() == before {
            return;
        }
    }
}

/// Which repository answers for which `?ns=` host: one that `serves` it, the default repository first; else, of the
/// default repository, the remotes whose upstream it is.
pub fn namespaces(config: &Config) -> BTreeMap<String, RepositoryKey> {
    let mut hosts = BTreeMap::new();
    let default_first = config.default.iter().chain(config.repositories.keys());
    for key in default_first {
        if let Some(RepositoryConfig::Virtual(several)) = config.repositories.get(key) {
            for host in &several.serves {
                hosts
                    .entry(upstream::known_as(host).to_owned())
                    .or_insert_with(|| key.clone());
            }
        }
    }
    if let Some(default) = &config.default {
        add_upstreams(config, default, &mut hosts);
    }
    hosts
}

fn add_upstreams(config: &Config, key: &RepositoryKey, hosts: &mut BTreeMap<String, RepositoryKey>) {
    match config.repositories.get(key) {
        Some(RepositoryConfig::Remote(remote)) => {
            if let Some(host) = upstream::namespace(remote) {
                hosts.entry(host).or_insert_with(|| key.clone());
            }
        }
        Some(RepositoryConfig::Virtual(several)) => {
            for member in &several.members {
                add_upstreams(config, &member.repository, hosts);
            }
        }
        Some(RepositoryConfig::Local(_)) | None => {}
    }
}

pub(super) fn remotes(repository: &Repository) -> Vec<&Arc<RemoteRepository>> {
    match repository {
        Repository::Local(_) => Vec::new(),
        Repository::Remote(remote) => vec![remote],
        Repository::Virtual(several) => several.shown().flat_map(|member| remotes(&member.repository)).collect(),
    }
}
