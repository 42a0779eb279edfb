//! Room for what is about to be fetched.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Kept;
use super::account::Fit;
use super::evict::{self, Why};
use super::links::Kind;
use crate::oci::RepositoryKey;
use crate::store::{Error, Inner, Store, blocking};

/// How much room a blob is given at a time whose length nobody knows.
const STEP: u64 = 4 << 20;
/// How often room is made that others take before we do.
const TRIES: u32 = 4;

/// Room for a blob. Dropping it gives the room back: what has come of the blob by then counts itself.
#[derive(Debug)]
pub struct Reservation {
    inner: Arc<Inner>,
    kept: Option<Arc<Kept>>,
    size: u64,
}

impl Store {
    /// Room for a blob that is about to be fetched; others go to make it. [`Error::NoRoom`] when it can never fit, or
    /// nothing may go at the moment.
    pub async fn reserve(&self, repository: &RepositoryKey, size: Option<u64>) -> Result<Reservation, Error> {
        let mut reservation = Reservation {
            inner: Arc::clone(&self.inner),
            kept: self.inner.keep.get(repository),
            size: 0,
        };
        match size {
            Some(size) => reservation.take(size).await?,
            None => reservation.grow(1).await?,
        }
        Ok(reservation)
    }
}

impl Reservation {
    /// How many bytes there is room for.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Room for a blob that turns out to be at least this long: to be called before so much is written of it.
    pub async fn grow(&mut self, to: u64) -> Result<(), Error> {
        if to <= self.size {
            return Ok(());
        }
        // Not for every chunk.
        match self.take(to.max(self.size.saturating_add(STEP))).await {
            Err(Error::NoRoom { .. }) => self.take(to).await,
            result => result,
        }
    }

    async fn take(&mut self, to: u64) -> Result<(), Error> {
        let (inner, kept, more) = (Arc::clone(&self.inner), self.kept.clone(), to - self.size);
        // Who evicts waits for others that need a thread: not all threads may wait for who evicts.
        let waiting = Arc::clone(&inner.keep.waiting);
        let waiting = waiting.acquire_owned().await.map_err(|_| Error::Closed)?;
        // What was taken is given back even if nobody waits for it any more.
        let taken = blocking(move || {
            let mut taken = Self { inner, kept, size: 0 };
            let result = taken.take_now(more);
            drop(waiting);
            result.map(|()| taken)
        });
        let mut taken = taken.await?;
        self.size += std::mem::take(&mut taken.size);
        Ok(())
    }

    fn take_now(&mut self, more: u64) -> Result<(), Error> {
        if self.inner.disk.check().is_err() {
            let why = "the disk has failed, and nothing is written to it";
            return Err(Error::NoRoom { size: more, why });
        }
        if let Some(kept) = &self.kept {
            self.inner.read_account(kept)?;
            self.inner.fit(kept, more).inspect_err(|_| self.refused())?;
        }
        self.inner.keep.reserved.fetch_add(more, Ordering::AcqRel);
        // From here on, dropping it gives all of it back.
        self.size = more;
        self.inner.fit_on_disk(more).inspect_err(|_| self.refused())
    }

    fn refused(&self) {
        if let Some(kept) = &self.kept {
            self.inner.keep.metrics.no_room(kept.repository.as_str());
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.size == 0 {
            return;
        }
        self.inner.keep.reserved.fetch_sub(self.size, Ordering::AcqRel);
        if let Some(kept) = &self.kept {
            kept.account().give_back(self.size);
            self.inner.keep.show(kept);
        }
    }
}

impl Inner {
    /// Takes room below `max_size`, and makes it if need be.
    fn fit(self: &Arc<Self>, kept: &Kept, more: u64) -> Result<(), Error> {
        let no_room = |why| Error::NoRoom { size: more, why };
        let taken = || {
            let mut account = kept.account();
            let fit = account.fit(more);
            if fit == Fit::Fits {
                account.reserve(more);
            }
            fit
        };
        for _ in 0..TRIES {
            match taken() {
                Fit::Fits => {
                    self.keep.show(kept);
                    return Ok(());
                }
                Fit::Never => return Err(no_room("it is longer than `cache.max_size`")),
                Fit::After { .. } => {}
            }
            let _alone = self.keep.one_at_a_time();
            let being_read = self.blobs.guards.being_read();
            let (least, oldest) = {
                let account = kept.account();
                // Asked again: who evicted before us made room for others too.
                let Fit::After { least, best } = account.fit(more) else {
                    continue;
                };
                (least, account.oldest(best, &being_read))
            };
            if oldest.iter().map(|candidate| candidate.size).sum::<u64>() < least {
                break;
            }
            if let Err(error) = evict::evict(self, kept, Kind::Layer, &oldest, Why::MaxSize) {
                tracing::warn!(repository = %kept.repository, %error, "no room could be made for a blob");
                break;
            }
        }
        Err(no_room("`cache.max_size` is reached, and what is there is in use"))
    }

    /// Sees to it that the disk has room for what is about to come, of which `size` was added last.
    fn fit_on_disk(self: &Arc<Self>, size: u64) -> Result<(), Error> {
        let missing = || {
            let coming = self.keep.reserved.load(Ordering::Acquire);
            match self.space.shortfall(coming) {
                0 => 0,
                // A part of what is about to come has come.
                _ => self.space.shortfall(coming.saturating_sub(self.spooled())),
            }
        };
        if missing() == 0 {
            return Ok(());
        }
        let _alone = self.keep.one_at_a_time();
        self.clear_partials();
        if let Err(error) = self.free_disk(missing()) {
            tracing::warn!(%error, "no room could be made on the disk");
        }
        if missing() == 0 {
            return Ok(());
        }
        let why = "less than `storage.min_free` would be left on the disk";
        Err(Error::NoRoom { size, why })
    }

    /// The bytes in the spool.
    fn spooled(&self) -> u64 {
        let entries = std::fs::read_dir(self.records.layout.spool()).into_iter().flatten();
        let sizes = entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
        sizes.sum()
    }
}
