//! Content by its digest: blobs and manifests alike.
//!
//! What is published here stays as it is until it is removed. A file of another length than what was published can only
//! come from a disk that lost it: it is taken for absent, so that the blob is fetched or pushed again. The index may be
//! wrong about that length, and so may a manifest: hence such a file is read, once, and its digest decides. A file of the
//! right length with other bytes is not noticed by who reads it; a pass over the store finds it, and so does whoever brings
//! the same content again, which then takes its place.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use moka::sync::Cache;

use super::disk::{Debts, Disk, is_absence, read_small};
use super::error::Error;
use super::growing::hash_file;
use super::guards::Guards;
use super::layout::Layout;
use super::spool::VerifiedFile;
use crate::oci::Digest;
use crate::telemetry::Metrics;

/// More than any manifest has, here or elsewhere: what is longer is not read into memory.
const LONGEST_MANIFEST: u64 = 64 << 20;

/// How much of two files is compared at once.
const PIECE: usize = 256 << 10;

/// How many verdicts on files of unexpected length are remembered.
const VERDICTS: u64 = 10_000;

/// A stored blob, opened: it can be read to its end even if it is removed meanwhile.
#[derive(Clone, Debug)]
pub struct BlobFile {
    /// How many bytes it has.
    pub size: u64,
    file: Arc<File>,
}

impl BlobFile {
    /// Reads up to `buffer.len()` bytes from `offset`; 0 at the end.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    /// The file itself. Its position means nothing.
    pub const fn file(&self) -> &Arc<File> {
        &self.file
    }
}

/// Blobs in a filesystem.
#[derive(Debug)]
pub(super) struct Blobs {
    pub(super) layout: Layout,
    pub(super) disk: Arc<Disk>,
    pub(super) guards: Guards,
    /// Whether a file of this length and time had the right digest.
    pub(super) verdicts: Cache<(Digest, u64, Option<SystemTime>), bool>,
    pub(super) metrics: Arc<Metrics>,
}

impl Blobs {
    pub(super) fn no_verdicts() -> Cache<(Digest, u64, Option<SystemTime>), bool> {
        Cache::new(VERDICTS)
    }

    pub(super) fn open(&self, digest: &Digest) -> Result<Option<BlobFile>, Error> {
        let path = self.layout.blob(digest);
        let _stays = self.guards.share(digest);
        let open = || {
            let file = File::open(&path)?;
            let metadata = file.metadata()?;
            Ok((file, metadata))
        };
        let (file, metadata) = match open() {
            Ok(opened) => opened,
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(Error::disk(&path)(error)),
        };
        let file = Arc::new(file);
        Ok(self.believable(digest, &metadata).map(|size| {
            self.guards.note_reader(digest, &file);
            BlobFile { size, file }
        }))
    }

