//! A layout is written as a tar: the mark, the list, and every piece once, straight from the server and hashed on the way.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::{Buf as _, Bytes};
use http::{Method, StatusCode, header};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::gather::{Entry, Gathered, Piece};
use super::progress::Progress;
use super::registry::{Patience, Registry, refusal};
use super::{IMAGE_NAME, INDEX, MARK, REF_NAME, path_of};
use crate::http::client::Answer;
use crate::oci::{Hasher, media_type};

/// How much is handed to the file system at once.
const BUFFER: usize = 1 << 20;

/// Where a tar goes.
#[derive(Debug)]
pub(in crate::cli) enum Output {
    /// A file, which is there under its own name when it is whole.
    File(Unfinished),
    /// The standard output.
    Standard,
}

/// `FILE.part`, which goes unless it becomes `FILE`.
#[derive(Debug)]
pub(in crate::cli) struct Unfinished {
    file: File,
    path: PathBuf,
    to: PathBuf,
    is_finished: bool,
}

impl Unfinished {
    /// Begins one; what an earlier run has left behind is written over.
    pub(in crate::cli) fn begin(to: &Path) -> anyhow::Result<Self> {
        let mut path = to.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        let cannot = || format!("{} cannot be written", path.display());
        if to.is_dir() {
            anyhow::bail!("{} is a directory: name a file", to.display());
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(cannot)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .with_context(|| format!("somebody else is writing {}", path.display()))?;
        file.set_len(0).with_context(cannot)?;
        Ok(Self {
            file,
            path,
            to: to.to_owned(),
            is_finished: false,
        })
    }

    /// A second handle, for whoever writes.
    fn handle(&self) -> anyhow::Result<File> {
        Ok(self.file.try_clone()?)
    }

    /// Makes it durable and gives it its name.
    pub(in crate::cli) fn finish(mut self) -> anyhow::Result<()> {
        let to = self.to.clone();
        let cannot = || format!("{} cannot be written", to.display());
        self.file.sync_all().with_context(cannot)?;
        std::fs::rename(&self.path, &to).with_context(cannot)?;
        self.is_finished = true;
        let directory = to.parent().filter(|path| !path.as_os_str().is_empty());
        let directory = directory.unwrap_or_else(|| Path::new("."));
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .with_context(cannot)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Output {
    /// Writes all of it.
    pub(in crate::cli) async fn write(
        &self,
        registry: &Registry,
        gathered: Gathered,
        mut progress: Progress,
    ) -> anyhow::Result<u64> {
        let file: Box<dyn Write + Send> = match self {
            Self::File(unfinished) => Box::new(unfinished.handle()?),
            Self::Standard => Box::new(io::stdout()),
        };
        let (registry, runtime) = (registry.clone(), Handle::current());
        let written = tokio::task::spawn_blocking(move || {
            progress.expect(gathered.size());
            let mut tar = tar::Builder::new(BufWriter::with_capacity(BUFFER, file));
            append(&mut tar, MARK, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
            append(&mut tar, INDEX, &list(&gathered, &registry.authority()))?;
            for piece in &gathered.pieces {
                let incoming = Incoming::begin(&registry, piece, &runtime, &mut progress)?;
                tar.append_data(&mut header_of(piece.size), path_of(&piece.digest), incoming)
                    .with_context(|| format!("{} of {}", piece.digest, piece.name))?;
            }
            tar.into_inner()?.flush()?;
            anyhow::Ok(gathered.size())
        });
        written.await?
    }
}

fn header_of(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header
}

fn append(tar: &mut tar::Builder<impl Write>, path: &str, bytes: &[u8]) -> io::Result<()> {
    tar.append_data(&mut header_of(bytes.len() as u64), path, bytes)
}

/// The list of what is in it: images first, because containerd stops at the first entry that it cannot run.
fn list(gathered: &Gathered, server: &str) -> Vec<u8> {
    let mut entries: Vec<&Entry> = gathered.entries.iter().collect();
    entries.sort_by_key(|entry| entry.is_about);
    let entries = entries.into_iter().map(|entry| {
        let mut said = json!({
            "mediaType": entry.media_type,
            "digest": entry.digest,
            "size": entry.size,
        });
        if let Some(kind) = &entry.artifact_type {
            said["artifactType"] = kind.as_str().into();
        }
        if let Some(name) = &entry.name {
            said["annotations"] = json!({ REF_NAME: name, IMAGE_NAME: format!("{server}/{name}") });
        }
        said
    });
    let document = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": entries.collect::<Vec<Value>>(),
    });
    document.to_string().into_bytes()
}

/// A piece as it comes from the server. It ends well only if it has the length and the digest that it should have.
struct Incoming<'a> {
    registry: &'a Registry,
    piece: &'a Piece,
    runtime: &'a Handle,
    progress: &'a mut Progress,
    answer: Answer,
    rest: Bytes,
    received: u64,
    hasher: Option<Hasher>,
    patience: Patience,
}

impl<'a> Incoming<'a> {
    fn begin(
        registry: &'a Registry,
        piece: &'a Piece,
        runtime: &'a Handle,
        progress: &'a mut Progress,
    ) -> anyhow::Result<Self> {
        let answer = runtime
            .block_on(ask(registry, piece, 0))
            .with_context(|| format!("{} of {}", piece.digest, piece.name))?;
        Ok(Self {
            registry,
            piece,
            runtime,
            progress,
            answer,
            rest: Bytes::new(),
            received: 0,
            hasher: Some(piece.digest.algorithm().hasher()),
            patience: Patience::default(),
        })
    }

    fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            match self.runtime.block_on(self.answer.piece()) {
                Ok(bytes) => {
                    self.patience = Patience::default();
                    return Ok(bytes);
                }
                Err(error) if self.piece.is_manifest => return Err(error),
                Err(error) => self.go_on(error)?,
            }
        }
    }

    /// Asks for what is still to come, after it has broken off.
    fn go_on(&mut self, mut error: anyhow::Error) -> anyhow::Result<()> {
        loop {
            self.runtime.block_on(self.patience.wait(error))?;
            match self.runtime.block_on(ask(self.registry, self.piece, self.received)) {
                Ok(answer) => {
                    self.answer = answer;
                    return Ok(());
                }
                Err(again) => error = again,
            }
        }
    }

    fn end(&mut self) -> anyhow::Result<()> {
        let Some(hasher) = self.hasher.take() else {
            return Ok(());
        };
        if self.received != self.piece.size {
            anyhow::bail!(
                "its manifest says that it has {} bytes, and the server sent {}",
                self.piece.size,
                self.received
            );
        }
        let actual = hasher.finish();
        if actual != self.piece.digest {
            anyhow::bail!("what the server sent has the digest {actual}");
        }
        Ok(())
    }
}

impl Read for Incoming<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            let Some(bytes) = self.next().map_err(io::Error::other)? else {
                self.end().map_err(io::Error::other)?;
                return Ok(0);
            };
            self.received += bytes.len() as u64;
            if self.received > self.piece.size {
                let size = self.piece.size;
                return Err(io::Error::other(format!(
                    "its manifest says that it has {size} bytes, and the server sends more"
                )));
            }
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&bytes);
            }
            self.progress.add(bytes.len() as u64);
            self.rest = bytes;
        }
        let count = into.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut into[..count]);
        Ok(count)
    }
}

/// Asks for a piece, from a byte on.
async fn ask(registry: &Registry, piece: &Piece, from: u64) -> anyhow::Result<Answer> {
    let range = format!("bytes={from}-");
    let accept = media_type::MANIFEST_TYPES.join(", ");
    let (kind, headers) = match (piece.is_manifest, from) {
        (true, _) => ("manifests", vec![(header::ACCEPT, &*accept)]),
        (false, 0) => ("blobs", Vec::new()),
        (false, _) => ("blobs", vec![(header::RANGE, &*range)]),
    };
    let expected = if from == 0 {
        StatusCode::OK
    } else {
        StatusCode::PARTIAL_CONTENT
    };
    let path = format!("{kind}/{}", piece.digest);
    let answer = registry
        .ask(Method::GET, &piece.name, &path, &headers, Bytes::new())
        .await?;
    if answer.status != expected {
        return Err(refusal(answer).await);
    }
    Ok(answer)
}
