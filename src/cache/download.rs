//! A blob that is arriving: one writes, any number read the growing file, each at its own pace.
//!
//! The disk is the buffer. The writer never waits for a reader, a reader that leaves is not missed, and a reader costs
//! one piece of memory, however long the blob is. Nobody gets the last piece before the whole has been found to be
//! what its digest says: no client ever holds a complete wrong blob.
//!
//! Where the disk has no more room, everybody reads on from where the file ends over a connection of his own.

use bytes::{Buf as _, Bytes};
use tokio::sync::watch;

use super::Error;
use super::passage::{Passage, Rest};
use crate::mishap;
use crate::oci::{Digest, Hasher};
use crate::store::{self, SpoolFile, SpoolReader, VerifiedFile};

/// How much is held back until the digest is known to be right.
pub(super) const HELD_BACK: u64 = 64 * 1024;
/// How much is read at once.
const PIECE: u64 = 64 * 1024;
/// How much of what came ahead is hashed at once.
const CAUGHT_UP: u64 = 1 << 20;

/// How far a download is.
#[derive(Clone, Debug)]
enum Progress {
    /// So many bytes are in the file.
    Arriving { bytes: u64 },
    /// All are, and they are the right ones.
    Complete { bytes: u64 },
    /// No more comes into the file: this is where the rest can be had.
    Unkept(Rest),
    /// It came to nothing.
    Failed(Error),
}

/// The writer's side. Dropped before it is verified, the file is left for somebody to go on with; the readers are told.
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
    /// Begins one of `total` bytes, if that is known, or goes on with one.
    pub(super) fn begin(spool: SpoolFile, total: Option<u64>) -> (Self, Arrival) {
        let bytes = spool.written();
        let (tell, told) = watch::channel(Progress::Arriving { bytes });
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

    /// Whether somebody reads it.
    pub(super) fn has_readers(&self) -> bool {
        // One is kept for those who may still come.
        self.progress.receiver_count() > 1
    }

    /// Puts bytes where they belong, and lets the readers know of what they can read. A write into the page cache:
    /// handing it to another thread would cost more than it takes.
    pub(super) fn write_at(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        mishap::at("fill");
        if offset > self.written() {
            return self.spool.write_ahead(offset, bytes);
        }
        self.spool.write(bytes)?;
        self.tell();
        Ok(())
    }

    /// Takes in some of what was written ahead, up to which nothing is missing now.
    pub(super) fn catch_up(&mut self, end: u64) -> std::io::Result<()> {
        self.spool.catch_up(end, CAUGHT_UP)?;
        self.tell();
        Ok(())
    }

    fn tell(&self) {
        let bytes = self.written();
        self.progress.send_replace(Progress::Arriving { bytes });
    }

    /// The hash of what is here.
    pub(super) fn hasher(&self) -> Hasher {
        self.spool.hasher().clone()
    }

    /// Deletes the file: nobody shall go on with it. Those who read it still can, as far as it goes.
    pub(super) fn discard(self) {
        self.spool.discard();
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

    /// The readers get the rest elsewhere.
    pub(super) fn unkept(self, rest: Rest) {
        self.0.send_replace(Progress::Unkept(rest));
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
            from: From::File {
                reader: self.reader.clone(),
                progress: self.progress.clone(),
            },
            total: self.total,
            at: 0,
            end: self.total.unwrap_or(u64::MAX),
        }
    }
}

/// Reads a blob while it arrives.
pub struct Follower {
    from: From,
    total: Option<u64>,
    at: u64,
    end: u64,
}

/// What a follower reads.
enum From {
    /// The growing file.
    File {
        reader: SpoolReader,
        progress: watch::Receiver<Progress>,
    },
    /// A connection of its own, whose next byte is `next`.
    Passage { passage: Box<Passage>, next: u64 },
}

/// What can be done next.
enum Step {
    Read { end: u64 },
    Leave(Rest),
    End,
}

impl Follower {
    /// One who reads what is not kept.
    pub(super) fn of(rest: &Rest) -> Self {
        Self {
            from: From::Passage {
                passage: Box::new(rest.passage(Bytes::new())),
                next: rest.from,
            },
            total: rest.total,
            at: 0,
            end: rest.total.unwrap_or(u64::MAX),
        }
    }

