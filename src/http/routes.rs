//! The table of what is answered where. All of it is here: the test of who may is made from it, and a route without a
//! row there does not build.

use std::sync::Arc;

use axum::Router;
use axum::routing::{MethodRouter, delete, get, post};
use tower::util::MapResponseLayer;

use super::shield::shield;
use super::site::Front;
use super::{api, backup, dispatch, gc, prefetch, probes, resolve, token, tokens, verify};

/// A path of its own on the main address. The distribution API is not among them: it has the name in the middle of its
/// paths, and a key may stand before `/v2`, so it is the fallback, and one pure function reads those paths
/// ([`Operation`](crate::oci::Operation)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say what the paths say")]
pub enum Endpoint {
    Welcome,
    Live,
    Healthy,
    Ready,
    Metrics,
    Mint,
    Description,
    TagHistory,
    PinTag,
    UnpinTag,
    RollBackTag,
    Resolve,
    Prefetch,
    Gc,
    Verify,
    Backup,
    Tokens,
    Token,
}

impl Endpoint {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Welcome,
        Self::Live,
        Self::Healthy,
        Self::Ready,
        Self::Metrics,
        Self::Mint,
        Self::Description,
        Self::TagHistory,
        Self::PinTag,
        Self::UnpinTag,
        Self::RollBackTag,
        Self::Resolve,
        Self::Prefetch,
        Self::Gc,
        Self::Verify,
        Self::Backup,
        Self::Tokens,
        Self::Token,
    ];

    /// Where it is.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Welcome => "/",
            Self::Live => "/livez",
            Self::Healthy => "/healthz",
            Self::Ready => "/readyz",
            Self::Metrics => "/metrics",
            Self::Mint => "/token",
            Self::Description => "/api/v1/openapi.json",
            Self::TagHistory => "/api/v1/tags/history",
            Self::PinTag => "/api/v1/tags/pin",
            Self::UnpinTag => "/api/v1/tags/unpin",
            Self::RollBackTag => "/api/v1/tags/rollback",
            Self::Resolve => "/api/v1/resolve",
            Self::Prefetch => "/api/v1/prefetch",
            Self::Gc => "/api/v1/gc",
            Self::Verify => "/api/v1/verify",
            Self::Backup => "/api/v1/backup",
            Self::Tokens => "/api/v1/tokens",
            Self::Token => "/api/v1/tokens/{id}",
        }
    }

    /// The methods that it takes.
    pub const fn methods(self) -> &'static [&'static str] {
        match self {
            Self::Welcome
            | Self::Live
            | Self::Healthy
            | Self::Ready
            | Self::Metrics
            | Self::Description
            | Self::TagHistory
            | Self::Resolve => &["GET"],
            Self::PinTag
            | Self::UnpinTag
            | Self::RollBackTag
            | Self::Prefetch
            | Self::Gc
            | Self::Verify
            | Self::Backup => &["POST"],
            Self::Mint | Self::Tokens => &["GET", "POST"],
            Self::Token => &["DELETE"],
        }
    }

    fn handler(self) -> MethodRouter<Arc<Front>> {
        let answered = match self {
            Self::Welcome => return get(probes::welcome),
            Self::Live => return get(probes::live),
            Self::Healthy | Self::Ready => return get(probes::ready),
            Self::Metrics => return get(probes::metrics),
            Self::Mint => return get(token::get).post(token::post).fallback(token::wrong_method),
            Self::Description => get(api::description),
            Self::TagHistory => get(api::history),
            Self::PinTag => post(api::pin),
            Self::UnpinTag => post(api::unpin),
            Self::RollBackTag => post(api::roll_back),
            Self::Resolve => get(resolve::resolve),
            Self::Prefetch => post(prefetch::prefetch),
            Self::Gc => post(gc::reclaim),
            Self::Verify => post(verify::verify),
            Self::Backup => post(backup::back_up),
            Self::Tokens => get(tokens::list).post(tokens::create),
            Self::Token => delete(tokens::revoke),
        };
        answered.fallback(api::wrong_method)
    }
}

/// Everything on the main address.
pub fn main(front: Arc<Front>) -> Router {
    let mut router = Router::new();
    for endpoint in Endpoint::ALL {
        router = router.route(endpoint.path(), endpoint.handler());
    }
    router
        .route("/api/v1/{*rest}", axum::routing::any(api::nothing))
        .fallback(dispatch::distribution)
        .layer(MapResponseLayer::new(shield))
        .with_state(front)
}

/// The address of its own that metrics may have; probes are answered there too.
pub fn metrics(front: Arc<Front>) -> Router {
    let mut router = Router::new();
    for endpoint in [Endpoint::Live, Endpoint::Healthy, Endpoint::Ready] {
        router = router.route(endpoint.path(), endpoint.handler());
    }
    router
        .route(Endpoint::Metrics.path(), get(probes::metrics_here))
        .layer(MapResponseLayer::new(shield))
        .with_state(front)
}
