//! Between one upstream and the store: fetched once, kept, served to many.
//!
//! What is stored under a digest is served without asking anybody. What a tag means is asked for when the copy is past
//! its time, and only for a moment: an upstream that does not answer delays nobody who could be served from here. What
//! is not here is fetched by one task for all who want it, and kept only if it is what it should be.
//!
//! A blob that another image brought here is no blob of this image's before the upstream has said so: whether content
//! exists is a secret of the images that have it.
//!
//! Start reading at [`PullThrough`]; the policy is in `manifests` and `blobs`.

mod ahead;
mod blobs;
mod crew;
mod download;
mod error;
mod fetch;
mod flight;
mod freshness;
mod lists;
pub mod load;
mod manifests;
mod moved;
mod negative;
mod outage;
mod passage;
mod plan;
mod prefetch;
mod scope;
mod source;
mod tags;
mod worker;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::{Semaphore, mpsc};

use crate::config::RemoteConfig;
use crate::oci::{Descriptor, Digest, ImageName, Manifest, Platform, Reference, RepositoryKey, Tag};
use crate::store::{self, BlobFile, Keeping, Store};
use crate::telemetry::Metrics;
use crate::upstream::{self, Upstream};
use ahead::Ahead;
use blobs::Fetch;
use flight::{Flight, Flights};
use freshness::Freshness;
use load::{Class, Held, Load};
use manifests::Told;
use negative::Negative;
use outage::Outage;
use scope::Scope;
use source::Rangeless;

pub use crate::telemetry::metrics::Outcome;
pub use download::Follower;
pub use error::Error;
pub use prefetch::{Piece, Prefetched};
pub use tags::Known;

/// How many sizes that manifests gave for blobs are remembered.
const SIZES: u64 = 20_000;
/// How often it is noted that a manifest, and what it lists, is in use.
const NOTE_USE_EVERY: Duration = Duration::from_secs(10 * 60);
/// How many such notes are remembered.
const USES: u64 = 20_000;

/// An answer, and how it came about.
#[derive(Clone, Debug)]
pub struct Cached<T> {
    /// The answer.
    pub value: T,
    /// How it came about.
    pub outcome: Outcome,
    /// How long ago upstream said so.
    pub age: Duration,
    /// Why it may not be the latest, in printable ASCII.
    pub warning: Option<String>,
}

impl<T> Cached<T> {
    const fn now(value: T, outcome: Outcome) -> Self {
        Self {
            value,
            outcome,
            age: Duration::ZERO,
            warning: None,
        }
    }

    const fn hit(value: T) -> Self {
        Self::now(value, Outcome::Hit)
    }

    const fn miss(value: T) -> Self {
        Self::now(value, Outcome::Miss)
    }
}

/// A blob that can be served.
#[derive(Debug)]
pub enum Blob {
    /// It is here.
    Stored(BlobFile),
    /// It is on its way.
    Arriving(Follower),
}

impl Blob {
    /// How long it is, if that is known.
    pub const fn size(&self) -> Option<u64> {
        match self {
            Self::Stored(file) => Some(file.size),
            Self::Arriving(follower) => follower.total(),
        }
    }
}

/// A remote: one upstream, and what is stored of it. Cheap to clone.
#[derive(Clone)]
pub struct PullThrough(Arc<Inner>);

struct Inner {
    key: RepositoryKey,
    store: Store,
    upstream: Upstream,
    host: Arc<str>,
    metrics: Arc<Metrics>,
    load: Arc<Load>,
    freshness: Freshness,
    revalidate_timeout: Duration,
    /// For tasks that outlive the request that began them.
    myself: Weak<Self>,
    outage: Outage,
    /// Whether upstream is never asked.
    offline: bool,
    scope: Scope,
    negative: Negative,
    /// Whose turn it is to fetch a blob ahead of time.
    prefetching: Semaphore,
    /// The platforms that are fetched ahead.
    platforms: Vec<Platform>,
    questions: Flights<(ImageName, Reference), Flight<Result<Told, Error>>>,
    fetches: Flights<Digest, Fetch>,
    /// How many connections one blob may come over.
    fetch_parts: usize,
    rangeless: Rangeless,
    /// What is fetched before it is asked for; nothing, if that is switched off.
    ahead: Option<Ahead>,
    /// What an image's manifests say about the length of its blobs.
    sizes: Cache<(ImageName, Digest), u64>,
    /// The manifests whose use was noted not long ago.
    used: Cache<Digest, ()>,
}