    /// Waits for what would not be given away before it is complete anyway: its failure can still be told in so many
    /// words then.
    pub(super) async fn settle_if_small(&mut self) -> Result<(), Error> {
        match &mut self.from {
            From::Passage { passage, .. } if self.total.is_some_and(|total| total <= HELD_BACK) => passage.load().await,
            _ => Ok(()),
        }
    }

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
            if let From::Passage { .. } = self.from {
                return self.pass().await;
            }
            match self.step().await? {
                Step::Read { end } => return self.read(end).map(Some),
                Step::Leave(rest) => self.leave(&rest)?,
                Step::End => return Ok(None),
            }
        }
    }

    /// Waits until something can be done with the file.
    async fn step(&mut self) -> Result<Step, Error> {
        loop {
            let From::File { progress, .. } = &mut self.from else {
                return Ok(Step::End);
            };
            let now = progress.borrow_and_update().clone();
            let (end, is_complete) = match &now {
                Progress::Arriving { bytes } => (released(*bytes, self.total), false),
                Progress::Unkept(rest) => (released(rest.from, self.total), false),
                Progress::Complete { bytes } => (*bytes, true),
                Progress::Failed(error) => return Err(error.clone()),
            };
            let end = self.end.min(end);
            if self.at < end {
                return Ok(Step::Read { end });
            }
            // The end of a part may be reached before; the end of the whole is not, before the whole is right.
            if is_complete || (self.at >= self.end && self.total != Some(self.end)) {
                return Ok(Step::End);
            }
            if let Progress::Unkept(rest) = now {
                return Ok(Step::Leave(rest));
            }
            if progress.changed().await.is_err() {
                return Err(Error::Lost);
            }
        }
    }

    /// Leaves the file for a connection of its own, with what is at the file's end and was held back.
    fn leave(&mut self, rest: &Rest) -> Result<(), Error> {
        let mut before = Vec::new();
        let start = self.at.min(rest.from);
        let mut at = start;
        while at < rest.from {
            let piece = self.read_at(at, rest.from)?;
            at += piece.len() as u64;
            before.extend_from_slice(&piece);
        }
        self.from = From::Passage {
            passage: Box::new(rest.passage(before.into())),
            next: start,
        };
        Ok(())
    }

    /// The next bytes of its own connection that are wanted.
    async fn pass(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if self.at >= self.end && self.total != Some(self.end) {
                return Ok(None);
            }
            let From::Passage { passage, next } = &mut self.from else {
                return Ok(None);
            };
            let Some(mut chunk) = passage.next_chunk().await? else {
                return Ok(None);
            };
            let begin = *next;
            *next += chunk.len() as u64;
            let skipped = self.at.saturating_sub(begin).min(chunk.len() as u64);
            chunk.advance(usize::try_from(skipped).unwrap_or(chunk.len()));
            let wanted = self.end.saturating_sub(self.at);
            chunk.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
            if !chunk.is_empty() {
                self.at += chunk.len() as u64;
                return Ok(Some(chunk));
            }
        }
    }

    /// Reads on the caller's task: what has just been written is in the page cache.
    fn read(&mut self, end: u64) -> Result<Bytes, Error> {
        let piece = self.read_at(self.at, end)?;
        self.at += piece.len() as u64;
        Ok(piece)
    }

    fn read_at(&self, at: u64, end: u64) -> Result<Bytes, Error> {
        let From::File { reader, .. } = &self.from else {
            return Err(Error::Lost);
        };
        let length = usize::try_from((end - at).min(PIECE)).unwrap_or_default();
        let mut buffer = vec![0; length];
        let read = reader.read_at(at, &mut buffer).map_err(|error| {
            tracing::error!(%error, "a file in the spool cannot be read");
            Error::Lost
        })?;
        if read == 0 {
            tracing::error!("a file in the spool is shorter than what was written to it");
            return Err(Error::Lost);
        }
        buffer.truncate(read);
        Ok(buffer.into())
    }
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Follower({}..{} of {:?})", self.at, self.end, self.total)
    }
}

/// How much of what is here may be given away before the end.
fn released(bytes: u64, total: Option<u64>) -> u64 {
    match total {
        Some(total) => bytes.min(total.saturating_sub(HELD_BACK)),
        None => bytes.saturating_sub(HELD_BACK),
    }
}
