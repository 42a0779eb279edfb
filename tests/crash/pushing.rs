//! What a client does to an image: pushes of all kinds, moves, deletions.

use std::time::Instant;

use bytes::Bytes;
use entrepot::oci::Digest;
use reqwest::{RequestBuilder, StatusCode};

use crate::binary::{OCI_MANIFEST, image_manifest, sha256};
use crate::caller::{Caller, Gone};
use crate::oracle::{Key, State};
use crate::support::upstream::noise;
use crate::world::{GRACE, Unfinished};

impl Caller {
    async fn linked(&self, request: RequestBuilder, digest: &Digest, refusals: &[StatusCode]) -> Result<bool, Gone> {
        let change = vec![(self.blob_key(digest), Some(digest.clone()))];
        let done = self.change(change, request, StatusCode::CREATED, refusals).await?;
        if done {
            self.world.note_blob(&self.image, digest);
        }
        Ok(done)
    }

    /// A blob in one request.
    pub(crate) async fn push_at_once(&self, bytes: &Bytes) -> Result<bool, Gone> {
        let digest = sha256(bytes);
        let path = self.path(&format!("blobs/uploads/?digest={digest}"));
        let request = self.door.request("POST", &path).body(bytes.clone());
        self.linked(request, &digest, &[]).await
    }

    /// A blob in pieces, unless it is left where it is before the end.
    pub(crate) async fn push_in_pieces(&self, bytes: &Bytes, pieces: usize, is_left: bool) -> Result<bool, Gone> {
        let request = self.door.request("POST", &self.path("blobs/uploads/"));
        let begun = self.ask(request).await?;
        if begun.status.is_server_error() {
            return Ok(false);
        }
        assert_eq!(begun.status, StatusCode::ACCEPTED);
        let mut upload = Unfinished {
            image: self.image.clone(),
            location: begun.header("location").to_owned(),
            bytes: bytes.clone(),
            taken: 0,
            is_ending: false,
        };
        let result = self.fill(&mut upload, pieces, is_left).await;
        if is_left || result.is_err() {
            self.world.leave(upload);
        }
        result
    }

    async fn fill(&self, upload: &mut Unfinished, pieces: usize, is_left: bool) -> Result<bool, Gone> {
        let piece = upload.bytes.len() / (pieces + 1);
        for _ in 0..pieces {
            let bytes = upload.bytes.slice(upload.taken..upload.taken + piece);
            let answer = self
                .ask(self.door.request("PATCH", &upload.location).body(bytes))
                .await?;
            if answer.status.is_server_error() {
                return Ok(false);
            }
            assert_eq!(answer.status, StatusCode::ACCEPTED, "{:?}", answer.body);
            answer.header("location").clone_into(&mut upload.location);
            upload.taken += piece;
        }
        if is_left {
            return Ok(false);
        }
        upload.is_ending = true;
        self.finish(upload).await
    }

    /// The rest of an upload, and its end.
    pub(crate) async fn finish(&self, upload: &Unfinished) -> Result<bool, Gone> {
        let digest = sha256(&upload.bytes);
        let and = if upload.location.contains('?') { '&' } else { '?' };
        let path = format!("{}{and}digest={digest}", upload.location);
        let request = self.door.request("PUT", &path).body(upload.bytes.slice(upload.taken..));
        self.linked(request, &digest, &[]).await
    }

    /// A blob that another image has. Without it, the upload that is offered instead is not wanted.
    pub(crate) async fn mount(&self, digest: &Digest, from: &str) -> Result<bool, Gone> {
        let path = self.path(&format!("blobs/uploads/?mount={digest}&from=local/{from}"));
        let request = self.door.request("POST", &path);
        self.linked(request, digest, &[StatusCode::ACCEPTED]).await
    }

    /// Whether a blob is in the image; a client that is told so does not push it.
    pub(crate) async fn has_blob(&self, digest: &Digest) -> Result<bool, Gone> {
        let request = self.door.request("HEAD", &self.path(&format!("blobs/{digest}")));
        let answer = self.ask(request).await?;
        let was_promised = self
            .world
            .oracle
            .is_fresh(&self.blob_key(digest), GRACE, Instant::now());
        assert!(
            answer.status != StatusCode::NOT_FOUND || !was_promised,
            "an acknowledged blob is gone: {digest}"
        );
        Ok(answer.status == StatusCode::OK)
    }

    /// A manifest over blobs that are in the image, under a tag or none.
    pub(crate) async fn push_manifest(
        &self,
        manifest: &Bytes,
        tag: Option<&str>,
        refusals: &[StatusCode],
    ) -> Result<bool, Gone> {
        let digest = sha256(manifest);
        let mut changes = vec![(self.manifest_key(&digest), Some(digest.clone()))];
        changes.extend(tag.map(|tag| (self.tag_key(tag), Some(digest.clone()))));
        let path = self.path(&format!("manifests/{}", tag.unwrap_or(digest.as_str())));
        let request = self.door.request("PUT", &path).header("content-type", OCI_MANIFEST);
        let request = request.body(manifest.clone());
        self.change(changes, request, StatusCode::CREATED, refusals).await
    }

