//! What the rows of the index look like. Pure: text and bytes in, bytes out.
//!
//! | key | value |
//! | --- | --- |
//! | `t` repository `0` image `0` tag | when it was last found to mean this, in ms, and the digest |
//! | `m` repository `0` image `0` digest | the digest of its subject, or nothing |
//! | `r` repository `0` image `0` subject `0` digest | its descriptor, or nothing when that is too long |
//! | `b` digest `0` repository `0` image | how long it is, when that is known |
//! | `u` repository `0` digest | when it was used, in seconds since 1970, where that says more than its file |
//!
//! The separator sorts before every character of a name, so rows sort as their parts do.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::layout::Place;
use crate::oci::manifest::Contents;
use crate::oci::{Digest, ImageName, Manifest, RepositoryKey, Tag};

/// A longer descriptor is read from its manifest when it is asked for: the index is made for small values.
const LONGEST_DESCRIPTOR: usize = 8 << 10;

/// Rows to be written together; without a value, removed.
#[derive(Debug, Default)]
pub(super) struct Changes(pub(super) BTreeMap<Vec<u8>, Option<Vec<u8>>>);

impl Changes {
    /// A tag means this, and was last found to at that time.
    pub(super) fn tag(&mut self, place: &Place, tag: &Tag, digest: &Digest, verified: Option<SystemTime>) {
        let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let milliseconds = verified.map_or(0, |time| u64::try_from(since(time).as_millis()).unwrap_or(u64::MAX));
        let mut value = milliseconds.to_be_bytes().to_vec();
        value.extend_from_slice(digest.as_str().as_bytes());
        self.0.insert(tag_key(place, tag), Some(value));
    }

    pub(super) fn no_tag(&mut self, place: &Place, tag: &Tag) {
        self.0.insert(tag_key(place, tag), None);
    }

    /// An image has this manifest.
    pub(super) fn manifest(&mut self, place: &Place, manifest: &Manifest, contents: &Contents) {
        let mut subject = Vec::new();
        if let Some(about) = contents.subject.as_ref().map(|about| &about.digest) {
            about.as_str().as_bytes().clone_into(&mut subject);
            let mut value = serde_json::to_vec(&manifest.as_referrer(contents)).unwrap_or_default();
            if value.len() > LONGEST_DESCRIPTOR {
                value.clear();
            }
            self.0.insert(referrer_key(place, about, &manifest.digest), Some(value));
        }
        self.0.insert(manifest_key(place, &manifest.digest), Some(subject));
    }

    /// An image has this manifest no more, which was about `subject`.
    pub(super) fn no_manifest(&mut self, place: &Place, digest: &Digest, subject: Option<&Digest>) {
        if let Some(about) = subject {
            self.0.insert(referrer_key(place, about, digest), None);
        }
        self.0.insert(manifest_key(place, digest), None);
    }

    /// A blob, which is so long, may be read in an image.
    pub(super) fn blob(&mut self, place: &Place, digest: &Digest, size: u64) {
        self.0
            .insert(blob_key(place, digest), Some(size.to_be_bytes().to_vec()));
    }

    /// The same of a blob of which nothing more is known.
    pub(super) fn blob_of_some_size(&mut self, place: &Place, digest: &Digest) {
        self.0.insert(blob_key(place, digest), Some(Vec::new()));
    }

    /// A blob or a manifest of a repository was used then.
    pub(super) fn used(&mut self, repository: &RepositoryKey, digest: &Digest, seconds: u32) {
        let key = join(b'u', &[repository.as_str(), digest.as_str()]);
        self.0.insert(key, Some(seconds.to_be_bytes().to_vec()));
    }

    /// When it was used does not matter any more.
    pub(super) fn not_used(&mut self, repository: &RepositoryKey, digest: &Digest) {
        self.0.insert(join(b'u', &[repository.as_str(), digest.as_str()]), None);
    }

    pub(super) fn no_blob(&mut self, place: &Place, digest: &Digest) {
        self.0.insert(blob_key(place, digest), None);
    }
}

fn join(kind: u8, parts: &[&str]) -> Vec<u8> {
    let mut key = vec![kind];
    for (position, part) in parts.iter().enumerate() {
        if position > 0 {
            key.push(0);
        }
        key.extend_from_slice(part.as_bytes());
    }
    key
}

