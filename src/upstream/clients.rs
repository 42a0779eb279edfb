//! The HTTP clients of one remote: one for the registry and its mirrors, which may see our certificate, and one for
//! everybody else that they lead to. Without a certificate, one for all.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Client;
use rustls::ClientConfig;
use tokio::sync::OnceCell;
use url::Url;

use super::Error;
use super::guard::{Guard, Resolver};
use super::proxy::Proxy;
use super::send::reason;
use super::tls::Trust;
use crate::config::RemoteConfig;

/// How long a connection may lie unused before it is closed: less than what load balancers in front of registries
/// wait, or every first request after a pause would meet a connection that is just being closed.
const POOL_IDLE: Duration = Duration::from_secs(50);

/// The clients, once they are needed.
pub(super) struct Clients {
    made: OnceCell<Made>,
    trust: Trust,
    proxy: Option<Proxy>,
    guard: Arc<Guard>,
    connect_timeout: Duration,
    connections: usize,
}

struct Made {
    home: Option<Client>,
    away: Client,
}

impl Clients {
    /// Reads what is wrong with the configuration; makes nothing yet.
    pub(super) fn new(config: &RemoteConfig) -> Result<Self, Error> {
        let trust = Trust::read(config)?;
        let proxy = config.proxy.as_ref().map(Proxy::read).transpose()?;
        let is_tls_proxy = config.proxy.as_ref().is_some_and(|proxy| proxy.url.scheme() == "https");
        if is_tls_proxy && trust.has_identity() {
            return Err(Error::Configuration {
                key: "client_tls".to_owned(),
                reason: "a proxy over https would be shown the certificate too; use an http:// proxy, through which \
                         the connection to the upstream is TLS all the same"
                    .to_owned(),
            });
        }
        Ok(Self {
            made: OnceCell::new(),
            trust,
            proxy,
            guard: Arc::new(Guard::new(config)),
            connect_timeout: config.connect_timeout,
            connections: config.connections,
        })
    }

    pub(super) const fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// The client for an address, if it may be asked at all.
    pub(super) async fn of(&self, url: &Url) -> Result<&Client, Error> {
        self.guard.check(url)?;
        let made = self.made.get_or_try_init(|| self.make()).await?;
        match &made.home {
            Some(home) if self.guard.is_home(url) => Ok(home),
            _ => Ok(&made.away),
        }
    }

    /// At the first request, so that a server whose upstreams are never asked does not read certificates for them.
    async fn make(&self) -> Result<Made, Error> {
        let trust = self.trust.clone();
        let away = tokio::task::spawn_blocking(move || trust.with_strangers())
            .await
            .map_err(|error| Error::Unreachable(error.to_string()))?
            .map_err(|error| Error::Unreachable(format!("TLS cannot be set up: {error}")))?;
        let home = self.trust.with_own(&away).map(|tls| self.client(tls)).transpose();
        home.and_then(|home| {
            Ok(Made {
                home,
                away: self.client(away)?,
            })
        })
        .map_err(|error| Error::Unreachable(format!("the client cannot be set up: {}", reason(&error))))
    }

    fn client(&self, tls: ClientConfig) -> reqwest::Result<Client> {
        // The environment's proxies are not ours: what goes where, the configuration says.
        let mut builder = Client::builder().no_proxy();
        if let Some(proxy) = &self.proxy {
            builder = builder.proxy(proxy.client()?);
        }
        builder
            .tls_backend_preconfigured(tls)
            .http1_only()
            .dns_resolver(Resolver(Arc::clone(&self.guard)))
            .referer(false)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("entrepot/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.connect_timeout)
            .pool_max_idle_per_host(self.connections)
            .pool_idle_timeout(POOL_IDLE)
            .build()
    }
}
