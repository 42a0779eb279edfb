//! Lists through a remote: tags and referrers, upstream's where it answers.

use std::collections::HashSet;

use super::{Answer, Cached, Error, Inner, Outcome};
use crate::oci::{Descriptor, Digest, ImageName, Page, Tag};

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

    pub(super) async fn referrers(&self, image: &ImageName, subject: &Digest) -> Answer<Vec<Descriptor>> {
        let stored = self.here(image).referrers(subject).await?;
        if let Some(why) = self.trouble().filter(|_| !stored.is_empty()) {
            return Ok(Some(self.only_stored(stored, &why)));
        }
        self.check_online()?;
        let _held = self.begin_miss()?;
        let answer = self.upstream.referrers(image, subject).await;
        match self.judge(answer) {
            Ok(known) => {
                let mut all = known.unwrap_or_default();
                let mut seen: HashSet<Digest> = HashSet::new();
                all.extend(stored);
                all.retain(|referrer| seen.insert(referrer.digest.clone()));
                Ok(Some(Cached::miss(all)))
            }
            Err(error) => match error.upstream() {
                // Nothing is stored and nobody could tell: that is not the same as none.
                Some(source) if !stored.is_empty() => Ok(Some(self.only_stored(stored, &source.to_string()))),
                _ => Err(error),
            },
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
