//! `/api/v1/gc`: what nothing needs is given back now, and not only when its time comes round.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{Request, StatusCode};
use serde::Deserialize;

use super::api::{Ask, json};
use super::error::Failure;
use super::site::Front;
use crate::oci::operation::Action;

/// What is to be done.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GcRequest {
    /// Only say what would be.
    #[serde(default)]
    dry_run: bool,
}

/// `POST /api/v1/gc`. Only for who may do everything: it goes through everything.
pub(super) async fn reclaim(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let (ask, body) = Ask::of(Arc::clone(&front), request);
    let result = reclaimed(&front, &ask, body).await;
    ask.respond(result)
}

async fn reclaimed(front: &Front, ask: &Ask, body: Body) -> Result<Response, Failure> {
    ask.allowed_everywhere(Action::Admin).await?;
    let asked: GcRequest = ask.read(body).await?;
    if asked.dry_run {
        ask.only_looks();
    }
    let done = front.reclaim(asked.dry_run).await?;
    Ok(json(StatusCode::OK, serde_json::to_vec(&done).unwrap_or_default()))
}
