//! How we know that the index is the one we closed: a stamp beside it, written last and removed first.
//!
//! It is believed only if everything agrees: the session that wrote it with the one that last had the tree, every byte
//! of the index's files, and then, once the engine has opened them, the number and the sum of what it returns. And only
//! if nobody has added to the tree or taken from it since.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::disk::{Disk, is_absence, read_small};
use super::error::Error;
use super::layout::Layout;
use crate::oci::Algorithm;

/// The version of the rows and of the engine that keeps them. Another one is rebuilt, not converted.
const FORMAT: u32 = 2;

/// Why the index has to be rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// There is none.
    Missing,
    /// It was not closed, as when the process was killed.
    Unclean,
    /// It is a copy from an earlier time, or of another version.
    Outdated,
    /// It is not what was closed.
    Damaged,
    /// Somebody asked for it.
    Requested,
}

impl Reason {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unclean => "unclean",
            Self::Outdated => "outdated",
            Self::Damaged => "damaged",
            Self::Requested => "requested",
        }
    }
}

/// How many rows there are and, whatever their order, which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) rows: u64,
    sum: u128,
}

impl Totals {
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.rows = self.rows.wrapping_add(1);
        self.sum = self.sum.wrapping_add(hash_row(key, value));
    }

    pub(super) fn subtract(&mut self, key: &[u8], value: &[u8]) {
        self.rows = self.rows.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(hash_row(key, value));
    }
}

fn hash_row(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = Sha256::new();
    hasher.update((key.len() as u64).to_be_bytes());
    hasher.update(key);
    hasher.update(value);
    let hash: [u8; 32] = hasher.finalize().into();
    u128::from_be_bytes(*hash.first_chunk().unwrap_or(&[0; 16]))
}

/// What the index was when it was closed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stamp {
    format: u32,
    session: String,
    rows: u64,
    sum: String,
    files: String,
}

/// The version alone, which every version can read.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// Whether the files of the index are those that were closed last; if so, what they hold, and when that was.
pub(super) fn examine(layout: &Layout) -> Result<(Totals, SystemTime), Reason> {
    let engine = engine(layout);
    if fs::read_dir(&engine).map_or(true, |mut entries| entries.next().is_none()) {
        return Err(Reason::Missing);
    }
    let text = match read_small(&layout.index_stamp(), 4096) {
        Ok(Some(text)) => text,
        Ok(None) => return Err(Reason::Unclean),
        Err(_) => return Err(Reason::Damaged),
    };
    let version: Version = serde_json::from_slice(&text).map_err(|_| Reason::Damaged)?;
    if version.format != FORMAT {
        return Err(Reason::Outdated);
    }
    let stamp: Stamp = serde_json::from_slice(&text).map_err(|_| Reason::Damaged)?;
    // Another tree in its place has another session, or none.
    if session(&layout.session()).as_ref() != Some(&stamp.session) {
        return Err(Reason::Outdated);
    }
    match session(&own_session(layout)) {
        Some(session) if session == stamp.session => {}
        Some(_) => return Err(Reason::Outdated),
        None => return Err(Reason::Damaged),
    }
    if hash_files(&engine).ok().as_deref() != Some(&*stamp.files) {
        return Err(Reason::Damaged);
    }
    let sum = u128::from_str_radix(&stamp.sum, 16).map_err(|_| Reason::Damaged)?;
    let closed = fs::metadata(layout.index_stamp()).and_then(|found| found.modified());
    let closed = closed.map_err(|_| Reason::Damaged)?;
    Ok((Totals { rows: stamp.rows, sum }, closed))
}

/// From here on the index may change, and what was said of it does not hold any more.
pub(super) fn begin(layout: &Layout, disk: &Disk) -> Result<(), Error> {
    disk.remove(&layout.index_stamp())?;
    let session = format!("{}\n", uuid::Uuid::new_v4().simple());
    disk.write(&own_session(layout), session.as_bytes())?;
    disk.write(&layout.session(), session.as_bytes())
}

/// Says that the index is closed and what is in it.
pub(super) fn end(layout: &Layout, disk: &Disk, totals: Totals) -> Result<(), Error> {
    let engine = engine(layout);
    let stamp = Stamp {
        format: FORMAT,
        session: session(&own_session(layout)).unwrap_or_default(),
        rows: totals.rows,
        sum: format!("{:032x}", totals.sum),
        files: hash_files(&engine).map_err(Error::disk(&engine))?,
    };
    let text = serde_json::to_vec(&stamp).unwrap_or_default();
    disk.write(&layout.index_stamp(), &text)
}

/// Makes room for a new index. A damaged one is kept for whoever wants to know, but no more than one.
pub(super) fn set_aside(layout: &Layout, disk: &Disk, reason: Reason) -> Result<(), Error> {
    // First of all: should the rest fail, nobody must take what stays for what was closed.
    disk.remove(&layout.index_stamp())?;
    let index = layout.index();
    let gone = |result: io::Result<()>| match result {
        Err(error) if !is_absence(&error) => Err(Error::disk(&index)(error)),
        _ => Ok(()),
    };
    if reason != Reason::Damaged {
        return gone(fs::remove_dir_all(&index));
    }
    for entry in fs::read_dir(layout.root()).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b"index.broken-") {
            gone(fs::remove_dir_all(entry.path()))?;
        }
    }
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let aside = layout.root().join(format!("index.broken-{}", now.as_secs()));
    tracing::warn!(path = %aside.display(), "the damaged index is kept there");
    gone(fs::rename(&index, &aside))
}

/// Where the engine's files lie, apart from ours.
pub(super) fn engine(layout: &Layout) -> PathBuf {
    layout.index().join("sled")
}

/// Which session the files of the index are of; the tree says which session it was last in.
fn own_session(layout: &Layout) -> PathBuf {
    layout.index().join("session")
}

/// Exactly what was written: a file that lost its last byte is damaged like any other.
fn session(path: &Path) -> Option<String> {
    let text = String::from_utf8(read_small(path, 64).ok()??).ok()?;
    let text = text.strip_suffix('\n')?;
    (text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| text.to_owned())
}

/// One hash over the names and contents of all files below a directory.
fn hash_files(directory: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort_unstable();
    let mut whole = Algorithm::Sha256.hasher();
    let mut buffer = vec![0; 256 << 10];
    for path in files {
        let mut hasher = Algorithm::Sha256.hasher();
        let mut file = File::open(&path)?;
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
        }
        let name = path.strip_prefix(directory).unwrap_or(&path);
        whole.update(name.as_os_str().as_encoded_bytes());
        whole.update(hasher.finish().as_str().as_bytes());
    }
    Ok(whole.finish().as_str().to_owned())
}
