//! Every metric, in one struct. Names of Distribution's where one exists, so that its dashboards work; ours begin with
//! `entrepot_`. Times are in seconds, sizes in bytes.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// How an answer came about, for `X-Cache` and for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Served from what is stored, nobody was asked.
    Hit,
    /// Fetched from upstream.
    Miss,
    /// Served from what is stored although it should have been asked for: upstream did not answer.
    Stale,
    /// Served from what is stored after upstream said that it is still the same.
    Revalidated,
}

impl Outcome {
    /// As `X-Cache` says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "HIT",
            Self::Miss => "MISS",
            Self::Stale => "STALE",
            Self::Revalidated => "REVALIDATED",
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
        }
    }
}

/// What an answer carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A manifest or index.
    Manifest,
    /// A blob.
    Blob,
}

impl Kind {
    const fn label(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Blob => "blob",
        }
    }
}

/// All that is counted.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    in_flight: IntGaugeVec,
    cache: IntCounterVec,
    proxy_requests: IntCounterVec,
    proxy_hits: IntCounterVec,
    proxy_misses: IntCounterVec,
    proxy_pulled: IntCounterVec,
    proxy_pushed: IntCounterVec,
    sent: IntCounterVec,
    received: IntCounterVec,
    upstream_requests: IntCounterVec,
    upstream_bytes: IntCounterVec,
    upstream_retries: IntCounterVec,
    breakers_opened: IntCounterVec,
    budget_limit: IntGaugeVec,
    budget_remaining: IntGaugeVec,
    rate_limited: IntCounterVec,
    coalesced: IntCounterVec,
    tags_moved: IntCounterVec,
    fetches: IntGaugeVec,
    passed_on: IntCounterVec,
    index_rebuilds: IntCounterVec,
    uploads: IntGauge,
    connections: IntGauge,
    refused_connections: IntCounter,
    shed: IntCounterVec,
    runtime_lag: Histogram,
    reloads: IntCounterVec,
    reload_successful: IntGauge,
    quarantined: IntCounter,
    cache_bytes: IntGaugeVec,
    cache_reserved: IntGaugeVec,
    cache_limit: IntGaugeVec,
    no_room: IntCounterVec,
    evicted_blobs: IntCounterVec,
    evicted_bytes: IntCounterVec,
    scrub_runs: IntCounterVec,
    scrub_bytes: IntCounter,
    scrub_problems: IntGauge,
    gc_runs: IntCounterVec,
    gc_blobs: IntCounter,
    gc_freed: IntCounter,
    quota_used: IntGaugeVec,
    quota: IntGaugeVec,
    sync_failures: IntCounter,
    read_only: IntGauge,
    disk_free: IntGauge,
    disk_min_free: IntGauge,
    audit_lost: IntCounter,
}

