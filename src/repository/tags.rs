//! What can be done with a tag besides pulling and pushing it: its history, pins, and putting it back.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Error, LocalRepository, RemoteRepository, Repository};
use crate::oci::{Answer, Digest, ErrorCode, ImageName, Reference, Refusal, RepositoryKey, Tag};
use crate::store::history::{PIN, ROLLBACK};
use crate::store::{Meaning, TagRecord};

/// A tag, as one repository knows it.
#[derive(Clone, Debug)]
pub struct TagHistory {
    /// The local or remote repository.
    pub repository: RepositoryKey,
    /// The image, by the name that it has there.
    pub image: ImageName,
    /// What the tag means.
    pub record: TagRecord,
    /// What it has meant, the latest first.
    pub meanings: Vec<Meaning>,
    /// For how long a move upstream is not followed there.
    pub hold: Duration,
}

/// A tag that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagChange {
    /// The local or remote repository.
    pub repository: RepositoryKey,
    /// What the tag means now.
    pub digest: Digest,
    /// Whether it means that until it is unpinned.
    pub pinned: bool,
}

/// A repository in which tags are kept.
#[derive(Clone, Debug)]
enum Keeper {
    Local(Arc<LocalRepository>),
    Remote(Arc<RemoteRepository>),
}

impl Keeper {
    fn key(&self) -> &RepositoryKey {
        match self {
            Self::Local(local) => local.key(),
            Self::Remote(remote) => remote.key(),
        }
    }

    async fn history(&self, image: &ImageName, tag: &Tag) -> Answer<TagHistory, Error> {
        match self {
            Self::Local(local) => local.history(image, tag).await,
            Self::Remote(remote) => remote.history(image, tag).await,
        }
    }

    async fn pin(&self, image: &ImageName, tag: &Tag, to: Option<&Digest>) -> Answer<TagChange, Error> {
        let digest = match self {
            Self::Local(local) => local.pin(image, tag, to).await?,
            Self::Remote(remote) => remote.pin(image, tag, to, PIN).await?,
        };
        Ok(digest.map(|digest| self.changed(digest, true)))
    }

    async fn roll_back(&self, image: &ImageName, tag: &Tag, to: &Digest) -> Answer<TagChange, Error> {
        match self {
            Self::Local(local) => {
                let is_back = local.put_back(image, tag, to).await?;
                Ok(is_back.then(|| self.changed(to.clone(), false)))
            }
            // Upstream would move it on at once.
            Self::Remote(remote) => {
                let digest = remote.pin(image, tag, Some(to), ROLLBACK).await?;
                Ok(digest.map(|digest| self.changed(digest, true)))
            }
        }
    }

    fn changed(&self, digest: Digest, pinned: bool) -> TagChange {
        TagChange {
            repository: self.key().clone(),
            digest,
            pinned,
        }
    }
}

/// The local and remote repositories behind a name, in order.
fn keepers(repository: &Repository) -> Vec<Keeper> {
    match repository {
        Repository::Local(local) => vec![Keeper::Local(Arc::clone(local))],
        Repository::Remote(remote) => vec![Keeper::Remote(Arc::clone(remote))],
        Repository::Virtual(several) => several.shown().flat_map(|member| keepers(&member.repository)).collect(),
    }
}

impl Repository {
    /// What a tag has meant, in the first repository behind this name that has it. Nobody is asked.
    pub async fn tag_history(&self, image: &ImageName, tag: &Tag) -> Answer<TagHistory, Error> {
        for keeper in keepers(self) {
            if let Some(history) = keeper.history(image, tag).await? {
                return Ok(Some(history));
            }
        }
        Ok(None)
    }

    /// Lets a tag mean this, or what it means now, until it is unpinned: in the repository that answers for it.
    pub async fn pin_tag(&self, image: &ImageName, tag: &Tag, to: Option<&Digest>) -> Result<TagChange, Error> {
        let keeper = self.keeper(image, tag).await?;
        let pinned = keeper.pin(image, tag, to).await?;
        pinned.ok_or_else(|| {
            let message = match to {
                Some(to) => format!(
                    "`{}` has no manifest {to} of {image}, and its upstream neither",
                    keeper.key()
                ),
                None => format!("`{}` has no tag {tag} of {image}", keeper.key()),
            };
            Refusal::new(ErrorCode::ManifestUnknown, message).into()
        })
    }

