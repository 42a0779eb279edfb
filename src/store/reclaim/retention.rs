//! What goes of the images that were pushed because a rule says so.
//!
//! A tag goes with what it has meant. A manifest is untagged when no tag means it, no index that stays lists it, and it is about
//! none that stays: since when that is so is noted in a file beside its link, where it outlives a crash. Pinned and immutable
//! tags stay, whatever a rule says.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::LocalRules;
use crate::clock;
use crate::config::RetentionRule;
use crate::oci::manifest::Contents;
use crate::oci::{Digest, Tag};
use crate::store::disk::read_small;
use crate::store::layout::Place;
use crate::store::records::{Listed, Records};
use crate::store::rows::Changes;
use crate::store::{Error, Image, Inner, rebuild};

/// A tag that could go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tagged {
    tag: Tag,
    digest: Digest,
    /// Since when it means that.
    since: SystemTime,
    /// Whether it stays, whatever a rule says.
    held: bool,
}

/// Lets go of what a repository's rules say: `repository/image:tag` and `repository/image@digest`.
pub(super) fn expire(inner: &Arc<Inner>, local: &LocalRules) -> Result<Vec<String>, Error> {
    let mut expired = Vec::new();
    if local.retention.is_empty() {
        return Ok(expired);
    }
    for image in rebuild::images(&inner.records, &local.key)? {
        let place = Place {
            repository: local.key.clone(),
            image,
        };
        let expiring = Expiring {
            image: Image::new(Arc::clone(inner), place),
            local,
            now: clock::now(),
        };
        expired.extend(expiring.expire()?);
    }
    Ok(expired)
}

/// What would go, with nothing touched.
pub(super) fn foresee(records: &Records, local: &LocalRules) -> Result<Vec<String>, Error> {
    let mut expired = Vec::new();
    if local.retention.is_empty() {
        return Ok(expired);
    }
    for image in rebuild::images(records, &local.key)? {
        let place = Place {
            repository: local.key.clone(),
            image,
        };
        let now = clock::now();
        let going = going(records, &place, local, now)?;
        let stay = |tag: &Tag| !going.iter().any(|gone| gone.tag == *tag);
        expired.extend(going.iter().map(|gone| name(&place, ':', gone.tag.as_str())));
        for (digest, since) in untagged(records, &place, local, &stay, &|_| {})? {
            if is_over(local, since, now) {
                expired.push(name(&place, '@', digest.as_str()));
            }
        }
    }
    Ok(expired)
}

fn name(place: &Place, mark: char, reference: &str) -> String {
    format!("{}/{}{mark}{reference}", place.repository, place.image)
}

/// One image, whose rules are followed.
struct Expiring<'a> {
    image: Image,
    local: &'a LocalRules,
    now: SystemTime,
}

impl Expiring<'_> {
    fn expire(&self) -> Result<Vec<String>, Error> {
        let Inner { records, turns, .. } = &*self.image.inner;
        let place = &*self.image.place;
        let _turn = turns.take_now(self.image.stripe)?;
        let mut expired = Vec::new();
        let going = going(records, place, self.local, self.now)?;
        for gone in &going {
            self.remove_tag(&gone.tag)?;
            expired.push(name(place, ':', gone.tag.as_str()));
        }
        let stay = |tag: &Tag| !going.iter().any(|gone| gone.tag == *tag);
        let tagged_again = |note: &Path| {
            // Should it be there again after a crash, it is removed by the next pass.
            let _ = fs::remove_file(note);
        };
        for (digest, since) in untagged(records, place, self.local, &stay, &tagged_again)? {
            if is_over(self.local, since, self.now) {
                self.image.delete_manifest_now(&digest)?;
                expired.push(name(place, '@', digest.as_str()));
            } else if since.is_none() {
                let now = self.now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
                records
                    .disk
                    .write(&records.layout.untagged(place, &digest), now.to_string().as_bytes())?;
            }
        }
        Ok(expired)
    }

    fn remove_tag(&self, tag: &Tag) -> Result<(), Error> {
        let Inner { records, index, .. } = &*self.image.inner;
        let removed = records.remove_tag(&self.image.place, tag);
        let mut changes = Changes::default();
        self.image.follow_tag(&mut changes, tag);
        index.apply(changes);
        removed.map(drop)
    }
}

/// The tags that go.
fn going(records: &Records, place: &Place, local: &LocalRules, now: SystemTime) -> Result<Vec<Tagged>, Error> {
    let mut tags = Vec::new();
    for read in records.tags(place) {
        let (tag, digest) = read?;
        let story = records.story(place, &tag, Some(&digest));
        let immutable = local.immutable.iter().any(|pattern| pattern.matches(tag.as_str()));
        tags.push(Tagged {
            since: story.meanings.last().map_or(now, |last| last.since),
            held: story.pinned || immutable,
            tag,
            digest,
        });
    }
    // The newest first.
    tags.sort_by(|a, b| b.since.cmp(&a.since).then_with(|| b.tag.cmp(&a.tag)));
    let excess: HashSet<Tag> = local
        .retention
        .iter()
        .flat_map(|rule| excess(rule, &tags, now))
        .collect();
    tags.retain(|tagged| excess.contains(&tagged.tag) && !tagged.held);
    Ok(tags)
}

