//! What somebody sees of a repository who may not see all of it.
//!
//! A right on the name of a virtual repository reaches through it to its members; a right on a member's own name shows
//! that member. A member that is not seen answers nothing, but an image that lives in it still belongs to it when it
//! has `priority`: nobody else's image takes its place, and its name does not leave.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::virtual_repository::Member;
use super::{Error, Listed, LocalRepository, Repository, Unknown, VirtualRepository};
use crate::oci::{ImageName, RepositoryKey};

/// What somebody may see, by the names of things alone.
pub trait Sight: Sync {
    /// Whether they may see this image by the name that it has in this repository.
    fn sees(&self, repository: &RepositoryKey, image: &ImageName) -> bool;

    /// Whether there may be an image of this repository that they may see.
    fn sees_some(&self, repository: &RepositoryKey) -> bool;
}

/// What somebody sees of a repository.
#[derive(Clone, Debug)]
pub struct View {
    /// It, with what they may not see hidden in it; nothing of a local or remote one is.
    repository: Repository,
    shows: bool,
    hides: bool,
}

impl View {
    /// The repository as they see it, if they see anything of it.
    pub fn shown(self) -> Option<Repository> {
        self.shows.then_some(self.repository)
    }

    /// Whether anything of it is hidden from them.
    pub const fn hides(&self) -> bool {
        self.hides
    }

    /// What somebody sees behind a name who pushes by it to this repository, where they may push.
    pub fn behind_push(self, target: &Arc<LocalRepository>) -> Repository {
        match self.repository {
            // The members that are not seen are hidden, if need be all.
            Repository::Virtual(several) => Repository::Virtual(several),
            Repository::Local(_) | Repository::Remote(_) => Repository::Local(Arc::clone(target)),
        }
    }
}

/// Who may see everything.
struct Everything;

impl Sight for Everything {
    fn sees(&self, _: &RepositoryKey, _: &ImageName) -> bool {
        true
    }

    fn sees_some(&self, _: &RepositoryKey) -> bool {
        true
    }
}

/// Images, of those that somebody sees and of others.
#[derive(Debug, Default)]
struct Images {
    seen: Listed<ImageName>,
    hidden: BTreeSet<ImageName>,
}

impl Repository {
    /// What somebody sees of it, asking for this image. `through` is the virtual repository on whose behalf it is asked.
    pub fn view(&self, image: &ImageName, through: Option<&RepositoryKey>, sight: &dyn Sight) -> View {
        if through.is_some_and(|key| sight.sees(key, image)) {
            return self.whole();
        }
        let mut above: Vec<&RepositoryKey> = through.into_iter().collect();
        self.seen(image, &mut above, sight)
    }

    fn seen<'a>(&'a self, image: &ImageName, above: &mut Vec<&'a RepositoryKey>, sight: &dyn Sight) -> View {
        let shows = match self {
            Self::Local(local) => sight.sees(local.key(), image),
            Self::Remote(remote) => {
                // An image of Docker Hub has two names; the longer one is the one that rules are about.
                let canonical = remote.canonical(image);
                sight.sees(remote.key(), &canonical)
                    || canonical != *image && above.iter().any(|key| sight.sees(key, &canonical))
            }
            Self::Virtual(several) if sight.sees(several.key(), image) => true,
            Self::Virtual(several) => return seen_of_members(several, image, above, sight),
        };
        if shows {
            return self.whole();
        }
        View {
            repository: self.clone(),
            shows: false,
            hides: true,
        }
    }

    fn whole(&self) -> View {
        View {
            repository: self.clone(),
            shows: true,
            hides: false,
        }
    }

    /// Whether there may be anything here that they may see.
    pub fn is_seen(&self, sight: &dyn Sight) -> bool {
        sight.sees_some(self.key())
            || match self {
                Self::Local(_) | Self::Remote(_) => false,
                Self::Virtual(several) => several.members().iter().any(|member| member.repository.is_seen(sight)),
            }
    }

    /// All images, sorted. Of a remote, those that something is cached of.
    pub async fn images(&self) -> Result<Listed<ImageName>, Error> {
        self.images_seen(None, &Everything).await
    }

    /// The images that somebody sees, sorted.
    pub async fn images_seen(
        &self,
        through: Option<&RepositoryKey>,
        sight: &dyn Sight,
    ) -> Result<Listed<ImageName>, Error> {
        Ok(self.images_below(through.into_iter().collect(), sight).await?.seen)
    }

    fn images_below<'a>(
        &'a self,
        above: Vec<&'a RepositoryKey>,
        sight: &'a dyn Sight,
    ) -> BoxFuture<'a, Result<Images, Error>> {
        async move {
            let listed = match self {
                Self::Local(local) => local.images().await?,
                Self::Remote(remote) => remote.images().await?,
                Self::Virtual(several) => return Ok(images_of_members(several, &above, sight).await),
            };
            let names = || above.iter().copied().chain([self.key()]);
            let (seen, hidden) = listed
                .entries
                .into_iter()
                .partition::<Vec<_>, _>(|image| names().any(|key| sight.sees(key, image)));
            Ok(Images {
                seen: Listed {
                    entries: seen,
                    warnings: listed.warnings,
                },
                hidden: hidden.into_iter().collect(),
            })
        }
        .boxed()
    }
}

fn seen_of_members<'a>(
    several: &'a Arc<VirtualRepository>,
    image: &ImageName,
    above: &mut Vec<&'a RepositoryKey>,
    sight: &dyn Sight,
) -> View {
    above.push(several.key());
    let (mut shows, mut hides) = (false, false);
    let members: Vec<Member> = several
        .members()
        .iter()
        .map(|member| {
            let view = member.repository.seen(image, above, sight);
            shows |= view.shows;
            hides |= view.hides;
            Member {
                repository: view.repository,
                priority: member.priority,
                hidden: !view.shows,
            }
        })
        .collect();
    above.pop();
    let repository = if hides {
        Arc::new(several.with_members(members))
    } else {
        Arc::clone(several)
    };
    View {
        repository: Repository::Virtual(repository),
        shows,
        hides,
    }
}

async fn images_of_members(several: &VirtualRepository, above: &[&RepositoryKey], sight: &dyn Sight) -> Images {
    let mut above = above.to_vec();
    above.push(several.key());
    let mut seen = BTreeSet::new();
    let mut warnings = Vec::new();
    let mut hidden = BTreeSet::new();
    // What lives hidden in a `priority` member is not in later ones.
    let mut taken = BTreeSet::new();
    for member in several.members() {
        let is_known = above
            .iter()
            .copied()
            .chain([member.repository.key()])
            .any(|key| sight.sees_some(key));
        match member.repository.images_below(above.clone(), sight).await {
            Ok(images) => {
                seen.extend(images.seen.entries.into_iter().filter(|image| !taken.contains(image)));
                if is_known {
                    warnings.extend(images.seen.warnings);
                }
                if member.priority {
                    taken.extend(images.hidden.iter().cloned());
                }
                hidden.extend(images.hidden);
            }
            Err(error) if is_known => {
                warnings.push(Unknown::of(member.repository.key(), &error).to_string());
            }
            Err(_) => {}
        }
    }
    Images {
        seen: Listed {
            entries: seen.into_iter().collect(),
            warnings,
        },
        hidden,
    }
}
