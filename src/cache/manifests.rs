//! Manifests through a remote.

use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use super::flight::Flight;
use super::freshness::{self, Step};
use super::negative::What;
use super::{Answer, Cached, Error, Inner, Outcome};
use crate::oci::manifest::Contents;
use crate::oci::{Digest, ImageName, Manifest, Reference, Tag};
use crate::upstream;

/// What upstream said, and what is now stored.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// The tag still means this.
    Same(Digest),
    /// It is this.
    Is(Manifest),
    /// There is none.
    Gone,
}

type Question = Flight<Result<Told, Error>>;

/// A stored copy of what a tag means.
struct Held {
    manifest: Manifest,
    age: Option<Duration>,
}

impl Inner {
    pub(super) async fn manifest(&self, image: &ImageName, reference: &Reference) -> Answer<Manifest> {
        let tag = match reference {
            Reference::Tag(tag) => tag,
            Reference::Digest(digest) => {
                // What a digest means cannot change: nobody is asked.
                if let Some(manifest) = self.here(image).manifest(digest).await? {
                    return Ok(Some(Cached::hit(manifest)));
                }
                if self.is_absent(image, reference) {
                    return Ok(None);
                }
                let told = self.ask(image, reference).await?;
                return self.accept(image, None, told).await;
            }
        };
        let Some(held) = self.held(image, tag).await? else {
            if self.is_absent(image, reference) {
                return Ok(None);
            }
            let told = self.ask(image, reference).await?;
            return self.accept(image, None, told).await;
        };
        if self.freshness.step(held.age, false) == Step::Serve {
            return Ok(Some(self.fresh(held)));
        }
        if self.is_absent(image, reference) {
            return Ok(None);
        }
        let trouble = self.trouble();
        match self.freshness.step(held.age, trouble.is_some()) {
            Step::Serve => Ok(Some(self.fresh(held))),
            Step::ServeStale => {
                self.outage.wanted(image, tag);
                Ok(Some(self.stale(held, &trouble.unwrap_or_default())))
            }
            Step::Revalidate => self.revalidate(image, tag, held).await,
            Step::Ask => {
                let told = self.ask(image, reference).await?;
                self.accept(image, Some(held), told).await
            }
        }
    }

    pub(super) async fn cached_manifest(&self, image: &ImageName, reference: &Reference) -> Answer<Manifest> {
        let tag = match reference {
            Reference::Tag(tag) => tag,
            Reference::Digest(digest) => return Ok(self.here(image).manifest(digest).await?.map(Cached::hit)),
        };
        let Some(held) = self.held(image, tag).await? else {
            return Ok(None);
        };
        if self.freshness.step(held.age, true) == Step::Serve {
            return Ok(Some(self.fresh(held)));
        }
        let why = self.trouble().unwrap_or_else(|| "was not asked".to_owned());
        Ok(Some(self.stale(held, &why)))
    }

    /// Whether upstream has said not long ago that it does not have this.
    fn is_absent(&self, image: &ImageName, reference: &Reference) -> bool {
        self.negative.knows(image, &What::Manifest(reference.clone()))
    }

    async fn held(&self, image: &ImageName, tag: &Tag) -> Result<Option<Held>, Error> {
        let here = self.here(image);
        let Some(record) = here.tag(tag).await? else {
            return Ok(None);
        };
        let manifest = here.manifest(&record.digest).await?;
        let age = freshness::age(record.verified, SystemTime::now());
        Ok(manifest.map(|manifest| Held { manifest, age }))
    }

    fn fresh(&self, held: Held) -> Cached<Manifest> {
        Cached {
            age: self.freshness.told(held.age),
            ..Cached::hit(held.manifest)
        }
    }

    fn stale(&self, held: Held, why: &str) -> Cached<Manifest> {
        Cached {
            age: self.freshness.told(held.age),
            warning: Some(self.told(why, held.age)),
            ..Cached::now(held.manifest, Outcome::Stale)
        }
    }

    /// Waits a moment for upstream; then the copy is served, and the question goes on.
    async fn revalidate(&self, image: &ImageName, tag: &Tag, held: Held) -> Answer<Manifest> {
        let (question, joined) = self.question(image, &Reference::Tag(tag.clone()))?;
        if joined {
            self.metrics.joined(self.key.as_str());
        }
        let why = match timeout(self.revalidate_timeout, question.landed()).await {
            Ok(Some(Ok(told))) => return self.accept(image, Some(held), told).await,
            Ok(Some(Err(error))) => {
                tracing::warn!(repository = %self.key, %image, %tag, %error, "a tag is served as it was");
                describe(&error)
            }
            Ok(None) => describe(&Error::Lost),
            Err(_) => {
                let why = format!("did not answer within {} ms", self.revalidate_timeout.as_millis());
                // Whoever comes next need not find that out by waiting. The answer, if it comes, ends it.
                self.notice(&why, None);
                why
            }
        };
        self.outage.wanted(image, tag);
        Ok(Some(self.stale(held, &why)))
    }