/// The tags, of these with the newest first, that a rule lets go.
fn excess(rule: &RetentionRule, tags: &[Tagged], now: SystemTime) -> Vec<Tag> {
    let RetentionRule::Tags {
        matching,
        keep_last,
        older_than,
    } = rule
    else {
        return Vec::new();
    };
    let is_old = |tagged: &&Tagged| {
        let age = clock::age(tagged.since, now).unwrap_or_default();
        older_than.is_none_or(|limit| age >= limit)
    };
    tags.iter()
        .filter(|tagged| matching.matches(tagged.tag.as_str()))
        .skip(keep_last.unwrap_or(0))
        .filter(is_old)
        .map(|tagged| tagged.tag.clone())
        .collect()
}

/// The manifests that no tag that stays leads to, and since when that is known. Of an image of which one cannot be read,
/// none: it could be an index.
fn untagged(
    records: &Records,
    place: &Place,
    local: &LocalRules,
    stays: &dyn Fn(&Tag) -> bool,
    tagged_again: &dyn Fn(&Path),
) -> Result<Vec<(Digest, Option<SystemTime>)>, Error> {
    if untagged_after(local).is_none() {
        return Ok(Vec::new());
    }
    let mut manifests = Vec::new();
    for digest in records.revisions(place) {
        let digest = digest?;
        match records.listed(place, &digest)? {
            Listed::Says(contents) => manifests.push((digest, *contents)),
            Listed::Gone => {}
            Listed::Unreadable => {
                let image = name(place, '@', digest.as_str());
                tracing::warn!(
                    image,
                    "a manifest that cannot be read keeps the untagged ones of its image"
                );
                return Ok(Vec::new());
            }
        }
    }
    let mut kept = HashSet::new();
    for read in records.tags(place) {
        let (tag, digest) = read?;
        if stays(&tag) {
            kept.insert(digest);
        }
    }
    lead_on(&manifests, &mut kept);
    let mut untagged = Vec::new();
    for (digest, _) in manifests {
        let path = records.layout.untagged(place, &digest);
        if kept.contains(&digest) {
            if path.exists() {
                tagged_again(&path);
            }
            continue;
        }
        let noted = read_small(&path, 64)?.and_then(|text| std::str::from_utf8(&text).ok()?.trim().parse().ok());
        let since = noted.and_then(|milliseconds| UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds)));
        untagged.push((digest, since));
    }
    Ok(untagged)
}

/// Adds what is led to by what is kept: the manifests of an index, and what is about one that is kept.
fn lead_on(manifests: &[(Digest, Contents)], kept: &mut HashSet<Digest>) {
    loop {
        let before = kept.len();
        for (digest, contents) in manifests {
            if contents
                .subject
                .as_ref()
                .is_some_and(|subject| kept.contains(&subject.digest))
            {
                kept.insert(digest.clone());
            }
            if kept.contains(digest) {
                kept.extend(contents.manifests.iter().map(|child| child.digest.clone()));
            }
        }
        if kept.len() == before {
            return;
        }
    }
}

fn untagged_after(local: &LocalRules) -> Option<Duration> {
    let rules = local.retention.iter();
    let limits = rules.filter_map(|rule| match rule {
        RetentionRule::Untagged { after } => Some(*after),
        RetentionRule::Tags { .. } => None,
    });
    limits.min()
}

fn is_over(local: &LocalRules, since: Option<SystemTime>, now: SystemTime) -> bool {
    let age = since.and_then(|since| clock::age(since, now));
    age.zip(untagged_after(local)).is_some_and(|(age, limit)| age >= limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn tagged(name: &str, hours_ago: u64, now: SystemTime) -> Tagged {
        Tagged {
            tag: name.parse().unwrap(),
            digest: Digest::of(Algorithm::Sha256, name.as_bytes()),
            since: now - Duration::from_secs(3600 * hours_ago),
            held: false,
        }
    }

    fn names(tags: &[Tag]) -> Vec<String> {
        tags.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_newest_of_those_that_are_meant_stay_and_age_is_asked_for_besides() {
        let now = clock::now();
        let tags = [
            tagged("dev-4", 1, now),
            tagged("v1", 2, now),
            tagged("dev-3", 3, now),
            tagged("dev-2", 50, now),
            tagged("dev-1", 100, now),
        ];
        let rule = |keep_last, older_than: Option<u64>| RetentionRule::Tags {
            matching: "dev-*".parse().unwrap(),
            keep_last,
            older_than: older_than.map(|hours| Duration::from_secs(3600 * hours)),
        };
        for (keep_last, older_than, gone) in [
            (Some(2), None, vec!["dev-2", "dev-1"]),
            (Some(9), None, vec![]),
            (Some(0), None, vec!["dev-4", "dev-3", "dev-2", "dev-1"]),
            (None, Some(50), vec!["dev-2", "dev-1"]),
            (Some(1), Some(4), vec!["dev-2", "dev-1"]),
            (Some(3), Some(4), vec!["dev-1"]),
        ] {
            assert_eq!(
                names(&excess(&rule(keep_last, older_than), &tags, now)),
                gone,
                "{keep_last:?} {older_than:?}"
            );
        }
        let of_tomorrow = [tagged("dev-9", 0, now + Duration::from_secs(86_400))];
        assert!(excess(&rule(None, Some(1)), &of_tomorrow, now).is_empty());
    }
}
