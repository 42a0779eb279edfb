//! What belongs to images on a server: manifests, blobs, and what is about them. Only the manifests are asked for, and none
//! is kept: what is written down is fetched then, piece by piece.

use std::collections::HashSet;

use super::names::{is_about, tags_about};
use super::progress::Progress;
use super::registry::{Found, Registry};
use crate::oci::{Digest, ImageName, Reference};

/// More manifests than anybody has asked for.
const MOST: usize = 100_000;

/// An image that is wanted.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Wanted {
    /// With its repository in front.
    pub(in crate::cli) name: ImageName,
    /// The tag or digest.
    pub(in crate::cli) reference: Reference,
}

/// Something to fetch and to write down.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Where it is asked for.
    pub(super) name: ImageName,
    pub(super) is_manifest: bool,
}

/// An entry of the list.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// `docker/team/app:v1`; none for what is only found by its subject.
    pub(super) name: Option<String>,
    pub(super) artifact_type: Option<String>,
    /// Whether it is here because of another.
    pub(super) is_about: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub(in crate::cli) struct Gathered {
    pub(super) entries: Vec<Entry>,
    pub(super) pieces: Vec<Piece>,
    /// What could not be told: a line each.
    pub(in crate::cli) problems: Vec<String>,
    /// What the server has to say of what it gave: a line each.
    pub(in crate::cli) warnings: Vec<String>,
    /// Blobs that lie elsewhere, as their manifests say, and that the server does not have.
    pub(in crate::cli) elsewhere: u64,
    seen: HashSet<(ImageName, Digest)>,
    written: HashSet<Digest>,
    listed: HashSet<(Digest, Option<String>)>,
}

/// A manifest that is still to be looked at.
enum Open {
    /// One that has to be there, because this one lists it; whether that is only about an image.
    Child(Digest, Digest, bool),
    /// One that is about another.
    About(Digest, Option<String>),
}

impl Gathered {
    /// The bytes of all pieces.
    pub(super) fn size(&self) -> u64 {
        self.pieces
            .iter()
            .fold(0, |size, piece| size.saturating_add(piece.size))
    }

    /// How many of them are manifests, and how many are not.
    pub(in crate::cli) fn count(&self) -> (usize, usize) {
        let manifests = self.pieces.iter().filter(|piece| piece.is_manifest).count();
        (manifests, self.pieces.len() - manifests)
    }

    /// Takes in an image; unless it is `bare`, with what is about it, and what is about that.
    pub(in crate::cli) async fn add(
        &mut self,
        registry: &Registry,
        wanted: &Wanted,
        bare: bool,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let Wanted { name, reference } = wanted;
        let shown = format!("{name}{}{reference}", reference.separator());
        let Some(found) = registry.manifest(name, reference).await? else {
            anyhow::bail!("the server has no {shown}");
        };
        self.warnings
            .extend(found.warning.as_ref().map(|warning| format!("{shown}: {warning}")));
        let is_about = matches!(reference, Reference::Tag(tag) if is_about(tag));
        self.list(&found, Some(shown.clone()), is_about);
        let mut open = Vec::new();
        self.take(registry, name, found, (bare, false), &mut open).await?;
        while let Some(next) = open.pop() {
            let (Open::Child(digest, ..) | Open::About(digest, _)) = &next;
            let is_known = self.seen.contains(&(name.clone(), digest.clone()));
            if is_known && matches!(next, Open::Child(..)) {
                continue;
            }
            let found = match registry.manifest(name, &Reference::Digest(digest.clone())).await {
                Err(error) if !matches!(next, Open::Child(_, _, false)) => {
                    self.problems.push(format!("{error:#}"));
                    continue;
                }
                found => found?,
            };
            match (found, next) {
                (Some(found), Open::Child(_, _, is_about)) => {
                    self.take(registry, name, found, (bare, is_about), &mut open).await?;
                }
                (Some(found), Open::About(_, called)) => {
                    self.list(&found, called, true);
                    self.take(registry, name, found, (bare, true), &mut open).await?;
                }
                (None, Open::Child(digest, parent, true)) => {
                    self.problems.push(format!(
                        "{name}@{parent}, which is about the image, lists {digest}, which is not there"
                    ));
                }
                (None, Open::Child(digest, parent, false)) => {
                    anyhow::bail!("{name}@{parent} lists {digest}, which the server does not have")
                }
                // A list may name what has been deleted.
                (None, Open::About(digest, _)) => {
                    self.problems
                        .push(format!("{name}: {digest} is listed as a referrer, and is not there"));
                }
            }
            progress.say(&format!("{name}: {} manifests and blobs", self.pieces.len()));
        }
        progress.tell(&shown);
        Ok(())
    }

    fn list(&mut self, found: &Found, name: Option<String>, is_about: bool) {
        let Found { manifest, contents, .. } = found;
        if self.listed.insert((manifest.digest.clone(), name.clone())) {
            self.entries.push(Entry {
                media_type: manifest.media_type.to_string(),
                digest: manifest.digest.clone(),
                size: manifest.size(),
                artifact_type: name.is_none().then(|| contents.artifact_type.clone()).flatten(),
                name,
                is_about,
            });
        }
    }

    /// Notes a manifest and its blobs, and what else there is to look at because of it.
    async fn take(
        &mut self,
        registry: &Registry,
        name: &ImageName,
        Found { manifest, contents, .. }: Found,
        (bare, is_about): (bool, bool),
        open: &mut Vec<Open>,
    ) -> anyhow::Result<()> {
        let digest = &manifest.digest;
        if !self.seen.insert((name.clone(), digest.clone())) {
            return Ok(());
        }
        if self.seen.len() > MOST {
            anyhow::bail!("{name} leads to more than {MOST} manifests");
        }
        self.piece(digest, manifest.size(), name, true);
        for blob in contents.config.iter().chain(&contents.layers) {
            if blob.may_be_absent()
                && !self.written.contains(&blob.digest)
                && !registry.has_blob(name, &blob.digest).await?
            {
                self.elsewhere += 1;
                continue;
            }
            self.piece(&blob.digest, blob.size, name, false);
        }
        let children = contents.manifests.into_iter().rev();
        open.extend(children.map(|child| Open::Child(child.digest, digest.clone(), is_about)));
        if !bare {
            self.look_about(registry, name, digest, open).await;
        }
        Ok(())
    }

    /// Finds what is about a manifest. What cannot be told is a problem, and no reason to write nothing.
    async fn look_about(&mut self, registry: &Registry, name: &ImageName, digest: &Digest, open: &mut Vec<Open>) {
        match registry.referrers(name, digest).await {
            Ok(referrers) => {
                open.extend(referrers.digests.into_iter().map(|digest| Open::About(digest, None)));
                let warning = referrers
                    .warning
                    .map(|warning| format!("{name}: what refers to {digest} may not be all there is: {warning}"));
                self.problems.extend(warning);
            }
            Err(error) => self.problems.push(format!("{error:#}")),
        }
        for tag in tags_about(digest) {
            let called = format!("{name}:{tag}");
            match registry.meaning(name, &Reference::Tag(tag)).await {
                Ok(Some(digest)) => open.push(Open::About(digest, Some(called))),
                Ok(None) => {}
                Err(error) => self
                    .problems
                    .push(format!("whether there is a signature cannot be told: {error:#}")),
            }
        }
    }

    fn piece(&mut self, digest: &Digest, size: u64, name: &ImageName, is_manifest: bool) {
        if self.written.insert(digest.clone()) {
            self.pieces.push(Piece {
                digest: digest.clone(),
                size,
                name: name.clone(),
                is_manifest,
            });
        }
    }
}
