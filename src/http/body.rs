//! Bodies of blobs: from a file on disk, or from one that still grows.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;

use super::call::Call;
use super::sendfile::FileBody;
use crate::cache::{self, Blob};
use crate::repository::Served;
use crate::telemetry::metrics::Kind;

/// The bytes of a blob from `start` up to `end`, counted as they leave. A failure on the way cuts the connection: a
/// body that ends early never looks like one that is whole.
pub(super) fn of_blob(call: &Call, served: Served<Blob>, start: u64, end: u64) -> Body {
    let metrics = Arc::clone(&call.front.metrics);
    let (by, proxied) = (served.by, served.proxied);
    let count = move |piece: &Bytes| metrics.sent(by.as_str(), Kind::Blob, piece.len() as u64, proxied);
    match served.value {
        Blob::Stored(file) => {
            let body = FileBody::new(Arc::clone(file.file()), start, end - start);
            Body::new(body.map_frame(move |frame| {
                frame.data_ref().into_iter().for_each(&count);
                frame
            }))
        }
        Blob::Arriving(mut follower) => {
            let id = call.id.clone();
            follower.narrow(start, end);
            let pieces = stream::try_unfold(follower, async |mut follower| {
                Ok::<_, cache::Error>(follower.next_chunk().await?.map(|piece| (piece, follower)))
            });
            Body::from_stream(pieces.inspect(move |piece| match piece {
                Ok(piece) => count(piece),
                Err(error) => tracing::warn!(request_id = %id, %error, "a body was cut: its fetch failed"),
            }))
        }
    }
}
