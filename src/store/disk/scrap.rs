//! Files on their way: removed again unless they get to where they belong.

use std::fs;
use std::path::{Path, PathBuf};

use super::is_absence;
use crate::store::partials::Name;

/// A file that is removed again unless it is kept.
#[derive(Debug)]
pub(in crate::store) struct Scrap {
    path: PathBuf,
    kept: bool,
    /// Held until the file is gone from its path: nobody else takes it for his before.
    name: Option<Name>,
}

impl Scrap {
    pub(in crate::store) fn new(path: PathBuf) -> Self {
        Self {
            path,
            kept: false,
            name: None,
        }
    }

    /// The part of a digest.
    pub(in crate::store) fn named(name: Name) -> Self {
        Self {
            path: name.path(),
            kept: false,
            name: Some(name),
        }
    }

    pub(in crate::store) const fn name(&self) -> Option<&Name> {
        self.name.as_ref()
    }

    /// From now on it stays for somebody to go on with it.
    pub(in crate::store) fn park(&mut self) {
        self.kept = true;
    }

    /// From now on nobody shall go on with it.
    pub(in crate::store) fn unpark(&mut self) {
        if let Some(name) = &self.name {
            name.forget();
        }
        self.kept = false;
    }

    pub(in crate::store) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the file where it is, or where it was moved to.
    pub(in crate::store) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Scrap {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = fs::remove_file(&self.path)
            && !is_absence(&error)
        {
            tracing::warn!(path = %self.path.display(), %error, "a file of no use is left behind");
        }
    }
}
