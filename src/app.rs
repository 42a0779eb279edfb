//! The composition root: a checked configuration in, a running server out. A reload builds everything anew beside what
//! runs, and swaps only when all of it could be built.

mod identities;
mod watched;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use tokio_util::task::AbortOnDropHandle;

use self::watched::{LOOK, Watched};
use crate::access::{Access, SigningKey};
use crate::config::{self, AuditTarget, Config, Environment, Limits, Listen, Loaded, Problem, RepositoryConfig};
use crate::http::origin::Proxies;
use crate::http::routes;
use crate::http::serve::{self, Door};
use crate::http::site::{Front, Site};
use crate::http::tls::Tls;
use crate::oci::RepositoryKey;
use crate::repository::{RemoteRepository, Repositories};
use crate::store::{Keeps, Options, Repair, Store};
use crate::telemetry::audit::Outcome;
use crate::telemetry::{Audit, Metrics};

/// How long the last lines of the audit may take, at most and at least.
const FLUSH: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(100));
/// How long after the drain they may still be waited for: the process is to be gone a second after it.
const ENDING: Duration = Duration::from_millis(300);
/// How long whoever asks for metrics may take to read them when everything else has ended.
const LAST_METRICS: Duration = Duration::from_millis(100);
/// Connections to the address of the metrics, which nobody's pulls go through.
const METRICS_CONNECTIONS: usize = 64;
/// How often uploads that nobody goes on with are looked for, and what the caches need no more.
const TIDY: Duration = Duration::from_secs(60);

/// Where the configuration comes from.
#[derive(Clone)]
pub struct Source {
    /// The file; without one, the embedded default.
    pub path: Option<PathBuf>,
    /// What `${NAME}` and `ENTREPOT__…` are taken from.
    pub environment: Environment,
}

impl Source {
    /// Reads and checks it.
    pub fn load(&self) -> Result<Loaded, Vec<Problem>> {
        match &self.path {
            Some(path) => config::load(path, &self.environment),
            None => config::load_text("(embedded)", config::EMBEDDED, Path::new("."), &self.environment),
        }
    }
}

/// A server that listens.
pub struct App {
    source: Source,
    config: Config,
    watched: Watched,
    signing_key: SigningKey,
    front: Arc<Front>,
    door: Door,
    metrics_door: Door,
    tls: Option<Tls>,
    warmers: Warmers,
    addresses: Vec<std::net::SocketAddr>,
}

impl App {
    /// Opens the store, builds the repositories and begins to listen.
    pub async fn start(source: Source, loaded: Loaded) -> anyhow::Result<Self> {
        let Loaded { config, files, .. } = loaded;
        let metrics = Arc::new(Metrics::new().context("metrics")?);
        let store = Store::open(store_options(&config), Arc::clone(&metrics))
            .await
            .with_context(|| format!("the store at {} cannot be opened", config.storage.path.display()))?;
        // The limits that hold are those that the system has room for.
        let wired = Config {
            server: config::ServerConfig {
                limits: door_limits(&config),
                ..config.server.clone()
            },
            ..config.clone()
        };
        let repositories = Repositories::new(&wired, &store, &metrics, None).context("an upstream cannot be used")?;
        let audit = audit(&config, &metrics)?;
        let signing_key = identities::signing_key(&store).await?;
        let robots = Arc::new(identities::robots(&store).await?);
        let access = Access::new(&config.auth, &signing_key, &robots, None).map_err(anyhow::Error::msg)?;
        let site = site(&config, repositories, access, audit);
        let front = Arc::new(Front::new(site, store, robots, Arc::clone(&metrics)));
        let limits = wired.server.limits;
        let door = Door::new(&limits, Arc::clone(&metrics), routes::main(Arc::clone(&front)));
        door.exempt(&config.server.trusted_proxies);
        let limits = Limits {
            connections: METRICS_CONNECTIONS,
            ..limits
        };
        let metrics_door = Door::new(&limits, Arc::clone(&metrics), routes::metrics(Arc::clone(&front)));
        let tls = config.server.tls.as_ref().map(Tls::load).transpose()?;
        let addresses = door.listen(&config.server.listen, tls.clone()).await?;
        metrics_door.listen(&metrics_listen(&config), None).await?;
        let mut warmers = Warmers::default();
        warmers.follow(&front.site.load().repositories);
        Ok(Self {
            watched: Watched::new(&source, files),
            source,
            config,
            signing_key,
            front,
            door,
            metrics_door,
            tls,
            warmers,
            addresses,
        })
    }

