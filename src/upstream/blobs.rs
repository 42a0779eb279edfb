//! Blobs: their size, and their bytes as they come.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::CONTENT_RANGE;
use tokio::time::{Instant, timeout};

use super::ask::{Given, Tour, Witness};
use super::lanes::{Lane, Permit};
use super::range::{Range, Sent, Validator};
use super::send::Response;
use super::{Error, Upstream};
use crate::oci::{Answer, Digest, ImageName};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Kind;

/// The least that must come in a second, on average over twice the idle timeout. A byte now and then would otherwise
/// keep a connection for ever without ever being idle.
const LEAST_A_SECOND: u64 = 1024;

impl Upstream {
    /// Asks how long a blob is. An upstream that does not say is asked for the blob itself, whose headers do.
    pub async fn head_blob(&self, image: &ImageName, digest: &Digest) -> Answer<u64, Error> {
        let Some(ask) = self.question(Method::HEAD, image, &format!("blobs/{digest}")) else {
            return Ok(None);
        };
        let Some(given) = self.0.registry.ask(&ask).await? else {
            return Ok(None);
        };
        if let Some(size) = given.response.length() {
            return Ok(Some(size));
        }
        drop(given);
        let Some(stream) = self.blob(image, digest, Range::default(), None).await? else {
            return Ok(None);
        };
        let size = stream.total();
        size.map(Some)
            .ok_or_else(|| Error::Lies(format!("it does not say how long {digest} is")))
    }

    /// Asks for a blob or a part of it. The answer may begin earlier: an upstream that knows no ranges, or whose blob
    /// is not the validator's any more, sends all of it, see [`BlobStream::start`]. It holds one of the upstream's
    /// connections until dropped.
    pub async fn blob(
        &self,
        image: &ImageName,
        digest: &Digest,
        range: Range,
        validator: Option<&Validator>,
    ) -> Answer<BlobStream, Error> {
        self.ask_for_blob(image, digest, range, validator, Lane::Body).await
    }

    /// The same over a connection that nobody else has a use for at the moment; without one, [`Error::Busy`] at once.
    /// Asked once only.
    pub async fn spare_blob(
        &self,
        image: &ImageName,
        digest: &Digest,
        range: Range,
        validator: Option<&Validator>,
    ) -> Answer<BlobStream, Error> {
        self.ask_for_blob(image, digest, range, validator, Lane::Spare).await
    }

    /// Says that what was sent for a blob is not it. Who sent it is not asked next, if there is anybody else.
    pub fn doubt(&self, digest: &Digest, error: &Error) {
        self.0.registry.doubt(digest, error);
    }

    /// Whether somebody waits for a connection: what is spare is to be given back.
    pub fn is_crowded(&self) -> bool {
        self.0.registry.lanes.is_crowded()
    }

    async fn ask_for_blob(
        &self,
        image: &ImageName,
        digest: &Digest,
        range: Range,
        validator: Option<&Validator>,
        lane: Lane,
    ) -> Answer<BlobStream, Error> {
        let Some(mut ask) = self.question(Method::GET, image, &format!("blobs/{digest}")) else {
            return Ok(None);
        };
        ask.range = range;
        ask.validator = validator.cloned();
        ask.lane = lane;
        ask.is_patient = lane != Lane::Spare;
        let mut tour = Tour::default();
        loop {
            let Some(given) = self.0.registry.ask_next(&ask, &mut tour).await? else {
                return Ok(None);
            };
            let witness = given.witness.clone();
            match BlobStream::new(self, given, range) {
                // Another one may do better.
                Err(error) if !tour.is_over() => witness.failed(0, &error),
                Err(error) => return Err(error),
                Ok(stream) => {
                    self.0.registry.remember(digest, &witness);
                    return Ok(Some(stream));
                }
            }
        }
    }
}

/// The bytes of a blob as they come.
pub struct BlobStream {
    response: Response,
    _permit: Permit,
    /// To be told how it ends.
    witness: Witness,
    /// How much of it came.
    received: u64,
    repository: Arc<str>,
    metrics: Arc<Metrics>,
    start: u64,
    total: Option<u64>,
    validator: Option<Validator>,
    /// How many bytes are still to come, when that is known.
    missing: Option<u64>,
    idle_timeout: Duration,
    pace: Pace,
}

