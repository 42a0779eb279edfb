//! Lists through a remote: tags and referrers, upstream's where it answers.

use std::collections::HashSet;

use super::{Answer, Cached, Error, Inner, Outcome};
use crate::oci::{Descriptor, Digest, ImageName, Manifest, Page, Reference, Tag};

impl Inner {
    pub(super) async fn tags(&self, image: &ImageName) -> Answer<Vec<Tag>> {
        if let Some(why) = self.trouble()
            && let Some(stored) = self.stored_tags(image).await?
        {
            return Ok(Some(self.only_stored(stored, &why)));
        }
        self.check_online()?;
        let _held = self.begin_miss()?;
        let answer = self.upstream.tags(image).await;
        match self.judge(answer) {
            Ok(tags) => Ok(tags.map(Cached::miss)),
            Err(error) => match (error.upstream(), self.stored_tags(image).await?) {
                (Some(source), Some(stored)) => Ok(Some(self.only_stored(stored, &source.to_string()))),
                _ => Err(error),
            },
        }
    }

    /// What refers to a manifest, by all that can tell: upstream's API, the tag that stood in for it before there was
    /// one, which a client may have written and the API not know, and what is stored.
    pub(super) async fn referrers(&self, image: &ImageName, subject: &Digest) -> Answer<Vec<Descriptor>> {
        let mut known = Known::default();
        known.add(self.here(image).referrers(subject).await?);
        let stand_in = stand_in(subject);
        if let Some(why) = self.trouble() {
            let cached = match &stand_in {
                Some(tag) => self.cached_manifest(image, tag).await?,
                None => None,
            };
            known.add(cached.map(listed).unwrap_or_default());
            if !known.0.is_empty() {
                return Ok(Some(self.only_stored(known.0, &why)));
            }
        }
        self.check_online()?;
        let _held = self.begin_miss()?;
        let tagged = async {
            match &stand_in {
                Some(tag) => self.manifest(image, tag).await,
                None => Ok(None),
            }
        };
        let (by_api, tagged) = tokio::join!(self.upstream.referrers(image, subject), tagged);
        let (by_api, mut failed) = match self.judge(by_api) {
            Ok(by_api) => (by_api, None),
            Err(error) => (None, Some(error)),
        };
        let has_api = by_api.is_some();
        let mut warning = None;
        if let Some(by_api) = by_api {
            known.add(by_api.entries);
            warning = by_api
                .is_cut
                .then(|| format!("{} lists more referrers than are taken; the rest is missing", self.host));
        }
        match tagged {
            Ok(Some(tagged)) => {
                warning = warning.or_else(|| tagged.warning.clone());
                known.add(listed(tagged));
            }
            Ok(None) => {}
            Err(error) if has_api => {
                warning = Some(super::printable(&format!(
                    "what the tag for referrers lists is missing: {error}"
                )));
            }
            Err(error) => failed = failed.or(Some(error)),
        }
        let Some(error) = failed else {
            return Ok(Some(Cached {
                warning,
                ..Cached::miss(known.0)
            }));
        };
        match error.upstream() {
            // Nothing is known and nobody could tell: that is not the same as none.
            Some(source) if !known.0.is_empty() => Ok(Some(self.only_stored(known.0, &source.to_string()))),
            _ => Err(error),
        }
    }

    /// The stored tags of an image. `None` for none: what was only ever pulled by digest says nothing about tags.
    async fn stored_tags(&self, image: &ImageName) -> Result<Option<Vec<Tag>>, Error> {
        let (tags, _) = self.here(image).tags(&Page::default()).await?;
        let tags: Vec<Tag> = tags.iter().filter_map(|tag| tag.parse().ok()).collect();
        Ok(Some(tags).filter(|tags| !tags.is_empty()))
    }

    fn only_stored<T>(&self, value: T, why: &str) -> Cached<T> {
        Cached {
            warning: Some(super::printable(&format!(
                "{} {why}; this is only what is stored here",
                self.host
            ))),
            ..Cached::now(value, Outcome::Stale)
        }
    }
}

/// Descriptors in the order in which they became known, each once.
#[derive(Default)]
struct Known(Vec<Descriptor>);

impl Known {
    fn add(&mut self, more: Vec<Descriptor>) {
        let mut seen: HashSet<Digest> = self.0.iter().map(|known| known.digest.clone()).collect();
        self.0
            .extend(more.into_iter().filter(|new| seen.insert(new.digest.clone())));
    }
}

/// The tag by which registries without the API list what refers to a manifest; distribution-spec, "Referrers tag schema".
fn stand_in(subject: &Digest) -> Option<Reference> {
    let hex = subject.hex().get(..64)?;
    let tag = format!("{}-{hex}", subject.algorithm()).parse().ok()?;
    Some(Reference::Tag(tag))
}

/// What that tag's index lists. What is none lists nothing.
fn listed(tagged: Cached<Manifest>) -> Vec<Descriptor> {
    let manifest = tagged.value;
    if !manifest.media_type.is_index() {
        return Vec::new();
    }
    manifest
        .contents()
        .map(|contents| contents.manifests)
        .unwrap_or_default()
}
