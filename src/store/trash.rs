//! What was taken away and can still be taken back: for as long as a push could be about to speak of it.
//!
//! ```text
//! trash/<alg>-<hex>          the bytes, if nothing else needed them
//!       <alg>-<hex>.images   the images in which they could be read, a line each: only those may have them back
//! ```

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::Error;
use super::blobs::Blobs;
use super::disk::{is_absence, read_small};
use super::layout::{Layout, Place};
use crate::oci::{Digest, ImageName, RepositoryKey};

/// More images than this have no say in it: each has the blob's bytes again when they are pushed again.
const LONGEST_NOTE: u64 = 1 << 20;

fn bytes(layout: &Layout, digest: &Digest) -> PathBuf {
    layout.trash().join(format!("{}-{}", digest.algorithm(), digest.hex()))
}

fn images(layout: &Layout, digest: &Digest) -> PathBuf {
    let mut path = bytes(layout, digest).into_os_string();
    path.push(".images");
    path.into()
}

fn line(place: &Place) -> String {
    format!("{}/{}", place.repository, place.image)
}

/// What is there, and how many bytes of it.
pub(super) fn list(layout: &Layout) -> Result<HashMap<Digest, u64>, Error> {
    let path = layout.trash();
    let mut found: HashMap<Digest, u64> = HashMap::new();
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if is_absence(&error) => return Ok(found),
        Err(error) => return Err(Error::disk(&path)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(Error::disk(&path))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let digest = name.strip_suffix(".images").unwrap_or(name).replacen('-', ":", 1);
        let Ok(digest) = digest.parse::<Digest>() else { continue };
        let size = match entry.metadata() {
            Ok(metadata) if !name.ends_with(".images") => metadata.len(),
            _ => 0,
        };
        *found.entry(digest).or_default() += size;
    }
    Ok(found)
}

/// Notes that an image could read a blob until now. Not durable: what is lost is pushed again.
pub(super) fn note(layout: &Layout, place: &Place, digest: &Digest) -> Result<(), Error> {
    let path = images(layout, digest);
    let append = || {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(&path)?;
        writeln!(file, "{}", line(place))
    };
    append().map_err(Error::disk(&path))
}

/// Takes the bytes away. By who has the digest to himself; not durable: should they be there again after a crash, nothing
/// speaks of them.
pub(super) fn take_away(layout: &Layout, digest: &Digest) -> Result<(), Error> {
    let (from, to) = (layout.blob(digest), bytes(layout, digest));
    match fs::rename(&from, &to) {
        Err(error) if !is_absence(&error) => return Err(Error::disk(&from)(error)),
        _ => {}
    }
    if let Some(directory) = from.parent() {
        let _ = fs::remove_dir(directory);
    }
    Ok(())
}

/// Whether the bytes are there.
pub(super) fn has(layout: &Layout, digest: &Digest) -> bool {
    bytes(layout, digest).is_file()
}

/// Whether a file is a note of images.
pub(super) fn is_note(path: &Path) -> bool {
    let is_place = |line: &str| {
        let parts = line.split_once('/');
        parts.is_some_and(|(key, image)| key.parse::<RepositoryKey>().is_ok() && image.parse::<ImageName>().is_ok())
    };
    let text = read_small(path, LONGEST_NOTE).ok().flatten();
    text.is_none_or(|text| String::from_utf8_lossy(&text).lines().all(is_place))
}

/// Whether an image could read this until it was taken away.
pub(super) fn was_in(layout: &Layout, place: &Place, digest: &Digest) -> Result<bool, Error> {
    let Some(text) = read_small(&images(layout, digest), LONGEST_NOTE)? else {
        return Ok(false);
    };
    let wanted = line(place);
    Ok(String::from_utf8_lossy(&text).lines().any(|image| image == wanted))
}

/// Puts the bytes back where they belong, durably. By who has the digest to himself.
pub(super) fn put_back(blobs: &Blobs, digest: &Digest) -> Result<(), Error> {
    let (from, to) = (bytes(&blobs.layout, digest), blobs.layout.blob(digest));
    if let Some(parent) = to.parent() {
        blobs.disk.make_directories(&[parent])?;
    }
    match fs::rename(&from, &to) {
        Ok(()) => blobs.disk.sync_parent(&to),
        // Something else needed them, or they have been pushed again.
        Err(error) if is_absence(&error) => Ok(()),
        Err(error) => Err(Error::disk(&from)(error)),
    }
}

/// Lets go of it for good.
pub(super) fn remove(layout: &Layout, digest: &Digest) -> Result<(), Error> {
    for path in [bytes(layout, digest), images(layout, digest)] {
        match fs::remove_file(&path) {
            Err(error) if !is_absence(&error) => return Err(Error::disk(&path)(error)),
            _ => {}
        }
    }
    Ok(())
}
