//! Manifests through a remote.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use super::flight::Flight;
use super::freshness::{self, Step};
use super::negative::What;
use super::{Answer, Cached, Error, Inner, Outcome};
use crate::clock;
use crate::oci::manifest::Contents;
use crate::oci::{Digest, ImageName, Manifest, Reference, Tag};
use crate::store::{Move, TagRecord};

/// What upstream said, and what is now stored.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// The tag still means this.
    Same(Digest),
    /// The tag has moved, and is held at this.
    Held(Digest, Arc<[Move]>),
    /// The tag may mean something else by now, and that it is not fetched has this reason.
    Kept(Digest, String),
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
    moves: Arc<[Move]>,
}

impl Inner {
    pub(super) async fn manifest(&self, image: &ImageName, reference: &Reference) -> Answer<Manifest> {
        let tag = match reference {
            Reference::Tag(tag) => tag,
            Reference::Digest(digest) => return self.by_digest(image, digest).await,
        };
        let record = self.here(image).tag(tag).await?;
        if let Some(pinned) = record.as_ref().filter(|record| record.pinned) {
            // What it means is not upstream's to say.
            return self.by_digest(image, &pinned.digest).await;
        }
        let Some(held) = self.held(image, record).await? else {
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
        let budget = self.upstream.budget();
        match self.freshness.under(budget.as_ref()).step(held.age, trouble.is_some()) {
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

    /// What a digest means cannot change: if it is here, nobody is asked.
    pub(super) async fn by_digest(&self, image: &ImageName, digest: &Digest) -> Answer<Manifest> {
        if let Some(manifest) = self.here(image).manifest(digest).await? {
            return Ok(Some(Cached::hit(manifest)));
        }
        let reference = Reference::Digest(digest.clone());
        if self.is_absent(image, &reference) {
            return Ok(None);
        }
        let told = self.ask(image, &reference).await?;
        self.accept(image, None, told).await
    }

    pub(super) async fn cached_manifest(&self, image: &ImageName, reference: &Reference) -> Answer<Manifest> {
        let tag = match reference {
            Reference::Tag(tag) => tag,
            Reference::Digest(digest) => return Ok(self.here(image).manifest(digest).await?.map(Cached::hit)),
        };
        let record = self.here(image).tag(tag).await?;
        let is_pinned = record.as_ref().is_some_and(|record| record.pinned);
        let Some(held) = self.held(image, record).await? else {
            return Ok(None);
        };
        if is_pinned {
            return Ok(Some(Cached::hit(held.manifest)));
        }
        if self.freshness.step(held.age, true) == Step::Serve {
            return Ok(Some(self.fresh(held)));
        }
        let why = self.trouble().unwrap_or_else(|| "was not asked".to_owned());
        Ok(Some(self.stale(held, &why)))
    }

    /// Whether upstream has said not long ago that it does not have this.
    pub(super) fn is_absent(&self, image: &ImageName, reference: &Reference) -> bool {
        self.negative.knows(image, &What::Manifest(reference.clone()))
    }

    async fn held(&self, image: &ImageName, record: Option<TagRecord>) -> Result<Option<Held>, Error> {
        let Some(record) = record else { return Ok(None) };
        let manifest = self.here(image).manifest(&record.digest).await?;
        let now = clock::now();
        // Past its time is also what has been held back for long enough.
        let is_due = record.moves.iter().any(|held| self.freshness.is_due(held, now));
        let age = freshness::age(record.verified, now).filter(|_| !is_due);
        Ok(manifest.map(|manifest| Held {
            manifest,
            age,
            moves: record.moves,
        }))
    }

    fn fresh(&self, held: Held) -> Cached<Manifest> {
        Cached {
            age: self.freshness.told(held.age),
            warning: self.held_back(&held.moves),
            ..Cached::hit(held.manifest)
        }
    }

    fn stale(&self, held: Held, why: &str) -> Cached<Manifest> {
        let mut warning = self.told(why, held.age);
        if let Some(held_back) = self.held_back(&held.moves) {
            warning = format!("{warning}; {held_back}");
        }
        Cached {
            age: self.freshness.told(held.age),
            warning: Some(warning),
            ..Cached::now(held.manifest, Outcome::Stale)
        }
    }

    /// Says of a tag that is held at what it was where it has moved to, and when it will follow.
    fn held_back(&self, moves: &[Move]) -> Option<String> {
        let (first, last) = (moves.first()?, moves.last()?);
        let until = self.freshness.due(first).map_or_else(
            || "for ever".to_owned(),
            |due| format!("until {}", httpdate::fmt_http_date(clock::told(due))),
        );
        Some(super::printable(&format!(
            "{} has moved this tag to {}; it is held at what it was {until}",
            self.host, last.to
        )))
    }

    /// Waits a moment for upstream; then the copy is served, and the question goes on.
    async fn revalidate(&self, image: &ImageName, tag: &Tag, held: Held) -> Answer<Manifest> {
        let (question, joined) = match self.question(image, &Reference::Tag(tag.clone())) {
            Err(error @ Error::Overloaded) => return Ok(Some(self.stale(held, &describe(&error)))),
            begun => begun?,
        };
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
            Told::Held(digest, moves) => {
                let manifest = self.here(image).manifest(&digest).await?;
                manifest.map(|manifest| Cached {
                    warning: self.held_back(&moves),
                    ..Cached::now(manifest, Outcome::Revalidated)
                })
            }
            Told::Kept(digest, why) => match held {
                Some(held) if held.manifest.digest == digest => Some(self.stale(held, &why)),
                // The question was asked by somebody who held something else than we did a moment before.
                _ => self.here(image).manifest(&digest).await?.map(|manifest| Cached {
                    warning: Some(self.told(&why, None)),
                    ..Cached::now(manifest, Outcome::Stale)
                }),
            },
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
        let held = match self.questions.under_way(&key) {
            Some(_) => None,
            None => Some(self.begin_miss()?),
        };
        Ok(self.questions.run(&key, || {
            let (image, reference) = (image.clone(), reference.clone());
            async move {
                let _held = held;
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

    /// Why what there is a copy of is not fetched again, if so: the few pulls that are left are for what is not here.
    pub(super) fn reserved(&self, what: &str) -> Option<String> {
        let budget = self.upstream.budget()?;
        self.freshness.is_reserved(Some(&budget)).then(|| {
            format!(
                "{what}, but allows only {} more pulls, which are kept for images that are not here",
                budget.remaining
            )
        })
    }

    /// Fetches a manifest and stores it, as what these tags mean.
    pub(super) async fn get(&self, image: &ImageName, reference: &Reference, tags: &[Tag]) -> Result<Told, Error> {
        let asked = clock::now();
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

    pub(super) async fn put(
        &self,
        image: &ImageName,
        manifest: &Manifest,
        contents: &Contents,
        tags: &[Tag],
        asked: SystemTime,
    ) -> Result<(), Error> {
        let here = self.here(image);
        Ok(here.put_pulled(manifest, contents, tags, asked, &self.host).await?)
    }

    pub(super) fn remember_sizes(&self, image: &ImageName, contents: &Contents) {
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
