//! A virtual repository: an ordered list of others, its members, behind one name.
//!
//! The rules, each with its reason:
//! - *Certainly not here* moves on to the next member. *Could not tell* never does for a local or a `priority` member:
//!   whoever can make such a member fail would otherwise choose which image a client gets.
//! - A plain remote that fails is passed over; if nobody else answers, the reply names it and is not "not found".
//! - An image that lives in a `priority` member is never looked up in later ones, so its name never leaves.
//! - By digest anything stored here comes first, and any member may answer: content proves itself.
//! - Clients ask for a blob's length before they push it. Where pushes are taken, a remote that nothing of the image is
//!   known from is not asked then: the name of a new image does not leave, and a push goes on while upstreams are gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::trace::{Finding, Stage, Trace};
use super::{Error, Listed, LocalRepository, Reading, Repository, Served, Unknown};
use crate::cache::Blob;
use crate::oci::{Answer, Descriptor, Digest, ImageName, Manifest, Reference, RepositoryKey};

/// How many images a virtual repository remembers the answering member of.
const REMEMBERED: u64 = 10_000;

/// A member of a virtual repository.
#[derive(Clone, Debug)]
pub struct Member {
    /// The repository.
    pub repository: Repository,
    /// An image that lives here is never looked up in later members.
    pub priority: bool,
    /// Whoever asks may not see it. It keeps its place, and its `priority`.
    pub hidden: bool,
}

impl Member {
    /// Whether another member may answer in its place when it fails.
    fn may_be_passed_over(&self, unknown: &Unknown) -> bool {
        !self.priority && !unknown.closed && !matches!(self.repository, Repository::Local(_))
    }
}

/// A virtual repository.
#[derive(Debug)]
pub struct VirtualRepository {
    key: RepositoryKey,
    members: Vec<Member>,
    push_to: Option<Arc<LocalRepository>>,
    /// Which member last gave a manifest of an image: its blobs are most likely there too.
    last: moka::sync::Cache<ImageName, usize>,
    /// Where a search writes down what it goes by, if somebody wants to know.
    trace: Option<Arc<Trace>>,
}

impl VirtualRepository {
    /// A virtual repository over these members.
    pub fn new(key: RepositoryKey, members: Vec<Member>, push_to: Option<Arc<LocalRepository>>) -> Self {
        let last = moka::sync::Cache::builder()
            .max_capacity(REMEMBERED)
            .time_to_idle(Duration::from_secs(3600))
            .build();
        Self {
            key,
            members,
            push_to,
            last,
            trace: None,
        }
    }

    /// Its key.
    pub const fn key(&self) -> &RepositoryKey {
        &self.key
    }

    /// The same with some of its members hidden. They share what they remember.
    pub(super) fn with_members(&self, members: Vec<Member>) -> Self {
        Self {
            key: self.key.clone(),
            members,
            push_to: self.push_to.clone(),
            last: self.last.clone(),
            trace: self.trace.clone(),
        }
    }

    /// The same, whose searches are written down.
    pub(super) fn traced(&self, trace: &Arc<Trace>) -> Self {
        let members = self.members.iter().map(|member| Member {
            repository: member.repository.traced(trace),
            ..member.clone()
        });
        Self {
            trace: Some(Arc::clone(trace)),
            ..self.with_members(members.collect())
        }
    }

    fn note(&self, member: &Member, finding: impl FnOnce() -> Finding) {
        if let Some(trace) = &self.trace {
            trace.note(&self.key, member, finding());
        }
    }

