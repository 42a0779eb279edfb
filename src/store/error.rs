//! What can go wrong in the store, in its own words.

use std::io;
use std::path::{Path, PathBuf};

use crate::oci::{Digest, Tag};

/// Why the store could not do, or could not tell, what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the store open.
    #[error("{path} is in use by another process: only one may have a store open")]
    Locked {
        /// The store.
        path: PathBuf,
    },
    /// The store was written by a newer version.
    #[error("{path} has format {found}, and this version knows formats up to {known}: use a newer version")]
    NewerFormat {
        /// The store.
        path: PathBuf,
        /// What it says it is.
        found: String,
        /// What we know.
        known: u32,
    },
    /// A backup was to be restored to it, and only part of it is there.
    #[error("a backup was not restored to {path} to the end: run `entrepot restore` again")]
    Unfinished {
        /// The store.
        path: PathBuf,
    },
    /// A backup was to be restored to where something is.
    #[error("{path} is not empty: a backup is restored to where nothing is")]
    NotEmpty {
        /// The store.
        path: PathBuf,
    },
    /// Parts of the store are on different filesystems, where nothing can be moved into place in one step.
    #[error("{first} and {second} are on different filesystems: a store must be on one")]
    Filesystems {
        /// One part.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The disk has failed to keep what was written, several times.
    #[error("the disk has failed to keep what was written: nothing is written until the next start")]
    ReadOnly,
    /// The disk refused.
    #[error("{path}: {source}")]
    Disk {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A blob that is to be fetched has no room: it can be served, but not kept.
    #[error("there is no room for {size} bytes: {why}")]
    NoRoom {
        /// How much was asked for.
        size: u64,
        /// What is in the way.
        why: &'static str,
    },
    /// Less of the disk is free than is to stay so.
    #[error("{free} bytes of the disk are free, and `storage.min_free` keeps {min_free}")]
    LowSpace {
        /// How many are.
        free: u64,
        /// How many are to be.
        min_free: u64,
    },
    /// A repository has as many bytes as it may have.
    #[error(
        "the repository has {used} of the {quota} bytes of its `quota`, and {more} more are too many: delete what is not needed, or ask for a larger one"
    )]
    OverQuota {
        /// How many it may have.
        quota: u64,
        /// How many it has.
        used: u64,
        /// How many more were asked for.
        more: u64,
    },
    /// The bytes are not what they were said to be.
    #[error(transparent)]
    Mismatch(#[from] FinishError),
    /// A blob was to be linked that is not stored.
    #[error("the blob {0} is not stored")]
    NoSuchBlob(Digest),
    /// A tag that is pinned was to mean something else, or nothing.
    #[error("the tag `{0}` is pinned to what it means: `entrepot tags unpin` lets it be changed")]
    Pinned(Tag),
    /// A tag that is not to change was to mean something else, or nothing.
    #[error(
        "the tag `{0}` is immutable here: push under another tag, or take it out of the repository's `immutable_tags`"
    )]
    Immutable(Tag),
    /// As many uploads are open as may be.
    #[error("too many uploads are open: finish or cancel some, or try again later")]
    TooManyUploads,
    /// An upload would become longer than a blob may be.
    #[error("the upload is longer than the {limit} bytes a blob may have")]
    UploadTooLarge {
        /// The longest blob taken.
        limit: u64,
    },
    /// Another request is at work on the upload.
    #[error("another request is at work on this upload")]
    UploadBusy,
    /// The index cannot answer at the moment.
    #[error("the index cannot answer: {0}")]
    Index(String),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
    /// A task died; what it was doing is in the log.
    #[error("an operation of the store failed unexpectedly")]
    Died,
}

impl Error {
    /// Whether there is no room left, on the disk or in what may be used of it.
    pub fn is_full(&self) -> bool {
        match self {
            Self::NoRoom { .. } | Self::LowSpace { .. } => true,
            Self::Disk { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }

    /// Whether the system has no descriptor left to open a file with: that passes.
    pub fn is_crowded(&self) -> bool {
        use rustix::io::Errno;
        let none_left = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
        matches!(self, Self::Disk { source, .. } if none_left.contains(&source.raw_os_error()))
    }

    pub(super) fn disk(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Disk {
            path: path.to_owned(),
            source,
        }
    }
}

/// Why bytes that arrived are not what was expected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FinishError {
    /// They have another digest.
    #[error("the content has the digest {actual}, not {expected}")]
    Digest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// There are more or fewer of them.
    #[error("the content is {actual} bytes long, not {expected}")]
    Size {
        /// What was asked for.
        expected: u64,
        /// What came.
        actual: u64,
    },
}