    /// A whole image of these layers.
    pub(crate) async fn push_image(&mut self, layers: &[Bytes], tag: Option<&str>) -> Result<Option<Digest>, Gone> {
        let began = Instant::now();
        let made = self.dice.next();
        let config = Bytes::from(format!("{{\"made\":\"{made}\"}}"));
        let mut all = vec![config];
        all.extend_from_slice(layers);
        for blob in &all {
            if !self.push_blob(blob).await? {
                return Ok(None);
            }
        }
        let digests: Vec<Digest> = all.iter().map(|blob| sha256(blob)).collect();
        let sized: Vec<(&Digest, usize)> = digests.iter().zip(all.iter().map(Bytes::len)).collect();
        let manifest = Bytes::from(image_manifest(sized[0], &sized[1..], ""));
        let digest = sha256(&manifest);
        self.world.note_manifest(&digest, &digests);
        let done = self.push_manifest(&manifest, tag, &[StatusCode::BAD_REQUEST]).await?;
        // Who takes that long between a blob and its manifest may be told to send it again, and nobody else.
        let is_slow = began.elapsed() >= GRACE;
        assert!(
            done || is_slow || self.world.may_fail(),
            "a blob that was promised is gone"
        );
        Ok(done.then_some(digest))
    }

    /// A blob, in one of the ways that there are.
    async fn push_blob(&mut self, bytes: &Bytes) -> Result<bool, Gone> {
        let digest = sha256(bytes);
        if self.has_blob(&digest).await? {
            return Ok(true);
        }
        if let Some(from) = self.world.image_with(&digest)
            && self.mount(&digest, &from).await?
        {
            return Ok(true);
        }
        match self.dice.below(4) {
            0 | 1 => self.push_at_once(bytes).await,
            pieces => {
                self.push_in_pieces(bytes, usize::try_from(pieces).expect("few") - 2, false)
                    .await
            }
        }
    }

    /// The manifest that was made for this digest, as the image has it, under another tag.
    pub(crate) async fn move_tag(&self, tag: &str, digest: &Digest) -> Result<bool, Gone> {
        let request = self.door.request("GET", &self.path(&format!("manifests/{digest}")));
        let answer = self.ask(request).await?;
        if answer.status.is_server_error() {
            return Ok(false);
        }
        assert_eq!(
            answer.status,
            StatusCode::OK,
            "an acknowledged manifest is gone: {digest}"
        );
        assert_eq!(answer.digest(), *digest);
        self.push_manifest(&answer.body, Some(tag), &[]).await
    }

    pub(crate) async fn delete_tag(&self, tag: &str) -> Result<bool, Gone> {
        let key = self.tag_key(tag);
        // Somebody else may have been faster, elsewhere than in an image of one's own.
        let must_be = self.is_alone && self.world.oracle.is_certain(&key);
        let request = self.door.request("DELETE", &self.path(&format!("manifests/{tag}")));
        self.delete(vec![(key, None)], request, must_be).await
    }

    /// A manifest, and every tag that means it.
    pub(crate) async fn delete_manifest(&self, digest: &Digest) -> Result<bool, Gone> {
        let key = self.manifest_key(digest);
        let must_be = self.is_alone && self.world.oracle.is_certain(&key);
        let tags = self
            .world
            .oracle
            .meaning(&self.image, digest)
            .into_iter()
            .map(|key| (key, None));
        // One that may mean something else instead goes only if it does not.
        let (mut changes, doubtful): (Vec<_>, Vec<_>) =
            tags.partition(|(key, _)| self.world.oracle.possible(key) == [Some(digest.clone())]);
        changes.push((key, None));
        let doubt = self.world.oracle.begin(doubtful);
        let request = self.door.request("DELETE", &self.path(&format!("manifests/{digest}")));
        let deleted = self.delete(changes, request, must_be).await?;
        self.world.oracle.end(doubt, false);
        Ok(deleted)
    }

    async fn delete(&self, changes: Vec<(Key, State)>, request: RequestBuilder, must_be: bool) -> Result<bool, Gone> {
        let refusals: &[StatusCode] = if must_be { &[] } else { &[StatusCode::NOT_FOUND] };
        self.change(changes, request, StatusCode::ACCEPTED, refusals).await
    }

    /// A layer: small mostly, and one that somebody else pushes too now and then.
    pub(crate) fn layer(&mut self) -> Bytes {
        if self.dice.once_in(5) {
            let number = self.dice.below(20);
            return noise(10_000 + usize::try_from(number).expect("few"), number);
        }
        let longest = if self.dice.once_in(20) { 400_000 } else { 40_000 };
        let length = 16 + usize::try_from(self.dice.below(longest)).expect("short");
        noise(length, self.dice.next())
    }
}
