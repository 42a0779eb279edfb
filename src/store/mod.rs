//! What we keep: blobs, manifests, tags, and uploads on their way to becoming blobs.
//!
//! The truth is a directory tree, that of registry:2, drawn in `layout`. The index beside it answers what would
//! take a walk through the tree — lists, referrers, who has a blob — and is rebuilt from the tree whenever there is any
//! doubt about it; a pull never needs it.
//!
//! This room knows nothing of kinds of repositories, of upstreams or of HTTP. Start reading at [`Store`] and [`Image`];
//! what makes a write durable is in `disk`.

mod adopt;
mod backup;
mod blobs;
mod claim;
mod disk;
mod documents;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod growing;
mod guards;
pub mod history;
mod hot;
mod image;
mod import;
mod index;
mod keep;
mod landing;
mod layout;
mod partials;
mod rebuild;
mod reclaim;
mod records;
mod rows;
mod space;
mod spool;
mod stamp;
mod tags;
mod trash;
mod turns;
mod uploads;
mod verify;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

pub use backup::{BackedUp, Restored};
pub use blobs::BlobFile;
pub use documents::Document;
pub use error::{Error, FinishError};
pub use history::{Meaning, Move};
pub use image::{Image, Present, TagRecord};
pub use import::{Imported, Importing};
pub use keep::{Keeping, Reservation, Tidied};
pub use reclaim::{LocalRules, Reclaimed, Reclaiming};
pub use spool::{SpoolFile, SpoolReader, VerifiedFile};
pub use uploads::{NOBODY, Upload};
pub use verify::{Defect, Finding, Keeps, Outcome, Repair, Verified, Verifying};

use blobs::Blobs;
use disk::Disk;
use hot::Hot;
use index::Index;
use keep::Keep;
use layout::{Layout, Place};
use partials::Partials;
use reclaim::Reclaim;
use records::Records;
use space::Space;
use stamp::Reason;
use turns::Turns;
use uploads::Uploads;

use crate::config::Share;
use crate::mishap;
use crate::oci::{Digest, ImageName, RepositoryKey};
use crate::telemetry::Metrics;

/// How a store is to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The directory.
    pub path: PathBuf,
    /// How many uploads may be open at once.
    pub uploads: usize,
    /// How long an upload may lie untouched.
    pub upload_idle: Duration,
    /// The longest blob that may be uploaded, in bytes.
    pub upload_limit: u64,
    /// How much of the disk stays free.
    pub min_free: Share,
}

/// A directory of blobs and records, open. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

/// How much the index knows of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexCounts {
    /// Images that have a manifest.
    pub images: u64,
    /// Tags, in all images.
    pub tags: u64,
    /// Manifests; one that is in several images counts in each.
    pub manifests: u64,
    /// Blobs that may be read in some image.
    pub blobs: u64,
}

/// So long is waited for a new index, and for what an earlier process left to be durable: with a small store that is done
/// before anybody could ask.
const AT_ONCE: Duration = Duration::from_millis(500);

/// How many images a blob is said to be in, when somebody looks for one that they may read.
const OWNERS: usize = 64;

#[derive(Debug)]
struct Inner {
    disk: Arc<Disk>,
    blobs: Arc<Blobs>,
    records: Records,
    turns: Turns,
    hot: Hot,
    index: Index,
    uploads: Arc<Uploads>,
    partials: Arc<Partials>,
    keep: Keep,
    reclaim: Reclaim,
    space: Arc<Space>,
    /// Nothing that can be done later is begun or gone on with.
    stopping: AtomicBool,
    /// Whether the index is being rebuilt, as it is after a start that found it in doubt.
    indexing: Arc<watch::Sender<bool>>,
    /// Held while the store is open.
    _lock: File,
}

impl Inner {
    /// With the reason why the index has to be rebuilt, if there is one.
    fn open(options: &Options, metrics: &Arc<Metrics>) -> Result<(Self, Option<Reason>), Error> {
        let layout = Layout::new(&options.path);
        let disk = Arc::new(Disk::new(&layout, metrics));
        let lock = claim::claim(&layout, &disk)?;
        disk.inherit();
        let partials = Partials::take_over(&layout.spool())?;
        let records = Records::of(&layout, &disk, metrics);
        let blobs = Arc::clone(&records.blobs);
        let space = Space::new(options.path.clone(), options.min_free, Arc::clone(metrics));
        let space = Arc::new(space);
        let uploads = Arc::new(Uploads::open(&blobs, &space, options)?);
        let reclaim = Reclaim::open(&layout, &disk)?;
        let (index, reason) = Index::open(&layout, &disk, |closed| rebuild::has_changed(&layout, closed));
        let inner = Self {
            disk,
            blobs,
            records,
            turns: Turns::new(),
            hot: Hot::new(),
            index,
            uploads,
            partials,
            keep: Keep::new(Arc::clone(metrics)),
            reclaim,
            space,
            stopping: AtomicBool::new(false),
            indexing: Arc::new(watch::Sender::new(false)),
            _lock: lock,
        };
        let reason = reason.or_else(|| inner.is_bare().then_some(Reason::Outdated));
        Ok((inner, reason))
    }