    /// The addresses that it listens on, as bound.
    pub fn addresses(&self) -> &[std::net::SocketAddr] {
        &self.addresses
    }

    /// The configuration that runs.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Serves until SIGTERM or SIGINT, reloads at SIGHUP and when a file changed, then lets running requests finish.
    pub async fn run(mut self, mut signals: Signals) -> anyhow::Result<()> {
        let _tidying = AbortOnDropHandle::new(tokio::spawn(tidy(Arc::clone(&self.front))));
        let every = self.config.storage.gc.every;
        let _reclaiming =
            every.map(|every| AbortOnDropHandle::new(tokio::spawn(reclaim(Arc::clone(&self.front), every))));
        let scrub = self.config.storage.scrub;
        let _scrubbing = scrub.every.map(|every| {
            AbortOnDropHandle::new(tokio::spawn(look_through(Arc::clone(&self.front), every, scrub.rate)))
        });
        let mut watch = interval(LOOK);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Asked::Stop => break,
                    Asked::Reload => self.reload().await,
                },
                _ = watch.tick() => {
                    if self.watched.have_changed(&self.source) {
                        self.reload().await;
                    }
                }
            }
        }
        tokio::select! {
            () = self.stop() => Ok(()),
            () = signals.stop() => anyhow::bail!("stopped at once by a second signal"),
        }
    }

    /// Stops: not ready at once, running requests to their end or the drain's, the index closed cleanly.
    pub async fn stop(mut self) {
        self.front.start_draining();
        let (began, drain) = (Instant::now(), self.config.server.drain);
        tracing::info!(drain_seconds = drain.as_secs(), "stopping");
        self.warmers = Warmers::default();
        let finished = self.door.drain(drain).await;
        self.metrics_door.drain(LAST_METRICS).await;
        if !finished {
            tracing::warn!("some requests did not finish in time and were cut");
        }
        identities::keep_uses(&self.front.store, &self.front.robots).await;
        self.front.store.close().await;
        let audit = self.front.site.load().audit.clone();
        let left = drain.saturating_add(ENDING).saturating_sub(began.elapsed());
        let within = left.min(FLUSH.0).max(FLUSH.1);
        let flushed = tokio::task::spawn_blocking(move || audit.flush(within)).await;
        if !flushed.unwrap_or_default() {
            tracing::warn!("the last lines of the audit could not be written in time");
        }
        tracing::info!("stopped");
    }

    /// Reads the configuration again. A good one replaces the running one as a whole; a bad one changes nothing.
    pub async fn reload(&mut self) {
        let accepted = match self.watched.load(&self.source) {
            Ok(loaded) => match self.take_over(loaded).await {
                Ok(()) => true,
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the new configuration is not taken; the old one runs on"
                    );
                    false
                }
            },
            Err(problems) => {
                for problem in &problems {
                    tracing::error!(
                        problem = %problem.line(),
                        "the new configuration is not taken; the old one runs on"
                    );
                }
                false
            }
        };
        self.front.metrics.reloaded(accepted);
        let (outcome, why) = if accepted {
            (Outcome::Allowed, None)
        } else {
            (Outcome::Failed, Some("the log says why"))
        };
        self.front.tell_of_system("reload", outcome, why);
    }

    async fn take_over(&mut self, loaded: Loaded) -> anyhow::Result<()> {
        let Loaded { config, warnings, .. } = loaded;
        needs_no_restart(&self.config, &config)?;
        let before = self.front.site.load_full();
        let front = &self.front;
        let repositories = Repositories::new(&config, &front.store, &front.metrics, Some(&before.repositories))
            .context("an upstream cannot be used")?;
        // What can fail comes first, and what was done before a failure is undone.
        let audit = audit(&config, &front.metrics)?;
        let access = Access::new(&config.auth, &self.signing_key, &front.robots, Some(&before.access))
            .map_err(anyhow::Error::msg)?;
        if let Some(tls) = &config.server.tls {
            Tls::load(tls)?;
        }
        self.metrics_door.listen(&metrics_listen(&config), None).await?;
        match self.door.listen(&config.server.listen, self.tls.clone()).await {
            Ok(addresses) => self.addresses = addresses,
            Err(error) => {
                self.metrics_door.listen(&metrics_listen(&self.config), None).await?;
                return Err(error.into());
            }
        }
        if let (Some(running), Some(new)) = (&self.tls, &config.server.tls) {
            running.replace(new)?;
        }
        self.door.exempt(&config.server.trusted_proxies);
        front.site.store(Arc::new(site(&config, repositories, access, audit)));
        for warning in warnings {
            tracing::warn!(warning = %warning.line(), "configuration");
        }
        self.warmers.follow(&front.site.load().repositories);
        self.config = config;
        tracing::info!("the configuration was reloaded");
        Ok(())
    }
}

