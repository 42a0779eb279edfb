//! What a client sees: local, remote and virtual repositories, three kinds of one shape.
//!
//! Every reader answers with one of three outcomes — here, certainly not here, could not tell — and says which
//! repository answered. Reading and writing are different shapes: only a [`LocalRepository`] can be written to, and
//! [`Repository::push_target`] is the one way to reach it.
//!
//! Knows nothing of HTTP. Start reading at [`virtual_repository`]: the rules that the other two exist for.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use tokio::sync::mpsc;

use crate::cache::{self, Blob, Piece, Prefetched};
use crate::oci::operation::UploadId;
use crate::oci::{Answer, Descriptor, Digest, ImageName, Manifest, Platform, Reference, Refusal, RepositoryKey};
use crate::store;
use crate::telemetry::metrics::Outcome;

pub mod local_repository;
pub mod remote_repository;
pub mod router;
pub mod tags;
pub mod trace;
pub mod view;
pub mod virtual_repository;
mod warm;

pub use local_repository::LocalRepository;
pub use remote_repository::RemoteRepository;
pub use router::{Repositories, Route};
pub use tags::{TagChange, TagHistory};
pub use view::{Sight, View};
pub use virtual_repository::VirtualRepository;

/// An answer, and where it came from.
#[derive(Clone, Debug)]
pub struct Served<T> {
    /// The answer.
    pub value: T,
    /// The local or remote repository that gave it.
    pub by: RepositoryKey,
    /// How it came about.
    pub outcome: Outcome,
    /// Whether that repository is a remote.
    pub proxied: bool,
    /// How long ago it was known to be current.
    pub age: Duration,
    /// Why it may not be.
    pub warning: Option<String>,
}

impl<T> Served<T> {
    fn from_local(by: &RepositoryKey, value: T) -> Self {
        Self {
            value,
            by: by.clone(),
            outcome: Outcome::Hit,
            proxied: false,
            age: Duration::ZERO,
            warning: None,
        }
    }

    fn from_cache(by: &RepositoryKey, cached: cache::Cached<T>) -> Self {
        Self {
            value: cached.value,
            by: by.clone(),
            outcome: cached.outcome,
            proxied: true,
            age: cached.age,
            warning: cached.warning,
        }
    }
}

/// A list put together from one or more repositories, and what is missing from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<T> {
    /// The entries.
    pub entries: Vec<T>,
    /// For a person: which repository could not be asked, and why. Empty when the list is whole.
    pub warnings: Vec<String>,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is refused, whatever is stored.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// We could not tell: these repositories did not answer, for these reasons.
    #[error("{0}")]
    Unknown(Unknown),
    /// The disk, or an upload, failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Who could not answer, and what a client should do about it.
#[derive(Debug, Clone, Default)]
pub struct Unknown {
    /// Each repository that failed, and its reason, for a person.
    pub failures: Vec<(RepositoryKey, String)>,
    /// Every one of them was asked too often: 429 rather than 503.
    pub rate_limited: bool,
    /// When it is worth asking again.
    pub retry_after: Option<Duration>,
    /// No other repository may answer in their place.
    pub closed: bool,
}

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (repository, reason)) in self.failures.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}`{repository}` could not be asked: {reason}")?;
        }
        Ok(())
    }
}

impl Unknown {
    /// What one repository's failure means.
    fn of(repository: &RepositoryKey, error: &Error) -> Self {
        match error {
            Error::Unknown(unknown) => unknown.clone(),
            Error::Refused(refusal) => Self::because(repository, refusal.to_string()),
            Error::Store(error) => Self {
                closed: true,
                ..Self::because(repository, error.to_string())
            },
        }
    }

    fn because(repository: &RepositoryKey, reason: String) -> Self {
        Self {
            failures: vec![(repository.clone(), reason)],
            ..Self::default()
        }
    }

    /// Two failures as one.
    fn join(self, other: Self) -> Self {
        let mut failures = self.failures;
        failures.extend(other.failures);
        Self {
            failures,
            rate_limited: self.rate_limited && other.rate_limited,
            retry_after: self.retry_after.max(other.retry_after),
            closed: self.closed || other.closed,
        }
    }
}

