//! For probes, Prometheus and the curious: no credentials, no redirects.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};

use super::site::Front;

/// `/`: what this is. Load balancers probe it and take any 200.
pub(super) async fn welcome() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
        concat!(
            "Entrepôt ",
            env!("CARGO_PKG_VERSION"),
            ", an OCI registry. The API is below /v2/.\n"
        ),
    )
}

/// `/livez`: the process answers. Nothing else is asked, so an upstream or a full disk never restarts us.
pub(super) async fn live() -> impl IntoResponse {
    (StatusCode::OK, "ok\n")
}

/// `/readyz`: we can take work. An upstream's state is no reason to say no: what is cached is served without it. Nor is
/// a full disk: pulls go on, and whoever sent them elsewhere would take away what still works.
pub(super) async fn ready(State(front): State<Arc<Front>>) -> Response {
    if front.is_draining() {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "stopping: running requests are finished, new ones belong elsewhere\n",
        )
            .into_response();
    }
    match front.check_writable().await {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(error) if error.is_full() => {
            (StatusCode::OK, format!("ok for pulls; pushes are refused: {error}\n")).into_response()
        }
        Err(error) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the store cannot be written: {error}\n"),
        )
            .into_response(),
    }
}

/// `/metrics` on the main address, unless it has been moved.
pub(super) async fn metrics(State(front): State<Arc<Front>>) -> Response {
    if front.site.load().metrics_elsewhere {
        return (
            StatusCode::NOT_FOUND,
            "metrics have an address of their own: `server.metrics`\n",
        )
            .into_response();
    }
    metrics_here(State(front)).await
}

/// `/metrics` on its own address.
pub(super) async fn metrics_here(State(front): State<Arc<Front>>) -> Response {
    match front.metrics.render() {
        Ok(text) => (
            [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
            text,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