impl PullThrough {
    /// The remote of this key. Asks nothing yet.
    pub fn new(
        key: &RepositoryKey,
        config: &RemoteConfig,
        manifest_limit: u64,
        store: Store,
        metrics: Arc<Metrics>,
        load: Arc<Load>,
    ) -> Result<Self, upstream::Error> {
        let upstream = Upstream::new(key, config, manifest_limit, Arc::clone(&metrics))?;
        let keeping = Keeping {
            max_size: config.cache.max_size,
            unused_after: config.cache.unused_after,
        };
        store.keep(key, keeping);
        Ok(Self(Arc::new_cyclic(|myself| Inner {
            key: key.clone(),
            store,
            host: upstream.host().into(),
            upstream,
            metrics,
            load,
            freshness: Freshness::new(config),
            revalidate_timeout: config.revalidate_timeout,
            myself: Weak::clone(myself),
            outage: Outage::default(),
            offline: config.offline,
            scope: Scope::new(config),
            negative: Negative::new(config.negative_ttl),
            prefetching: Semaphore::new(prefetch::AT_ONCE),
            platforms: config.platforms.clone(),
            questions: Flights::default(),
            fetches: Flights::default(),
            fetch_parts: config.fetch_parts,
            rangeless: Rangeless::default(),
            ahead: (config.prefetch_layers && !config.offline).then(Ahead::default),
            sizes: Cache::new(SIZES),
            used: Cache::builder().max_capacity(USES).time_to_live(NOTE_USE_EVERY).build(),
        })))
    }

    /// The upstream's `host[:port]`.
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// A manifest: by digest what is stored, or else fetched; by tag what upstream says it means, or said not long ago,
    /// or, while it does not answer, said last.
    pub async fn manifest(&self, image: &ImageName, reference: &Reference) -> Answer<Manifest> {
        let Some(image) = self.admitted(image) else {
            return Ok(None);
        };
        let answer = self.0.manifest(&image, reference).await;
        self.0.note_use(&answer);
        answer
    }

    /// A manifest, if it is stored, however old. Asks nobody.
    pub async fn cached_manifest(&self, image: &ImageName, reference: &Reference) -> Answer<Manifest> {
        let Some(image) = self.admitted(image) else {
            return Ok(None);
        };
        let answer = self.0.cached_manifest(&image, reference).await;
        self.0.note_use(&answer);
        answer
    }

    /// A blob: what is stored and known to be this image's, or else on its way. The answer comes once upstream has begun
    /// to answer, so that its refusal can still be told as one.
    pub async fn blob(&self, image: &ImageName, digest: &Digest) -> Answer<Blob> {
        match self.admitted(image) {
            Some(image) => self.0.blob(&image, digest).await,
            None => Ok(None),
        }
    }

    /// Somebody was given this manifest to read: what it refers to begins to arrive, where nobody else has a use for
    /// the connections. Waits for nothing.
    pub fn fetch_ahead(&self, image: &ImageName, manifest: &Manifest) {
        if let (Some(ahead), Some(image)) = (&self.0.ahead, self.admitted(image)) {
            self.0.fetch_ahead(ahead, &image, manifest);
        }
    }

    /// A blob, if it is stored and known to be this image's. Asks nobody.
    pub async fn cached_blob(&self, image: &ImageName, digest: &Digest) -> Answer<Blob> {
        let Some(image) = self.admitted(image) else {
            return Ok(None);
        };
        let file = self.0.here(&image).blob(digest).await?;
        Ok(file.map(|file| Cached::hit(Blob::Stored(file))))
    }

    /// How long a blob is. Fetches nothing.
    pub async fn blob_size(&self, image: &ImageName, digest: &Digest) -> Answer<u64> {
        match self.admitted(image) {
            Some(image) => self.0.blob_size(&image, digest).await,
            None => Ok(None),
        }
    }

    /// All tags of an image: upstream's, or, if it does not answer, those that are stored.
    pub async fn tags(&self, image: &ImageName) -> Answer<Vec<Tag>> {
        match self.admitted(image) {
            Some(image) => self.0.tags(&image).await,
            None => Ok(None),
        }
    }

