//! What stands between a blob's bytes and their removal.
//!
//! Bytes are removed by one at a time, eviction or reclaiming, and looked for by many. Whoever makes a link to bytes holds
//! the shared side of the digest's lock from "they are here" to "the link is written"; whoever removes them holds the
//! other side from the last look to the removal. The tree is searched for links before that, without a lock, since it
//! takes its time: for as long, the digest is condemned, and a link that is written meanwhile leaves a mark. So does, for
//! reclaiming, whoever was told that a blob is here: a client that has been told so does not send it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use crate::oci::{Digest, RepositoryKey};

/// How many digests are locked apart from each other, when their hashes agree to it.
const STRIPES: usize = 1024;
/// How many blobs may be noted as being read before those that are not any more are looked for.
const SWEEP: usize = 1024;

/// The locks and notes of all digests.
#[derive(Debug)]
pub(super) struct Guards {
    stripes: Box<[RwLock<()>]>,
    hashing: RandomState,
    readers: Mutex<Readers>,
    condemned: Mutex<HashMap<Digest, Sentence>>,
}

/// Who has a blob's file open: for reading it, or because they wrote it and have yet to link it.
#[derive(Debug)]
struct Readers {
    files: HashMap<Digest, Vec<Weak<File>>>,
    sweep_at: usize,
}

/// The repository that wants to be rid of a digest, if it is one and not the whole store, and whether somebody has linked
/// it since.
#[derive(Debug)]
struct Sentence {
    repository: Option<RepositoryKey>,
    rescue: Rescue,
}

/// What came in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rescue {
    /// Nobody linked it.
    None,
    /// Only others than the repository that wants to be rid of it did.
    Others,
    /// That repository wants it again.
    Own,
}

/// Digests that are condemned on behalf of a repository, for as long as this lives.
#[derive(Debug)]
pub(super) struct Condemned<'a> {
    guards: &'a Guards,
    digests: &'a [Digest],
}

impl Guards {
    pub(super) fn new() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| RwLock::default()).collect(),
            hashing: RandomState::new(),
            readers: Mutex::new(Readers {
                files: HashMap::new(),
                sweep_at: SWEEP,
            }),
            condemned: Mutex::default(),
        }
    }

    fn stripe(&self, digest: &Digest) -> &RwLock<()> {
        let number = self.hashing.hash_one(digest) % STRIPES as u64;
        &self.stripes[usize::try_from(number).unwrap_or_default()]
    }

    /// As long as this is held, what is here stays.
    pub(super) fn share(&self, digest: &Digest) -> RwLockReadGuard<'_, ()> {
        self.stripe(digest).read().unwrap_or_else(PoisonError::into_inner)
    }

    /// As long as this is held, nobody finds the bytes or links them.
    pub(super) fn exclude(&self, digest: &Digest) -> RwLockWriteGuard<'_, ()> {
        self.stripe(digest).write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a blob is read for as long as somebody has this file.
    pub(super) fn note_reader(&self, digest: &Digest, file: &Arc<File>) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let files = readers.files.entry(digest.clone()).or_default();
        if files.len() == files.capacity() {
            files.retain(|file| file.strong_count() > 0);
        }
        files.push(Arc::downgrade(file));
        if readers.files.len() >= readers.sweep_at {
            readers.sweep();
        }
    }

    /// The blobs that are being read.
    pub(super) fn being_read(&self) -> HashSet<Digest> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.sweep();
        readers.files.keys().cloned().collect()
    }

    pub(super) fn is_being_read(&self, digest: &Digest) -> bool {
        let readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let files = readers.files.get(digest);
        files.is_some_and(|files| files.iter().any(|file| file.strong_count() > 0))
    }

    fn condemned(&self) -> MutexGuard<'_, HashMap<Digest, Sentence>> {
        self.condemned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on links to these digests leave a mark. By one at a time.
    pub(super) fn condemn<'a>(&'a self, repository: Option<&RepositoryKey>, digests: &'a [Digest]) -> Condemned<'a> {
        let sentence = || Sentence {
            repository: repository.cloned(),
            rescue: Rescue::None,
        };
        let all = digests.iter().map(|digest| (digest.clone(), sentence()));
        self.condemned().extend(all);
        Condemned { guards: self, digests }
    }

    /// A link to this digest was written. To be called by who shares its lock.
    pub(super) fn linked(&self, repository: &RepositoryKey, digest: &Digest) {
        if let Some(sentence) = self.condemned().get_mut(digest) {
            let by = if sentence.repository.as_ref() == Some(repository) {
                Rescue::Own
            } else {
                Rescue::Others
            };
            sentence.rescue = sentence.rescue.max(by);
        }
    }

    /// Somebody was told that this digest is here. To be called by who shares its lock.
    pub(super) fn promised(&self, digest: &Digest) {
        if let Some(sentence) = self
            .condemned()
            .get_mut(digest)
            .filter(|sentence| sentence.repository.is_none())
        {
            sentence.rescue = sentence.rescue.max(Rescue::Others);
        }
    }
}

impl Readers {
    fn sweep(&mut self) {
        self.files.retain(|_, files| {
            files.retain(|file| file.strong_count() > 0);
            !files.is_empty()
        });
        self.sweep_at = SWEEP.max(2 * self.files.len());
    }
}

impl Condemned<'_> {
    pub(super) fn includes(&self, digest: &Digest) -> bool {
        self.guards.condemned().contains_key(digest)
    }

    /// Whether a digest has been linked since it was condemned.
    pub(super) fn rescue(&self, digest: &Digest) -> Rescue {
        let condemned = self.guards.condemned();
        condemned.get(digest).map_or(Rescue::None, |sentence| sentence.rescue)
    }
}

impl Drop for Condemned<'_> {
    fn drop(&mut self) {
        let mut condemned = self.guards.condemned();
        for digest in self.digests {
            condemned.remove(digest);
        }
    }
}
