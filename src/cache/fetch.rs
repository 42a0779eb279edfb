//! The one fetch of a blob: over as many connections as it takes, into the store if it is what it should be.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::Error;
use super::blobs::{Fetch, State};
use super::crew::{Crew, Stop};
use super::download::{Arrival, Download};
use super::flight::Landing;
use super::passage::Rest;
use super::source::{Source, is_about_ranges};
use crate::oci::{self, Digest, ImageName};
use crate::store::{self, Reservation, SpoolFile, VerifiedFile};
use crate::upstream::{self, BlobStream, Range};

/// The longest blob that is taken. Without this, one without end would end with the disk.
pub(super) const LONGEST: u64 = 128 << 30;

/// The part of a fetch that its task has.
pub(super) struct Task {
    /// The blob, as the image has it that it was begun for.
    pub(super) source: Source,
    /// The images that may have it too, as upstream has said meanwhile.
    pub(super) also: Arc<Mutex<HashSet<ImageName>>>,
    /// Whether nobody has asked for it yet: it takes only what is spare.
    pub(super) is_ahead: bool,
}

/// A blob that has begun to arrive.
struct Begun {
    stream: BlobStream,
    total: Option<u64>,
    /// What has arrived of it before.
    resumed: Option<SpoolFile>,
}

/// A blob that is being kept.
struct Kept {
    stream: BlobStream,
    download: Download,
    arrival: Arrival,
    reservation: Reservation,
}

impl Task {
    /// The whole of a fetch. Whatever its end, first the room for the next one, then the news: who comes after a
    /// failure begins anew.
    pub(super) async fn run(self, room: Landing<Digest, Fetch>, tell: watch::Sender<State>) {
        let _counted = self.source.inner.metrics.fetch_begins(self.source.inner.key.as_str());
        let begun = match self.begin().await {
            Ok(Some(begun)) => begun,
            Ok(None) => {
                drop(room);
                tell.send_replace(State::Absent);
                return;
            }
            Err(error) => {
                self.doubt(&error);
                drop(room);
                tell.send_replace(State::Failed(error));
                return;
            }
        };
        match self.make_room(begun).await {
            Ok(kept) => self.fill(kept, room, &tell).await,
            Err(rest) => {
                drop(room);
                tell.send_replace(State::Unkept(rest));
            }
        }
    }

    /// Asks for what is not here of it.
    async fn begin(&self) -> oci::Answer<Begun, Error> {
        let inner = &self.source.inner;
        let mut resumed = inner.store.resume(&self.source.digest).await.unwrap_or_else(|error| {
            tracing::warn!(digest = %self.source.digest, %error, "what there is of a blob cannot be gone on with");
            None
        });
        let mut answer = self.ask(resumed.as_ref().map_or(0, SpoolFile::written)).await;
        if let Some(part) = resumed.take_if(|part| does_not_go_on(&answer, part.written())) {
            part.discard();
            answer = self.ask(0).await;
        }
        let Some(stream) = answer? else {
            return Ok(None);
        };
        let total = self.length(&stream)?;
        Ok(Some(Begun { stream, total, resumed }))
    }

    async fn ask(&self, from: u64) -> oci::Answer<BlobStream, Error> {
        if self.is_ahead {
            self.source.ask_spare(Range::from(from)).await
        } else {
            self.source.ask(Range::from(from), None).await
        }
    }

    /// How long it is, if anybody says; an error if that cannot be.
    fn length(&self, stream: &BlobStream) -> Result<Option<u64>, Error> {
        let Source { inner, image, digest } = &self.source;
        let total = match (stream.total(), inner.sizes.get(&(image.clone(), digest.clone()))) {
            (Some(total), Some(listed)) if total != listed => {
                return Err(inner.lie("it gives a blob another length than the manifest does"));
            }
            (total, listed) => total.or(listed),
        };
        if total.is_some_and(|total| total > LONGEST) {
            return Err(inner.wrap(upstream::Error::TooLarge { limit: LONGEST }));
        }
        if total == Some(0) && !digest.is_of_nothing() {
            return Err(inner.lie("it sends nothing for a digest of something"));
        }
        Ok(total)
    }

