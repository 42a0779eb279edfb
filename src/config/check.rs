//! Written → meant: from the structures of [`file`](super::file) to a [`Config`].
//!
//! Nothing here stops at a mistake. What is wrong is reported and something harmless put in its place, so that the
//! next mistake is found in the same run; a configuration with problems is thrown away at the end.

mod auth;
mod local;
mod proof;
mod remote;
mod virtuals;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::field::{Entries, Field, OneOrMore};
use super::file::{self, Limits, Repository, Written};
use super::findings::{Finding, Findings};
use super::node::At;
use super::scalar::{Count, Size, Time, Timeout};
use super::spelling::nearest;
use super::units::excerpt;
use super::{
    Config, Environment, GcConfig, Listen, RepositoryConfig, ScrubConfig, ServerConfig, Share, StorageConfig, TlsConfig,
};
use crate::oci::RepositoryKey;

const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5000);
const MIN_FREE: Share = Share::Percent(5);
const SCRUB: ScrubConfig = ScrubConfig {
    every: Some(Duration::from_secs(7 * 24 * 3600)),
    rate: 20 << 20,
};
const GC: GcConfig = GcConfig {
    every: Some(Duration::from_secs(6 * 60 * 60)),
    grace: Duration::from_secs(24 * 60 * 60),
};
/// A push that takes longer than this from a blob to its manifest is nothing unusual.
const SHORT_GRACE: Duration = Duration::from_secs(5 * 60);
const STORAGE: &str = "./data";
const DRAIN: Duration = Duration::from_secs(60);
const LIMITS: super::Limits = super::Limits {
    manifest: 4 << 20,
    upload: 100 << 30,
    uploads: 1000,
    upload_idle: Duration::from_secs(24 * 60 * 60),
    connections: 4096,
    header_timeout: Duration::from_secs(10),
};

/// Turns what is written into what is meant. What is wrong with it is in the findings afterwards.
pub(super) fn check(
    written: &Written,
    directory: &Path,
    environment: &Environment,
    findings: &Findings,
) -> (Config, Vec<PathBuf>) {
    let mut checker = Checker {
        directory,
        environment,
        findings,
        kinds: kinds(&written.repositories),
        files: Vec::new(),
    };
    let config = checker.config(written);
    (config, checker.files)
}

/// What is known of a repository before it is checked, by its key.
#[derive(Clone, Copy)]
enum Kind<'a> {
    Local,
    Remote {
        /// Whether it says which images are its own.
        chooses: bool,
    },
    Virtual(&'a file::Virtual),
    /// Its type is wrong. It exists all the same.
    Unknown,
}

fn kinds(repositories: &Field<Entries<Repository>>) -> BTreeMap<&str, Kind<'_>> {
    let entries = repositories.get().map_or(&[][..], |entries| &entries.0);
    let kinds = entries.iter().filter_map(|(key, repository)| {
        let kind = match repository.get() {
            Some(Repository::Local(_)) => Kind::Local,
            Some(Repository::Remote(remote)) => Kind::Remote {
                chooses: !remote.include.is_absent() || !remote.exclude.is_absent(),
            },
            Some(Repository::Virtual(written)) => Kind::Virtual(written),
            None => Kind::Unknown,
        };
        Some((key.get()?.as_str(), kind))
    });
    kinds.collect()
}

struct Checker<'a> {
    /// What relative paths are relative to.
    directory: &'a Path,
    /// What lets us in with a cloud may come from.
    environment: &'a Environment,
    findings: &'a Findings,
    kinds: BTreeMap<&'a str, Kind<'a>>,
    /// The files that belong to the configuration.
    files: Vec<PathBuf>,
}

impl<'a> Checker<'a> {
    fn config(&mut self, written: &'a Written) -> Config {
        let storage = written.storage.get().and_then(|storage| storage.path.get());
        let backups = written.storage.get().and_then(|storage| storage.backups.get());
        let config = Config {
            server: self.server(written),
            storage: StorageConfig {
                path: self.path(storage.map_or(STORAGE, String::as_str)),
                min_free: written
                    .storage
                    .get()
                    .and_then(|storage| storage.min_free.get())
                    .map_or(MIN_FREE, |part| part.0),
                gc: self.gc(written.storage.get().and_then(|storage| storage.gc.get())),
                scrub: scrub(written.storage.get().and_then(|storage| storage.scrub.get())),
                backups: backups.map(|path| self.path(path)),
            },
            auth: self.auth(written),
            repositories: self.repositories(written),
            default: self.reference(&written.default),
            audit: self.audit(&written.audit),
        };
        self.virtuals();
        config
    }