    /// Lets a tag follow again what is pushed, or what upstream says.
    pub async fn unpin_tag(&self, image: &ImageName, tag: &Tag) -> Result<TagChange, Error> {
        for keeper in keepers(self) {
            let Some(history) = keeper.history(image, tag).await? else {
                continue;
            };
            let was_pinned = match &keeper {
                Keeper::Local(local) => local.unpin(image, tag).await?,
                Keeper::Remote(remote) => remote.unpin(image, tag).await?,
            };
            if was_pinned {
                return Ok(keeper.changed(history.record.digest, false));
            }
        }
        let message = format!("the tag {tag} of {image} is not pinned in `{}`", self.key());
        Err(Refusal::new(ErrorCode::ManifestUnknown, message).into())
    }

    /// Lets a tag mean again what it meant before, or an earlier meaning of its history. Where an upstream would move
    /// it on it is pinned there.
    pub async fn roll_back_tag(&self, image: &ImageName, tag: &Tag, to: Option<&Digest>) -> Result<TagChange, Error> {
        let refused = |message: String| Error::from(Refusal::new(ErrorCode::ManifestUnknown, message));
        let Some(history) = self.tag_history(image, tag).await? else {
            return Err(refused(format!("`{}` has no tag {tag} of {image}", self.key())));
        };
        let earlier = |meaning: &&Meaning| match to {
            Some(to) => meaning.digest == *to,
            None => meaning.digest != history.record.digest,
        };
        let Some(back) = history.meanings.iter().find(earlier) else {
            return Err(refused(match to {
                Some(to) => format!("{tag} of {image} has never meant {to} here; `tags pin --to` takes any digest"),
                None => format!("{tag} of {image} has meant nothing else here"),
            }));
        };
        let keeper = keepers(self)
            .into_iter()
            .find(|keeper| *keeper.key() == history.repository);
        let keeper = keeper.ok_or_else(|| refused(format!("`{}` is gone", history.repository)))?;
        let changed = keeper.roll_back(image, tag, &back.digest).await?;
        changed.ok_or_else(|| refused(format!("{} is not there any more: {tag} stays as it is", back.digest)))
    }

    /// The repository that answers for a tag now.
    async fn keeper(&self, image: &ImageName, tag: &Tag) -> Result<Keeper, Error> {
        let mut keepers = keepers(self);
        if keepers.len() != 1 {
            let served = self.manifest(image, &Reference::Tag(tag.clone())).await?;
            let by = served.map(|served| served.by);
            keepers.retain(|keeper| Some(keeper.key()) == by.as_ref());
        }
        keepers.into_iter().next().ok_or_else(|| {
            let message = format!("`{}` has no tag {tag} of {image}", self.key());
            Refusal::new(ErrorCode::ManifestUnknown, message).into()
        })
    }
}

impl LocalRepository {
    async fn history(&self, image: &ImageName, tag: &Tag) -> Answer<TagHistory, Error> {
        let stored = self.image(image);
        let Some(record) = stored.tag(tag).await? else {
            return Ok(None);
        };
        Ok(Some(TagHistory {
            repository: self.key().clone(),
            image: image.clone(),
            record,
            meanings: stored.history(tag).await?,
            hold: Duration::ZERO,
        }))
    }

    async fn pin(&self, image: &ImageName, tag: &Tag, to: Option<&Digest>) -> Answer<Digest, Error> {
        let stored = self.image(image);
        let Some(record) = stored.tag(tag).await? else {
            return Ok(None);
        };
        let digest = to.unwrap_or(&record.digest);
        Ok(stored.pin(tag, digest, PIN).await?.then(|| digest.clone()))
    }

    async fn unpin(&self, image: &ImageName, tag: &Tag) -> Result<bool, Error> {
        Ok(self.image(image).unpin(tag).await?)
    }

    async fn put_back(&self, image: &ImageName, tag: &Tag, to: &Digest) -> Result<bool, Error> {
        Ok(self.image(image).put_back(tag, to).await?)
    }
}

impl TagHistory {
    /// When the tag will follow what it has moved to upstream.
    pub fn follows(&self) -> Option<SystemTime> {
        self.record.moves.first()?.seen.checked_add(self.hold)
    }
}