    /// Finds room for it in the store. Without, it can only be passed on.
    async fn make_room(&self, begun: Begun) -> Result<Kept, Rest> {
        let Begun { stream, total, resumed } = begun;
        let Source { inner, digest, .. } = &self.source;
        let room = async {
            let reservation = inner.store.reserve(&inner.key, total).await?;
            let spool = match resumed {
                Some(part) => part,
                None => inner.store.spool_for(digest).await?,
            };
            Ok((reservation, spool))
        };
        match room.await {
            Ok((reservation, spool)) => {
                let (download, arrival) = Download::begin(spool, total);
                Ok(Kept {
                    stream,
                    download,
                    arrival,
                    reservation,
                })
            }
            Err(error) => {
                self.is_not_kept(&error).await;
                Err(Rest {
                    source: self.source.clone(),
                    total,
                    from: 0,
                    hasher: digest.algorithm().hasher(),
                    begun: Arc::new(Mutex::new(Some(stream).filter(|stream| stream.start() == 0))),
                })
            }
        }
    }

    /// Fetches what is being kept, and tells those who read it how that ends.
    async fn fill(&self, kept: Kept, room: Landing<Digest, Fetch>, tell: &watch::Sender<State>) {
        let Kept {
            stream,
            mut download,
            arrival,
            mut reservation,
        } = kept;
        let ending = download.ending();
        tell.send_replace(State::Arriving(arrival));
        let crew = Crew::new(&self.source, &mut download, &mut reservation, self.is_ahead);
        let error = match crew.fetch(stream).await {
            Ok(()) => match self.verify(download) {
                Ok(verified) => {
                    let size = verified.size();
                    self.keep(verified).await;
                    drop((reservation, room));
                    return ending.complete(size);
                }
                Err(error) => error,
            },
            Err(Stop::Unkept(error)) => {
                let rest = Rest {
                    source: self.source.clone(),
                    total: download.total(),
                    from: download.written(),
                    hasher: download.hasher(),
                    begun: Arc::default(),
                };
                download.discard();
                self.is_not_kept(&error).await;
                drop((reservation, room));
                return ending.unkept(rest);
            }
            Err(Stop::Failed(error)) => {
                // What broke off is left for the next one, before he can come.
                match error.upstream() {
                    Some(upstream::Error::Lies(_)) => download.discard(),
                    _ => drop(download),
                }
                error
            }
        };
        self.doubt(&error);
        // Those who read it have had their status line: this is the only place to say why it broke off.
        tracing::warn!(
            repository = %self.source.inner.key,
            image = %self.source.image,
            digest = %self.source.digest,
            %error,
            "a blob could not be fetched to its end"
        );
        drop((reservation, room));
        ending.fail(error);
    }

    /// Lets upstream know that what it sent cannot be what was asked for.
    fn doubt(&self, error: &Error) {
        if let Some(error @ upstream::Error::Lies(_)) = error.upstream() {
            self.source.inner.upstream.doubt(&self.source.digest, error);
        }
    }

    fn verify(&self, download: Download) -> Result<VerifiedFile, Error> {
        match download.verify(&self.source.digest) {
            Err(store::Error::Mismatch(mismatch)) => Err(self.source.inner.lie(&mismatch.to_string())),
            result => Ok(result?),
        }
    }

    /// The store has no room for it. What lies there in part is the first that can be done without.
    async fn is_not_kept(&self, error: &store::Error) {
        let Source { inner, image, digest } = &self.source;
        inner.metrics.passed_on(inner.key.as_str());
        tracing::warn!(
            repository = %inner.key,
            %image,
            %digest,
            %error,
            "a blob cannot be kept: it is passed on to those who asked for it"
        );
        if error.is_full()
            && let Err(error) = inner.store.clear_partials().await
        {
            tracing::warn!(%error, "what was fetched in part could not be removed");
        }
    }

    /// Keeps what was found to be right. If that fails, those who wait still get it: it is right.
    async fn keep(&self, verified: VerifiedFile) {
        let Source { inner, image, digest } = &self.source;
        let mut kept = inner.store.publish(verified).await;
        let also = std::mem::take(&mut *self.also.lock().unwrap_or_else(PoisonError::into_inner));
        for image in also.iter().chain([image]) {
            if kept.is_ok() {
                kept = inner.here(image).link_blob(digest).await;
            }
        }
        if let Err(error) = kept {
            tracing::error!(
                repository = %inner.key,
                %image,
                %digest,
                %error,
                "a blob was fetched but could not be kept"
            );
        }
    }
}

/// Whether what there is of a blob is of no use with this answer: it is as long as the whole or longer, or the answer
/// may only say that there is no such part.
fn does_not_go_on(answer: &oci::Answer<BlobStream, Error>, written: u64) -> bool {
    match answer {
        Ok(Some(stream)) => stream.total().is_some_and(|total| total <= written),
        Ok(None) => false,
        Err(error) => error.upstream().is_some_and(is_about_ranges),
    }
}
