//! For probes, Prometheus and the curious: no credentials, no redirects.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{Request, StatusCode, header};

use super::RequestId;
use super::audit::Told;
use super::credentials::Visitor;
use super::error::Failure;
use super::gate::{Caller, Gate};
use super::site::{Front, Site};
use crate::access::Identity;
use crate::repository::router::Hints;

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

/// `/livez`: the process answers, and gets round to its work. Nothing else is asked, so an upstream or a full disk never
/// restarts us.
pub(super) async fn live(State(front): State<Arc<Front>>) -> impl IntoResponse {
    liveness(front.pulse.is_stuck())
}

const fn liveness(is_stuck: bool) -> (StatusCode, &'static str) {
    if is_stuck {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "the runtime is blocked: only a restart helps\n",
        );
    }
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
        Ok(()) if front.store.is_indexing() => (
            StatusCode::OK,
            "ok; the index is being rebuilt from the disk, and until it is done lists take longer\n",
        )
            .into_response(),
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
pub(super) async fn metrics(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let site = front.site.load_full();
    if site.metrics_elsewhere {
        return (
            StatusCode::NOT_FOUND,
            "metrics have an address of their own: `server.metrics`\n",
        )
            .into_response();
    }
    let (parts, _) = request.into_parts();
    let (visitor, id) = (Visitor::of(&site, &parts), RequestId::of(&parts.headers));
    match may_see_metrics(&site, &visitor).await {
        Ok(()) => metrics_here(State(front)).await,
        Err((identity, failure)) => {
            let told = Told::of(&id, &visitor, identity.as_ref()).ended(failure.status(), Some(failure.message()));
            let action = "metrics";
            site.audit.tell_of(&Told { action, ..told });
            visitor.tell(failure, None, None).respond_plainly(&id)
        }
    }
}

/// They name repositories and say how much of them is pulled: who may pull something here may see them.
async fn may_see_metrics(site: &Site, visitor: &Visitor) -> Result<(), (Option<Identity>, Failure)> {
    let caller = Caller::of(site, visitor, false)
        .await
        .map_err(|failure| (None, failure))?;
    let hints = Hints::default();
    let gate = Gate {
        site,
        caller: &caller,
        hints,
        judged: None,
    };
    gate.metrics()
        .map_err(|failure| (Some(caller.identity.clone()), failure))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a08_who_is_stuck_is_not_alive() {
        assert_eq!(liveness(false).0, StatusCode::OK);
        assert_eq!(liveness(true).0, StatusCode::SERVICE_UNAVAILABLE);
    }
}