    /// What upstream says, however long it takes to say so.
    async fn ask(&self, image: &ImageName, reference: &Reference) -> Result<Told, Error> {
        let (question, joined) = self.question(image, reference)?;
        if joined {
            self.metrics.joined(self.key.as_str());
        }
        question.landed().await.unwrap_or(Err(Error::Lost))
    }

    async fn accept(&self, image: &ImageName, held: Option<Held>, told: Told) -> Answer<Manifest> {
        Ok(match told {
            Told::Gone => None,
            Told::Is(manifest) => Some(Cached::miss(manifest)),
            Told::Same(digest) => match held {
                Some(held) if held.manifest.digest == digest => Some(Cached::now(held.manifest, Outcome::Revalidated)),
                // The question was asked by somebody who held something else than we did a moment before.
                _ => self
                    .here(image)
                    .manifest(&digest)
                    .await?
                    .map(|manifest| Cached::now(manifest, Outcome::Revalidated)),
            },
        })
    }

    /// Joins the question that is under way, or begins it: one for each reference, whoever waits.
    pub(super) fn question(&self, image: &ImageName, reference: &Reference) -> Result<(Question, bool), Error> {
        self.check_online()?;
        let Some(inner) = self.myself.upgrade() else {
            return Err(Error::Lost);
        };
        let key = (image.clone(), reference.clone());
        Ok(self.questions.run(&key, || {
            let (image, reference) = (image.clone(), reference.clone());
            async move {
                let asked = inner.negative.asked();
                let told = match &reference {
                    Reference::Tag(tag) => inner.ask_for_tag(&image, tag).await,
                    Reference::Digest(_) => inner.get(&image, &reference, &[]).await,
                };
                let what = What::Manifest(reference);
                match &told {
                    Ok(Told::Gone) => inner.negative.note(asked, &image, &what),
                    Ok(_) => inner.negative.found(&image, &what),
                    Err(_) => {}
                }
                told
            }
        }))
    }

    /// Asks what a tag means: by HEAD if there is a copy, which registries do not count as a pull.
    async fn ask_for_tag(&self, image: &ImageName, tag: &Tag) -> Result<Told, Error> {
        let reference = Reference::Tag(tag.clone());
        let held = match self.here(image).tag(tag).await? {
            Some(record) => self.here(image).manifest(&record.digest).await?,
            None => None,
        };
        let Some(held) = held else {
            return self.get(image, &reference, std::slice::from_ref(tag)).await;
        };
        let asked = SystemTime::now();
        match self.upstream.head_manifest(image, &reference).await {
            Ok(Some(told)) if told.digest.as_ref() == Some(&held.digest) => {
                self.judge(Ok(()))?;
                self.here(image).touch_tag(tag, asked).await?;
                return Ok(Told::Same(held.digest));
            }
            Ok(Some(upstream::Head {
                digest: Some(digest), ..
            })) => {
                let moved = Reference::Digest(digest);
                let told = self.get(image, &moved, std::slice::from_ref(tag)).await?;
                if !matches!(told, Told::Gone) {
                    return Ok(told);
                }
            }
            // Some registries answer a HEAD with less than a GET: without a digest, or with 403, 404 or 405.
            Ok(_) | Err(upstream::Error::Unexpected { .. } | upstream::Error::Refused { status: 403 }) => {}
            Err(error) => return self.judge(Err(error)),
        }
        match self.get(image, &reference, std::slice::from_ref(tag)).await? {
            Told::Is(manifest) if manifest.digest == held.digest => Ok(Told::Same(held.digest)),
            told => Ok(told),
        }
    }

    /// Fetches a manifest and stores it, as what these tags mean.
    async fn get(&self, image: &ImageName, reference: &Reference, tags: &[Tag]) -> Result<Told, Error> {
        let asked = SystemTime::now();
        let answer = self.upstream.manifest(image, reference).await;
        let Some((manifest, contents)) = self.judge(answer)? else {
            return Ok(Told::Gone);
        };
        self.remember_sizes(image, &contents);
        if let Err(error) = self.put(image, &manifest, &contents, tags, asked).await {
            // What upstream said is right, whether we can keep it or not.
            tracing::error!(repository = %self.key, %image, %reference, %error, "a manifest could not be stored");
        }
        Ok(Told::Is(manifest))
    }

    async fn put(
        &self,
        image: &ImageName,
        manifest: &Manifest,
        contents: &Contents,
        tags: &[Tag],
        asked: SystemTime,
    ) -> Result<(), Error> {
        let here = self.here(image);
        here.put_manifest(manifest, contents, tags).await?;
        for tag in tags {
            here.touch_tag(tag, asked).await?;
        }
        Ok(())
    }

    fn remember_sizes(&self, image: &ImageName, contents: &Contents) {
        for descriptor in contents.config.iter().chain(&contents.layers) {
            let key = (image.clone(), descriptor.digest.clone());
            self.sizes.insert(key, descriptor.size);
        }
    }
}

/// An upstream's trouble without its name, which stands before it.
fn describe(error: &Error) -> String {
    match error.upstream() {
        Some(source) => source.to_string(),
        None => format!("was asked, but {error}"),
    }
}
