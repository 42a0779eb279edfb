//! A layout that somebody has written, in a tar or a directory. Nothing in it is believed: what it is called, how long it
//! is, or that it has the digest that it is called by. Nothing is unpacked: the tar is read where it lies.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use serde::Deserialize;

use super::names::printable;
use super::{INDEX, LONGEST, MARK, path_of};
use crate::oci::manifest::Contents;
use crate::oci::{Algorithm, Descriptor, Digest, Manifest, media_type};

/// The most entries that a tar may have.
const MOST: usize = 1_000_000;
/// The most bytes that may say what one entry of a tar is called.
const LONGEST_HEADER: u64 = 64 << 10;
/// How much is read at once.
const PIECE: usize = 1 << 20;

/// What compressed files begin with.
const COMPRESSED: [(&[u8], &str); 4] = [
    (&[0x1f, 0x8b], "gunzip"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "unzstd"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "unxz"),
    (b"BZh", "bunzip2"),
];

/// A layout.
#[derive(Debug)]
pub(in crate::cli) struct Layout {
    source: Source,
    /// The entries of its list.
    pub(super) entries: Vec<Descriptor>,
}

#[derive(Debug)]
enum Source {
    Directory(PathBuf),
    /// Where in the tar each blob begins, and how long it is.
    Tar {
        file: Arc<File>,
        blobs: HashMap<Digest, (u64, u64)>,
    },
}

/// The mark.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mark {
    image_layout_version: String,
}

/// Bytes of a layout, wherever they lie.
#[derive(Clone, Debug)]
pub(super) struct Content {
    file: Arc<File>,
    from: u64,
    pub(super) size: u64,
}

impl Content {
    /// So many bytes from there on, or as many as there are.
    pub(super) fn read(&self, from: u64, most: u64) -> io::Result<Bytes> {
        let length = usize::try_from(self.size.saturating_sub(from).min(most)).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, self.from + from)?;
        Ok(bytes.into())
    }

    /// The digest of all of it.
    pub(super) fn digest(&self, algorithm: Algorithm) -> io::Result<Digest> {
        let mut hasher = algorithm.hasher();
        let mut from = 0;
        while from < self.size {
            let bytes = self.read(from, PIECE as u64)?;
            hasher.update(&bytes);
            from += bytes.len() as u64;
        }
        Ok(hasher.finish())
    }
}

impl Layout {
    /// Whether this is a layout, and not a directory of another kind.
    pub(in crate::cli) fn is_one(path: &Path) -> bool {
        !path.is_dir() || path.join(MARK).is_file()
    }

    /// Opens a tar or a directory.
    pub(in crate::cli) fn open(path: &Path) -> anyhow::Result<Self> {
        let (mark, list, source) = if path.is_dir() {
            let read = |name: &str| -> anyhow::Result<Option<Bytes>> {
                regular(&path.join(name))?
                    .map(|content| whole(&content, name))
                    .transpose()
            };
            (read(MARK)?, read(INDEX)?, Source::Directory(path.to_owned()))
        } else {
            scan(path)?
        };
        let mark = mark.with_context(|| {
            format!(
                "there is no `{MARK}` in it, so it is no OCI layout; what Docker before 25 saves becomes one by `skopeo copy \
                 docker-archive:FILE oci-archive:NEW:IMAGE:TAG`"
            )
        })?;
        let mark: Mark = serde_json::from_slice(&mark).with_context(|| format!("`{MARK}` cannot be read"))?;
        if !mark.image_layout_version.starts_with("1.") {
            let version = printable(&mark.image_layout_version);
            bail!("the layout has version {version}, and this knows version 1");
        }
        let list = list.with_context(|| format!("there is no `{INDEX}` in it"))?;
        let (_, contents) = Manifest::from_elsewhere(list, Some(media_type::OCI_INDEX), Algorithm::Sha256)
            .with_context(|| format!("`{INDEX}` cannot be read"))?;
        Ok(Self {
            source,
            entries: contents.manifests,
        })
    }

    /// A blob, if it is there.
    pub(super) fn blob(&self, digest: &Digest) -> anyhow::Result<Option<Content>> {
        match &self.source {
            Source::Directory(path) => regular(&path.join(path_of(digest))),
            Source::Tar { file, blobs } => Ok(blobs.get(digest).map(|(from, size)| Content {
                file: Arc::clone(file),
                from: *from,
                size: *size,
            })),
        }
    }