/// Looks after the store. On its own: removing a lot takes a while, and no signal waits for that.
async fn tidy(front: Arc<Front>) {
    let store = &front.store;
    let mut rounds = interval(TIDY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        if let Err(error) = store.expire_uploads().await {
            tracing::warn!(%error, "uploads left behind could not be removed");
        }
        if let Err(error) = store.tidy().await {
            tracing::warn!(%error, "the caches could not be tidied");
        }
        identities::keep_uses(store, &front.robots).await;
    }
}

/// Gives back what nothing needs, now and then; the first time not before that long after the start.
async fn reclaim(front: Arc<Front>, every: Duration) {
    let mut rounds = interval_at(Instant::now() + every, every);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        match front.reclaim(false).await {
            Ok(done) if done.links + done.blobs + done.emptied > 0 => {
                front.tell_of_system("gc", Outcome::Allowed, None);
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "what nothing needs could not be reclaimed"),
        }
    }
}

/// Looks for damage from time to time, slowly.
async fn look_through(front: Arc<Front>, every: Duration, rate: u64) {
    loop {
        tokio::time::sleep(every).await;
        let done = front.verify(Repair::Content, Some(rate)).await;
        if done.as_ref().is_ok_and(|done| done.mended > 0) {
            front.tell_of_system("verify", Outcome::Allowed, None);
        }
        match done {
            Ok(done) if done.problems > 0 => tracing::error!(
                problems = done.problems,
                mended = done.mended,
                "something that is kept is damaged: `entrepot verify` names it"
            ),
            Ok(done) => tracing::info!(
                blobs = done.blobs,
                bytes = done.bytes,
                mended = done.mended,
                "what is kept was looked through"
            ),
            Err(error) => tracing::error!(%error, "what is kept could not be looked through for damage"),
        }
    }
}

/// The tasks that keep images warm, one for each remote that has any. They end with this.
#[derive(Default)]
struct Warmers(Vec<(Arc<RemoteRepository>, AbortOnDropHandle<()>)>);