    fn server(&mut self, written: &Written) -> ServerConfig {
        let server = written.server.get().unwrap_or(&NO_SERVER);
        let guarded = !written.auth.is_absent();
        let listen = self.listen(&server.listen, guarded);
        let metrics = server.metrics.with_place().map(|(at, address)| {
            if listen.iter().any(|listen| is_same(listen.address, address.0)) {
                self.problem(
                    Finding::new(at, format!("`{}` is where the server listens itself", address.0))
                        .hint("without this key, `/metrics` is served there"),
                );
            }
            address.0
        });
        ServerConfig {
            listen,
            metrics,
            tls: server.tls.with_place().and_then(|(at, tls)| self.tls(at, tls)),
            external_url: server.external_url.get().map(|url| url.0.clone()),
            trusted_proxies: server
                .trusted_proxies
                .get()
                .map(|all| all.iter().filter_map(|net| Some(net.get()?.0)).collect())
                .unwrap_or_default(),
            limits: limits(server.limits.get()),
            drain: time(&server.drain, DRAIN),
        }
    }

    fn listen(&mut self, written: &Field<OneOrMore<file::Listen>>, guarded: bool) -> Vec<Listen> {
        let Some((at, entries)) = written.with_place() else {
            return vec![Listen {
                address: LISTEN,
                repository: None,
            }];
        };
        if entries.0.is_empty() {
            self.problem(
                Finding::new(at, "an empty list: the server would listen nowhere")
                    .hint("without this key it listens on 127.0.0.1:5000"),
            );
        }
        let mut seen: HashMap<SocketAddr, At> = HashMap::new();
        let mut all = Vec::new();
        for (at, entry) in entries.0.iter().filter_map(Field::with_place) {
            let repository = self.reference(&entry.repository);
            let Some((address_at, address)) = self.required(&entry.address, at, "address") else {
                continue;
            };
            let address = address.0;
            if let Some(first) = seen.get(&address).filter(|_| address.port() != 0) {
                self.problem(Finding::new(address_at, format!("`{address}` is here a second time")).first(*first));
            }
            seen.entry(address).or_insert(address_at);
            if !guarded && !address.ip().to_canonical().is_loopback() {
                self.problem(
                    Finding::new(
                        address_at,
                        format!("without an `auth` section, `{address}` would be open to everybody"),
                    )
                    .hint("add `auth: { anonymous: pull }`, or `anonymous: all`, or listen on 127.0.0.1"),
                );
            }
            all.push(Listen { address, repository });
        }
        all
    }

    fn tls(&mut self, at: At, written: &file::Tls) -> Option<TlsConfig> {
        let cert = self.required(&written.cert, at, "cert");
        let key = self.required(&written.key, at, "key");
        let ((cert_at, cert), (key_at, key)) = cert.zip(key)?;
        Some(TlsConfig {
            cert: self.file(cert_at, cert),
            key: self.file(key_at, key),
            client_ca: written.client_ca.with_place().map(|(at, path)| {
                self.authorities(at, path);
                self.path(path)
            }),
        })
    }

    fn repositories(&mut self, written: &'a Written) -> BTreeMap<RepositoryKey, RepositoryConfig> {
        let mut all = BTreeMap::new();
        let entries = written.repositories.get().map_or(&[][..], |entries| &entries.0);
        if entries.is_empty() && !matches!(written.repositories, Field::Wrong) {
            let at = written.repositories.with_place().map_or(At::Node(0), |(at, _)| at);
            self.problem(
                Finding::new(at, "there are no repositories")
                    .hint("the least is `repositories: { docker-local: { type: local } }`"),
            );
        }
        for (key, repository) in entries {
            let Some((at, key)) = key.with_place() else { continue };
            let parsed = self.key(at, key);
            let meant = match repository.get() {
                Some(Repository::Local(local)) => Some(RepositoryConfig::Local(self.local(local))),
                Some(Repository::Remote(remote)) => self
                    .remote(at, remote, written.defaults.get())
                    .map(|remote| RepositoryConfig::Remote(Box::new(remote))),
                Some(Repository::Virtual(written)) => {
                    Some(RepositoryConfig::Virtual(self.virtual_repository(at, written)))
                }
                None => None,
            };
            all.extend(parsed.zip(meant));
        }
        all
    }

    fn key(&self, at: At, key: &str) -> Option<RepositoryKey> {
        let parsed = key.parse::<RepositoryKey>();
        if let Err(error) = &parsed {
            let finding = Finding::new(at, error.to_string());
            let plain = key.to_lowercase().replace([' ', '/', ':'], "-");
            let is_better = plain != key && plain.parse::<RepositoryKey>().is_ok();
            self.problem(finding.maybe_hint(is_better.then(|| format!("`{plain}` is one"))));
        }
        parsed.ok()
    }

