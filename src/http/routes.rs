//! The table of what is answered where.

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use super::site::Front;
use super::{api, dispatch, prefetch, probes};

/// Everything on the main address. The distribution API has the name in the middle of its paths, and a key may stand
/// before `/v2`, so it is the fallback: one pure function reads those paths.
pub fn main(front: Arc<Front>) -> Router {
    Router::new()
        .route("/", get(probes::welcome))
        .route("/livez", get(probes::live))
        .route("/healthz", get(probes::ready))
        .route("/readyz", get(probes::ready))
        .route("/metrics", get(probes::metrics))
        .nest("/api/v1", application())
        .fallback(dispatch::distribution)
        .with_state(front)
}

/// What the command line and the page use.
fn application() -> Router<Arc<Front>> {
    Router::new()
        .route("/openapi.json", get(api::description))
        .route("/tags/history", get(api::history))
        .route("/tags/pin", post(api::pin))
        .route("/tags/unpin", post(api::unpin))
        .route("/tags/rollback", post(api::roll_back))
        .route("/prefetch", post(prefetch::prefetch))
        .method_not_allowed_fallback(api::wrong_method)
        .fallback(api::nothing)
}

/// The address of its own that metrics may have; probes are answered there too.
pub fn metrics(front: Arc<Front>) -> Router {
    Router::new()
        .route("/livez", get(probes::live))
        .route("/healthz", get(probes::ready))
        .route("/readyz", get(probes::ready))
        .route("/metrics", get(probes::metrics_here))
        .with_state(front)
}