    /// Fills the index that has begun anew, while it is used.
    fn fill_index(&self, reason: Reason) -> Result<IndexCounts, Error> {
        rebuild::rebuild(&self.index, &self.records, &self.turns, reason, &|| {
            if self.stopping.load(Ordering::Acquire) {
                return Err(Error::Closed);
            }
            Ok(())
        })
    }

    fn is_indexing(&self) -> bool {
        *self.indexing.borrow()
    }

    /// Waits until the index is not being rebuilt any more.
    async fn indexed(&self) {
        // The sender is ours: it cannot be gone.
        let _ = self.indexing.subscribe().wait_for(|indexing| !indexing).await;
    }

    /// A stored blob, if its file is what was published. What the index remembers of its length is only a reason to
    /// look: the digest decides.
    fn open_blob(&self, digest: &Digest) -> Result<Option<BlobFile>, Error> {
        let blob = self.blobs.open(digest)?;
        Ok(blob.filter(|blob| self.is_whole(digest, blob.size)))
    }

    fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let size = self.blobs.size(digest)?;
        Ok(size.filter(|size| self.is_whole(digest, *size)))
    }

    fn is_whole(&self, digest: &Digest, size: u64) -> bool {
        self.index.bears_out(digest, size).unwrap_or(true) || self.blobs.is_right(digest)
    }

    /// Whether the index knows nothing although there is something to know: the tree was put there behind its back.
    fn is_bare(&self) -> bool {
        self.index.counts().is_ok_and(|counts| counts == IndexCounts::default())
            && rebuild::has_records(&self.records).unwrap_or(true)
    }
}

/// However a rebuild ends, it is over.
struct Indexing(Arc<watch::Sender<bool>>);

impl Drop for Indexing {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

impl Store {
    /// Opens the store in a directory, which is made if it is not there. Fails if another process has it open.
    ///
    /// Should the index be in doubt, it is rebuilt while the store is used: what is written goes into it at once, and lists
    /// come from the tree until all else is in it.
    pub async fn open(options: Options, metrics: Arc<Metrics>) -> Result<Self, Error> {
        let (inner, reason) = blocking(move || {
            let (inner, reason) = Inner::open(&options, &metrics)?;
            // Nobody has the store yet, and so nobody has a turn.
            let begun = reason.map_or(Ok(()), |reason| inner.index.begin(reason));
            let reason = reason.filter(|_| match &begun {
                Ok(()) => true,
                Err(error) => {
                    inner.index.doubt(&error.to_string());
                    false
                }
            });
            inner.indexing.send_replace(reason.is_some());
            Ok((Arc::new(inner), reason))
        })
        .await?;
        let disk = Arc::clone(&inner.disk);
        let settled = tokio::task::spawn_blocking(move || disk.settle_inheritance());
        if let Some(reason) = reason {
            let inner = Arc::clone(&inner);
            let indexing = Indexing(Arc::clone(&inner.indexing));
            tokio::task::spawn_blocking(move || {
                // Goes last: who has waited for it finds us gone.
                let _over = indexing;
                let inner = inner;
                match inner.fill_index(reason) {
                    Ok(_) | Err(Error::Closed) => {}
                    // Pulls and pushes do without; lists walk the tree.
                    Err(error) => inner.index.doubt(&error.to_string()),
                }
            });
        }
        let all = async { tokio::join!(settled, inner.indexed()) };
        let _ = tokio::time::timeout(AT_ONCE, all).await;
        Ok(Self { inner })
    }

    /// Whether the index is being rebuilt: until it is whole, lists come from the tree, and nothing is reclaimed.
    pub fn is_indexing(&self) -> bool {
        self.inner.is_indexing()
    }

    /// An image, whether there is anything of it or not.
    pub fn image(&self, repository: &RepositoryKey, image: &ImageName) -> Image {
        let place = Place {
            repository: repository.clone(),
            image: image.clone(),
        };
        Image::new(Arc::clone(&self.inner), place)
    }

    /// The images of a repository that have a manifest, sorted.
    pub async fn images(&self, repository: &RepositoryKey) -> Result<Vec<ImageName>, Error> {
        let (inner, repository) = (Arc::clone(&self.inner), repository.clone());
        blocking(move || match inner.index.images(&repository) {
            Err(Error::Index(_)) => rebuild::images(&inner.records, &repository),
            answer => answer,
        })
        .await
    }

