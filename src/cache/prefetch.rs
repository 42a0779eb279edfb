//! Fetching ahead of time: an image with all that belongs to it, a few pieces at once, so that who pulls meanwhile does
//! not notice.

use std::collections::HashSet;

use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;

use super::{Answer, Blob, Cached, Error, Inner};
use crate::oci::{Descriptor, Digest, ImageName, Manifest, Platform, Reference};

/// How many blobs of one remote are fetched ahead at once, whoever asked for them.
pub(super) const AT_ONCE: usize = 2;
/// How many manifests one image may be made of.
const MANIFESTS: usize = 1000;

/// One piece of what is fetched ahead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A manifest is here.
    Manifest(Digest),
    /// A blob is here.
    Blob {
        /// Its digest.
        digest: Digest,
        /// Its length.
        size: u64,
        /// Whether it had to be fetched.
        fetched: bool,
    },
    /// A manifest or blob could not be had.
    Failed {
        /// Its digest.
        digest: Digest,
        /// Why not.
        why: String,
    },
}

/// What came of fetching an image ahead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefetched {
    /// How many manifests are here now.
    pub manifests: u64,
    /// How many blobs are here now.
    pub blobs: u64,
    /// How many of them had to be fetched.
    pub fetched: u64,
    /// How many bytes those have.
    pub bytes: u64,
    /// What is missing, and why; the first of them.
    pub failed: u64,
    /// The first reason.
    pub why: Option<String>,
}

impl Prefetched {
    fn count(&mut self, piece: &Piece) {
        match piece {
            Piece::Manifest(_) => self.manifests += 1,
            Piece::Blob { size, fetched, .. } => {
                self.blobs += 1;
                if *fetched {
                    self.fetched += 1;
                    self.bytes += size;
                }
            }
            Piece::Failed { why, .. } => {
                self.failed += 1;
                self.why.get_or_insert_with(|| why.clone());
            }
        }
    }
}

impl Inner {
    /// Fetches an image: its manifest, those of its platforms, configurations and layers. Ends early when nobody
    /// listens any more.
    pub(super) async fn prefetch(
        &self,
        image: &ImageName,
        reference: &Reference,
        platforms: &[Platform],
        tell: &mpsc::Sender<Piece>,
    ) -> Answer<Prefetched> {
        let mut done = Prefetched::default();
        if let Some(why) = self.is_spared()
            && self.cached_manifest(image, reference).await?.is_none()
        {
            (done.failed, done.why) = (1, Some(why));
            return Ok(Some(Cached::miss(done)));
        }
        let Some(root) = self.manifest(image, reference).await? else {
            return Ok(None);
        };
        let outcome = root.outcome;
        let mut blobs: Vec<Descriptor> = Vec::new();
        let mut seen: HashSet<Digest> = HashSet::from([root.value.digest.clone()]);
        let mut waiting = vec![root.value];
        while let Some(manifest) = waiting.pop() {
            report(&mut done, tell, Piece::Manifest(manifest.digest.clone())).await;
            let contents = manifest.contents().map_err(|error| self.lie(&error.to_string()))?;
            let new = |descriptor: &Descriptor| !descriptor.may_be_absent();
            blobs.extend(contents.config.into_iter().chain(contents.layers).filter(new));
            for child in contents.manifests.into_iter().filter(|child| is_for(child, platforms)) {
                if tell.is_closed() || seen.len() >= MANIFESTS || !seen.insert(child.digest.clone()) {
                    continue;
                }
                match self.child(image, &child.digest).await {
                    Ok(manifest) => waiting.push(manifest),
                    Err(why) => {
                        let digest = child.digest;
                        report(&mut done, tell, Piece::Failed { digest, why }).await;
                    }
                }
            }
        }
        blobs.retain(|blob| seen.insert(blob.digest.clone()));
        let pieces = stream::iter(blobs).map(|blob| self.prefetch_blob(image, blob, tell));
        let mut pieces = std::pin::pin!(pieces.buffer_unordered(AT_ONCE));
        while let Some(piece) = pieces.next().await {
            if let Some(piece) = piece {
                report(&mut done, tell, piece).await;
            }
        }
        Ok(Some(Cached::now(done, outcome)))
    }

    async fn child(&self, image: &ImageName, digest: &Digest) -> Result<Manifest, String> {
        if let Some(why) = self.is_spared() {
            return Err(why);
        }
        match self.by_digest(image, digest).await {
            Ok(Some(manifest)) => Ok(manifest.value),
            Ok(None) => Err("it is not there".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn prefetch_blob(&self, image: &ImageName, blob: Descriptor, tell: &mpsc::Sender<Piece>) -> Option<Piece> {
        let Descriptor { digest, size, .. } = blob;
        let _turn = self.prefetching.acquire().await.ok()?;
        if tell.is_closed() {
            return None;
        }
        let failed = |digest: Digest, why: String| Some(Piece::Failed { digest, why });
        if let Ok(Some(size)) = self.here(image).has_blob(&digest).await {
            let fetched = false;
            return Some(Piece::Blob { digest, size, fetched });
        }
        if let Some(why) = self.is_spared() {
            return failed(digest, why);
        }
        match self.brought(image, &digest).await {
            Ok(Some(fetched)) => Some(Piece::Blob { digest, size, fetched }),
            Ok(None) => failed(digest, "it is not there".to_owned()),
            Err(error) => failed(digest, error.to_string()),
        }
    }

    /// Waits until a blob is here. False if it was.
    async fn brought(&self, image: &ImageName, digest: &Digest) -> crate::oci::Answer<bool, Error> {
        let Some(blob) = self.blob(image, digest).await? else {
            return Ok(None);
        };
        if let Blob::Arriving(mut follower) = blob.value {
            // Nothing of it is wanted but its end.
            follower.narrow(u64::MAX, u64::MAX);
            while follower.next_chunk().await?.is_some() {}
            return Ok(Some(true));
        }
        Ok(Some(false))
    }

    /// Why nothing is to be fetched ahead now: what is left of the upstream's budget is for images that somebody waits
    /// for.
    fn is_spared(&self) -> Option<String> {
        let why = self.reserved("can be asked")?;
        Some(format!("{} {why}", self.host))
    }
}

async fn report(done: &mut Prefetched, tell: &mpsc::Sender<Piece>, piece: Piece) {
    done.count(&piece);
    // Who has left is not told; it is looked for where there is something to save.
    let _ = tell.send(piece).await;
}

/// Whether an entry of an index is for one of these platforms; all are, when there are none.
fn is_for(entry: &Descriptor, platforms: &[Platform]) -> bool {
    platforms.is_empty()
        || entry
            .platform
            .as_ref()
            .is_none_or(|made_for| platforms.iter().any(|wanted| wanted.takes(made_for)))
}
