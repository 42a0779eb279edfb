//! Why an upstream could not tell. None of these is ever turned into "it is not there".

use std::time::Duration;

/// Why we do not know what the upstream has. No text in here holds a credential, a token or the query of a URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The `url` of `repositories.yml` cannot be asked.
    #[error("the url cannot be used: {0}")]
    Url(String),
    /// Another key of `repositories.yml` holds what cannot be used.
    #[error("`{key}` cannot be used: {reason}")]
    Configuration {
        /// The key, with the repository's own before it.
        key: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The proxy on the way there cannot be reached, or does not let us through.
    #[error("cannot be asked through the proxy {proxy}: {reason}")]
    Proxy {
        /// The proxy's `host:port`.
        proxy: String,
        /// Why not.
        reason: String,
    },
    /// It names a place that is not for everybody: whoever can make us ask there sees what only we can.
    #[error("leads to {place}, which is a private address: if that is right, list its network in allow_private")]
    Private {
        /// The host, with the address that its name stands for.
        place: String,
    },
    /// No connection: name, address, TLS; or it broke before the answer began.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// It took longer than it may; the text says what was waited for.
    #[error("did not answer in time: {0}")]
    Timeout(&'static str),
    /// All the connections it may have are in use, and none came free.
    #[error("is busy: every connection that it may have is in use")]
    Busy,
    /// The body broke off, or was shorter than announced.
    #[error("the body broke off: {0}")]
    Broken(String),
    /// Too little for too long: a body that would hold its connection for ever.
    #[error("sends too slowly: less than {least} bytes in {period:?}")]
    Slow {
        /// The least number of bytes.
        least: u64,
        /// The time they may take.
        period: Duration,
    },
    /// It failed too often lately and is not asked until it had some time.
    #[error("is not asked for another {} s, because {who} {why}", retry_after.as_secs().max(1))]
    Open {
        /// Who of it: itself, its token endpoint, the host of its content.
        who: &'static str,
        /// What failed last.
        why: String,
        /// When it is asked again.
        retry_after: Duration,
    },
    /// 429.
    #[error("says that it was asked too often (429)")]
    RateLimited {
        /// When it may be asked again, where it said so.
        retry_after: Option<Duration>,
    },
    /// 401 or 403, from the registry or from its token endpoint.
    #[error("refuses access ({status})")]
    Refused {
        /// The status.
        status: u16,
    },
    /// What lets us in cannot be had from who gives it to us.
    #[error("is not asked, because there are no credentials for it: {0}")]
    Credentials(String),
    /// A 5xx.
    #[error("is failing ({status})")]
    Failing {
        /// The status.
        status: u16,
    },
    /// A status that means nothing in this place.
    #[error("answered {status}, which means nothing here")]
    Unexpected {
        /// The status.
        status: u16,
    },
    /// What it said contradicts itself or what was asked: a wrong digest, an ambiguous manifest, junk.
    #[error("does not tell the truth: {0}")]
    Lies(String),
    /// More than is taken of this kind.
    #[error("sends more than the {limit} bytes that are taken")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
}

impl Error {
    /// When it may be asked again, where it said so or we do.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } => *retry_after,
            Self::Open { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    /// Whether this is about the upstream as a whole rather than about the one thing that was asked for: the next
    /// question would most likely fail the same way.
    pub const fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_)
                | Self::Proxy { .. }
                | Self::Timeout(_)
                | Self::Busy
                | Self::Open { .. }
                | Self::RateLimited { .. }
                | Self::Credentials(_)
                | Self::Failing { .. }
                | Self::Slow { .. }
        )
    }

    /// Whether a body that ended like this can be taken up again where it broke off.
    pub const fn is_interruption(&self) -> bool {
        matches!(
            self,
            Self::Broken(_)
                | Self::Unreachable(_)
                | Self::Proxy { .. }
                | Self::Timeout(_)
                | Self::Busy
                | Self::Open { .. }
                | Self::Credentials(_)
                | Self::Failing { .. }
        )
    }
}