impl Warmers {
    /// Keeps warm what these repositories say. What a reload has not changed goes on as it is.
    fn follow(&mut self, repositories: &Repositories) {
        let mut before = std::mem::take(&mut self.0);
        for remote in repositories.remotes().filter(|remote| remote.is_kept_warm()) {
            let same = before.iter().position(|(running, _)| Arc::ptr_eq(running, remote));
            let task = match same {
                Some(at) => before.swap_remove(at).1,
                None => AbortOnDropHandle::new(tokio::spawn(Arc::clone(remote).keep_warm())),
            };
            self.0.push((Arc::clone(remote), task));
        }
    }
}

/// What cannot be changed under a running server is refused rather than ignored.
fn needs_no_restart(old: &Config, new: &Config) -> anyhow::Result<()> {
    let changed: Vec<&str> = [
        ("storage", old.storage != new.storage),
        ("server.limits", old.server.limits != new.server.limits),
        (
            "server.tls (on or off)",
            old.server.tls.is_some() != new.server.tls.is_some(),
        ),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect();
    if changed.is_empty() {
        return Ok(());
    }
    anyhow::bail!("a change of {} takes a restart", changed.join(" and "))
}

fn site(config: &Config, repositories: Repositories, access: Access, audit: Audit) -> Site {
    Site {
        repositories,
        access,
        proxies: Proxies::new(config.server.external_url.as_ref(), &config.server.trusted_proxies),
        audit,
        limits: config.server.limits.clone(),
        grace: config.storage.gc.grace,
        keeps: keeps(config),
        backups: config.storage.backups.clone(),
        metrics_elsewhere: config.server.metrics.is_some(),
    }
}

/// What each repository promises of what its manifests need.
pub fn keeps(config: &Config) -> HashMap<RepositoryKey, Keeps> {
    let keeps = |repository: &RepositoryConfig| match repository {
        RepositoryConfig::Local(local) if local.allow_sparse => Some(Keeps::Sparse),
        RepositoryConfig::Local(_) => Some(Keeps::Local),
        RepositoryConfig::Remote(_) => Some(Keeps::Remote),
        RepositoryConfig::Virtual(_) => None,
    };
    let all = config.repositories.iter();
    all.filter_map(|(key, repository)| Some((key.clone(), keeps(repository)?)))
        .collect()
}

/// What clients may cost, where the system allows it: without a descriptor for each, accepting would fail, and so would
/// whatever else opens a file.
fn door_limits(config: &Config) -> Limits {
    let mut limits = config.server.limits.clone();
    if let Some(affordable) = serve::affordable().filter(|affordable| *affordable < limits.connections) {
        tracing::warn!(
            configured = limits.connections,
            connections = affordable,
            "fewer connections than configured: the limit of open files (`ulimit -n`) leaves room for no more"
        );
        limits.connections = affordable;
    }
    limits
}

/// Opens what the audit is written to.
fn audit(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Audit> {
    let pulls = config.audit.pulls;
    match &config.audit.to {
        AuditTarget::Nowhere => Ok(Audit::nowhere(metrics)),
        AuditTarget::Stdout => Audit::stdout(pulls, metrics).context("the audit cannot be written to standard output"),
        AuditTarget::File(path) => Audit::file(path, pulls, metrics)
            .with_context(|| format!("the audit cannot be written to {}", path.display())),
    }
}

/// What the store is opened with.
pub fn store_options(config: &Config) -> Options {
    let limits = &config.server.limits;
    Options {
        path: config.storage.path.clone(),
        uploads: limits.uploads,
        upload_idle: limits.upload_idle,
        upload_limit: limits.upload,
        min_free: config.storage.min_free,
    }
}

fn metrics_listen(config: &Config) -> Vec<Listen> {
    config
        .server
        .metrics
        .map(|address| Listen {
            address,
            repository: None,
        })
        .into_iter()
        .collect()
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Stop,
    Reload,
}

/// The signals that mean something here. From when there is one, none of them ends the process by itself.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Listens to them from now on.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hang_up.recv() => Asked::Reload,
        }
    }

    async fn stop(&mut self) {
        while self.next().await != Asked::Stop {}
    }
}
