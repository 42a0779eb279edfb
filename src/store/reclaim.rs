//! Giving back the room of what nothing needs, while the server runs.
//!
//! In an image of a local repository, a blob that no manifest of the image needs is *loose*: a push that never came to its
//! manifest, or what a deleted manifest has left. Content that nothing is linked to is an *orphan*. Both are only noted
//! when they are seen first ([`sightings`]). They go in a later pass, when they have been so in every pass for at least
//! `grace`, and nobody has been told meanwhile that they are here: by an upload, a HEAD, a mount, or a manifest. Remotes
//! decide for themselves what they keep ([`super::keep`]), but for orphans.
//!
//! A pass, in this order:
//!
//! 1. What may go is condemned ([`super::guards`]): whoever links it or is told that it is here leaves a mark from now on.
//! 2. The whole tree is looked at ([`survey`]). The index is not asked.
//! 3. A loose link goes, durably, with its image's turn and the digest's lock, unless there is a mark.
//! 4. Bytes that no link is left to go to the trash, under the same lock, unless somebody is reading them. A manifest that
//!    needs them after all takes them back ([`super::trash`]).
//! 5. What has been in the trash for `grace` goes for good.
//! 6. Tags, and manifests without one, go as the rules of the repositories say ([`retention`]); what only they needed is seen by the
//!    next pass.
//!
//! Whenever that ends in between, nothing that is there speaks of something that is not.

mod retention;
mod sightings;
mod survey;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::disk::{Disk, read_small};
use super::guards::{Condemned, Rescue};
use super::layout::{Layout, Place};
use super::records::Records;
use super::{Error, Image, Inner, Options, Store, blocking, trash};
use crate::clock;
use crate::config::{LocalConfig, RetentionRule};
use crate::mishap;
use crate::oci::{Digest, Pattern, RepositoryKey};
use crate::telemetry::Metrics;
use sightings::{Sightings, Thing};
use survey::Survey;

/// Notes longer than this are not read: then everything is seen for the first time.
const LONGEST_NOTES: u64 = 256 << 20;

/// What may go, and how soon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reclaiming {
    /// The repositories that are pushed to.
    pub local: Vec<LocalRules>,
    /// How long something has to have been needed by nothing.
    pub grace: Duration,
}

/// A repository that is pushed to, and what of it goes although it could be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalRules {
    /// The repository.
    pub key: RepositoryKey,
    /// What goes by rule.
    pub retention: Arc<[RetentionRule]>,
    /// Tags that stay, whatever a rule says.
    pub immutable: Arc<[Pattern]>,
}

impl LocalRules {
    /// What a repository's configuration says.
    pub fn of(key: &RepositoryKey, config: &LocalConfig) -> Self {
        Self {
            key: key.clone(),
            retention: config.retention.clone().into(),
            immutable: config.immutable_tags.clone().into(),
        }
    }
}

impl Reclaiming {
    fn keys(&self) -> Vec<RepositoryKey> {
        self.local.iter().map(|local| local.key.clone()).collect()
    }
}

/// What a pass has done, or would have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reclaimed {
    /// Tags and manifests that went by rule: `repository/image:tag`, `repository/image@digest`.
    pub expired: Vec<String>,
    /// Blobs that cannot be read in an image any more, of which no manifest needed them.
    pub links: u64,
    /// Contents that went to the trash.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Contents that went from the trash for good.
    pub emptied: u64,
    /// Their bytes: so much more of the disk is free.
    pub freed: u64,
    /// What nothing needs and will go when its time has come.
    pub waiting: u64,
    /// Its bytes, where it has any of its own.
    pub waiting_bytes: u64,
    /// Images of which nothing goes because a manifest of theirs cannot be read, and why.
    pub unclear: Vec<String>,
}

/// What is known from earlier passes.
#[derive(Debug, Default)]
pub(super) struct Reclaim {
    /// Held by who makes a pass.
    passing: Mutex<()>,
    sightings: Mutex<Sightings>,
    /// Whether there are any: asked at every HEAD.
    any: AtomicBool,
}

impl Reclaim {
    /// With what the last process noted when it closed the store; a crash must not find it again.
    pub(super) fn open(layout: &Layout, disk: &Disk) -> Result<Self, Error> {
        let reclaim = Self::default();
        let path = layout.sightings();
        if let Ok(Some(text)) = read_small(&path, LONGEST_NOTES) {
            *reclaim.sightings() = Sightings::of_notes(&text, clock::now());
            reclaim.any.store(true, Ordering::Release);
        }
        disk.remove(&path)?;
        Ok(reclaim)
    }

    /// Writes down what is known, for the next process.
    pub(super) fn close(&self, layout: &Layout, disk: &Disk) -> Result<(), Error> {
        let notes = self.sightings().to_notes();
        disk.write(&layout.sightings(), &notes)
    }

    fn sightings(&self) -> MutexGuard<'_, Sightings> {
        self.sightings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renew(&self, place: &Place, digest: &Digest) {
        if self.any.load(Ordering::Acquire) {
            self.sightings().renew(place, digest);
        }
    }

