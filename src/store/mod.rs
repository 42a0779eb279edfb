//! What we keep: blobs, manifests, tags, and uploads on their way to becoming blobs.
//!
//! The truth is a directory tree, that of registry:2, drawn in `layout`. The index beside it answers what would
//! take a walk through the tree — lists, referrers, who has a blob — and is rebuilt from the tree whenever there is any
//! doubt about it; a pull never needs it.
//!
//! This room knows nothing of kinds of repositories, of upstreams or of HTTP. Start reading at [`Store`] and [`Image`];
//! what makes a write durable is in `disk`.

#![expect(dead_code, reason = "records, uploads and the index come next and use it all")]

mod blobs;
mod claim;
mod disk;
mod error;
mod growing;
mod layout;
mod spool;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use blobs::BlobFile;
pub use error::{Error, FinishError};
pub use spool::{SpoolFile, SpoolReader, VerifiedFile};

use blobs::Blobs;
use disk::Disk;
use layout::Layout;

use crate::oci::{Algorithm, Digest};
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
}

/// A directory of blobs and records, open. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    disk: Arc<Disk>,
    blobs: Blobs,
    /// Held while the store is open.
    _lock: File,
}

impl Store {
    /// Opens the store in a directory, which is made if it is not there. Fails if another process has it open.
    pub async fn open(options: Options, metrics: Arc<Metrics>) -> Result<Self, Error> {
        blocking(move || {
            let layout = Layout::new(&options.path);
            let disk = Arc::new(Disk::new(&layout));
            let lock = claim::claim(&layout, &disk)?;
            let inner = Inner {
                blobs: Blobs {
                    layout: layout.clone(),
                    disk: Arc::clone(&disk),
                    metrics,
                },
                layout,
                disk,
                _lock: lock,
            };
            Ok(Self { inner: Arc::new(inner) })
        })
        .await
    }

    /// Opens stored content by its digest, whoever it belongs to.
    pub async fn open_blob(&self, digest: &Digest) -> Result<Option<BlobFile>, Error> {
        let (inner, digest) = (Arc::clone(&self.inner), digest.clone());
        blocking(move || inner.blobs.open(&digest)).await
    }

    /// A new file for bytes to arrive in.
    pub async fn spool(&self, algorithm: Algorithm) -> Result<SpoolFile, Error> {
        let inner = Arc::clone(&self.inner);
        blocking(move || SpoolFile::create(&inner.disk, algorithm)).await
    }

    /// Puts a verified file where its digest belongs, durably. It may be there already.
    pub async fn publish(&self, verified: VerifiedFile) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.blobs.publish(verified)).await
    }

    /// Whether something can be written, durably.
    pub async fn check_writable(&self) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let probe = inner.disk.spool_path();
            inner.disk.write(&probe, b"writable?")?;
            inner.disk.remove(&probe).map(drop)
        })
        .await
    }
}

/// Runs disk work, the whole of an operation at once, where it may block. It runs to its end even if nobody waits for
/// it any more.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
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
