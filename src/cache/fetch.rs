//! The one fetch of a blob: over as many connections as it takes, into the store if it is what it should be.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Buf as _;
use tokio::sync::watch;
use tokio::time::sleep;

use super::blobs::{Fetch, State};
use super::download::{Arrival, Download};
use super::flight::Landing;
use super::{Error, Inner};
use crate::oci::{self, Digest, ImageName};
use crate::store::{self, VerifiedFile};
use crate::upstream::{self, BlobStream, Range};

/// How often a blob is taken up again without getting much further.
const SETBACKS: u32 = 5;
/// What counts as getting further.
const HEADWAY: u64 = 256 * 1024;
/// The pause before a blob is taken up for the second time without headway; it doubles. The first time has none.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest blob that is taken. Without this, one without end would end with the disk.
const LONGEST: u64 = 128 << 30;
/// The part of a fetch that its task has.
pub(super) struct Task {
    pub(super) inner: Arc<Inner>,
    pub(super) digest: Digest,
    /// The image that it was begun for.
    pub(super) image: ImageName,
    /// The images that may have it too, as upstream has said meanwhile.
    pub(super) also: Arc<Mutex<HashSet<ImageName>>>,
}

impl Task {
    /// The whole of a fetch. Whatever its end, first the room for the next one, then the news: who comes after a
    /// failure begins anew.
    pub(super) async fn run(self, room: Landing<Digest, Fetch>, tell: watch::Sender<State>) {
        let _counted = self.inner.metrics.fetch_begins(self.inner.key.as_str());
        let (stream, download, arrival) = match self.begin().await {
            Ok(Some(begun)) => begun,
            Ok(None) => {
                drop(room);
                tell.send_replace(State::Absent);
                return;
            }
            Err(error) => {
                drop(room);
                tell.send_replace(State::Failed(error));
                return;
            }
        };
        let ending = download.ending();
        tell.send_replace(State::Arriving(arrival));
        match self.fill(stream, download).await {
            Ok(verified) => {
                let size = verified.size();
                self.keep(verified).await;
                drop(room);
                ending.complete(size);
            }
            Err(error) => {
                // Those who read it have had their status line: this is the only place to say why it broke off.
                tracing::warn!(
                    repository = %self.inner.key,
                    image = %self.image,
                    digest = %self.digest,
                    %error,
                    "a blob could not be fetched to its end"
                );
                drop(room);
                ending.fail(error);
            }
        }
    }

    /// Asks, and makes room on the disk once upstream has begun to answer.
    async fn begin(&self) -> oci::Answer<(BlobStream, Download, Arrival), Error> {
        let answer = self
            .inner
            .upstream
            .blob(&self.image, &self.digest, Range::default(), None)
            .await;
        let Some(stream) = self.inner.judge(answer)? else {
            return Ok(None);
        };
        let listed = self.inner.sizes.get(&(self.image.clone(), self.digest.clone()));
        let total = match (stream.total(), listed) {
            (Some(total), Some(listed)) if total != listed => {
                return Err(self.inner.lie("it gives a blob another length than the manifest does"));
            }
            (total, listed) => total.or(listed),
        };
        if total.is_some_and(|total| total > LONGEST) {
            return Err(self.inner.wrap(upstream::Error::TooLarge { limit: LONGEST }));
        }
        if total == Some(0) && !self.digest.is_of_nothing() {
            return Err(self.inner.lie("it sends nothing for a digest of something"));
        }
        let spool = self.inner.store.spool(self.digest.algorithm()).await?;
        let (download, arrival) = Download::begin(spool, total);
        Ok(Some((stream, download, arrival)))
    }

    /// Gets all of it, over as many connections as it takes, and sees whether it is what it should be.
    async fn fill(&self, mut stream: BlobStream, mut download: Download) -> Result<VerifiedFile, Error> {
        let mut setbacks = Setbacks::default();
        while let Err(error) = self.pour(stream, &mut download).await {
            stream = self.take_up(error, &download, &mut setbacks).await?;
        }
        match download.verify(&self.digest) {
            Err(store::Error::Mismatch(mismatch)) => Err(self.inner.lie(&mismatch.to_string())),
            result => Ok(result?),
        }
    }

