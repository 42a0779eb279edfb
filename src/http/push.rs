//! Writing: uploads, manifests, deletions. Everything goes to the local repository behind the name, if there is one.

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, StatusCode, header};
use http_body::Body as _;
use tokio::sync::OwnedSemaphorePermit;

use super::answer::{CONTENT_DIGEST, REPOSITORY, value, with_headers};
use super::call::Call;
use super::error::Failure;
use super::gate::Target;
use super::shed;
use crate::oci::operation::{Action, StartUpload, UploadId};
use crate::oci::range::content_range;
use crate::oci::{Digest, ErrorCode, ImageName, Reference, RepositoryKey, Tag};
use crate::store::Upload;

const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAG: HeaderName = HeaderName::from_static("oci-tag");

/// `POST …/blobs/uploads/`: a mount, a whole blob in one request, or a session.
pub(super) async fn start(call: &Call, name: &ImageName, start: StartUpload, body: Body) -> Result<Response, Failure> {
    let target = call.target(name, Action::Push)?;
    let repository = &target.repository;
    if let Some(digest) = &start.mount
        && call
            .gate()
            .may_mount(&call.front.store, digest, start.from.as_ref())
            .await?
        && repository.mount(&target.image, digest).await?
    {
        return Ok(created_blob(call, name, repository.key(), digest));
    }
    let algorithm = start.algorithm.or_else(|| start.digest.as_ref().map(Digest::algorithm));
    let mut upload = repository
        .begin_upload(&target.image, algorithm, &call.caller.owner())
        .await?;
    let Some(digest) = start.digest else {
        let headers = session_headers(call, name, repository.key(), upload.id(), 0);
        upload.save();
        return Ok(with_headers(StatusCode::ACCEPTED, headers, Body::empty()));
    };
    if let Err(failure) = receive(call, repository.key(), &mut upload, body, None).await {
        // Nobody was told of this session, so nobody could go on with it.
        upload.cancel().await?;
        return Err(failure);
    }
    upload.finish(&digest).await?;
    Ok(created_blob(call, name, repository.key(), &digest))
}

/// `GET` of an upload: how far it is.
pub(super) async fn status(call: &Call, name: &ImageName, id: UploadId) -> Result<Response, Failure> {
    let target = call.target(name, Action::Push)?;
    let upload = target
        .repository
        .upload(&target.image, id, &call.caller.owner())
        .await?;
    let headers = session_headers(call, name, target.repository.key(), id, upload.offset());
    upload.save();
    Ok(with_headers(StatusCode::NO_CONTENT, headers, Body::empty()))
}

/// `PATCH` of an upload: more bytes.
pub(super) async fn append(call: &Call, name: &ImageName, id: UploadId, body: Body) -> Result<Response, Failure> {
    let target = call.target(name, Action::Push)?;
    let upload = go_on(call, name, &target, id, body).await?;
    let headers = session_headers(call, name, target.repository.key(), id, upload.offset());
    upload.save();
    Ok(with_headers(StatusCode::ACCEPTED, headers, Body::empty()))
}

/// `PUT` of an upload: the last bytes, if any, and the digest of all.
pub(super) async fn finish(
    call: &Call,
    name: &ImageName,
    id: UploadId,
    digest: &Digest,
    body: Body,
) -> Result<Response, Failure> {
    let target = call.target(name, Action::Push)?;
    let upload = go_on(call, name, &target, id, body).await?;
    upload.finish(digest).await?;
    Ok(created_blob(call, name, target.repository.key(), digest))
}

/// Takes an upload up again and appends a body to it. A body that does not continue it is 416, with where the upload
/// stands, so that a client can go on from there; the session stays as it is.
async fn go_on(call: &Call, name: &ImageName, target: &Target, id: UploadId, body: Body) -> Result<Upload, Failure> {
    let repository = target.repository.key();
    let mut upload = target
        .repository
        .upload(&target.image, id, &call.caller.owner())
        .await?;
    let length = expected(call, upload.offset())
        .map_err(|failure| failure.with_headers(session_headers(call, name, repository, id, upload.offset())))?;
    receive(call, repository, &mut upload, body, length).await?;
    Ok(upload)
}

/// `DELETE` of an upload.
pub(super) async fn cancel(call: &Call, name: &ImageName, id: UploadId) -> Result<Response, Failure> {
    let target = call.target(name, Action::Push)?;
    let upload = target
        .repository
        .upload(&target.image, id, &call.caller.owner())
        .await?;
    upload.cancel().await?;
    Ok(with_headers(StatusCode::NO_CONTENT, HeaderMap::new(), Body::empty()))
}

/// How many bytes the request says to send, if it says so in `Content-Range`; they must continue what is here.
fn expected(call: &Call, offset: u64) -> Result<Option<u64>, Failure> {
    let Some(header) = call.parts.headers.get(header::CONTENT_RANGE) else {
        return Ok(None);
    };
    let range = header.to_str().ok().and_then(content_range);
    let (start, end) = range.ok_or_else(|| {
        let message = "Content-Range of an upload is `<first byte>-<last byte>`, both included";
        Failure::new(ErrorCode::RangeInvalid, message)
    })?;
    if start != offset {
        let message = format!("the upload has {offset} bytes: the next chunk begins there, not at {start}");
        return Err(Failure::new(ErrorCode::RangeInvalid, message));
    }
    Ok(Some((end - start).saturating_add(1)))
}