    fn follow(&self, survey: &Survey) {
        let links = survey
            .loose
            .keys()
            .map(|(place, digest)| Thing::Link(place.clone(), digest.clone()));
        let orphans = survey.orphans.keys().cloned().map(Thing::Bytes);
        let trash = survey.trash.keys().cloned().map(Thing::Trash);
        self.any.store(true, Ordering::Release);
        self.sightings().follow(links.chain(orphans).chain(trash), clock::now());
    }
}

impl Inner {
    /// Somebody is told that a blob is in an image. By who shares the digest's lock, before it is told.
    pub(super) fn promise(&self, place: &Place, digest: &Digest) {
        // In this order: a pass condemns, and then looks at what is ripe.
        self.reclaim.renew(place, digest);
        self.blobs.guards.promised(digest);
    }

    /// Whether an image has a blob again that was taken away from it, because it is needed after all.
    pub(super) fn take_back(&self, place: &Place, digest: &Digest) -> Result<bool, Error> {
        if !trash::was_in(&self.blobs.layout, place, digest)? {
            return Ok(false);
        }
        {
            let _alone = self.blobs.guards.exclude(digest);
            trash::put_back(&self.blobs, digest)?;
        }
        match self.records.link_layer(place, digest) {
            Ok(()) => Ok(true),
            Err(Error::NoSuchBlob(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Everything in the trash goes, as it has to when the disk is full.
    pub(super) fn empty_trash(&self) -> Result<(), Error> {
        let layout = &self.blobs.layout;
        for digest in trash::list(layout)?.into_keys() {
            let _alone = self.blobs.guards.exclude(&digest);
            trash::remove(layout, &digest)?;
        }
        Ok(())
    }

    fn reclaim(self: &Arc<Self>, what: &Reclaiming) -> Result<Reclaimed, Error> {
        let _passing = self.reclaim.passing.lock().unwrap_or_else(PoisonError::into_inner);
        let digests: HashSet<Digest> = self.ripe(what.grace).iter().map(Thing::digest).cloned().collect();
        let digests: Vec<Digest> = digests.into_iter().collect();
        let alone = self.keep.one_at_a_time();
        let condemned = self.blobs.guards.condemn(None, &digests);
        // Again: whoever was promised one of them before that has left no mark, but it is ripe no more.
        let mut ripe = self.ripe(what.grace);
        ripe.retain(|thing| condemned.includes(thing.digest()));
        let mut pass = Pass {
            inner: self,
            condemned,
            survey: Survey::of(&self.records, &what.keys())?,
            done: Reclaimed::default(),
        };
        for thing in &ripe {
            pass.let_go(thing)?;
        }
        let Pass {
            survey,
            mut done,
            condemned,
            ..
        } = pass;
        drop(condemned);
        self.reclaim.follow(&survey);
        done.wait(&survey);
        self.space.forget();
        // At last: where the tree cannot be told and a pass fails, nothing goes by rule either, and nothing goes unnoticed.
        drop(alone);
        for local in &what.local {
            done.expired.extend(retention::expire(self, local)?);
        }
        for name in &done.expired {
            tracing::info!(name, "removed, as a rule of `retention` says");
        }
        if done.links + done.blobs + done.emptied > 0 {
            let Reclaimed {
                links,
                blobs,
                bytes,
                emptied,
                freed,
                ..
            } = done;
            tracing::info!(links, blobs, bytes, emptied, freed, "reclaimed");
        }
        for image in &done.unclear {
            tracing::warn!(image, "nothing of this image is reclaimed");
        }
        Ok(done)
    }

    fn ripe(&self, grace: Duration) -> Vec<Thing> {
        self.reclaim.sightings().ripe(grace, clock::now())
    }

    /// The same without touching anything.
    fn would_reclaim(&self, what: &Reclaiming) -> Result<Reclaimed, Error> {
        // The lock is given back before the tree is read: every HEAD asks for it.
        let ripe = self.ripe(what.grace);
        Reclaimed::foreseen(&self.records, what, &ripe)
    }
}

/// One pass.
struct Pass<'a> {
    inner: &'a Arc<Inner>,
    condemned: Condemned<'a>,
    survey: Survey,
    done: Reclaimed,
}

impl Pass<'_> {
    fn let_go(&mut self, thing: &Thing) -> Result<(), Error> {
        match thing {
            Thing::Link(place, digest) => {
                let loose = (place.clone(), digest.clone());
                if self.survey.loose.contains_key(&loose) && self.unlink(place, digest)? {
                    self.survey.loose.remove(&loose);
                    self.survey.let_go(digest);
                    self.done.links += 1;
                    self.take_away(digest)?;
                }
            }
            Thing::Bytes(digest) if self.survey.orphans.contains_key(digest) => self.take_away(digest)?,
            Thing::Trash(digest) => {
                if let Some(size) = self.survey.trash.remove(digest) {
                    let _alone = self.inner.blobs.guards.exclude(digest);
                    trash::remove(&self.inner.blobs.layout, digest)?;
                    self.done.emptied += 1;
                    self.done.freed += size;
                }
            }
            Thing::Bytes(_) => {}
        }
        Ok(())
    }

    /// Whether nobody wants it: to be asked by who has the digest to himself.
    fn is_given_up(&self, digest: &Digest) -> bool {
        self.condemned.rescue(digest) == Rescue::None && !self.inner.blobs.guards.is_being_read(digest)
    }

    fn unlink(&self, place: &Place, digest: &Digest) -> Result<bool, Error> {
        let image = Image::new(Arc::clone(self.inner), place.clone());
        let _turn = self.inner.turns.take_now(image.stripe)?;
        // A manifest that is gone to be seen, and may come back after a crash, needs its blobs.
        self.inner.disk.settle(&self.inner.blobs.layout.image(place))?;
        let _alone = self.inner.blobs.guards.exclude(digest);
        // With every lock held that a pass ever holds.
        mishap::at("gc");
        if !self.is_given_up(digest) {
            return Ok(false);
        }
        trash::note(&self.inner.blobs.layout, place, digest)?;
        let unlinked = image.unlink_blob_now(digest)?;
        image.forget_unowned(digest);
        Ok(unlinked)
    }

    fn take_away(&mut self, digest: &Digest) -> Result<(), Error> {
        if self.survey.is_held(digest) {
            return Ok(());
        }
        let blobs = &self.inner.blobs;
        let _alone = blobs.guards.exclude(digest);
        let Some((size, _)) = blobs.look(digest)? else {
            return Ok(());
        };
        if self.is_given_up(digest) {
            trash::take_away(&blobs.layout, digest)?;
            self.survey.orphans.remove(digest);
            self.survey.trash.insert(digest.clone(), size);
            self.done.blobs += 1;
            self.done.bytes += size;
        } else {
            self.survey.orphans.insert(digest.clone(), size);
        }
        Ok(())
    }
}

impl Thing {
    const fn digest(&self) -> &Digest {
        match self {
            Self::Link(_, digest) | Self::Bytes(digest) | Self::Trash(digest) => digest,
        }
    }
}

impl Reclaimed {
    /// What is left for later.
    fn wait(&mut self, survey: &Survey) {
        self.waiting = (survey.loose.len() + survey.orphans.len() + survey.trash.len()) as u64;
        self.waiting_bytes = survey.waiting_bytes();
        let unclear = survey.unclear.iter();
        self.unclear = unclear
            .map(|(place, why)| format!("{}/{}: {why}", place.repository, place.image))
            .collect();
    }

    /// What a pass would do now, if nobody came in between.
    fn foreseen(records: &Records, what: &Reclaiming, ripe: &[Thing]) -> Result<Self, Error> {
        let mut survey = Survey::of(records, &what.keys())?;
        let mut done = Self::default();
        for local in &what.local {
            done.expired.extend(retention::foresee(records, local)?);
        }
        let mut goes: HashMap<&Digest, u64> = HashMap::new();
        for thing in ripe {
            match thing {
                Thing::Link(place, digest) => {
                    if let Some(size) = survey.loose.remove(&(place.clone(), digest.clone())) {
                        survey.let_go(digest);
                        done.links += 1;
                        goes.insert(digest, size);
                    }
                }
                Thing::Bytes(digest) => {
                    if let Some(size) = survey.orphans.remove(digest) {
                        goes.insert(digest, size);
                    }
                }
                Thing::Trash(digest) => {
                    if let Some(size) = survey.trash.remove(digest) {
                        done.emptied += 1;
                        done.freed += size;
                    }
                }
            }
        }
        for (digest, size) in goes {
            if !survey.is_held(digest) {
                done.blobs += 1;
                done.bytes += size;
            }
        }
        done.wait(&survey);
        Ok(done)
    }
}

impl Store {
    /// One pass over everything, which gives back what has been needed by nothing for long enough.
    pub async fn reclaim(&self, what: Reclaiming) -> Result<Reclaimed, Error> {
        self.inner.indexed().await;
        let inner = Arc::clone(&self.inner);
        let metrics = Arc::clone(&inner.blobs.metrics);
        let done = blocking(move || inner.reclaim(&what)).await;
        metrics.reclaimed(done.as_ref().ok().map(|done| (done.blobs, done.freed)));
        done
    }

    /// What a pass over a store would do that nobody has open. Not a byte of it is changed, and whoever opens it
    /// meanwhile need not wait.
    pub async fn foresee(options: &Options, what: Reclaiming, metrics: Arc<Metrics>) -> Result<Reclaimed, Error> {
        let layout = Layout::new(&options.path);
        blocking(move || {
            let records = Records::of(&layout, &Arc::new(Disk::new(&layout, &metrics)), &metrics);
            let notes = read_small(&layout.sightings(), LONGEST_NOTES)?.unwrap_or_default();
            let sightings = Sightings::of_notes(&notes, clock::now());
            Reclaimed::foreseen(&records, &what, &sightings.ripe(what.grace, clock::now()))
        })
        .await
    }

    /// What a pass would do now.
    pub async fn would_reclaim(&self, what: Reclaiming) -> Result<Reclaimed, Error> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.would_reclaim(&what)).await
    }
}
