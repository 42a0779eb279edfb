//! What is asked for all the time, in memory: manifests, and what tags mean. A hit touches no disk.
//!
//! A reader may have read the disk before a writer changed it and come here afterwards. So it notes the image's
//! generation first, and what it brings is kept only if no writer has been here in between.

use std::sync::{Arc, Mutex, PoisonError};

use moka::sync::Cache;

use super::TagRecord;
use super::layout::Place;
use super::turns::STRIPES;
use crate::oci::{Digest, Manifest, Tag};

/// Bytes of manifests.
const MANIFESTS: u64 = 32 << 20;
/// Number of tags.
const TAGS: u64 = 50_000;
/// What an entry costs beside a manifest's bytes, about.
const ENTRY: usize = 512;

/// The cache.
#[derive(Debug)]
pub(super) struct Hot {
    pub(super) tags: Cache<(Arc<Place>, Tag), TagRecord>,
    pub(super) manifests: Cache<(Arc<Place>, Digest), Manifest>,
    generations: Box<[Mutex<u64>]>,
}

/// When a reader began.
#[derive(Clone, Copy)]
pub(super) struct Generation(u64);

impl Hot {
    pub(super) fn new() -> Self {
        Self {
            tags: Cache::new(TAGS),
            manifests: Cache::builder()
                .max_capacity(MANIFESTS)
                .weigher(|_, manifest: &Manifest| u32::try_from(manifest.bytes.len() + ENTRY).unwrap_or(u32::MAX))
                .build(),
            generations: (0..STRIPES).map(|_| Mutex::new(0)).collect(),
        }
    }

    /// To be called before the disk is read.
    pub(super) fn generation(&self, stripe: usize) -> Generation {
        Generation(*self.generations[stripe].lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps what was read from the disk, unless it may have changed since.
    pub(super) fn keep(&self, stripe: usize, since: Generation, keep: impl FnOnce(&Self)) {
        let generation = self.generations[stripe].lock().unwrap_or_else(PoisonError::into_inner);
        if *generation == since.0 {
            keep(self);
        }
    }

    /// Follows a change of the disk. To be called after it, by who has the image's turn.
    pub(super) fn change(&self, stripe: usize, change: impl FnOnce(&Self)) {
        let mut generation = self.generations[stripe].lock().unwrap_or_else(PoisonError::into_inner);
        *generation = generation.wrapping_add(1);
        change(self);
    }
}