    /// The length of a blob's file, whatever is in it, and when it was written.
    pub(super) fn look(&self, digest: &Digest) -> Result<Option<(u64, Option<SystemTime>)>, Error> {
        let path = self.layout.blob(digest);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some((metadata.len(), metadata.modified().ok()))),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(Error::disk(&path)(error)),
        }
    }

    /// Whether the bytes of a file have its digest. One that cannot be read is not known to be wrong.
    pub(super) fn is_right(&self, digest: &Digest) -> bool {
        let Ok(Some((size, written))) = self.look(digest) else {
            return true;
        };
        let judge = || {
            let read = File::open(self.layout.blob(digest)).and_then(|file| hash_file(&file, digest.algorithm()));
            let is_right = read.map_or(true, |hasher| hasher.finish() == *digest);
            if !is_right {
                self.damaged(digest, "its file has another length than what was published");
            }
            is_right
        };
        self.verdicts.get_with((digest.clone(), size, written), judge)
    }

    pub(super) fn size(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let path = self.layout.blob(digest);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(self.believable(digest, &metadata)),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(Error::disk(&path)(error)),
        }
    }

    /// The size of a blob, unless it cannot be one.
    fn believable(&self, digest: &Digest, metadata: &fs::Metadata) -> Option<u64> {
        if metadata.is_file() && (metadata.len() > 0 || digest.is_of_nothing()) {
            return Some(metadata.len());
        }
        self.damaged(digest, "its file is empty");
        None
    }

    /// The bytes of a manifest, if they are there and are what their digest says.
    pub(super) fn read_manifest(&self, digest: &Digest) -> Result<Option<Bytes>, Error> {
        match read_small(&self.layout.blob(digest), LONGEST_MANIFEST)? {
            None => Ok(None),
            Some(bytes) if Digest::of(digest.algorithm(), &bytes) == *digest => Ok(Some(bytes.into())),
            Some(_) => {
                self.damaged(digest, "its bytes have another digest");
                Ok(None)
            }
        }
    }

    pub(super) fn damaged(&self, digest: &Digest, how: &'static str) {
        self.metrics.damage_found();
        tracing::warn!(%digest, how, "stored content is damaged and taken for absent");
    }

    /// Puts a verified file where its digest belongs, durably. It may be there already. It stays for as long as anybody
    /// has the file that was written, or until it is linked.
    pub(super) fn publish(&self, mut verified: VerifiedFile) -> Result<(), Error> {
        self.settle(&mut verified)?;
        let mut debts = self.disk.debts();
        let put = self.put(verified, &mut debts);
        let paid = debts.pay();
        put.and(paid)
    }

    /// Makes the bytes of a verified file durable, if they are needed.
    pub(super) fn settle(&self, verified: &mut VerifiedFile) -> Result<(), Error> {
        if self.stands(&self.layout.blob(verified.digest()), verified.size())? && !self.has_rotted(verified) {
            return Ok(());
        }
        self.disk.synced(verified.sync())
    }

    /// The same as publishing, but that its name is not durable before the debts are paid.
    pub(super) fn put(&self, mut verified: VerifiedFile, debts: &mut Debts<'_>) -> Result<(), Error> {
        self.disk.check()?;
        let _stays = self.guards.share(verified.digest());
        self.guards.note_reader(verified.digest(), verified.file());
        let target = self.layout.blob(verified.digest());
        if !verified.is_synced() && self.stands(&target, verified.size())? {
            debts.rely(&target);
            return Ok(());
        }
        // Done already, unless what stood there has gone since.
        self.disk.synced(verified.sync())?;
        debts.make_parent(&target)?;
        debts.place(verified.into_scrap(), &target)
    }

    /// Whether what is there is as long as a verified file, and other bytes or not to be read. Reading both costs less than
    /// making new ones durable in the place of those that are right.
    fn has_rotted(&self, verified: &VerifiedFile) -> bool {
        let digest = verified.digest();
        let is_sound = || -> io::Result<bool> {
            let stored = File::open(self.layout.blob(digest))?;
            let has_its_length = stored.metadata()?.len() == verified.size();
            Ok(!has_its_length || have_the_same_bytes(&stored, verified.file())?)
        };
        match is_sound() {
            Ok(true) => false,
            Err(error) if is_absence(&error) => false,
            Ok(false) | Err(_) => {
                self.damaged(
                    digest,
                    "its bytes are not those that have come now, which take its place",
                );
                true
            }
        }
    }

    /// Puts the bytes of a manifest where their digest belongs, durably. What is there must be the very same bytes.
    pub(super) fn publish_manifest(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        let target = self.layout.blob(digest);
        if self.stands(&target, bytes.len() as u64)? && self.read_manifest(digest)?.is_some() {
            return self.disk.rely(&target);
        }
        let mut debts = self.disk.debts();
        debts.make_parent(&target)?;
        debts.place(self.disk.draft(bytes)?, &target)?;
        debts.pay()
    }

    /// Whether a file of this size is there, with durable bytes. Its name may not be, see [`Debts::rely`].
    pub(super) fn stands(&self, target: &Path, size: u64) -> Result<bool, Error> {
        if !self.disk.is_trusted() {
            return Ok(false);
        }
        match fs::metadata(target) {
            Ok(metadata) => Ok(metadata.is_file() && metadata.len() == size),
            Err(error) if is_absence(&error) => Ok(false),
            Err(error) => Err(Error::disk(target)(error)),
        }
    }
}

/// Whether two files of one length have the same bytes.
fn have_the_same_bytes(one: &File, other: &File) -> io::Result<bool> {
    let (mut here, mut there) = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0;
    loop {
        let read = match one.read_at(&mut here, at) {
            Ok(0) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        other.read_exact_at(&mut there[..read], at)?;
        if here[..read] != there[..read] {
            return Ok(false);
        }
        at += read as u64;
    }
}
