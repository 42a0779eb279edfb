//! Where the bytes of one blob come from, and how often to ask again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Error, Inner};
use crate::oci::{Answer, Digest, ImageName};
use crate::upstream::{self, BlobStream, Range, Validator};

/// How often a blob is taken up again without getting much further.
const SETBACKS: u32 = 5;
/// What counts as getting further.
const HEADWAY: u64 = 256 * 1024;
/// The pause before a blob is taken up for the second time without headway; it doubles. The first time has none.
const PAUSE: Duration = Duration::from_millis(200);

/// For how long an upstream without ranges is not asked for any.
const RANGELESS: Duration = Duration::from_secs(600);

/// One blob of one image, upstream.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) inner: Arc<Inner>,
    pub(super) image: ImageName,
    pub(super) digest: Digest,
}

impl Source {
    /// Asks for it, and notes what the answer says about the upstream.
    pub(super) async fn ask(&self, range: Range, validator: Option<&Validator>) -> Answer<BlobStream, Error> {
        let upstream = &self.inner.upstream;
        let answer = upstream.blob(&self.image, &self.digest, range, validator).await;
        self.inner.judge(answer)
    }

    /// Asks for it where nobody waits for a connection.
    pub(super) async fn ask_spare(&self, range: Range) -> Answer<BlobStream, Error> {
        let upstream = &self.inner.upstream;
        match upstream.spare_blob(&self.image, &self.digest, range, None).await {
            // Says nothing about the upstream.
            Err(upstream::Error::Busy) => Err(self.inner.wrap(upstream::Error::Busy)),
            answer => self.inner.judge(answer),
        }
    }

    /// Goes on from byte `at` after an interruption: with a range, or, where those are not known, with the whole.
    pub(super) async fn take_up(
        &self,
        at: u64,
        range: Range,
        total: Option<u64>,
        validator: Option<&Validator>,
    ) -> Result<BlobStream, Error> {
        tracing::info!(
            repository = %self.inner.key,
            image = %self.image,
            digest = %self.digest,
            offset = at,
            "a blob is taken up where it broke off"
        );
        let answer = self
            .inner
            .upstream
            .blob(&self.image, &self.digest, range, validator)
            .await
            .map_err(|error| self.inner.wrap(error))?;
        let Some(stream) = answer else {
            return Err(self.inner.lie("a blob is gone while it came"));
        };
        if stream.total().is_some() && total.is_some() && stream.total() != total {
            return Err(self.inner.lie("a blob has changed its length while it came"));
        }
        Ok(stream)
    }
}

/// Whether an upstream is known to send no parts of blobs: for a while, it may learn.
#[derive(Default)]
pub(super) struct Rangeless(Mutex<Option<Instant>>);

impl Rangeless {
    pub(super) fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + RANGELESS);
    }

    pub(super) fn is_known(&self) -> bool {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }
}

/// Whether an error may only say that no part can be had from there.
pub(super) const fn is_about_ranges(error: &upstream::Error) -> bool {
    matches!(
        error,
        upstream::Error::Lies(_) | upstream::Error::Unexpected { status: 416 }
    )
}

/// Counts how often a blob broke off without having got much further.
#[derive(Default)]
pub(super) struct Setbacks {
    count: u32,
    mark: u64,
}

impl Setbacks {
    /// How long to pause before the next attempt; `None` when there have been enough.
    pub(super) fn next(&mut self, written: u64) -> Option<Duration> {
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

    /// The same after this error, which may be one that no attempt mends.
    pub(super) fn after(&mut self, error: &Error, written: u64) -> Option<Duration> {
        let is_interruption = error.upstream().is_some_and(upstream::Error::is_interruption);
        self.next(written).filter(|_| is_interruption)
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