    /// Its members, in order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The members that whoever asks may see, in order.
    pub fn shown(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.hidden)
    }

    /// Where pushes go.
    pub const fn push_target(&self) -> Option<&Arc<LocalRepository>> {
        self.push_to.as_ref()
    }

    /// The places of the members that may be asked for this image: up to the `priority` member that it lives in.
    async fn asked(&self, image: &ImageName) -> Result<Vec<usize>, Error> {
        let mut asked = Vec::with_capacity(self.members.len());
        for (index, member) in self.members.iter().enumerate() {
            if !member.hidden {
                asked.push(index);
            }
            if member.priority && index + 1 < self.members.len() && self.holds_in(member, image).await? {
                self.note(member, || Finding::Keeps);
                break;
            }
        }
        Ok(asked)
    }

    async fn holds_in(&self, member: &Member, image: &ImageName) -> Result<bool, Error> {
        match member.repository.holds(image).await {
            // Who may not see it is not told its name.
            Err(_) if member.hidden => Err(Error::Unknown(Unknown {
                closed: true,
                ..Unknown::because(&self.key, "one of its members failed".to_owned())
            })),
            answer => answer,
        }
    }

    /// A manifest.
    pub async fn manifest(&self, image: &ImageName, reference: &Reference) -> Answer<Served<Manifest>, Error> {
        if let Reference::Digest(digest) = reference {
            // A disk that fails for one member is no reason not to ask another: content proves itself.
            if let Ok(Some(served)) = self.stored_manifest(image, digest).await {
                return Ok(Some(served));
            }
            let order = self.last_first(image, self.asked(image).await?);
            return self
                .first_of(order, Stage::Asked, |member| member.manifest(image, reference))
                .await;
        }
        let mut failed: Option<Unknown> = None;
        for index in self.asked(image).await? {
            let member = &self.members[index];
            let known = self
                .trace
                .as_ref()
                .and_then(|_| member.repository.why_not_asked(image, reference));
            match member.repository.manifest(image, reference).await {
                Ok(Some(served)) => {
                    self.note(member, || Finding::Answered);
                    self.last.insert(image.clone(), index);
                    return Ok(Some(served));
                }
                Ok(None) => self.note(member, || Finding::Absent { known }),
                Err(error) => {
                    let unknown = Unknown::of(member.repository.key(), &error);
                    let ends = !member.may_be_passed_over(&unknown);
                    self.note(member, || Finding::Failed {
                        why: error.to_string(),
                        ends,
                    });
                    if ends {
                        return Err(Error::Unknown(Unknown {
                            closed: true,
                            ..unknown
                        }));
                    }
                    failed = Some(joined(failed, unknown));
                }
            }
        }
        none_unless(failed)
    }

    /// Has what a manifest refers to fetched by the member that gave it.
    pub fn fetch_ahead(&self, image: &ImageName, served: &Served<Manifest>) {
        for member in self.shown() {
            member.repository.fetch_ahead(image, served);
        }
    }

    /// A manifest, if a member has it stored.
    pub async fn stored_manifest(&self, image: &ImageName, digest: &Digest) -> Answer<Served<Manifest>, Error> {
        let order = self.asked(image).await?;
        self.first_of(order, Stage::Stored, |member| member.stored_manifest(image, digest))
            .await
    }

    /// A blob.
    pub async fn blob(&self, image: &ImageName, digest: &Digest) -> Answer<Served<Blob>, Error> {
        if let Ok(Some(served)) = self.stored_blob(image, digest).await {
            return Ok(Some(served));
        }
        let order = self.last_first(image, self.asked(image).await?);
        self.first_of(order, Stage::Asked, |member| member.blob(image, digest))
            .await
    }

    /// A blob's length.
    pub async fn blob_size(&self, image: &ImageName, digest: &Digest) -> Answer<Served<u64>, Error> {
        if let Ok(Some(served)) = self.stored_blob(image, digest).await
            && let Some(size) = served.value.size()
        {
            return Ok(Some(Served {
                value: size,
                by: served.by,
                outcome: served.outcome,
                proxied: served.proxied,
                age: served.age,
                warning: served.warning,
            }));
        }
        let mut order = Vec::with_capacity(self.members.len());
        for index in self.last_first(image, self.asked(image).await?) {
            if self.push_to.is_none() || self.members[index].repository.holds(image).await? {
                order.push(index);
            }
        }
        self.first_of(order, Stage::Asked, |member| member.blob_size(image, digest))
            .await
    }

    /// A blob, if a member has it stored.
    pub async fn stored_blob(&self, image: &ImageName, digest: &Digest) -> Answer<Served<Blob>, Error> {
        let order = self.asked(image).await?;
        self.first_of(order, Stage::Stored, |member| member.stored_blob(image, digest))
            .await
    }

    /// A blob that some member has stored, be it one after the `priority` member that the image lives in: for whoever was told that it is here
    /// before the image came to live there. Nobody is asked.
    pub async fn kept_blob(&self, image: &ImageName, digest: &Digest) -> Answer<Served<Blob>, Error> {
        let seen = (0..self.members.len()).filter(|index| !self.members[*index].hidden);
        self.first_of(seen, Stage::Stored, |member| member.stored_blob(image, digest))
            .await
    }

    /// The member that last served this image before the others.
    fn last_first(&self, image: &ImageName, mut order: Vec<usize>) -> Vec<usize> {
        if let Some(last) = self.last.get(image)
            && let Some(at) = order.iter().position(|index| *index == last)
        {
            order[..=at].rotate_right(1);
        }
        order
    }

    /// The first member that has it, whoever fails on the way.
    async fn first_of<'a, T>(
        &'a self,
        order: impl IntoIterator<Item = usize>,
        stage: Stage,
        ask: impl Fn(&'a Repository) -> Reading<'a, T>,
    ) -> Answer<T, Error> {
        let mut failed: Option<Unknown> = None;
        for index in order {
            let member = &self.members[index];
            match ask(&member.repository).await {
                Ok(Some(found)) => {
                    self.note(member, || Finding::Answered);
                    return Ok(Some(found));
                }
                Ok(None) => self.note(member, || stage.absent()),
                Err(error) => {
                    let unknown = Unknown::of(member.repository.key(), &error);
                    self.note(member, || Finding::Failed {
                        why: error.to_string(),
                        ends: false,
                    });
                    failed = Some(joined(failed, unknown));
                }
            }
        }
        none_unless(failed)
    }

    /// The tags of every member, once each, sorted.
    pub async fn tags(&self, image: &ImageName) -> Answer<Listed<String>, Error> {
        let mut tags = BTreeSet::new();
        let mut warnings = Vec::new();
        let mut failed: Option<Unknown> = None;
        let mut known = false;
        for index in self.asked(image).await? {
            let member = &self.members[index];
            match member.repository.tags(image).await {
                Ok(Some(listed)) => {
                    known = true;
                    tags.extend(listed.entries);
                    warnings.extend(listed.warnings);
                }
                Ok(None) => {}
                Err(error) => {
                    let unknown = Unknown::of(member.repository.key(), &error);
                    warnings.push(unknown.to_string());
                    failed = Some(joined(failed, unknown));
                }
            }
        }
        if !known {
            return none_unless(failed);
        }
        Ok(Some(Listed {
            entries: tags.into_iter().collect(),
            warnings,
        }))
    }

    /// What refers to a manifest in any member, once each.
    pub async fn referrers(&self, image: &ImageName, subject: &Digest) -> Result<Listed<Descriptor>, Error> {
        let mut all = Listed::default();
        let mut seen = BTreeSet::new();
        let mut failed: Option<Unknown> = None;
        for index in self.asked(image).await? {
            let member = &self.members[index];
            match member.repository.referrers(image, subject).await {
                Ok(listed) => {
                    all.warnings.extend(listed.warnings);
                    let new = listed
                        .entries
                        .into_iter()
                        .filter(|entry| seen.insert(entry.digest.clone()));
                    all.entries.extend(new);
                }
                Err(error) => {
                    let unknown = Unknown::of(member.repository.key(), &error);
                    all.warnings.push(unknown.to_string());
                    failed = Some(joined(failed, unknown));
                }
            }
        }
        match failed {
            // Members that have nothing do not make it certain that there is nothing.
            Some(unknown) if all.entries.is_empty() => Err(Error::Unknown(unknown)),
            _ => {
                all.entries.sort_by(|a, b| a.digest.cmp(&b.digest));
                Ok(all)
            }
        }
    }

    /// Whether an image lives in some member.
    pub async fn holds(&self, image: &ImageName) -> Result<bool, Error> {
        for member in &self.members {
            if member.repository.holds(image).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn joined(failed: Option<Unknown>, unknown: Unknown) -> Unknown {
    match failed {
        Some(failed) => failed.join(unknown),
        None => unknown,
    }
}

/// "Certainly not here" only when everybody could tell.
fn none_unless<T>(failed: Option<Unknown>) -> Answer<T, Error> {
    match failed {
        Some(unknown) => Err(Error::Unknown(unknown)),
        None => Ok(None),
    }
}
