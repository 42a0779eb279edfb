//! Why a remote could not tell.

use std::sync::Arc;

use crate::{store, upstream};

/// Why we do not know what a remote has, or could not get it. Shared by all who waited for the same thing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The upstream did not say.
    #[error("{host} {source}")]
    Upstream {
        /// Which.
        host: Arc<str>,
        /// Why not.
        source: upstream::Error,
    },
    /// It is not asked, whatever we do not know: its operator says so.
    #[error("{host} is not asked: `offline` is true")]
    Offline {
        /// Which.
        host: Arc<str>,
    },
    /// Too much is fetched at the moment.
    #[error("too much is being fetched at the moment; what is here already is served")]
    Overloaded,
    /// Our own store failed.
    #[error("the store failed: {0}")]
    Store(#[source] Arc<store::Error>),
    /// The task that was at it is gone.
    #[error("the fetch ended unexpectedly")]
    Lost,
}

impl Error {
    /// The upstream's own error, if it is one.
    pub const fn upstream(&self) -> Option<&upstream::Error> {
        match self {
            Self::Upstream { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Store(Arc::new(error))
    }
}