    /// One connection's worth.
    async fn pour(&self, mut stream: BlobStream, download: &mut Download) -> Result<(), Error> {
        // What an upstream without ranges sends a second time.
        let mut known = download.written().saturating_sub(stream.start());
        let limit = download.total().unwrap_or(LONGEST);
        loop {
            let chunk = stream.chunk().await.map_err(|error| self.inner.wrap(error))?;
            let Some(mut chunk) = chunk else { break };
            let again = usize::try_from(known).unwrap_or(usize::MAX).min(chunk.len());
            chunk.advance(again);
            known -= again as u64;
            if chunk.is_empty() {
                continue;
            }
            if download.written() + chunk.len() as u64 > limit {
                return Err(self.inner.lie("it sends more of a blob than it announced"));
            }
            download.write(&chunk).map_err(|source| store::Error::Disk {
                path: "the spool".into(),
                source,
            })?;
        }
        match download.total() {
            Some(total) if download.written() < total => {
                let missing = total - download.written();
                Err(self
                    .inner
                    .wrap(upstream::Error::Broken(format!("{missing} bytes are missing"))))
            }
            _ => Ok(()),
        }
    }

    /// Goes on where the body broke off, if that is what happened, and not too often without getting further.
    async fn take_up(
        &self,
        mut error: Error,
        download: &Download,
        setbacks: &mut Setbacks,
    ) -> Result<BlobStream, Error> {
        loop {
            let is_interruption = error.upstream().is_some_and(upstream::Error::is_interruption);
            let Some(pause) = setbacks.next(download.written()).filter(|_| is_interruption) else {
                return Err(error);
            };
            tracing::info!(
                repository = %self.inner.key,
                image = %self.image,
                digest = %self.digest,
                offset = download.written(),
                %error,
                "a blob broke off; it is taken up again"
            );
            sleep(pause).await;
            let answer = self
                .inner
                .upstream
                .blob(&self.image, &self.digest, Range::from(download.written()), None)
                .await;
            match answer {
                Ok(Some(stream)) => {
                    let (total, begun) = (stream.total(), download.total());
                    if total.is_some() && begun.is_some() && total != begun {
                        return Err(self.inner.lie("a blob has changed its length while it came"));
                    }
                    return Ok(stream);
                }
                Ok(None) => return Err(self.inner.lie("a blob is gone while it came")),
                Err(source) => error = self.inner.wrap(source),
            }
        }
    }

    /// Keeps what was found to be right. If that fails, those who wait still get it: it is right.
    async fn keep(&self, verified: VerifiedFile) {
        let mut kept = self.inner.store.publish(verified).await;
        let also = std::mem::take(&mut *self.also.lock().unwrap_or_else(PoisonError::into_inner));
        for image in also.iter().chain([&self.image]) {
            if kept.is_ok() {
                kept = self.inner.here(image).link_blob(&self.digest).await;
            }
        }
        if let Err(error) = kept {
            tracing::error!(
                repository = %self.inner.key,
                image = %self.image,
                digest = %self.digest,
                %error,
                "a blob was fetched but could not be kept"
            );
        }
    }
}

/// Counts how often a blob broke off without having got much further.
#[derive(Default)]
struct Setbacks {
    count: u32,
    mark: u64,
}

impl Setbacks {
    /// How long to pause before the next attempt; `None` when there have been enough.
    fn next(&mut self, written: u64) -> Option<Duration> {
        if written >= self.mark + HEADWAY {
            *self = Self {
                count: 0,
                mark: written,
            };
        }
        self.count += 1;
        match self.count {
            1 => Some(Duration::ZERO),
            count if count <= SETBACKS => Some(PAUSE * 2_u32.pow(count - 2)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headway_makes_up_for_setbacks() {
        let mut setbacks = Setbacks::default();
        for cut in 1..1000 {
            assert_eq!(setbacks.next(cut * HEADWAY), Some(Duration::ZERO));
        }
        let stuck = 1000 * HEADWAY;
        let pauses: Vec<_> = (0..9).map_while(|_| setbacks.next(stuck)).collect();
        assert_eq!(pauses.len(), 5);
        assert_eq!(pauses[0], Duration::ZERO);
        assert_eq!(pauses[4], PAUSE * 8);
        assert_eq!(setbacks.next(stuck + HEADWAY - 1), None);
        assert_eq!(setbacks.next(stuck + HEADWAY), Some(Duration::ZERO));
    }
}
