//! Small documents of ours that are nobody else's business: what signs tokens, and who the robots are. Written whole and
//! durably, readable for nobody but this process.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::disk::{Disk, is_absence, read_small};
use super::error::Error;
use super::layout::Layout;
use super::{Store, blocking};

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// What signs our tokens.
    SigningKey,
    /// The robots.
    Robots,
}

impl Document {
    pub(super) const fn file_name(self) -> &'static str {
        match self {
            Self::SigningKey => "signing-key",
            Self::Robots => "robots.json",
        }
    }
}

impl Store {
    /// A document, if it was ever written. One that is longer than `limit` is an error.
    pub async fn document(&self, which: Document, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let path = self.inner.records.layout.document(which);
        blocking(move || read_small(&path, limit)).await
    }

    /// Where a document is, for those who are told that there is something wrong with it.
    pub fn document_path(&self, which: Document) -> std::path::PathBuf {
        self.inner.records.layout.document(which)
    }

    /// Writes a document in place of the one before.
    pub async fn write_document(&self, which: Document, contents: Vec<u8>) -> Result<(), Error> {
        let inner = std::sync::Arc::clone(&self.inner);
        blocking(move || write(&inner.records.layout, &inner.disk, which, &contents)).await
    }
}

/// Writes a document, in a directory that nobody else can look into.
pub(super) fn write(layout: &Layout, disk: &Disk, which: Document, contents: &[u8]) -> Result<(), Error> {
    let directory = layout.documents();
    match fs::symlink_metadata(&directory) {
        Ok(_) => {}
        Err(error) if is_absence(&error) => {
            disk.make_directories(&[&directory])?;
            let owner_only = fs::Permissions::from_mode(0o700);
            fs::set_permissions(&directory, owner_only).map_err(Error::disk(&directory))?;
        }
        Err(error) => return Err(Error::disk(&directory)(error)),
    }
    disk.write_private(&layout.document(which), contents)
}