    /// The key of a repository, where one is named.
    fn reference(&self, written: &Field<String>) -> Option<RepositoryKey> {
        let (at, key) = written.with_place()?;
        self.kind(at, key).and_then(|_| key.parse().ok())
    }

    /// What a named repository is, or a problem when there is none of this name.
    fn kind(&self, at: At, key: &str) -> Option<Kind<'a>> {
        let kind = self.kinds.get(key).copied();
        if kind.is_none() {
            self.problem(
                Finding::new(at, format!("there is no repository `{}`", excerpt(key))).maybe_hint(self.meant(key)),
            );
        }
        kind
    }

    fn meant(&self, key: &str) -> Option<String> {
        if self.findings.is_full() {
            return None;
        }
        let near = nearest(key, self.kinds.keys().copied());
        let few = (1..=8).contains(&self.kinds.len());
        let all = || {
            self.kinds
                .keys()
                .map(|key| format!("`{}`", excerpt(key)))
                .collect::<Vec<_>>()
                .join(", ")
        };
        match near {
            Some(near) => Some(format!("did you mean `{}`?", excerpt(near))),
            None => few.then(|| format!("the keys are {}", all())),
        }
    }

    /// What a key holds that must be there; `at` is where to say that it is not.
    fn required<'f, T>(&self, field: &'f Field<T>, at: At, name: &str) -> Option<(At, &'f T)> {
        if field.is_absent() {
            self.problem(Finding::new(at, format!("`{name}` is missing")));
        }
        field.with_place()
    }

    /// A file that belongs to the configuration and must be there.
    fn file(&mut self, at: At, path: &str) -> PathBuf {
        let path = self.path(path);
        if let Err(error) = std::fs::File::open(&path) {
            self.problem(Finding::new(
                at,
                format!("cannot read {}: {}", path.display(), describe(&error)),
            ));
        }
        self.files.push(path.clone());
        path
    }

    fn path(&self, written: &str) -> PathBuf {
        // Collecting the components drops every `.` between two others.
        self.directory.join(written).components().collect()
    }

    fn problem(&self, finding: Finding) {
        self.findings.add(finding);
    }
}

/// An error of the operating system without its number.
pub(super) fn describe(error: &std::io::Error) -> String {
    let text = error.to_string();
    let plain = text.split_once(" (os error").map_or(text.as_str(), |(plain, _)| plain);
    plain.to_lowercase()
}

const NO_SERVER: file::Server = file::Server {
    listen: Field::Absent,
    metrics: Field::Absent,
    tls: Field::Absent,
    external_url: Field::Absent,
    trusted_proxies: Field::Absent,
    limits: Field::Absent,
    drain: Field::Absent,
};

fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    one == other && one.port() != 0
}

impl Checker<'_> {
    fn gc(&mut self, written: Option<&file::Reclaiming>) -> GcConfig {
        let Some(written) = written else { return GC };
        let grace = timeout(&written.grace, GC.grace);
        if grace < SHORT_GRACE
            && let Some((at, _)) = written.grace.with_place()
        {
            let text = "a push that takes longer than this from a blob to its manifest has to send the blob again; 5m or more is safer";
            self.findings.add(Finding::warning(at, text));
        }
        GcConfig {
            every: written.every.get().map_or(GC.every, |every| every.0),
            grace,
        }
    }
}

fn scrub(written: Option<&file::Scrubbing>) -> ScrubConfig {
    let Some(written) = written else { return SCRUB };
    ScrubConfig {
        every: written.every.get().map_or(SCRUB.every, |every| every.0),
        rate: written.rate.get().map_or(SCRUB.rate, |rate| rate.0),
    }
}

fn limits(written: Option<&Limits>) -> super::Limits {
    let Some(written) = written else { return LIMITS };
    let size = |field: &Field<Size>, default| field.get().map_or(default, |size| size.0);
    super::Limits {
        manifest: size(&written.manifest, LIMITS.manifest),
        upload: size(&written.upload, LIMITS.upload),
        uploads: count(&written.uploads, LIMITS.uploads),
        upload_idle: timeout(&written.upload_idle, LIMITS.upload_idle),
        connections: count(&written.connections, LIMITS.connections),
        header_timeout: timeout(&written.header_timeout, LIMITS.header_timeout),
    }
}

fn count(field: &Field<Count>, default: usize) -> usize {
    field.get().map_or(default, |count| count.0)
}

fn time(field: &Field<Time>, default: Duration) -> Duration {
    field.get().map_or(default, |time| time.0)
}

fn timeout(field: &Field<Timeout>, default: Duration) -> Duration {
    field.get().map_or(default, |timeout| timeout.0)
}
