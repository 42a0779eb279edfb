//! What a registry of `registry:2` has kept is taken over into one repository of a store: image `team/app` of it becomes
//! `KEY/team/app`.
//!
//! Each piece is durable before the next speaks of it, as in a push: bytes, links to them, manifests from the leaves up,
//! tags at last. What is there already is passed over. So it can end anywhere and be done again.

mod content;
mod tree;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::history::IMPORT;
use super::layout::{Layout, Place};
use super::{Image, Inner, Store, blocking};
use crate::oci::manifest::Contents;
use crate::oci::{Digest, Manifest, Pattern, RepositoryKey, Tag};
use tree::{Found, Tree};

/// What is to be taken over.
#[derive(Clone, Debug)]
pub struct Importing {
    /// The directory that `registry:2` calls its root: `docker/registry/v2` is below it.
    pub from: PathBuf,
    /// The repository.
    pub into: RepositoryKey,
    /// Whether manifests may come without all that they refer to: a cache gets the rest when it is asked for.
    pub sparse: bool,
    /// Whether tags that mean something else here are made to mean what they mean there.
    pub replace_tags: bool,
    /// Tags that, once they mean something, mean it for ever.
    pub immutable: Arc<[Pattern]>,
    /// The most bytes of blobs that the repository may have.
    pub quota: Option<u64>,
}

/// What was taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Imported {
    /// Images of which anything is here now.
    pub images: u64,
    /// Manifests that came.
    pub manifests: u64,
    /// Tags that came.
    pub tags: u64,
    /// Blobs that are now one file under two names.
    pub linked: u64,
    /// Blobs that were copied.
    pub copied: u64,
    /// The bytes of both.
    pub bytes: u64,
    /// Blobs, manifests and tags that were here already.
    pub present: u64,
    /// Links to blobs that are not there and that no manifest needs.
    pub dangling: u64,
    /// What could not be taken over, and why: a line each.
    pub problems: Vec<String>,
}

impl Imported {
    fn is_nothing(&self) -> bool {
        self.manifests + self.tags + self.linked + self.copied == 0
    }
}

impl Store {
    /// Takes over what is in a directory of `registry:2`. Every byte of it is read.
    pub async fn import(&self, what: Importing) -> Result<Imported, Error> {
        if what.quota.is_some() {
            self.release(&what.into, what.quota);
        }
        let inner = Arc::clone(&self.inner);
        let imported = blocking(move || {
            let theirs = Layout::new(&what.from);
            let (tree, images) = Tree::open(&theirs, &inner)?;
            let mut import = Import {
                inner,
                what: &what,
                tree,
                done: Imported::default(),
            };
            for found in images {
                import.take_over(&found)?;
            }
            import.done.problems.append(&mut import.tree.problems);
            Ok(import.done)
        })
        .await?;
        if !imported.is_nothing() {
            self.reindex().await?;
        }
        Ok(imported)
    }
}

/// One run.
struct Import<'a> {
    inner: Arc<Inner>,
    what: &'a Importing,
    tree: Tree,
    done: Imported,
}

/// A manifest of theirs, and the tags that mean it.
struct Theirs {
    manifest: Manifest,
    contents: Contents,
    tags: Vec<Tag>,
}