impl Metrics {
    /// A registry with every metric in it. Fails only if two have one name, which a test would show.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let add = Add(&registry);
        let info = add.gauges("entrepot_build_info", "Always 1; the version is a label.", &["version"])?;
        info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Self {
            requests: add.counters(
                "registry_http_requests_total",
                "Requests answered.",
                &["handler", "method", "code"],
            )?,
            request_duration: add.histograms(
                "registry_http_request_duration_seconds",
                "From a request's headers to its answer's headers.",
                &["handler", "method"],
            )?,
            in_flight: add.gauges(
                "registry_http_in_flight_requests",
                "Requests being answered.",
                &["handler"],
            )?,
            cache: add.counters(
                "entrepot_cache_requests_total",
                "Pulls by how they were answered: hit, miss, stale or revalidated.",
                &["repository", "kind", "outcome"],
            )?,
            proxy_requests: add.counters("registry_proxy_requests_total", "Pulls through a remote.", &["type"])?,
            proxy_hits: add.counters("registry_proxy_hits_total", "Those answered from the cache.", &["type"])?,
            proxy_misses: add.counters("registry_proxy_misses_total", "Those that were fetched.", &["type"])?,
            proxy_pulled: add.counters(
                "registry_proxy_pulled_bytes_total",
                "Bytes fetched from upstreams.",
                &["type"],
            )?,
            proxy_pushed: add.counters(
                "registry_proxy_pushed_bytes_total",
                "Bytes of remotes sent to clients.",
                &["type"],
            )?,
            sent: add.counters(
                "entrepot_sent_bytes_total",
                "Bytes of manifests and blobs sent to clients.",
                &["repository"],
            )?,
            received: add.counters(
                "entrepot_received_bytes_total",
                "Bytes of manifests and blobs pushed by clients.",
                &["repository"],
            )?,
            upstream_requests: add.counters(
                "entrepot_upstream_requests_total",
                "Requests to upstreams, by role (registry, token, content) and status; `error` is no answer.",
                &["repository", "role", "code"],
            )?,
            upstream_bytes: add.counters(
                "entrepot_upstream_bytes_total",
                "Bytes of manifests and blobs fetched from upstreams.",
                &["repository"],
            )?,
            upstream_retries: add.counters(
                "entrepot_upstream_retries_total",
                "Questions to upstreams that were asked once more.",
                &["repository"],
            )?,
            breakers_opened: add.counters(
                "entrepot_upstream_breaker_opened_total",
                "Times that an upstream, its mirror, token endpoint or content host failed too often to be asked, by role.",
                &["repository", "role"],
            )?,
            budget_limit: add.gauges(
                "entrepot_upstream_ratelimit_limit",
                "Pulls that the upstream allows in one window, as it said last.",
                &["repository", "credential"],
            )?,
            budget_remaining: add.gauges(
                "entrepot_upstream_ratelimit_remaining",
                "Pulls that are left of it, as the upstream said last.",
                &["repository", "credential"],
            )?,
            rate_limited: add.counters(
                "entrepot_upstream_rate_limited_total",
                "Times that the upstream said that it was asked too often (429).",
                &["repository", "credential"],
            )?,
            coalesced: add.counters(
                "entrepot_coalesced_requests_total",
                "Pulls that joined a fetch already under way.",
                &["repository"],
            )?,
            tags_moved: add.counters(
                "entrepot_tags_moved_total",
                "Tags seen to have moved upstream: those that look like a version, and others.",
                &["repository", "kind"],
            )?,
            fetches: add.gauges("entrepot_fetches", "Fetches of blobs under way.", &["repository"])?,
            passed_on: add.counters(
                "entrepot_unkept_fetches_total",
                "Fetches of blobs that were passed on to clients without being kept: the store had no room.",
                &["repository"],
            )?,
            index_rebuilds: add.counters(
                "entrepot_index_rebuilds_total",
                "Times the index was rebuilt from the disk, by reason.",
                &["reason"],
            )?,
            uploads: add.gauge("entrepot_uploads", "Uploads open.")?,
            connections: add.gauge("entrepot_connections", "Client connections open.")?,
            refused_connections: add.counter(
                "entrepot_connections_refused_total",
                "Connections closed at once: their client had its share of all connections.",
            )?,
            shed: add.counters(
                "entrepot_shed_requests_total",
                "Requests refused because too much was under way, by class: miss, push or request.",
                &["class"],
            )?,
            runtime_lag: add.histogram(
                "entrepot_runtime_lag_seconds",
                "How late a task runs that is due every half second.",
            )?,
            reloads: add.counters(
                "entrepot_config_reloads_total",
                "Reloads of the configuration.",
                &["result"],
            )?,
            reload_successful: add.gauge(
                "entrepot_config_last_reload_successful",
                "1 when the configuration on disk is the one that runs.",
            )?,
            quarantined: add.counter(
                "entrepot_damaged_content_total",
                "Stored blobs and manifests found damaged and not served.",
            )?,
            cache_bytes: add.gauges(
                "entrepot_cache_bytes",
                "Bytes of blobs kept of a remote.",
                &["repository"],
            )?,
            cache_reserved: add.gauges(
                "entrepot_cache_reserved_bytes",
                "Room kept for blobs that are being fetched.",
                &["repository"],
            )?,
            cache_limit: add.gauges(
                "entrepot_cache_limit_bytes",
                "The most that is kept of a remote: `cache.max_size`.",
                &["repository"],
            )?,
            no_room: add.counters(
                "entrepot_cache_no_room_total",
                "Blobs that there was no room for when they were to be fetched.",
                &["repository"],
            )?,
            evicted_blobs: add.counters(
                "entrepot_evicted_blobs_total",
                "Blobs let go, by reason: max_size, unused or min_free.",
                &["repository", "reason"],
            )?,
            evicted_bytes: add.counters(
                "entrepot_evicted_bytes_total",
                "Their bytes.",
                &["repository", "reason"],
            )?,
            scrub_runs: add.counters(
                "entrepot_scrub_runs_total",
                "Passes over the store that looked for damage, by result: success or failure.",
                &["result"],
            )?,
            scrub_bytes: add.counter("entrepot_scrub_bytes_total", "Bytes that such passes have hashed.")?,
            scrub_problems: add.gauge(
                "entrepot_scrub_problems",
                "What the last such pass found damaged and could not mend.",
            )?,
            gc_runs: add.counters(
                "entrepot_gc_runs_total",
                "Passes over the store that looked for what nothing needs, by result: success or failure.",
                &["result"],
            )?,
            gc_blobs: add.counter(
                "entrepot_gc_blobs_total",
                "Blobs and manifests that nothing needed and that were moved to the trash.",
            )?,
            gc_freed: add.counter("entrepot_gc_freed_bytes_total", "What was removed from the trash for good.")?,
            quota_used: add.gauges(
                "entrepot_quota_used_bytes",
                "Bytes of blobs in a local repository that has a quota.",
                &["repository"],
            )?,
            quota: add.gauges("entrepot_quota_bytes", "Its quota.", &["repository"])?,
            sync_failures: add.counter(
                "entrepot_disk_sync_failures_total",
                "How often the disk failed to keep what was written, for another reason than that it was full.",
            )?,
            read_only: add.gauge(
                "entrepot_store_read_only",
                "1 after several of those: nothing is written until the next start.",
            )?,
            disk_free: add.gauge("entrepot_disk_free_bytes", "What is free on the disk of the store.")?,
            disk_min_free: add.gauge(
                "entrepot_disk_min_free_bytes",
                "What is to stay free there: `storage.min_free`.",
            )?,
            audit_lost: add.counter(
                "entrepot_audit_lost_total",
                "Lines of the audit that could not be written.",
            )?,
            registry: registry.clone(),
        };
        metrics.reload_successful.set(1);
        Ok(metrics)
    }

    /// The whole of it as Prometheus text, version 0.0.4.
    pub fn render(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// A connection was closed at once, because its client has its share.
    pub fn connection_refused(&self) {
        self.refused_connections.inc();
    }

    /// Something was refused because too much is under way.
    pub fn shed(&self, class: &'static str) {
        self.shed.with_label_values(&[class]).inc();
    }

    /// A task ran so much later than it was due.
    pub fn runtime_lagged(&self, late: Duration) {
        self.runtime_lag.observe(late.as_secs_f64());
    }

    /// A request begins; dropping the guard ends it.
    pub fn request_begins(&self, handler: &'static str) -> impl Drop + Send + use<> {
        Gauge::raise(self.in_flight.with_label_values(&[handler]))
    }

    /// A request was answered.
    pub fn request_answered(&self, handler: &'static str, method: &'static str, code: u16, took: Duration) {
        let mut digits = itoa(code);
        self.requests.with_label_values(&[handler, method, digits.text()]).inc();
        self.request_duration
            .with_label_values(&[handler, method])
            .observe(took.as_secs_f64());
    }

    /// Lines of the audit are missing.
    pub fn audit_lost(&self, lines: u64) {
        self.audit_lost.inc_by(lines);
    }

    /// A pull was answered from here or from upstream. `proxied` says that the repository is a remote.
    pub fn pulled(&self, repository: &str, kind: Kind, outcome: Outcome, proxied: bool) {
        self.cache
            .with_label_values(&[repository, kind.label(), outcome.label()])
            .inc();
        if proxied {
            self.proxy_requests.with_label_values(&[kind.label()]).inc();
            let counter = if outcome == Outcome::Miss {
                &self.proxy_misses
            } else {
                &self.proxy_hits
            };
            counter.with_label_values(&[kind.label()]).inc();
        }
    }

    /// Bytes of a manifest or blob went to a client.
    pub fn sent(&self, repository: &str, kind: Kind, bytes: u64, proxied: bool) {
        self.sent.with_label_values(&[repository]).inc_by(bytes);
        if proxied {
            self.proxy_pushed.with_label_values(&[kind.label()]).inc_by(bytes);
        }
    }

    /// Bytes of a manifest or blob came from a client.
    pub fn received(&self, repository: &str, bytes: u64) {
        self.received.with_label_values(&[repository]).inc_by(bytes);
    }

    /// An upstream was asked. `code` is none when it did not answer; `role` is `registry`, `token` or `content`.
    pub fn upstream_asked(&self, repository: &str, role: &'static str, code: Option<u16>) {
        let mut digits = itoa(code.unwrap_or_default());
        let code = if code.is_some() { digits.text() } else { "error" };
        self.upstream_requests
            .with_label_values(&[repository, role, code])
            .inc();
    }

    /// Bytes of a manifest or blob came from an upstream.
    pub fn fetched(&self, repository: &str, kind: Kind, bytes: u64) {
        self.upstream_bytes.with_label_values(&[repository]).inc_by(bytes);
        self.proxy_pulled.with_label_values(&[kind.label()]).inc_by(bytes);
    }

    /// A question to an upstream was asked once more.
    pub fn upstream_retried(&self, repository: &str) {
        self.upstream_retries.with_label_values(&[repository]).inc();
    }

    /// Somebody who is asked for a repository failed too often. `role` is `registry`, `token` or `content`.
    pub fn breaker_opened(&self, repository: &str, role: &'static str) {
        self.breakers_opened.with_label_values(&[repository, role]).inc();
    }

    /// An upstream said what is left of its budget. `credential` is a user of the configuration, or `anonymous`.
    pub fn budget_told(&self, repository: &str, credential: &str, limit: u64, remaining: u64) {
        for (gauge, number) in [(&self.budget_limit, limit), (&self.budget_remaining, remaining)] {
            gauge
                .with_label_values(&[repository, credential])
                .set(i64::try_from(number).unwrap_or(i64::MAX));
        }
    }

    /// An upstream said that a credential was used too often.
    pub fn rate_limited(&self, repository: &str, credential: &str) {
        self.rate_limited.with_label_values(&[repository, credential]).inc();
    }

    /// A pull joined a fetch that another one had begun.
    pub fn joined(&self, repository: &str) {
        self.coalesced.with_label_values(&[repository]).inc();
    }

    /// A tag was seen to have moved upstream.
    pub fn tag_moved(&self, repository: &str, is_version: bool) {
        let kind = if is_version { "version" } else { "other" };
        self.tags_moved.with_label_values(&[repository, kind]).inc();
    }

    /// A fetch of a blob begins; dropping the guard ends it.
    pub fn fetch_begins(&self, repository: &str) -> impl Drop + Send + use<> {
        Gauge::raise(self.fetches.with_label_values(&[repository]))
    }

    /// A blob was passed on without being kept.
    pub fn passed_on(&self, repository: &str) {
        self.passed_on.with_label_values(&[repository]).inc();
    }

    /// The index was rebuilt; `reason` is one of a few words of the store's.
    pub fn index_rebuilt(&self, reason: &'static str) {
        self.index_rebuilds.with_label_values(&[reason]).inc();
    }

    /// How many uploads are open.
    pub fn uploads_open(&self, count: usize) {
        self.uploads.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A client connected; dropping the guard says that it left.
    pub fn connection_opened(&self) -> impl Drop + Send + use<> {
        Gauge::raise(self.connections.clone())
    }

    /// The configuration was read again.
    pub fn reloaded(&self, accepted: bool) {
        let result = if accepted { "accepted" } else { "refused" };
        self.reloads.with_label_values(&[result]).inc();
        self.reload_successful.set(i64::from(accepted));
    }

    /// What a remote holds, and may hold.
    pub fn cache_holds(&self, repository: &str, bytes: u64, reserved: u64, limit: Option<u64>) {
        let labels = &[repository];
        self.cache_bytes.with_label_values(labels).set(gauged(bytes));
        self.cache_reserved.with_label_values(labels).set(gauged(reserved));
        match limit {
            Some(limit) => self.cache_limit.with_label_values(labels).set(gauged(limit)),
            None => drop(self.cache_limit.remove_label_values(labels)),
        }
    }

    /// A repository is no remote any more.
    pub fn cache_is_gone(&self, repository: &str) {
        for gauges in [&self.cache_bytes, &self.cache_reserved, &self.cache_limit] {
            let _ = gauges.remove_label_values(&[repository]);
        }
    }

    /// A blob that was to be fetched has no room.
    pub fn no_room(&self, repository: &str) {
        self.no_room.with_label_values(&[repository]).inc();
    }

    /// A blob was let go; `reason` is one of a few words of the store's.
    pub fn evicted(&self, repository: &str, reason: &'static str, bytes: u64) {
        self.evicted_blobs.with_label_values(&[repository, reason]).inc();
        self.evicted_bytes
            .with_label_values(&[repository, reason])
            .inc_by(bytes);
    }

    /// A pass over the store has moved so many blobs to the trash, and freed so many bytes by emptying it; or failed.
    pub fn reclaimed(&self, outcome: Option<(u64, u64)>) {
        let (blobs, freed) = outcome.unwrap_or_default();
        let result = if outcome.is_some() { "success" } else { "failure" };
        self.gc_runs.with_label_values(&[result]).inc();
        self.gc_blobs.inc_by(blobs);
        self.gc_freed.inc_by(freed);
    }

    /// How much a local repository has of what it may have.
    pub fn quota_is_used(&self, repository: &str, used: u64, quota: u64) {
        self.quota_used.with_label_values(&[repository]).set(gauged(used));
        self.quota.with_label_values(&[repository]).set(gauged(quota));
    }

    /// A repository has no quota any more.
    pub fn quota_is_gone(&self, repository: &str) {
        let _ = self.quota_used.remove_label_values(&[repository]);
        let _ = self.quota.remove_label_values(&[repository]);
    }

    /// A pass over the store has hashed so many bytes, and found so many problems that are left; or failed.
    pub fn verified(&self, outcome: Option<(u64, u64)>) {
        let result = if outcome.is_some() { "success" } else { "failure" };
        self.scrub_runs.with_label_values(&[result]).inc();
        if let Some((bytes, problems)) = outcome {
            self.scrub_bytes.inc_by(bytes);
            self.scrub_problems.set(gauged(problems));
        }
    }

    /// The disk failed to keep something; so often, maybe, that it is not written any more.
    pub fn sync_failed(&self, read_only: bool) {
        self.sync_failures.inc();
        self.read_only.set(read_only.into());
    }

    /// What the disk of the store said.
    pub fn disk_sampled(&self, free: u64, min_free: u64) {
        self.disk_free.set(gauged(free));
        self.disk_min_free.set(gauged(min_free));
    }

    /// Something stored was found damaged.
    pub fn damage_found(&self) {
        self.quarantined.inc();
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

fn gauged(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A gauge raised by one for as long as this lives.
struct Gauge(IntGauge);

impl Gauge {
    fn raise(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Decimal digits without an allocation: a status is written at every request.
struct Digits([u8; 5], usize);

fn itoa(mut number: u16) -> Digits {
    let mut digits = Digits([b'0'; 5], 5);
    loop {
        digits.1 -= 1;
        digits.0[digits.1] = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        if number == 0 {
            return digits;
        }
    }
}

impl Digits {
    fn text(&mut self) -> &str {
        std::str::from_utf8(&self.0[self.1..]).unwrap_or_default()
    }
}

/// Makes metrics and enters them in a registry.
struct Add<'a>(&'a Registry);

impl Add<'_> {
    fn enter<C: Collector + Clone + 'static>(&self, collector: C) -> prometheus::Result<C> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.enter(IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.enter(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.enter(IntGauge::new(name, help)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.enter(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histogram(&self, name: &str, help: &str) -> prometheus::Result<Histogram> {
        let buckets = vec![0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];
        self.enter(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?)
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<HistogramVec> {
        let buckets = vec![0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0];
        self.enter(HistogramVec::new(
            HistogramOpts::new(name, help).buckets(buckets),
            labels,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::new().expect("names differ");
        metrics.pulled("docker-hub", Kind::Blob, Outcome::Miss, true);
        metrics.request_answered("blob", "GET", 200, Duration::from_millis(3));
        metrics.upstream_asked("docker-hub", "registry", None);
        let fetch = metrics.fetch_begins("docker-hub");
        let text = || String::from_utf8(metrics.render().expect("text")).expect("UTF-8");
        for line in [
            r#"entrepot_cache_requests_total{kind="blob",outcome="miss",repository="docker-hub"} 1"#,
            r#"registry_proxy_misses_total{type="blob"} 1"#,
            r#"registry_http_requests_total{code="200",handler="blob",method="GET"} 1"#,
            r#"entrepot_upstream_requests_total{code="error",repository="docker-hub",role="registry"} 1"#,
            r#"entrepot_fetches{repository="docker-hub"} 1"#,
            "entrepot_config_last_reload_successful 1",
        ] {
            assert!(text().contains(line), "{line}");
        }
        drop(fetch);
        assert!(text().contains(r#"entrepot_fetches{repository="docker-hub"} 0"#));
    }
}
