//! `/api/v1/verify`: whether what is kept is what was stored.

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
use crate::store::Repair;

/// What is to be done.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifyRequest {
    /// Mend what can be.
    #[serde(default)]
    repair: bool,
}

/// `POST /api/v1/verify`. Only for who may do everything: it reads everything.
pub(super) async fn verify(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let (ask, body) = Ask::of(Arc::clone(&front), request);
    let result = verified(&front, &ask, body).await;
    ask.respond(result)
}

async fn verified(front: &Front, ask: &Ask, body: Body) -> Result<Response, Failure> {
    ask.allowed_everywhere(Action::Admin).await?;
    let asked: VerifyRequest = ask.read(body).await?;
    let repair = if asked.repair { Repair::All } else { Repair::Nothing };
    if repair == Repair::Nothing {
        ask.only_looks();
    }
    let done = front.verify(repair, None).await?;
    Ok(json(StatusCode::OK, serde_json::to_vec(&done).unwrap_or_default()))
}