impl BlobStream {
    fn new(upstream: &Upstream, given: Given, range: Range) -> Result<Self, Error> {
        let response = given.response;
        response.check_encoding()?;
        let length = response.length();
        let (start, end, total) = if response.status() == 206 {
            let sent = response.header(CONTENT_RANGE.as_str()).and_then(Sent::parse);
            match sent.filter(|sent| sent.answers(range)) {
                Some(Sent { start, end, total }) => (start, Some(end), total),
                None => return Err(Error::Lies("it sends another range than the one asked for".to_owned())),
            }
        } else {
            (0, length, length)
        };
        if let (Some(end), Some(length)) = (end, length)
            && start.checked_add(length) != Some(end)
        {
            return Err(Error::Lies(
                "the range that it sends is not as long as it says".to_owned(),
            ));
        }
        let inner = &upstream.0;
        Ok(Self {
            validator: Validator::of(&response),
            response,
            _permit: given.permit,
            witness: given.witness,
            received: 0,
            repository: inner.repository.as_str().into(),
            metrics: Arc::clone(&inner.metrics),
            start,
            total,
            missing: end.map(|end| end - start),
            idle_timeout: inner.idle_timeout,
            pace: Pace::new(inner.idle_timeout * 2),
        })
    }

    /// Which byte of the blob comes first: the one asked for, or 0.
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// How long the whole blob is, if the upstream says.
    pub const fn total(&self) -> Option<u64> {
        self.total
    }

    /// What to show to go on with this very blob later.
    pub const fn validator(&self) -> Option<&Validator> {
        self.validator.as_ref()
    }

    /// The next bytes. `None` at the end, and only where the announced length is reached: a body that ends before is
    /// [`Error::Broken`], one that goes on after it a lie.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let chunk = self.next().await;
        match &chunk {
            Ok(Some(bytes)) => self.received += bytes.len() as u64,
            Ok(None) => {}
            Err(error) => self.witness.failed(self.received, error),
        }
        chunk
    }

    /// The `host[:port]` of the endpoint that it comes from: the upstream's, or a mirror's.
    pub fn endpoint(&self) -> &str {
        self.witness.host()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let chunk = timeout(self.idle_timeout, self.response.chunk())
            .await
            .map_err(|_| Error::Timeout("the next bytes of a blob"))??;
        let Some(chunk) = chunk else {
            return match self.missing {
                None | Some(0) => Ok(None),
                Some(missing) => Err(Error::Broken(format!("{missing} bytes are missing"))),
            };
        };
        let length = chunk.len() as u64;
        self.metrics.fetched(&self.repository, Kind::Blob, length);
        if let Some(missing) = &mut self.missing {
            *missing = missing
                .checked_sub(length)
                .ok_or_else(|| Error::Lies("it sends more of a blob than it announced".to_owned()))?;
        }
        self.pace.step(length, Instant::now())?;
        Ok(Some(chunk))
    }
}

impl std::fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobStream({} of {:?})", self.start, self.total)
    }
}

/// Notices a body that comes too slowly.
struct Pace {
    period: Duration,
    least: u64,
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn new(period: Duration) -> Self {
        Self {
            period,
            least: LEAST_A_SECOND.saturating_mul(period.as_secs().max(1)),
            since: Instant::now(),
            bytes: 0,
        }
    }

    fn step(&mut self, bytes: u64, now: Instant) -> Result<(), Error> {
        self.bytes += bytes;
        if now.duration_since(self.since) < self.period {
            return Ok(());
        }
        if self.bytes < self.least {
            return Err(Error::Slow {
                least: self.least,
                period: self.period,
            });
        }
        (self.since, self.bytes) = (now, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_noticed_and_a_pause_is_not() {
        let mut pace = Pace::new(Duration::from_secs(60));
        let begin = Instant::now();
        assert_eq!(pace.step(1_000_000, begin + Duration::from_secs(1)), Ok(()));
        assert_eq!(pace.step(1, begin + Duration::from_secs(61)), Ok(()));
        for second in 62..121 {
            assert_eq!(pace.step(1, begin + Duration::from_secs(second)), Ok(()));
        }
        assert!(matches!(
            pace.step(1, begin + Duration::from_secs(121)),
            Err(Error::Slow { .. })
        ));
    }
}
