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
        }
    }

    /// Its key.
    pub const fn key(&self) -> &RepositoryKey {
        &self.key
    }

    /// Its members, in order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Where pushes go.
    pub const fn push_target(&self) -> Option<&Arc<LocalRepository>> {
        self.push_to.as_ref()
    }

    /// The members that may be asked for this image: up to the `priority` member that it lives in.
    async fn asked(&self, image: &ImageName) -> Result<&[Member], Error> {
        for (index, member) in self.members.iter().enumerate() {
            if member.priority && index + 1 < self.members.len() && member.repository.holds(image).await? {
                return Ok(&self.members[..=index]);
            }
        }
        Ok(&self.members)
    }

    /// A manifest.
    pub async fn manifest(&self, image: &ImageName, reference: &Reference) -> Answer<Served<Manifest>, Error> {
        if let Reference::Digest(digest) = reference {
            // A disk that fails for one member is no reason not to ask another: content proves itself.
            if let Ok(Some(served)) = self.stored_manifest(image, digest).await {
                return Ok(Some(served));
            }
            let members = self.asked(image).await?;
            let order = self.order_by_digest(image, members.len());
            return self
                .first_of(order, |index| members[index].repository.manifest(image, reference))
                .await;
        }
        let members = self.asked(image).await?;
        let mut failed: Option<Unknown> = None;
        for (index, member) in members.iter().enumerate() {
            match member.repository.manifest(image, reference).await {
                Ok(Some(served)) => {
                    self.last.insert(image.clone(), index);
                    return Ok(Some(served));
                }
                Ok(None) => {}
                Err(error) => {
                    let unknown = Unknown::of(member.repository.key(), &error);
                    if !member.may_be_passed_over(&unknown) {
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
        for member in &self.members {
            member.repository.fetch_ahead(image, served);
        }
    }

    /// A manifest, if a member has it stored.
    pub async fn stored_manifest(&self, image: &ImageName, digest: &Digest) -> Answer<Served<Manifest>, Error> {
        let members = self.asked(image).await?;
        self.first_of(0..members.len(), |index| {
            members[index].repository.stored_manifest(image, digest)
        })
        .await
    }

    /// A blob.
    pub async fn blob(&self, image: &ImageName, digest: &Digest) -> Answer<Served<Blob>, Error> {
        if let Ok(Some(served)) = self.stored_blob(image, digest).await {
            return Ok(Some(served));
        }
        let members = self.asked(image).await?;
        self.first_of(self.order_by_digest(image, members.len()), |index| {
            members[index].repository.blob(image, digest)
        })
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
        let members = self.asked(image).await?;
        let mut order = Vec::with_capacity(members.len());
        for index in self.order_by_digest(image, members.len()) {
            if self.push_to.is_none() || members[index].repository.holds(image).await? {
                order.push(index);
            }
        }
        self.first_of(order, |index| members[index].repository.blob_size(image, digest))
            .await
    }

    /// A blob, if a member has it stored.
    pub async fn stored_blob(&self, image: &ImageName, digest: &Digest) -> Answer<Served<Blob>, Error> {
        let members = self.asked(image).await?;
        self.first_of(0..members.len(), |index| {
            members[index].repository.stored_blob(image, digest)
        })
        .await
    }

    /// The member that last served this image, then the others in their order.
    fn order_by_digest(&self, image: &ImageName, members: usize) -> impl Iterator<Item = usize> + use<> {
        let last = self.last.get(image).filter(|index| *index < members);
        last.into_iter()
            .chain((0..members).filter(move |index| Some(*index) != last))
    }

    /// The first member that has it, whoever fails on the way.
    async fn first_of<'a, T>(
        &self,
        order: impl IntoIterator<Item = usize>,
        ask: impl Fn(usize) -> Reading<'a, T>,
    ) -> Answer<T, Error> {
        let mut failed: Option<Unknown> = None;
        for index in order {
            match ask(index).await {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error) => {
                    let unknown = Unknown::of(self.members[index].repository.key(), &error);
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
        for member in self.asked(image).await? {
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
        let mut answered = false;
        let mut failed: Option<Unknown> = None;
        for member in self.asked(image).await? {
            match member.repository.referrers(image, subject).await {
                Ok(listed) => {
                    answered = true;
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
            Some(unknown) if !answered => Err(Error::Unknown(unknown)),
            _ => {
                all.entries.sort_by(|a, b| a.digest.cmp(&b.digest));
                Ok(all)
            }
        }
    }

    /// The images of every member, once each, sorted.
    pub async fn images(&self) -> Result<Listed<ImageName>, Error> {
        let mut images = BTreeSet::new();
        let mut warnings = Vec::new();
        for member in &self.members {
            match member.repository.images().await {
                Ok(listed) => {
                    images.extend(listed.entries);
                    warnings.extend(listed.warnings);
                }
                Err(error) => warnings.push(Unknown::of(member.repository.key(), &error).to_string()),
            }
        }
        Ok(Listed {
            entries: images.into_iter().collect(),
            warnings,
        })
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