    /// What refers to a manifest: what upstream knows and what is stored. `None` only of an image that it is not for.
    pub async fn referrers(&self, image: &ImageName, subject: &Digest) -> Answer<Vec<Descriptor>> {
        match self.admitted(image) {
            Some(image) => self.0.referrers(&image, subject).await,
            None => Ok(None),
        }
    }

    /// Whether anything of an image is stored.
    pub async fn holds(&self, image: &ImageName) -> Result<bool, Error> {
        match self.admitted(image) {
            Some(image) => Ok(self.0.here(&image).exists().await?),
            None => Ok(false),
        }
    }

    /// Whether this remote is for that image at all: what is outside is certainly not here, and nothing of it that is
    /// stored is served.
    pub fn admits(&self, image: &ImageName) -> bool {
        self.admitted(image).is_some()
    }

    /// The one name of an image that may be called several.
    pub fn canonical(&self, image: &ImageName) -> ImageName {
        self.0.upstream.canonical(image)
    }

    /// Where a manifest of it is asked for, the last being the upstream itself.
    pub fn places(&self, image: &ImageName, reference: &Reference) -> Vec<url::Url> {
        self.0.upstream.places(image, reference)
    }

    /// Whether upstream has said not long ago that it does not have this, and is not asked again so soon.
    pub fn remembers_absence(&self, image: &ImageName, reference: &Reference) -> bool {
        self.admitted(image)
            .is_some_and(|image| self.0.is_absent(&image, reference))
    }

    /// The one name of an image, if this remote is for it.
    fn admitted(&self, image: &ImageName) -> Option<ImageName> {
        Some(self.0.upstream.canonical(image)).filter(|image| self.0.scope.admits(image))
    }

    /// What a tag means here, and has meant. Asks nobody.
    pub async fn known(&self, image: &ImageName, tag: &Tag) -> crate::oci::Answer<Known, Error> {
        match self.admitted(image) {
            Some(image) => self.0.known(&image, tag).await,
            None => Ok(None),
        }
    }

    /// Lets a tag mean a digest until it is unpinned; without one, what it means here, or else upstream. `None` when
    /// there is no such tag or manifest. `origin` is what its history says of it.
    pub async fn pin(
        &self,
        image: &ImageName,
        tag: &Tag,
        to: Option<&Digest>,
        origin: &'static str,
    ) -> crate::oci::Answer<Digest, Error> {
        match self.admitted(image) {
            Some(image) => self.0.pin(&image, tag, to, origin).await,
            None => Ok(None),
        }
    }

    /// Lets a tag mean again what upstream says. False when it was not pinned.
    pub async fn unpin(&self, image: &ImageName, tag: &Tag) -> Result<bool, Error> {
        match self.admitted(image) {
            Some(image) => Ok(self.0.here(&image).unpin(tag).await?),
            None => Ok(false),
        }
    }

    /// Fetches an image ahead of time: its manifest, and of the platforms that are wanted, or configured, those of an
    /// index, with their configurations and layers. Each piece is told of; it ends when nobody listens.
    pub async fn prefetch(
        &self,
        image: &ImageName,
        reference: &Reference,
        platforms: Option<&[Platform]>,
        tell: &mpsc::Sender<Piece>,
    ) -> crate::oci::Answer<Prefetched, Error> {
        let Some(image) = self.admitted(image) else {
            return Ok(None);
        };
        let platforms = platforms.unwrap_or(&self.0.platforms);
        let prefetched = self.0.prefetch(&image, reference, platforms, tell).await?;
        Ok(prefetched.map(|cached| cached.value))
    }

    /// Something of an image was pushed: that upstream did not have it counts no more.
    pub fn forget_absences(&self, image: &ImageName) {
        self.0.negative.forget(&self.0.upstream.canonical(image));
    }

    /// What upstream did not have is asked for again.
    pub fn forget_all_absences(&self) {
        self.0.negative.forget_all();
    }
}

/// What every question to a remote is answered.
pub type Answer<T> = crate::oci::Answer<Cached<T>, Error>;

impl fmt::Debug for PullThrough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PullThrough({} from {})", self.0.key, self.0.host)
    }
}

impl Inner {
    /// An image as it is stored.
    fn here(&self, image: &ImageName) -> store::Image {
        self.store.image(&self.key, image)
    }

