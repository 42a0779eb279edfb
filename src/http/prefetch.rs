//! `POST /api/v1/prefetch`: images fetched ahead of time, told of line by line while they come.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Request, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::api::Ask;
use super::error::Failure;
use super::image_text::ImageText;
use super::site::Front;
use crate::cache::{Piece, Prefetched};
use crate::oci::operation::Action;
use crate::oci::{ErrorCode, Platform};
use crate::repository::Route;

/// How many images one request may name.
const IMAGES: usize = 1000;
/// How many lines wait for a client that reads slowly; then the fetching waits too.
const LINES: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    images: Vec<String>,
    #[serde(default)]
    platforms: Option<Vec<String>>,
}

/// An image that is to be fetched.
struct Job {
    text: String,
    named: ImageText,
    route: Route,
}

pub(super) async fn prefetch(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let (ask, body) = Ask::of(front, request);
    let result = begin(&ask, body).await;
    ask.respond(result)
}

/// All that can be told to be wrong is told before anything is fetched.
async fn begin(ask: &Ask, body: Body) -> Result<Response, Failure> {
    let caller = ask.caller().await?;
    ask.gate(&caller).somewhere(Action::Admin)?;
    let wanted: Wanted = ask.read(body).await?;
    if wanted.images.is_empty() || wanted.images.len() > IMAGES {
        let message = format!("`images` names 1 to {IMAGES} images");
        return Err(Failure::new(ErrorCode::NameInvalid, message));
    }
    let mut platforms = None;
    for text in wanted.platforms.iter().flatten() {
        let platform: Platform = text
            .parse()
            .map_err(|error| Failure::new(ErrorCode::NameInvalid, format!("{error}")))?;
        platforms.get_or_insert_with(Vec::new).push(platform);
    }
    let mut jobs = Vec::with_capacity(wanted.images.len());
    for text in wanted.images {
        let (named, route) = ask.route(&caller, &text, Action::Admin)?;
        jobs.push(Job { text, named, route });
    }
    let (tell, told) = mpsc::channel(LINES);
    tokio::spawn(run(jobs, platforms, tell));
    let lines = stream::unfold(told, async |mut told| {
        told.recv().await.map(|line| (Ok::<_, Infallible>(line), told))
    });
    let mut response = Response::new(Body::from_stream(lines));
    let ndjson = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, ndjson);
    Ok(response)
}

/// One image after the other, until all are done or nobody listens.
async fn run(jobs: Vec<Job>, platforms: Option<Vec<Platform>>, tell: mpsc::Sender<Bytes>) {
    let (mut images, mut failed, mut all) = (0_u64, 0_u64, Prefetched::default());
    for job in jobs {
        if tell.is_closed() {
            return;
        }
        images += 1;
        match fetch(&job, platforms.as_deref(), &tell).await {
            Ok(done) => {
                failed += u64::from(done.failed > 0);
                let _ = tell
                    .send(line(&json!({ "image": job.text, "done": summary(&done) })))
                    .await;
                all = Prefetched {
                    manifests: all.manifests + done.manifests,
                    blobs: all.blobs + done.blobs,
                    fetched: all.fetched + done.fetched,
                    bytes: all.bytes + done.bytes,
                    failed: all.failed + done.failed,
                    why: all.why.or(done.why),
                };
            }
            Err(failure) => {
                failed += 1;
                let error = json!({ "code": failure.code(), "message": failure.message() });
                let _ = tell.send(line(&json!({ "image": job.text, "error": error }))).await;
            }
        }
    }
    let mut last = summary(&all);
    last["images"] = images.into();
    last["images_failed"] = failed.into();
    let _ = tell.send(line(&json!({ "summary": last }))).await;
}

async fn fetch(job: &Job, platforms: Option<&[Platform]>, tell: &mpsc::Sender<Bytes>) -> Result<Prefetched, Failure> {
    let (pieces, mut come) = mpsc::channel(LINES);
    let Route { repository, image, .. } = &job.route;
    let reference = &job.named.reference;
    let fetching = async move { repository.prefetch(image, reference, platforms, &pieces).await };
    let telling = async move {
        while let Some(piece) = come.recv().await {
            // Once nobody listens, `come` is dropped, and with that the fetching ends.
            if tell.send(line(&told(&job.text, &piece))).await.is_err() {
                return;
            }
        }
    };
    let (fetched, ()) = tokio::join!(fetching, telling);
    fetched?.ok_or_else(|| {
        let message = format!("`{}` has no {reference} of {image}", repository.key());
        Failure::new(ErrorCode::ManifestUnknown, message)
    })
}

fn told(image: &str, piece: &Piece) -> Value {
    match piece {
        Piece::Manifest(digest) => json!({ "image": image, "manifest": digest.as_str() }),
        Piece::Blob { digest, size, fetched } => {
            json!({ "image": image, "blob": digest.as_str(), "size": size, "fetched": fetched })
        }
        Piece::Failed { digest, why } => json!({ "image": image, "missing": digest.as_str(), "why": why }),
    }
}

fn summary(done: &Prefetched) -> Value {
    json!({
        "manifests": done.manifests,
        "blobs": done.blobs,
        "fetched": done.fetched,
        "bytes": done.bytes,
        "missing": done.failed,
        "why": done.why,
    })
}

fn line(value: &Value) -> Bytes {
    format!("{value}\n").into()
}
