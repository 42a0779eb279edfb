//! What was found to be needed by nothing, and for how long it has been so.
//!
//! An age outlives the process only if the store was closed in order: whoever was promised something since the last note
//! would be forgotten by a crash.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::oci::Digest;
use crate::store::layout::Place;

/// Something that may go.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Thing {
    /// That a blob may be read in an image.
    Link(Place, Digest),
    /// Content.
    Bytes(Digest),
    /// What was taken away already.
    Trash(Digest),
}

/// All that may go, one day, and since when, by the steady clock.
#[derive(Debug, Default)]
pub(super) struct Sightings(HashMap<Thing, SystemTime>);

/// A sighting, written down.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    /// `link`, `bytes` or `trash`.
    kind: String,
    digest: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repository: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    /// Milliseconds since 1970.
    since: u64,
}

impl Sightings {
    /// For how long something has been needed by nothing.
    pub(super) fn age(&self, thing: &Thing, now: SystemTime) -> Option<Duration> {
        self.0
            .get(thing)
            .map(|since| clock::age(*since, now).unwrap_or_default())
    }

    /// All that has been so for as long as that.
    pub(super) fn ripe(&self, grace: Duration, now: SystemTime) -> Vec<Thing> {
        let ripe = |thing: &&Thing| self.age(thing, now).is_some_and(|age| age >= grace);
        let mut ripe: Vec<Thing> = self.0.keys().filter(ripe).cloned().collect();
        ripe.sort_unstable();
        ripe
    }

    /// Somebody was told that this blob is here: what may go begins to be so anew.
    pub(super) fn renew(&mut self, place: &Place, digest: &Digest) {
        if !self.0.is_empty() {
            self.0.remove(&Thing::Link(place.clone(), digest.clone()));
            self.0.remove(&Thing::Bytes(digest.clone()));
        }
    }

    /// What may go is this now: the rest is needed again, or gone.
    pub(super) fn follow(&mut self, things: impl Iterator<Item = Thing>, now: SystemTime) {
        let mut before = std::mem::take(&mut self.0);
        self.0 = things
            .map(|thing| {
                let since = before.remove(&thing).unwrap_or(now);
                (thing, since)
            })
            .collect();
    }

    /// As it is written down.
    pub(super) fn to_notes(&self) -> Vec<u8> {
        let notes: Vec<Note> = self
            .0
            .iter()
            .map(|(thing, since)| {
                let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let (kind, place, digest) = match thing {
                    Thing::Link(place, digest) => ("link", Some(place), digest),
                    Thing::Bytes(digest) => ("bytes", None, digest),
                    Thing::Trash(digest) => ("trash", None, digest),
                };
                Note {
                    kind: kind.to_owned(),
                    digest: digest.clone(),
                    repository: place.map(|place| place.repository.to_string()),
                    image: place.map(|place| place.image.to_string()),
                    since: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
                }
            })
            .collect();
        serde_json::to_vec(&notes).unwrap_or_default()
    }

    /// What was written down; nothing, if that cannot be read: then everything is seen for the first time.
    pub(super) fn of_notes(text: &[u8], now: SystemTime) -> Self {
        let notes: Vec<Note> = serde_json::from_slice(text).unwrap_or_default();
        let read = notes.into_iter().filter_map(|note| {
            let thing = match &*note.kind {
                "link" => {
                    let place = Place {
                        repository: note.repository?.parse().ok()?,
                        image: note.image?.parse().ok()?,
                    };
                    Thing::Link(place, note.digest)
                }
                "bytes" => Thing::Bytes(note.digest),
                "trash" => Thing::Trash(note.digest),
                _ => return None,
            };
            let since = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(note.since))?;
            Some((thing, since.min(now)))
        });
        Self(read.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn link(content: &[u8]) -> Thing {
        let place = Place {
            repository: "local".parse().unwrap(),
            image: "team/app".parse().unwrap(),
        };
        Thing::Link(place, Digest::of(Algorithm::Sha256, content))
    }

    #[test]
    fn what_is_promised_begins_anew_and_what_is_needed_again_is_forgotten() {
        let (start, hour) = (clock::now(), Duration::from_secs(3600));
        let mut sightings = Sightings::default();
        let (one, other) = (link(b"one"), link(b"other"));
        sightings.follow([one.clone(), other.clone()].into_iter(), start);
        assert!(sightings.ripe(hour, start + hour / 2).is_empty());
        let Thing::Link(place, digest) = &one else {
            unreachable!()
        };
        sightings.renew(place, digest);
        sightings.follow([one.clone(), other.clone()].into_iter(), start + hour / 2);
        assert_eq!(sightings.ripe(hour, start + hour), std::slice::from_ref(&other));
        sightings.follow(std::iter::once(one.clone()), start + hour);
        assert_eq!(sightings.age(&other, start + hour), None);
        assert_eq!(sightings.ripe(hour, start + hour * 2), [one]);
    }

    #[test]
    fn an_age_outlives_an_orderly_restart() {
        let hour = Duration::from_secs(3600);
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut sightings = Sightings::default();
        let things = [
            link(b"one"),
            Thing::Bytes(Digest::of(Algorithm::Sha512, b"two")),
            Thing::Trash(Digest::of(Algorithm::Sha256, b"three")),
        ];
        sightings.follow(things.iter().cloned(), start);
        let notes = sightings.to_notes();
        let read = Sightings::of_notes(&notes, start + hour);
        for thing in &things {
            assert_eq!(read.age(thing, start + hour * 2), Some(hour * 2), "{thing:?}");
        }
        // A clock that was put back makes nothing older than it is.
        let read = Sightings::of_notes(&notes, start - hour * 5);
        assert_eq!(read.age(&things[0], start - hour * 5), Some(Duration::ZERO));
        assert!(Sightings::of_notes(b"{ not json", start).0.is_empty());
    }
}