    /// Notes that a manifest was served, and with it all that it lists: a client that has most of the layers does not
    /// ask for them, and needs them all the same.
    fn note_use(&self, answer: &Answer<Manifest>) {
        let Ok(Some(Cached { value: manifest, .. })) = answer else {
            return;
        };
        if self.used.contains_key(&manifest.digest) {
            return;
        }
        self.used.insert(manifest.digest.clone(), ());
        let mut digests = vec![manifest.digest.clone()];
        if let Ok(contents) = manifest.contents() {
            let blobs = contents.config.into_iter().chain(contents.layers);
            digests.extend(blobs.map(|descriptor| descriptor.digest));
        }
        self.store.used(&self.key, &digests);
    }

    /// What an upstream's answer says about the upstream itself.
    fn judge<T>(&self, answer: Result<T, upstream::Error>) -> Result<T, Error> {
        match &answer {
            Ok(_) => {
                if self.outage.ended() {
                    tracing::info!(repository = %self.key, upstream = &*self.host, "the upstream answers again");
                }
            }
            Err(error) if error.is_outage() => self.notice(&error.to_string(), error.retry_after()),
            Err(_) => {}
        }
        answer.map_err(|source| self.wrap(source))
    }

    fn wrap(&self, source: upstream::Error) -> Error {
        Error::Upstream {
            host: Arc::clone(&self.host),
            source,
        }
    }

    /// An error, if upstream is never to be asked: to be called before every question.
    fn check_online(&self) -> Result<(), Error> {
        if self.offline {
            let host = Arc::clone(&self.host);
            return Err(Error::Offline { host });
        }
        Ok(())
    }

    /// An error, if as much is asked and fetched as may be.
    fn begin_miss(&self) -> Result<Held, Error> {
        self.load.begin(Class::Miss).ok_or_else(|| {
            self.metrics.shed(Class::Miss.label());
            Error::Overloaded
        })
    }

    /// Why there is no point in asking upstream, if there is none.
    fn trouble(&self) -> Option<String> {
        if self.offline {
            return Some("is not asked: `offline` is true".to_owned());
        }
        self.outage.why()
    }

    fn lie(&self, what: &str) -> Error {
        self.wrap(upstream::Error::Lies(what.to_owned()))
    }

    /// Notes that the upstream is in trouble, and has somebody look after it.
    fn notice(&self, why: &str, retry_after: Option<Duration>) {
        let Some(number) = self.outage.noticed(why.to_owned()) else {
            return;
        };
        tracing::warn!(
            repository = %self.key,
            upstream = &*self.host,
            why,
            "the upstream is in trouble: tags are served from what is stored until it answers"
        );
        tokio::spawn(Self::probe(Weak::clone(&self.myself), number, retry_after));
    }

    /// Asks now and then until the upstream answers, or nobody uses this any more.
    async fn probe(myself: Weak<Self>, number: u64, retry_after: Option<Duration>) {
        let mut told = None;
        for pause in outage::pauses(retry_after) {
            // Who says when it can be asked is asked then: neither in vain before, nor long after.
            tokio::time::sleep(told.take().unwrap_or(pause)).await;
            let Some(inner) = myself.upgrade() else { return };
            let Some((image, tag)) = inner.outage.question(number) else {
                // Over; or nobody waits for its end, and the next who asks may find out.
                return inner.outage.give_up(number);
            };
            let question = inner.question(&image, &Reference::Tag(tag));
            drop(inner);
            if let Ok((flight, _)) = question {
                // What it finds out, it notes itself.
                if let Some(Err(error)) = flight.landed().await {
                    told = outage::told(error.upstream().and_then(upstream::Error::retry_after));
                }
            }
        }
        if let Some(inner) = myself.upgrade() {
            inner.outage.give_up(number);
        }
    }

    fn told(&self, why: &str, age: Option<Duration>) -> String {
        let age = match age {
            Some(age) => format!("{} s ago", age.as_secs()),
            None => "an unknown time ago".to_owned(),
        };
        printable(&format!("{} {why}; this is what it said {age}", self.host))
    }
}

/// A text that can stand in a header: what an upstream made of it must not end the header.
fn printable(text: &str) -> String {
    text.chars()
        .take(300)
        .map(|c| match c {
            '"' => '\'',
            '\\' => '/',
            ' '..='~' => c,
            _ => '?',
        })
        .collect()
}