/// A question under way. Boxed, because a virtual repository's is made of those of its members.
pub type Reading<'a, T> = BoxFuture<'a, Answer<T, Error>>;

/// One repository. The set is closed: adding a kind is a variant here, and the compiler lists what else to do.
#[derive(Clone, Debug)]
pub enum Repository {
    /// Images pushed here.
    Local(Arc<LocalRepository>),
    /// A pull-through cache.
    Remote(Arc<RemoteRepository>),
    /// Others behind one name.
    Virtual(Arc<VirtualRepository>),
}

impl Repository {
    /// Its key.
    pub fn key(&self) -> &RepositoryKey {
        match self {
            Self::Local(local) => local.key(),
            Self::Remote(remote) => remote.key(),
            Self::Virtual(several) => several.key(),
        }
    }

    /// A manifest, by tag or digest.
    pub fn manifest<'a>(&'a self, image: &'a ImageName, reference: &'a Reference) -> Reading<'a, Served<Manifest>> {
        match self {
            Self::Local(local) => local.manifest(image, reference).boxed(),
            Self::Remote(remote) => remote.manifest(image, reference).boxed(),
            Self::Virtual(several) => several.manifest(image, reference).boxed(),
        }
    }

    /// The same, whose searches are written down.
    pub(crate) fn traced(&self, trace: &Arc<trace::Trace>) -> Self {
        match self {
            Self::Local(_) | Self::Remote(_) => self.clone(),
            Self::Virtual(several) => Self::Virtual(Arc::new(several.traced(trace))),
        }
    }

    /// Why nobody elsewhere would be asked for this by it, were nothing of it here.
    pub(crate) fn why_not_asked(&self, image: &ImageName, reference: &Reference) -> Option<&'static str> {
        match self {
            Self::Remote(remote) => remote.why_not_asked(image, reference),
            Self::Local(_) | Self::Virtual(_) => None,
        }
    }

    /// Somebody reads this manifest of ours: what a remote has of it begins to arrive.
    pub fn fetch_ahead(&self, image: &ImageName, served: &Served<Manifest>) {
        match self {
            Self::Local(_) => {}
            Self::Remote(remote) => remote.fetch_ahead(image, served),
            Self::Virtual(several) => several.fetch_ahead(image, served),
        }
    }

    /// A manifest by digest, if it is stored: nobody is asked.
    pub fn stored_manifest<'a>(&'a self, image: &'a ImageName, digest: &'a Digest) -> Reading<'a, Served<Manifest>> {
        match self {
            Self::Local(local) => local.stored_manifest(image, digest).boxed(),
            Self::Remote(remote) => remote.stored_manifest(image, digest).boxed(),
            Self::Virtual(several) => several.stored_manifest(image, digest).boxed(),
        }
    }

    /// A blob, stored or arriving.
    pub fn blob<'a>(&'a self, image: &'a ImageName, digest: &'a Digest) -> Reading<'a, Served<Blob>> {
        match self {
            Self::Local(local) => local.blob(image, digest).boxed(),
            Self::Remote(remote) => remote.blob(image, digest).boxed(),
            Self::Virtual(several) => several.blob(image, digest).boxed(),
        }
    }

    /// A blob's length; nothing is fetched for it.
    pub fn blob_size<'a>(&'a self, image: &'a ImageName, digest: &'a Digest) -> Reading<'a, Served<u64>> {
        match self {
            Self::Local(local) => local.blob_size(image, digest).boxed(),
            Self::Remote(remote) => remote.blob_size(image, digest).boxed(),
            Self::Virtual(several) => several.blob_size(image, digest).boxed(),
        }
    }

    /// A blob, if it is stored: nobody is asked.
    pub fn stored_blob<'a>(&'a self, image: &'a ImageName, digest: &'a Digest) -> Reading<'a, Served<Blob>> {
        match self {
            Self::Local(local) => local.blob(image, digest).boxed(),
            Self::Remote(remote) => remote.stored_blob(image, digest).boxed(),
            Self::Virtual(several) => several.stored_blob(image, digest).boxed(),
        }
    }

    /// All tags of an image, sorted.
    pub fn tags<'a>(&'a self, image: &'a ImageName) -> Reading<'a, Listed<String>> {
        match self {
            Self::Local(local) => local.tags(image).boxed(),
            Self::Remote(remote) => remote.tags(image).boxed(),
            Self::Virtual(several) => several.tags(image).boxed(),
        }
    }

    /// What refers to a manifest, sorted by digest. An image that nobody knows has none.
    pub fn referrers<'a>(
        &'a self,
        image: &'a ImageName,
        subject: &'a Digest,
    ) -> BoxFuture<'a, Result<Listed<Descriptor>, Error>> {
        match self {
            Self::Local(local) => local.referrers(image, subject).boxed(),
            Self::Remote(remote) => remote.referrers(image, subject).boxed(),
            Self::Virtual(several) => several.referrers(image, subject).boxed(),
        }
    }

    /// Whether an image lives here: nobody is asked.
    pub fn holds<'a>(&'a self, image: &'a ImageName) -> BoxFuture<'a, Result<bool, Error>> {
        match self {
            Self::Local(local) => local.holds(image).boxed(),
            Self::Remote(remote) => remote.holds(image).boxed(),
            Self::Virtual(several) => several.holds(image).boxed(),
        }
    }

    /// Fetches an image ahead of time, into the remote that answers for it. Nothing is to be done for what is pushed
    /// here. `None` when there is no such image.
    pub fn prefetch<'a>(
        &'a self,
        image: &'a ImageName,
        reference: &'a Reference,
        platforms: Option<&'a [Platform]>,
        tell: &'a mpsc::Sender<Piece>,
    ) -> Reading<'a, Prefetched> {
        async move {
            match self {
                Self::Local(local) => Ok(local.manifest(image, reference).await?.map(|_| Prefetched::default())),
                Self::Remote(remote) => remote.prefetch(image, reference, platforms, tell).await,
                Self::Virtual(several) => {
                    let Some(served) = several.manifest(image, reference).await? else {
                        return Ok(None);
                    };
                    for remote in router::remotes(self) {
                        if *remote.key() == served.by {
                            return remote.prefetch(image, reference, platforms, tell).await;
                        }
                    }
                    Ok(Some(Prefetched::default()))
                }
            }
        }
        .boxed()
    }

    /// Something of an image was pushed here: that an upstream behind this name did not have it counts no more.
    pub fn forget_absences(&self, image: &ImageName) {
        match self {
            Self::Local(_) => {}
            Self::Remote(remote) => remote.forget_absences(image),
            Self::Virtual(several) => {
                for member in several.members() {
                    member.repository.forget_absences(image);
                }
            }
        }
    }

    /// The names that a push goes by on its way to where it lands, from this one on; none if pushes end nowhere.
    pub fn push_names(&self) -> Vec<&RepositoryKey> {
        fn names<'a>(repository: &'a Repository, target: &Arc<LocalRepository>) -> Vec<&'a RepositoryKey> {
            if !repository.push_target().is_some_and(|own| Arc::ptr_eq(own, target)) {
                return Vec::new();
            }
            let mut all = vec![repository.key()];
            if let Repository::Virtual(several) = repository {
                all.extend(
                    several
                        .members()
                        .iter()
                        .flat_map(|member| names(&member.repository, target)),
                );
            }
            all
        }
        self.push_target().map(|target| names(self, target)).unwrap_or_default()
    }

    /// Where pushes, mounts and deletions go; without it, they are refused.
    pub fn push_target(&self) -> Option<&Arc<LocalRepository>> {
        match self {
            Self::Local(local) => Some(local),
            Self::Remote(_) => None,
            Self::Virtual(several) => several.push_target(),
        }
    }
}

/// An upload that is not there.
pub(crate) fn upload_unknown(id: UploadId) -> Refusal {
    Refusal::new(
        crate::oci::ErrorCode::BlobUploadUnknown,
        format!(
            "there is no upload {id} of this image: it was finished, cancelled, or left too long; start another one"
        ),
    )
}
