//! The proxy on the way to an upstream: `CONNECT` for https, requests with the whole address for http.

use std::error::Error as _;

use base64::Engine as _;
use http::HeaderValue;
use url::Url;

use super::Error;
use super::send::{Failure, reason};
use crate::config::{Credentials, ProxyConfig};

/// How the client says that it was the proxy that failed. Its type is not to be had, only its words are.
const TUNNEL: &str = "tunnel error: ";
const UNAUTHORIZED: &str = "proxy authorization required";
const UNSUCCESSFUL: &str = "unsuccessful";

/// A proxy.
pub(super) struct Proxy {
    url: Url,
    authorization: Option<HeaderValue>,
}

impl Proxy {
    pub(super) fn read(config: &ProxyConfig) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::Configuration {
            key: "proxy".to_owned(),
            reason: reason.to_owned(),
        };
        if !matches!(config.url.scheme(), "http" | "https") {
            return Err(wrong(
                "it is not the address of an http or https proxy; it is written http://proxy:3128",
            ));
        }
        if !config.url.username().is_empty() || config.url.password().is_some() {
            return Err(wrong("credentials do not belong into its address"));
        }
        if !matches!(config.url.path(), "" | "/") || config.url.query().is_some() {
            return Err(wrong("a proxy has no path; it is written http://proxy:3128"));
        }
        let authorization = match &config.credentials {
            Some(credentials) => Some(basic(credentials).ok_or_else(|| wrong("its credentials cannot be sent"))?),
            None => None,
        };
        Ok(Self {
            url: config.url.clone(),
            authorization,
        })
    }

    /// It, for the HTTP client.
    pub(super) fn client(&self) -> reqwest::Result<reqwest::Proxy> {
        let proxy = reqwest::Proxy::all(self.url.clone())?;
        Ok(match &self.authorization {
            Some(authorization) => proxy.custom_http_auth(authorization.clone()),
            None => proxy,
        })
    }

    /// What a request's failure is if it was the proxy's. `None` if it got us through, and what failed lies behind it.
    pub(super) fn failure(&self, error: &reqwest::Error, to: &Url) -> Option<Failure> {
        let tunnel = tunnel_error(error);
        // Plain requests have no other connection than the one to the proxy.
        if tunnel.is_none() && to.scheme() == "https" && !error.is_timeout() {
            return None;
        }
        let why = match tunnel.as_deref() {
            Some(UNAUTHORIZED) => return Some(self.refusal()),
            Some(UNSUCCESSFUL) => "it does not open a tunnel to the upstream".to_owned(),
            _ if error.is_timeout() => "there is no connection in time".to_owned(),
            _ => reason(error),
        };
        Some(Failure {
            error: self.error(why),
            again: true,
        })
    }

    /// What a 407 means.
    pub(super) fn refusal(&self) -> Failure {
        let why = if self.authorization.is_some() {
            "it refuses the credentials (407)"
        } else {
            "it wants credentials (407)"
        };
        Failure::last(self.error(why.to_owned()))
    }

    fn error(&self, reason: String) -> Error {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port_or_known_default().unwrap_or_default();
        Error::Proxy {
            proxy: format!("{host}:{port}"),
            reason,
        }
    }
}

fn basic(credentials: &Credentials) -> Option<HeaderValue> {
    let plain = format!("{}:{}", credentials.username, credentials.password.reveal());
    let text = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(plain));
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn tunnel_error(error: &reqwest::Error) -> Option<String> {
    let mut cause = error.source();
    while let Some(source) = cause {
        if let Some(words) = source.to_string().strip_prefix(TUNNEL) {
            return Some(words.to_owned());
        }
        cause = source.source();
    }
    None
}