/// Appends a body to an upload as it comes: nothing is gathered in memory. When the client vanishes, what came stays.
async fn receive(
    call: &Call,
    repository: &RepositoryKey,
    upload: &mut Upload,
    body: Body,
    length: Option<u64>,
) -> Result<(), Failure> {
    let before = upload.offset();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| {
            let message = format!("the body broke off: {error}; go on from where the upload stands");
            Failure::new(ErrorCode::BlobUploadInvalid, message)
        })?;
        let received = upload.offset() - before + chunk.len() as u64;
        if length.is_some_and(|length| received > length) {
            let message = "the body is longer than its Content-Range";
            return Err(Failure::new(ErrorCode::SizeInvalid, message));
        }
        upload.append(&chunk)?;
    }
    let received = upload.offset() - before;
    call.front.metrics.received(repository.as_str(), received);
    if length.is_some_and(|length| received != length) {
        let message = format!("the body has {received} bytes, its Content-Range says another number");
        return Err(Failure::new(ErrorCode::SizeInvalid, message));
    }
    Ok(())
}

/// `PUT …/manifests/<reference>`.
pub(super) async fn manifest(
    call: &Call,
    name: &ImageName,
    reference: &Reference,
    tags: &[Tag],
    body: Body,
) -> Result<Response, Failure> {
    let target = call.target(name, Action::Push)?;
    let (bytes, _gathered) = whole(call, body).await?;
    call.front
        .metrics
        .received(target.repository.key().as_str(), bytes.len() as u64);
    let content_type = call.header(&header::CONTENT_TYPE).map(str::to_owned);
    let pushed = target
        .repository
        .push_manifest(
            &target.through,
            &target.image,
            reference,
            tags,
            bytes,
            content_type.as_deref(),
        )
        .await?;
    let mut headers = HeaderMap::with_capacity(8);
    let digest = &pushed.digest;
    headers.insert(
        header::LOCATION,
        value(&format!("{}/manifests/{reference}", call.base(name))),
    );
    headers.insert(CONTENT_DIGEST, value(digest.as_str()));
    headers.insert(header::ETAG, value(&format!("\"{digest}\"")));
    headers.insert(REPOSITORY, value(target.repository.key().as_str()));
    if let Some(subject) = pushed.subject {
        headers.insert(SUBJECT, value(subject.as_str()));
    }
    for tag in tags {
        headers.append(TAG, value(tag.as_str()));
    }
    Ok(with_headers(StatusCode::CREATED, headers, Body::empty()))
}

/// The whole body, at most as long as a manifest may be, and the room in memory that it takes.
async fn whole(call: &Call, body: Body) -> Result<(Bytes, Vec<OwnedSemaphorePermit>), Failure> {
    let limit = call.site.limits.manifest;
    let too_long = || {
        let message = format!("the manifest is longer than {limit} bytes: `server.limits.manifest`");
        Failure::new(ErrorCode::TooLarge, message)
    };
    // What is announced to be too long is not waited for.
    if body.size_hint().lower() > limit {
        return Err(too_long());
    }
    let load = call.site.repositories.load();
    let mut gathered = Vec::new();
    let mut bytes = BytesMut::new();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| {
            Failure::new(
                ErrorCode::ManifestInvalid,
                format!("the manifest did not arrive whole: {error}"),
            )
        })?;
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Err(too_long());
        }
        // Not by what the client says that it will send: that costs it nothing.
        let room = load.gather(chunk.len());
        gathered.push(room.ok_or_else(|| shed::overloaded("too many manifests are arriving at the moment"))?);
        bytes.extend_from_slice(&chunk);
    }
    Ok((bytes.freeze(), gathered))
}

/// `DELETE …/manifests/<reference>`.
pub(super) async fn delete_manifest(call: &Call, name: &ImageName, reference: &Reference) -> Result<Response, Failure> {
    let Target { repository, image, .. } = call.target(name, Action::Delete)?;
    if !repository.delete_manifest(&image, reference).await? {
        let message = format!("`{}` has no manifest {reference} of {}", repository.key(), image);
        return Err(Failure::new(ErrorCode::ManifestUnknown, message));
    }
    Ok(deleted(repository.key()))
}

/// `DELETE …/blobs/<digest>`.
pub(super) async fn delete_blob(call: &Call, name: &ImageName, digest: &Digest) -> Result<Response, Failure> {
    let Target { repository, image, .. } = call.target(name, Action::Delete)?;
    if !repository.delete_blob(&image, digest).await? {
        let message = format!("`{}` has no blob {digest} in {}", repository.key(), image);
        return Err(Failure::new(ErrorCode::BlobUnknown, message));
    }
    Ok(deleted(repository.key()))
}

fn deleted(repository: &RepositoryKey) -> Response {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(REPOSITORY, value(repository.as_str()));
    with_headers(StatusCode::ACCEPTED, headers, Body::empty())
}

fn created_blob(call: &Call, name: &ImageName, repository: &RepositoryKey, digest: &Digest) -> Response {
    let mut headers = HeaderMap::with_capacity(8);
    let location = format!("{}/blobs/{digest}{}", call.base(name), call.namespace_query('?'));
    headers.insert(header::LOCATION, value(&location));
    headers.insert(CONTENT_DIGEST, value(digest.as_str()));
    headers.insert(REPOSITORY, value(repository.as_str()));
    with_headers(StatusCode::CREATED, headers, Body::empty())
}

/// Where an upload is and how far: `Range: 0-<last byte>`, and `0-0` when it has none, as every registry writes it.
fn session_headers(call: &Call, name: &ImageName, repository: &RepositoryKey, id: UploadId, offset: u64) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    let location = format!("{}/blobs/uploads/{id}{}", call.base(name), call.namespace_query('?'));
    headers.insert(header::LOCATION, value(&location));
    headers.insert(header::RANGE, value(&format!("0-{}", offset.saturating_sub(1))));
    headers.insert(UPLOAD_UUID, value(&id.to_string()));
    headers.insert(REPOSITORY, value(repository.as_str()));
    headers
}
