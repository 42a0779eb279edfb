//! The table of what is answered where.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;

use super::site::Front;
use super::{dispatch, probes};

/// Everything on the main address. The distribution API has the name in the middle of its paths, and a key may stand
/// before `/v2`, so it is the fallback: one pure function reads those paths.
pub fn main(front: Arc<Front>) -> Router {
    Router::new()
        .route("/", get(probes::welcome))
        .route("/livez", get(probes::live))
        .route("/healthz", get(probes::ready))
        .route("/readyz", get(probes::ready))
        .route("/metrics", get(probes::metrics))
        .fallback(dispatch::distribution)
        .with_state(front)
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
