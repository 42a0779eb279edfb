//! Remote repositories.

use url::Url;

use super::super::field::Field;
use super::super::file::{self, Defaults};
use super::super::findings::Finding;
use super::super::node::At;
use super::super::{CacheConfig, RemoteConfig, WarmConfig};
use super::{Checker, count, time, timeout};

/// The names of Docker Hub that answer with a web page.
const NOT_REGISTRIES: [&str; 3] = ["docker.io", "www.docker.com", "hub.docker.com"];

impl Checker<'_> {
    /// `at` is where its key stands.
    pub(super) fn remote(
        &mut self,
        at: At,
        written: &file::Remote,
        defaults: Option<&Defaults>,
    ) -> Option<RemoteConfig> {
        let insecure = self.insecure(written);
        let credentials = self.all_credentials(&written.credentials, written.url.get().map(|url| &url.0));
        let ca = written
            .ca
            .with_place()
            .and_then(|(at, path)| self.authorities(at, path));
        let client_tls = written
            .client_tls
            .with_place()
            .and_then(|(at, written)| self.client_tls(at, written));
        let (_, url) = self.required(&written.url, at, "url")?;
        let none = Defaults::default();
        let general = defaults.unwrap_or(&none);
        let usual = RemoteConfig::of(url.0.clone());
        let patience = [&written.stale_if_error, &general.stale_if_error]
            .into_iter()
            .find_map(Field::get);
        Some(RemoteConfig {
            mirrors: self.mirrors(written),
            credentials,
            token_realms: self.distinct(&written.token_realms, |host| &host.0),
            include: list(&written.include, |glob| glob.0.clone()),
            exclude: list(&written.exclude, |glob| glob.0.clone()),
            platforms: list(&written.platforms, |platform| platform.0.clone()),
            cache: cache(&written.cache),
            reserve: written
                .rate_limit
                .get()
                .and_then(|limit| limit.reserve.get())
                .map_or(usual.reserve, |reserve| reserve.0),
            hold: time(&written.hold, usual.hold),
            warm: self.warm(&written.warm),
            proxy: written.proxy.get().map(|proxy| proxy.0.clone()),
            ca,
            client_tls,
            allow_private: list(&written.allow_private, |network| network.0),
            insecure,
            offline: *written.offline.get().unwrap_or(&usual.offline),
            tag_ttl: time(&written.tag_ttl, time(&general.tag_ttl, usual.tag_ttl)),
            revalidate_timeout: time(
                &written.revalidate_timeout,
                time(&general.revalidate_timeout, usual.revalidate_timeout),
            ),
            negative_ttl: time(&written.negative_ttl, time(&general.negative_ttl, usual.negative_ttl)),
            stale_if_error: patience.and_then(|patience| patience.0),
            connect_timeout: timeout(
                &written.connect_timeout,
                timeout(&general.connect_timeout, usual.connect_timeout),
            ),
            first_byte_timeout: timeout(
                &written.first_byte_timeout,
                timeout(&general.first_byte_timeout, usual.first_byte_timeout),
            ),
            idle_timeout: timeout(
                &written.idle_timeout,
                timeout(&general.idle_timeout, usual.idle_timeout),
            ),
            connections: count(&written.connections, count(&general.connections, usual.connections)),
            fetch_parts: count(&written.fetch_parts, count(&general.fetch_parts, usual.fetch_parts)),
            prefetch_layers: [&written.prefetch_layers, &general.prefetch_layers]
                .into_iter()
                .find_map(Field::get)
                .copied()
                .unwrap_or(usual.prefetch_layers),
            url: usual.url,
        })
    }

    fn mirrors(&self, written: &file::Remote) -> Vec<Url> {
        let insecure = written.insecure.get() == Some(&true);
        let mut all: Vec<Url> = Vec::new();
        for (at, mirror) in written
            .mirrors
            .get()
            .into_iter()
            .flatten()
            .filter_map(Field::with_place)
        {
            let url = &mirror.0;
            if written.url.get().is_some_and(|upstream| upstream.0 == *url) || all.contains(url) {
                self.problem(
                    Finding::new(at, "this registry is asked already")
                        .hint("list each mirror once, and the upstream only as `url`"),
                );
            }
            if url.scheme() == "http" && !insecure {
                self.problem(
                    Finding::new(at, "`http://` lets everybody on the way read and change images")
                        .hint("use `https://`, or say `insecure: true` beside it"),
                );
            }
            all.push(url.clone());
        }
        all
    }

    fn warm(&self, written: &Field<Vec<Field<file::Warm>>>) -> Vec<WarmConfig> {
        let mut all = Vec::new();
        for (at, warm) in written.get().into_iter().flatten().filter_map(Field::with_place) {
            let images = self.required(&warm.images, at, "images");
            let every = self.required(&warm.every, at, "every");
            if let Some((at, _)) = images.filter(|(_, images)| images.is_empty()) {
                self.problem(Finding::new(at, "an empty list: nothing would be fetched"));
            }
            if let Some((_, every)) = every.filter(|_| images.is_some()) {
                all.push(WarmConfig {
                    images: list(&warm.images, |image| image.0.clone()),
                    every: every.0,
                });
            }
        }
        all
    }

    fn insecure(&self, written: &file::Remote) -> bool {
        let insecure = written.insecure.with_place().filter(|(_, insecure)| **insecure);
        if let Some((at, url)) = written.url.with_place() {
            if url.0.scheme() == "http" && insecure.is_none() && !matches!(written.insecure, Field::Wrong) {
                self.problem(
                    Finding::new(
                        at,
                        "`http://` lets everybody on the way read and change images and passwords",
                    )
                    .hint("use `https://`, or say `insecure: true` beside it"),
                );
            }
            let host = url.0.host_str().unwrap_or_default();
            if NOT_REGISTRIES.contains(&host) {
                self.problem(
                    Finding::warning(at, format!("`{host}` is not the address of a registry"))
                        .hint("Docker Hub's is `https://registry-1.docker.io`"),
                );
            }
        }
        if let Some((at, _)) = insecure {
            self.problem(Finding::warning(
                at,
                "nothing proves that what comes from this upstream is what it sent",
            ));
        }
        insecure.is_some()
    }
}

fn list<T, U>(written: &Field<Vec<Field<T>>>, meant: impl Fn(&T) -> U) -> Vec<U> {
    written
        .get()
        .into_iter()
        .flatten()
        .filter_map(Field::get)
        .map(meant)
        .collect()
}

fn cache(written: &Field<file::Cache>) -> CacheConfig {
    let Some(written) = written.get() else {
        return CacheConfig::default();
    };
    CacheConfig {
        max_size: written.max_size.get().map(|size| size.0),
        unused_after: written.unused_after.get().map(|time| time.0),
    }
}