impl Import<'_> {
    fn problem(&mut self, image: &str, what: &str) {
        self.done.problems.push(format!("{image}: {what}"));
    }

    fn take_over(&mut self, found: &Found) -> Result<(), Error> {
        let Ok(image) = found.name.parse() else {
            self.problem(&found.name, "is no name that an image can have");
            return Ok(());
        };
        let place = Place {
            repository: self.what.into.clone(),
            image,
        };
        let image = Image::new(Arc::clone(&self.inner), place).with_immutable_tags(Arc::clone(&self.what.immutable));
        let _turn = self.inner.turns.take_now(image.stripe)?;
        let manifests = self.read_manifests(found)?;
        let content = self.content(found, &manifests)?;
        match self.check_room(&image.place, &content) {
            Err(error @ Error::OverQuota { .. }) => {
                self.problem(&found.name, &format!("is left out, with its tags: {error}"));
                return Ok(());
            }
            checked => checked?,
        }
        let here = self.take_over_blobs(found, &image.place, &content)?;
        let count = manifests.len() + here.len();
        self.take_over_manifests(found, &image, manifests, &here)?;
        self.done.images += u64::from(count > 0);
        Ok(())
    }

    /// The manifests of an image, by digest.
    fn read_manifests(&mut self, found: &Found) -> Result<BTreeMap<Digest, Theirs>, Error> {
        let mut manifests = BTreeMap::new();
        for digest in self.tree.revisions(found)? {
            match self.tree.manifest(&digest)? {
                Ok((manifest, contents)) => {
                    let tags = Vec::new();
                    manifests.insert(
                        digest,
                        Theirs {
                            manifest,
                            contents,
                            tags,
                        },
                    );
                }
                Err(why) => self.problem(&found.name, &format!("the manifest {digest} {why}")),
            }
        }
        for (tag, digest) in self.tree.tags(found)? {
            match manifests.get_mut(&digest) {
                Some(theirs) => theirs.tags.push(tag),
                None => self.problem(
                    &found.name,
                    &format!("the tag `{tag}` means {digest}, which cannot be had"),
                ),
            }
        }
        Ok(manifests)
    }

    /// From the leaves up: an index comes after what it lists.
    fn take_over_manifests(
        &mut self,
        found: &Found,
        image: &Image,
        mut waiting: BTreeMap<Digest, Theirs>,
        blobs: &HashSet<Digest>,
    ) -> Result<(), Error> {
        loop {
            let mut ready = Vec::new();
            for (digest, theirs) in &waiting {
                if self.missing(image, &theirs.contents, blobs)?.is_none() {
                    ready.push(digest.clone());
                }
            }
            if ready.is_empty() {
                break;
            }
            for digest in ready {
                if let Some(theirs) = waiting.remove(&digest) {
                    self.take_over_manifest(found, image, &theirs)?;
                }
            }
        }
        for (digest, theirs) in waiting {
            if let Some(missing) = self.missing(image, &theirs.contents, blobs)? {
                let why = format!(
                    "the manifest {digest} is left out, with its tags: it refers to {missing}, which cannot be had"
                );
                self.problem(&found.name, &why);
            }
        }
        Ok(())
    }

    /// Something that a manifest refers to and that is not here.
    fn missing(&self, image: &Image, contents: &Contents, blobs: &HashSet<Digest>) -> Result<Option<Digest>, Error> {
        if self.what.sparse {
            return Ok(None);
        }
        if let Some(missing) = blobs_of(contents).find(|digest| !blobs.contains(digest)) {
            return Ok(Some(missing.clone()));
        }
        for child in &contents.manifests {
            if self.inner.records.manifest(&image.place, &child.digest)?.is_none() {
                return Ok(Some(child.digest.clone()));
            }
        }
        Ok(None)
    }

    fn take_over_manifest(&mut self, found: &Found, image: &Image, theirs: &Theirs) -> Result<(), Error> {
        let (records, place) = (&self.inner.records, &image.place);
        let digest = &theirs.manifest.digest;
        let mut tags = Vec::new();
        let mut problems = Vec::new();
        for tag in &theirs.tags {
            match records.tag(place, tag)? {
                Some(current) if current == *digest => self.done.present += 1,
                Some(current) if !self.what.replace_tags => problems.push(format!(
                    "the tag `{tag}` stays: here it means {current}, there {digest}; `--replace-tags` lets it mean that"
                )),
                _ => match image.check_movable(std::slice::from_ref(tag), Some(digest)) {
                    Err(error @ (Error::Pinned(_) | Error::Immutable(_))) => problems.push(error.to_string()),
                    checked => {
                        checked?;
                        tags.push(tag.clone());
                    }
                },
            }
        }
        let is_here = records.manifest(place, digest)?.is_some();
        if !is_here || !tags.is_empty() {
            records.put_tagged(place, &theirs.manifest, &tags, IMPORT, None)?;
        }
        self.done.manifests += u64::from(!is_here);
        self.done.present += u64::from(is_here);
        self.done.tags += tags.len() as u64;
        for problem in problems {
            self.problem(&found.name, &problem);
        }
        Ok(())
    }
}

/// The blobs that have to be here with a manifest.
fn blobs_of(contents: &Contents) -> impl Iterator<Item = &Digest> {
    let blobs = contents.config.iter().chain(&contents.layers);
    blobs
        .filter(|descriptor| !descriptor.may_be_absent())
        .map(|descriptor| &descriptor.digest)
}