pub(super) fn tag_key(place: &Place, tag: &Tag) -> Vec<u8> {
    join(b't', &[place.repository.as_str(), place.image.as_str(), tag.as_str()])
}

pub(super) fn manifest_key(place: &Place, digest: &Digest) -> Vec<u8> {
    join(
        b'm',
        &[place.repository.as_str(), place.image.as_str(), digest.as_str()],
    )
}

fn referrer_key(place: &Place, subject: &Digest, digest: &Digest) -> Vec<u8> {
    let (repository, image) = (place.repository.as_str(), place.image.as_str());
    join(b'r', &[repository, image, subject.as_str(), digest.as_str()])
}

fn blob_key(place: &Place, digest: &Digest) -> Vec<u8> {
    join(
        b'b',
        &[digest.as_str(), place.repository.as_str(), place.image.as_str()],
    )
}

/// What the keys of an image's tags begin with.
pub(super) fn tags_of(place: &Place) -> Vec<u8> {
    join(b't', &[place.repository.as_str(), place.image.as_str(), ""])
}

/// What the keys of a repository's manifests begin with.
pub(super) fn manifests_of(repository: &RepositoryKey) -> Vec<u8> {
    join(b'm', &[repository.as_str(), ""])
}

/// Sorts after every manifest of an image, and before the next image's.
pub(super) fn after_image(repository: &RepositoryKey, image: &str) -> Vec<u8> {
    let mut key = join(b'm', &[repository.as_str(), image]);
    key.push(1);
    key
}

/// What the keys of a subject's referrers begin with.
pub(super) fn referrers_of(place: &Place, subject: &Digest) -> Vec<u8> {
    let (repository, image) = (place.repository.as_str(), place.image.as_str());
    join(b'r', &[repository, image, subject.as_str(), ""])
}

/// What the keys of the images that have a blob begin with.
pub(super) fn owners_of(digest: &Digest) -> Vec<u8> {
    join(b'b', &[digest.as_str(), ""])
}

/// The same of one repository's.
pub(super) fn owners_in(repository: &RepositoryKey, digest: &Digest) -> Vec<u8> {
    join(b'b', &[digest.as_str(), repository.as_str(), ""])
}

/// What the keys of all blobs begin with.
pub(super) const BLOBS: &[u8] = b"b";

/// What the keys of a repository's uses begin with.
pub(super) fn uses_of(repository: &RepositoryKey) -> Vec<u8> {
    join(b'u', &[repository.as_str(), ""])
}

/// How long a blob is, as its row says.
pub(super) fn size(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*value.first_chunk()?))
}

/// When something was used, as its row says.
pub(super) fn seconds(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*value.first_chunk()?))
}

/// The last part of a key.
pub(super) fn last_part(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.rsplit(|byte| *byte == 0).next()?).ok()
}

/// All but the last part of a key.
pub(super) fn but_last_part(key: &[u8]) -> &[u8] {
    let last = key.rsplit(|byte| *byte == 0).next().map_or(0, <[u8]>::len);
    &key[..key.len() - last]
}

/// The part of a key after the first separator.
pub(super) fn second_part(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.split(|byte| *byte == 0).nth(1)?).ok()
}

/// The image that a blob's row is about.
pub(super) fn owner(key: &[u8]) -> Option<Place> {
    let (repository, image) = (second_part(key)?, last_part(key)?);
    Some(Place {
        repository: repository.parse().ok()?,
        image: image.parse::<ImageName>().ok()?,
    })
}

/// The digest that a blob's row is about.
pub(super) fn blob_of(key: &[u8]) -> Option<Digest> {
    std::str::from_utf8(blob(key)?.get(1..)?).ok()?.parse().ok()
}

/// What a tag's row says.
pub(super) fn read_tag(value: &[u8]) -> Option<(Digest, Option<SystemTime>)> {
    let (milliseconds, digest) = value.split_first_chunk::<8>()?;
    let milliseconds = u64::from_be_bytes(*milliseconds);
    let verified = (milliseconds > 0)
        .then(|| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds)))
        .flatten();
    Some((std::str::from_utf8(digest).ok()?.parse().ok()?, verified))
}

/// The blob that a row is about, when it is about one.
pub(super) fn blob(key: &[u8]) -> Option<&[u8]> {
    key.split(|byte| *byte == 0)
        .next()
        .filter(|part| part.first() == Some(&b'b'))
}