    /// A manifest, if it is there.
    pub(super) fn manifest(&self, descriptor: &Descriptor) -> anyhow::Result<Option<(Manifest, Contents)>> {
        let digest = &descriptor.digest;
        let Some(content) = self.blob(digest)? else {
            return Ok(None);
        };
        let bytes = whole(&content, digest.as_str())?;
        let kind = Some(&*descriptor.media_type).filter(|text| !text.is_empty());
        let (manifest, contents) = Manifest::from_elsewhere(bytes, kind, digest.algorithm())
            .with_context(|| format!("{digest} is no manifest"))?;
        if manifest.digest != *digest {
            bail!("what is called {digest} in the file has the digest {}", manifest.digest);
        }
        Ok(Some((manifest, contents)))
    }
}

fn whole(content: &Content, name: &str) -> anyhow::Result<Bytes> {
    if content.size > LONGEST {
        bail!(
            "`{name}` has {} bytes: {LONGEST} are the most that is read",
            content.size
        );
    }
    content
        .read(0, LONGEST)
        .with_context(|| format!("`{name}` cannot be read"))
}

/// A file of a directory; nothing else could be read to an end.
fn regular(path: &Path) -> anyhow::Result<Option<Content>> {
    let cannot = || format!("{} cannot be read", path.display());
    let found = match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found.with_context(cannot)?,
    };
    if !found.is_file() {
        bail!("{} is no file", path.display());
    }
    Ok(Some(Content {
        file: Arc::new(File::open(path).with_context(cannot)?),
        from: 0,
        size: found.len(),
    }))
}

/// Reads the headers of a tar.
fn scan(path: &Path) -> anyhow::Result<(Option<Bytes>, Option<Bytes>, Source)> {
    let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let found = file.metadata()?;
    if !found.is_file() {
        bail!("{} is neither a file nor a directory", path.display());
    }
    let mut begin = [0; 6];
    let read = file.read_at(&mut begin, 0)?;
    if let Some((_, tool)) = COMPRESSED.iter().find(|(magic, _)| begin[..read].starts_with(magic)) {
        bail!("it is compressed: `{tool}` it first");
    }
    let file = Arc::new(file);
    let budget = Rc::new(Cell::new(LONGEST_HEADER));
    let mut archive = tar::Archive::new(Headers {
        file: Arc::clone(&file),
        position: 0,
        budget: Rc::clone(&budget),
    });
    let (mut mark, mut list, mut blobs) = (None, None, HashMap::new());
    // What is wrong is said in the words of whoever wrote it.
    let no_tar = |error: io::Error| anyhow::anyhow!("it is no tar that can be read: {}", printable(&error.to_string()));
    for (number, entry) in archive.entries_with_seek().map_err(no_tar)?.enumerate() {
        budget.set(LONGEST_HEADER);
        let entry = entry.map_err(no_tar)?;
        if number >= MOST {
            bail!("there are more than {MOST} entries in it");
        }
        let name = entry.path_bytes().into_owned();
        let name = String::from_utf8_lossy(&name);
        let shown = printable(&name);
        if name.starts_with('/') || name.split('/').any(|part| part == "..") {
            bail!("`{shown}` leads out of it: this was not made by a tool for images");
        }
        let kind = entry.header().entry_type();
        if kind.is_dir() || kind.is_pax_global_extensions() {
            continue;
        }
        if !matches!(kind, tar::EntryType::Regular | tar::EntryType::Continuous) {
            bail!("`{shown}` is no plain file: links and the like have no place in an OCI layout");
        }
        let (from, size) = (entry.raw_file_position(), entry.size());
        if from.checked_add(size).is_none_or(|end| end > found.len()) {
            bail!("it is cut off: `{shown}` should have {size} bytes");
        }
        let content = Content {
            file: Arc::clone(&file),
            from,
            size,
        };
        let plain = name.trim_start_matches("./");
        let is_second = match plain {
            MARK => mark.replace(whole(&content, MARK)?).is_some(),
            INDEX => list.replace(whole(&content, INDEX)?).is_some(),
            _ => digest_in(plain).is_some_and(|digest| blobs.insert(digest, (from, size)).is_some()),
        };
        if is_second {
            bail!("`{shown}` is in it twice");
        }
    }
    Ok((mark, list, Source::Tar { file, blobs }))
}

/// The digest of which a path is. What else there is, nobody asks for.
fn digest_in(path: &str) -> Option<Digest> {
    let (algorithm, hex) = path.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// The headers of a tar, which are read while what is between them is passed over: never many bytes for one entry, whatever
/// they say of themselves.
struct Headers {
    file: Arc<File>,
    position: u64,
    budget: Rc<Cell<u64>>,
}

impl Read for Headers {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(into, self.position)?;
        let left = self.budget.get().checked_sub(read as u64);
        let left = left.ok_or_else(|| io::Error::other("an entry has a name of absurd length"))?;
        self.budget.set(left);
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for Headers {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(_) => None,
        };
        self.position = position.ok_or_else(|| io::Error::other("nothing can be there"))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests;
