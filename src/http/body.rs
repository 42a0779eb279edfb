//! Bodies of blobs: from a file on disk, or from one that still grows.

use std::fs::File;
use std::io;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body::Frame;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};

use super::byteranges::Parts;
use super::call::Call;
use super::sendfile::FileBody;
use crate::cache::{self, Blob};
use crate::oci::range::Part;
use crate::repository::Served;
use crate::store::BlobFile;
use crate::telemetry::metrics::Kind;

/// The bytes of a blob from `start` up to `end`, counted as they leave. A failure on the way cuts the connection: a
/// body that ends early never looks like one that is whole.
pub(super) fn of_blob(call: &Call, served: Served<Blob>, start: u64, end: u64) -> Body {
    let count = counted(call, &served);
    match served.value {
        Blob::Stored(file) => Body::new(of_file(Arc::clone(file.file()), start, end, count)),
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

/// Several parts of a blob that is here.
pub(super) fn of_parts(call: &Call, served: &Served<Blob>, file: BlobFile, parts: &Parts) -> Body {
    let count = counted(call, served);
    let end = Frame::data(parts.end());
    let parts: Vec<(Bytes, Part)> = parts.each().collect();
    let frames = stream::iter(parts).flat_map(move |(head, part)| {
        let content = BodyStream::new(of_file(
            Arc::clone(file.file()),
            part.start,
            part.end + 1,
            count.clone(),
        ));
        stream::iter([Ok(Frame::data(head))]).chain(content)
    });
    Body::new(StreamBody::new(frames.chain(stream::iter([Ok(end)]))))
}

fn of_file(
    file: Arc<File>,
    start: u64,
    end: u64,
    count: impl Fn(&Bytes) + Send + 'static,
) -> impl http_body::Body<Data = Bytes, Error = io::Error> + Send + 'static {
    FileBody::new(file, start, end - start).map_frame(move |frame| {
        frame.data_ref().into_iter().for_each(&count);
        frame
    })
}

/// Counts bytes of a blob that leave.
fn counted(call: &Call, served: &Served<Blob>) -> impl Fn(&Bytes) + Clone + Send + Sync + 'static {
    let metrics = Arc::clone(&call.front.metrics);
    let (by, proxied) = (served.by.clone(), served.proxied);
    move |piece: &Bytes| metrics.sent(by.as_str(), Kind::Blob, piece.len() as u64, proxied)
}