    /// Some images in which a blob may be read: not all of them when there are many, none when the index cannot tell.
    pub async fn find_blob_owners(&self, digest: &Digest) -> Result<Vec<(RepositoryKey, ImageName)>, Error> {
        let (inner, digest) = (Arc::clone(&self.inner), digest.clone());
        blocking(move || {
            let mut owners = Vec::new();
            for place in inner.index.owners(&digest, OWNERS).unwrap_or_default() {
                if inner.records.has_layer(&place, &digest)? {
                    owners.push((place.repository, place.image));
                }
            }
            Ok(owners)
        })
        .await
    }

    /// Rebuilds the index from the disk, while the store is used.
    pub async fn reindex(&self) -> Result<IndexCounts, Error> {
        let turns = loop {
            self.inner.indexed().await;
            let turns = self.inner.turns.take_all().await?;
            if !self.is_indexing() {
                break turns;
            }
        };
        self.inner.indexing.send_replace(true);
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let _over = Indexing(Arc::clone(&inner.indexing));
            let inner = inner;
            let begun = inner.index.begin(Reason::Requested);
            inner.keep.forget_notes();
            drop(turns);
            let counts = begun.and_then(|()| inner.fill_index(Reason::Requested));
            counts.inspect_err(|error| inner.index.doubt(&error.to_string()))
        })
        .await
    }

    /// Lets whoever writes finish, then closes the index, so that the next start need not rebuild it. The last thing to
    /// be done with a store: from then on it refuses to write.
    pub async fn close(&self) {
        self.inner.stopping.store(true, Ordering::Release);
        let Ok(turns) = self.inner.turns.take_all().await else {
            return;
        };
        self.inner.turns.close();
        let inner = Arc::clone(&self.inner);
        let closed = blocking(move || {
            inner.write_notes(true);
            if let Err(error) = inner.reclaim.close(&inner.blobs.layout, &inner.disk) {
                tracing::warn!(%error, "what may be reclaimed is found out anew after the next start");
            }
            let closed = inner.index.close();
            drop(turns);
            closed
        });
        if let Err(error) = closed.await {
            tracing::warn!(%error, "the index was not closed cleanly");
        }
    }

    /// Opens stored content by its digest, whoever it belongs to.
    pub async fn open_blob(&self, digest: &Digest) -> Result<Option<BlobFile>, Error> {
        let (inner, digest) = (Arc::clone(&self.inner), digest.clone());
        blocking(move || inner.open_blob(&digest)).await
    }

    /// A new file for the bytes of this digest. What arrived of it outlives an end that nobody planned.
    pub async fn spool_for(&self, digest: &Digest) -> Result<SpoolFile, Error> {
        let (inner, digest) = (Arc::clone(&self.inner), digest.clone());
        blocking(move || SpoolFile::begin(&inner.disk, &inner.partials, &digest)).await
    }

    /// What has arrived of a digest before and was found to be what it was then.
    pub async fn resume(&self, digest: &Digest) -> Result<Option<SpoolFile>, Error> {
        if !self.inner.partials.has(digest) {
            return Ok(None);
        }
        let (inner, digest) = (Arc::clone(&self.inner), digest.clone());
        blocking(move || SpoolFile::resume(&inner.partials, &digest)).await
    }

    /// Removes what arrived in part and nobody is at work on: there is no room for it.
    pub async fn clear_partials(&self) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            inner.partials.clear();
            Ok(())
        })
        .await
    }

    /// Puts a verified file where its digest belongs, durably. It may be there already.
    pub async fn publish(&self, verified: VerifiedFile) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.blobs.publish(verified)).await
    }

    /// Removes the uploads that have been idle for too long, and says how many.
    pub async fn expire_uploads(&self) -> Result<usize, Error> {
        let uploads = Arc::clone(&self.inner.uploads);
        blocking(move || Ok(uploads.expire())).await
    }

    /// Whether something can be written, durably.
    pub async fn check_writable(&self) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            inner.disk.check()?;
            let probe = inner.disk.spool_path();
            inner.disk.write(&probe, b"writable?")?;
            inner.disk.remove(&probe).map(drop)
        })
        .await
    }

    /// Whether there is room for what clients push.
    pub async fn check_room(&self) -> Result<(), Error> {
        let space = Arc::clone(&self.inner.space);
        blocking(move || space.check()).await
    }
}

/// Runs disk work, the whole of an operation at once, where it may block. It runs to its end even if nobody waits for
/// it any more.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let work = move || {
        mishap::at("disk");
        work()
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_cancelled() => Err(Error::Closed),
        Err(error) => {
            tracing::error!(%error, "an operation of the store failed unexpectedly");
            Err(Error::Died)
        }
    }
}

#[cfg(test)]
mod tests;
