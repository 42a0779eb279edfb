//! What a tag has meant, since when, and who said so; and what is kept of it beside: that it is pinned, and the moves
//! upstream that it has not followed yet.
//!
//! One small file beside registry:2's, replaced whole, after what the tag means was written and before anybody is told.
//! What the tag means is what its link says: if a crash came between the two, or somebody else has written the link,
//! the file is brought in line when it is read. A tree without it works.

use std::fs;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::disk::read_small;
use super::error::Error;
use super::layout::Place;
use super::records::Records;
use crate::oci::{Digest, Manifest, Tag};

/// How many meanings of a tag are kept, the latest ones.
const MEANINGS: usize = 100;
/// How many moves that were not followed yet are kept, the latest ones.
pub(super) const MOVES: usize = 20;
/// A longer file is none of ours.
const LONGEST: u64 = 128 << 10;
/// How often a tag's last verification is written down while it goes on to mean the same.
const VERIFIED: Duration = Duration::from_secs(3600);

/// The origin of what a client pushed.
pub const PUSH: &str = "push";
/// The origin of what a tag was made to mean when it was pinned.
pub const PIN: &str = "pin";
/// The origin of what a tag was put back to.
pub const ROLLBACK: &str = "rollback";
/// The origin of what was taken over from another registry's directory.
pub const IMPORT: &str = "import";
/// The origin of what was there before anybody took notes.
pub(super) const UNKNOWN: &str = "unknown";

/// What a tag meant for some time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meaning {
    /// The manifest.
    pub digest: Digest,
    /// When it was first found to mean this.
    #[serde(with = "milliseconds")]
    pub since: SystemTime,
    /// When it was last found to mean this, upstream; within an hour.
    #[serde(default, with = "maybe_milliseconds", skip_serializing_if = "Option::is_none")]
    pub verified: Option<SystemTime>,
    /// Who said so: [`PUSH`], [`PIN`], [`ROLLBACK`], or the upstream's host.
    pub origin: String,
}

/// A move of a tag upstream that it has not followed here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// What it means upstream.
    pub to: Digest,
    /// When that was first seen.
    #[serde(with = "milliseconds")]
    pub seen: SystemTime,
}

/// All that is kept of a tag beside what it means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Story {
    /// The oldest first.
    pub(super) meanings: Vec<Meaning>,
    /// Whether it means what it means until it is unpinned.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) pinned: bool,
    /// The oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) moves: Vec<Move>,
}

impl Story {
    /// From now on the tag means this.
    pub(super) fn add(&mut self, digest: &Digest, origin: &str, since: SystemTime, verified: Option<SystemTime>) {
        if let Some(last) = self.meanings.last_mut().filter(|last| last.digest == *digest) {
            last.verified = verified.or(last.verified);
            return;
        }
        self.meanings.push(Meaning {
            digest: digest.clone(),
            since,
            verified,
            origin: origin.to_owned(),
        });
        let many = self.meanings.len().saturating_sub(MEANINGS);
        self.meanings.drain(..many);
    }

    #[cfg(test)]
    pub(super) fn last_verified(&self) -> Option<SystemTime> {
        self.meanings.last().and_then(|last| last.verified)
    }

    /// Whether it is worth a write that the tag was found to mean the same.
    pub(super) fn is_outdated(&self, verified: SystemTime) -> bool {
        let known = self.meanings.last().and_then(|last| last.verified);
        // What is known to be later than now was said by a wrong clock.
        known
            .is_none_or(|known| verified.duration_since(known).is_ok_and(|since| since >= VERIFIED) || known > verified)
    }
}

impl Records {
    /// What is kept of a tag that means this now; nothing that cannot be read stops a pull.
    pub(super) fn story(&self, place: &Place, tag: &Tag, current: Option<&Digest>) -> Story {
        let path = self.layout.history(place, tag);
        let read = read_small(&path, LONGEST)
            .map_err(|error| error.to_string())
            .and_then(|read| read.map_or_else(|| Ok(Story::default()), |text| parse(&text)));
        let mut story = read.unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), error, "the history of a tag cannot be read and begins anew");
            Story::default()
        });
        if let Some(current) = current.filter(|current| story.meanings.last().map(|last| &last.digest) != Some(current))
        {
            let written = fs::metadata(self.layout.current(place, tag)).and_then(|link| link.modified());
            story.add(current, UNKNOWN, written.unwrap_or(SystemTime::UNIX_EPOCH), None);
        }
        story
    }

    /// Keeps it, durably. The tag's directory must be there.
    pub(super) fn tell(&self, place: &Place, tag: &Tag, story: &Story) -> Result<(), Error> {
        let text = serde_json::to_vec(story).unwrap_or_default();
        self.disk.write(&self.layout.history(place, tag), &text)
    }

    /// Stores a manifest and lets tags mean it, because of `origin`, which found them to mean it at that time.
    pub(super) fn put_tagged(
        &self,
        place: &Place,
        manifest: &Manifest,
        tags: &[Tag],
        origin: &str,
        verified: Option<SystemTime>,
    ) -> Result<(), Error> {
        let mut stories = Vec::with_capacity(tags.len());
        for tag in tags {
            let current = self.tag(place, tag)?;
            stories.push((tag, self.story(place, tag, current.as_ref())));
        }
        self.put_manifest(place, manifest, tags)?;
        let now = SystemTime::now();
        for (tag, mut story) in stories {
            let means_it = story.meanings.last().is_some_and(|last| last.digest == manifest.digest);
            if means_it && story.moves.is_empty() && !verified.is_some_and(|at| story.is_outdated(at)) {
                continue;
            }
            story.moves.clear();
            story.add(&manifest.digest, origin, now, verified);
            self.tell(place, tag, &story)?;
        }
        Ok(())
    }

    /// Refuses if any of these tags is pinned to something else than `to`.
    pub(super) fn check_unpinned(&self, place: &Place, tags: &[Tag], to: Option<&Digest>) -> Result<(), Error> {
        for tag in tags {
            let current = self.tag(place, tag)?;
            if current.is_some() && current.as_ref() != to && self.story(place, tag, current.as_ref()).pinned {
                return Err(Error::Pinned(tag.clone()));
            }
        }
        Ok(())
    }
}

pub(super) fn parse(text: &[u8]) -> Result<Story, String> {
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

/// Times as milliseconds since 1970.
mod milliseconds {
    use std::time::{Duration, SystemTime};

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        serializer.serialize_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let milliseconds = Duration::from_millis(u64::deserialize(deserializer)?);
        SystemTime::UNIX_EPOCH
            .checked_add(milliseconds)
            .ok_or_else(|| serde::de::Error::custom("a time that is none"))
    }
}

/// The same where there may be none.
mod maybe_milliseconds {
    use std::time::SystemTime;

    use serde::{Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
        super::milliseconds::serialize(&time.unwrap_or(SystemTime::UNIX_EPOCH), serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
        super::milliseconds::deserialize(deserializer).map(Some)
    }
}
