//! Questions to those who give us credentials: a cloud's API, or what answers on the machine itself.
//!
//! Whom we ask here, this program and its environment decide, never a registry; so private addresses are asked like any
//! other, which is where such services are. No redirect is followed, no answer is longer than [`BODY`], and nothing of a
//! request or an answer gets into an error.

use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderName, HeaderValue, Method};
use reqwest::Client;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use url::Url;

use super::super::Error;
use super::super::proxy::Proxy;
use super::super::send::reason;
use super::super::tls::Trust;
use crate::config::RemoteConfig;

/// The longest answer that is read.
const BODY: usize = 128 << 10;
/// The longest that one question takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// What answers on the machine itself is there at once, or not at all.
const NEARBY: Duration = Duration::from_secs(2);

/// Where whom we ask is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Out there: through the remote's proxy, if it has one.
    Outside,
    /// On the machine itself, or beside it.
    Machine,
}

/// A question.
pub(super) struct Call {
    /// For messages.
    pub(super) whom: &'static str,
    pub(super) way: Way,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: String,
}

/// An answer, whatever it says.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Asks.
pub(super) struct Caller {
    trust: Trust,
    proxy: Option<Proxy>,
    outside: OnceCell<Client>,
    machine: OnceCell<Client>,
}

impl Caller {
    pub(super) fn new(config: &RemoteConfig) -> Result<Self, Error> {
        // What may be wrong with the upstream's certificate, and what we show it, is between it and us.
        let trust = Trust::read(&RemoteConfig {
            insecure: false,
            client_tls: None,
            ..config.clone()
        })?;
        Ok(Self {
            trust,
            proxy: config.proxy.as_ref().map(Proxy::read).transpose()?,
            outside: OnceCell::new(),
            machine: OnceCell::new(),
        })
    }

    pub(super) async fn ask(&self, call: Call) -> Result<Answer, Error> {
        let whom = call.whom;
        let patience = match call.way {
            Way::Outside => PATIENCE,
            Way::Machine => NEARBY,
        };
        match timeout(patience, self.exchange(call)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(why)) => Err(Error::Credentials(format!("{whom} cannot be asked: {why}"))),
            Err(_) => Err(Error::Credentials(format!("{whom} does not answer in time"))),
        }
    }

    async fn exchange(&self, call: Call) -> Result<Answer, String> {
        let client = match call.way {
            Way::Outside => &self.outside,
            Way::Machine => &self.machine,
        };
        let client = client.get_or_try_init(|| self.client(call.way)).await?;
        let mut request = client.request(call.method, call.url).body(call.body);
        for (name, value) in call.headers {
            request = request.header(name, value);
        }
        let mut response = request.send().await.map_err(|error| reason(&error))?;
        let status = response.status().as_u16();
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| reason(&error))? {
            if body.len() + chunk.len() > BODY {
                return Err(format!("it sends more than {BODY} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status,
            body: body.into(),
        })
    }

    async fn client(&self, way: Way) -> Result<Client, String> {
        let trust = self.trust.clone();
        let tls = tokio::task::spawn_blocking(move || trust.with_strangers())
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("TLS cannot be set up: {error}"))?;
        let mut builder = Client::builder().no_proxy();
        if let (Way::Outside, Some(proxy)) = (way, &self.proxy) {
            builder = builder.proxy(proxy.client().map_err(|error| reason(&error))?);
        }
        builder
            .tls_backend_preconfigured(tls)
            .http1_only()
            .referer(false)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("entrepot/", env!("CARGO_PKG_VERSION")))
            // Once in hours: nothing is worth keeping open.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| reason(&error))
    }
}
