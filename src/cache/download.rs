//! A blob that is arriving: one writes, any number read the growing file, each at its own pace.
//!
//! The disk is the buffer. The writer never waits for a reader, a reader that leaves is not missed, and a reader costs
//! one piece of memory, however long the blob is. Nobody gets the last piece before the whole has been found to be
//! what its digest says: no client ever holds a complete wrong blob.

use bytes::Bytes;
use tokio::sync::watch;

use super::Error;
use crate::oci::Digest;
use crate::store::{self, SpoolFile, SpoolReader, VerifiedFile};

/// How much is held back until the digest is known to be right.
const HELD_BACK: u64 = 64 * 1024;
/// How much is read at once.
const PIECE: u64 = 64 * 1024;

/// How far a download is.
#[derive(Clone, Debug)]
enum Progress {
    /// So many bytes are in the file.
    Arriving { bytes: u64 },
    /// All are, and they are the right ones.
    Complete { bytes: u64 },
    /// It came to nothing.
    Failed(Error),
}

/// The writer's side. The file is deleted if this is dropped before it is verified; the readers are told so.
pub(super) struct Download {
    spool: SpoolFile,
    progress: watch::Sender<Progress>,
    total: Option<u64>,
}

/// The readers' side, before anybody reads.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    reader: SpoolReader,
    progress: watch::Receiver<Progress>,
    total: Option<u64>,
}

/// How a download ends.
pub(super) struct Ending(watch::Sender<Progress>);

impl Download {
    /// Begins one of `total` bytes, if that is known.
    pub(super) fn begin(spool: SpoolFile, total: Option<u64>) -> (Self, Arrival) {
        let (tell, told) = watch::channel(Progress::Arriving { bytes: 0 });
        let arrival = Arrival {
            reader: spool.reader(),
            progress: told,
            total,
        };
        let download = Self {
            spool,
            progress: tell,
            total,
        };
        (download, arrival)
    }

    /// How many bytes are here.
    pub(super) const fn written(&self) -> u64 {
        self.spool.written()
    }

    /// How many there will be, if that is known.
    pub(super) const fn total(&self) -> Option<u64> {
        self.total
    }

    /// Adds bytes, and lets the readers know. A write into the page cache: handing it to another thread would cost more
    /// than it takes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.spool.write(bytes)?;
        let bytes = self.written();
        self.progress.send_replace(Progress::Arriving { bytes });
        Ok(())
    }

    /// The way to end it, which is needed after the file has been given away.
    pub(super) fn ending(&self) -> Ending {
        Ending(self.progress.clone())
    }

    /// All is written: is it what it should be?
    pub(super) fn verify(self, digest: &Digest) -> Result<VerifiedFile, store::Error> {
        self.spool.finish(digest, self.total)
    }
}

impl Ending {
    /// Everything is here and in its place: the readers get the rest.
    pub(super) fn complete(self, bytes: u64) {
        self.0.send_replace(Progress::Complete { bytes });
    }

    /// The readers get nothing more but this error.
    pub(super) fn fail(self, error: Error) {
        self.0.send_replace(Progress::Failed(error));
    }
}

impl Arrival {
    /// Waits for a blob of which nothing would be given away before it is complete anyway: its failure can still be told
    /// in so many words then.
    pub(super) async fn settle_if_small(&mut self) -> Result<(), Error> {
        if self.total.is_none_or(|total| total > HELD_BACK) {
            return Ok(());
        }
        let settled = self
            .progress
            .wait_for(|progress| !matches!(progress, Progress::Arriving { .. }))
            .await
            .map_err(|_| Error::Lost)?;
        match &*settled {
            Progress::Failed(error) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// A reader of the whole.
    pub(super) fn follow(&self) -> Follower {
        Follower {
            reader: self.reader.clone(),
            progress: self.progress.clone(),
            total: self.total,
            at: 0,
            end: self.total.unwrap_or(u64::MAX),
        }
    }
}

/// Reads a blob while it arrives.
#[derive(Debug)]
pub struct Follower {
    reader: SpoolReader,
    progress: watch::Receiver<Progress>,
    total: Option<u64>,
    at: u64,
    end: u64,
}

impl Follower {
    /// How long the whole blob is, if the upstream says.
    pub const fn total(&self) -> Option<u64> {
        self.total
    }

    /// Reads only the bytes from `start` to before `end`.
    pub fn narrow(&mut self, start: u64, end: u64) {
        self.end = end.min(self.total.unwrap_or(u64::MAX));
        self.at = start.min(self.end);
    }

    /// The next bytes, as soon as they are here. `None` at the end, which is reached only if the whole blob is right; an
    /// error if it is not, or did not come.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let (bytes, is_complete) = match &*self.progress.borrow_and_update() {
                Progress::Arriving { bytes } => (*bytes, false),
                Progress::Complete { bytes } => (*bytes, true),
                Progress::Failed(error) => return Err(error.clone()),
            };
            let end = self.end.min(if is_complete { bytes } else { self.released(bytes) });
            if self.at < end {
                return self.read(end).map(Some);
            }
            // The end of a part may be reached before; the end of the whole is not, before the whole is right.
            if is_complete || (self.at >= self.end && self.total != Some(self.end)) {
                return Ok(None);
            }
            if self.progress.changed().await.is_err() {
                return Err(Error::Lost);
            }
        }
    }

    /// How much of what is here may be given away.
    fn released(&self, bytes: u64) -> u64 {
        match self.total {
            Some(total) => bytes.min(total.saturating_sub(HELD_BACK)),
            None => bytes.saturating_sub(HELD_BACK),
        }
    }

    /// Reads on the caller's task: what has just been written is in the page cache.
    fn read(&mut self, end: u64) -> Result<Bytes, Error> {
        let length = usize::try_from((end - self.at).min(PIECE)).unwrap_or_default();
        let mut buffer = vec![0; length];
        let read = self.reader.read_at(self.at, &mut buffer).map_err(|error| {
            tracing::error!(%error, "a file in the spool cannot be read");
            Error::Lost
        })?;
        if read == 0 {
            tracing::error!("a file in the spool is shorter than what was written to it");
            return Err(Error::Lost);
        }
        buffer.truncate(read);
        self.at += read as u64;
        Ok(buffer.into())
    }
}
