//! A blob on its way to one client only: the store cannot keep it, but whoever asked still gets it.
//!
//! It is hashed as it passes, and the last piece waits until the whole has been found right. A client costs that one
//! piece of memory, and one connection.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf as _, Bytes};
use tokio::time::sleep;

use super::Error;
use super::download::HELD_BACK;
use super::fetch::LONGEST;
use super::source::{Setbacks, Source, is_about_ranges};
use crate::oci::Hasher;
use crate::upstream::{self, BlobStream, Range, Validator};

/// Where a blob that is not kept can be had, as from a byte up to which it has been hashed.
#[derive(Clone)]
pub(super) struct Rest {
    pub(super) source: Source,
    pub(super) total: Option<u64>,
    /// The first byte of the rest, and the hash of what is before it.
    pub(super) from: u64,
    pub(super) hasher: Hasher,
    /// An answer that has begun already, at `from`: for the first one who takes it.
    pub(super) begun: Arc<Mutex<Option<BlobStream>>>,
}

impl std::fmt::Debug for Rest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rest({} from {})", self.source.digest, self.from)
    }
}

/// One client's stream.
pub(super) struct Passage {
    source: Source,
    total: Option<u64>,
    stream: Option<BlobStream>,
    /// How many bytes of the stream are known already.
    known: u64,
    validator: Option<Validator>,
    has_ranges: bool,
    setbacks: Setbacks,
    /// The next byte that upstream is to send.
    next: u64,
    hasher: Hasher,
    /// What has come and was not given away: up to `next`.
    held: VecDeque<Bytes>,
    held_bytes: u64,
    is_right: bool,
}

impl Rest {
    /// A stream of it, after `before`: bytes that have been hashed but not been given away.
    pub(super) fn passage(&self, before: Bytes) -> Passage {
        let stream = self.begun.lock().unwrap_or_else(PoisonError::into_inner).take();
        Passage {
            source: self.source.clone(),
            total: self.total,
            validator: stream.as_ref().and_then(|stream| stream.validator().cloned()),
            stream,
            known: 0,
            has_ranges: true,
            setbacks: Setbacks::default(),
            next: self.from,
            hasher: self.hasher.clone(),
            held_bytes: before.len() as u64,
            held: VecDeque::from([before]),
            is_right: false,
        }
    }
}

impl Passage {
    /// The next bytes. `None` at the end, which is reached only if the whole blob is right.
    pub(super) async fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        self.load().await?;
        let Some(chunk) = self.held.pop_front() else {
            return Ok(None);
        };
        self.held_bytes -= chunk.len() as u64;
        Ok(Some(chunk))
    }

    /// Waits until something can be given away, or until the end.
    pub(super) async fn load(&mut self) -> Result<(), Error> {
        while !self.is_right {
            while self.held.front().is_some_and(Bytes::is_empty) {
                self.held.pop_front();
            }
            let first = self.held.front().map_or(0, Bytes::len) as u64;
            if first > 0 && self.held_bytes - first >= HELD_BACK {
                return Ok(());
            }
            match self.receive().await? {
                Some(chunk) => {
                    self.hasher.update(&chunk);
                    self.next += chunk.len() as u64;
                    self.held_bytes += chunk.len() as u64;
                    self.held.push_back(chunk);
                }
                None => self.verify()?,
            }
        }
        Ok(())
    }

    fn verify(&mut self) -> Result<(), Error> {
        let actual = self.hasher.clone().finish();
        if actual != self.source.digest {
            return Err(self.source.inner.lie(&format!(
                "the content has the digest {actual}, not {}",
                self.source.digest
            )));
        }
        self.is_right = true;
        Ok(())
    }

    /// What comes next, over as many connections as it takes.
    async fn receive(&mut self) -> Result<Option<Bytes>, Error> {
        if self.total == Some(self.next) {
            return Ok(None);
        }
        loop {
            let error = match &mut self.stream {
                None => None,
                Some(stream) => match stream.chunk().await {
                    Ok(Some(chunk)) => match self.unknown(chunk)? {
                        Some(chunk) => return Ok(Some(chunk)),
                        None => continue,
                    },
                    Ok(None) if self.total.is_none() => return Ok(None),
                    Ok(None) => Some(upstream::Error::Broken("bytes are missing".to_owned())),
                    Err(error) => Some(error),
                },
            };
            self.stream = None;
            self.open(error.map(|error| self.source.inner.wrap(error))).await?;
        }
    }

    /// What is new of a chunk, if it may be.
    fn unknown(&mut self, mut chunk: Bytes) -> Result<Option<Bytes>, Error> {
        let again = usize::try_from(self.known).map_or(chunk.len(), |known| known.min(chunk.len()));
        chunk.advance(again);
        self.known -= again as u64;
        if self.next + chunk.len() as u64 > self.total.unwrap_or(LONGEST) {
            return Err(self.source.inner.lie("it sends more of a blob than it announced"));
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    /// Asks, for the first time or after an error.
    async fn open(&mut self, mut error: Option<Error>) -> Result<(), Error> {
        loop {
            if let Some(error) = error {
                let Some(pause) = self.setbacks.after(&error, self.next) else {
                    return Err(error);
                };
                sleep(pause).await;
            }
            let range = if self.has_ranges {
                Range::from(self.next)
            } else {
                Range::default()
            };
            let taken = self
                .source
                .take_up(self.next, range, self.total, self.validator.as_ref())
                .await;
            match taken {
                Ok(stream) => {
                    self.known = self.next - stream.start().min(self.next);
                    self.validator = stream.validator().cloned();
                    self.stream = Some(stream);
                    return Ok(());
                }
                Err(failed) => {
                    let is_about_ranges = failed.upstream().is_some_and(is_about_ranges);
                    if is_about_ranges && range.from > 0 {
                        self.has_ranges = false;
                        error = None;
                    } else {
                        error = Some(failed);
                    }
                }
            }
        }
    }
}
