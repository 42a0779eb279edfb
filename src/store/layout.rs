//! Every path on disk. Nothing else in the room puts one together.
//!
//! ```text
//! <path>
//! ├── docker/registry/v2                        registry:2's own tree: the truth
//! │   ├── entrepot-session                      ours: which session of ours was the last to change it
//! │   ├── blobs/<alg>/<2 hex>/<hex>/data        the bytes of blobs and manifests
//! │   └── repositories/<key>/<image…>
//! │       ├── _layers/<alg>/<hex>/link          this blob may be read in this image
//! │       └── _manifests
//! │           ├── revisions/<alg>/<hex>/link    this manifest is in this image
//! │           │                     media-type  ours: its type, where the document does not say it
//! │           │                     untagged    ours: since when no tag leads to it
//! │           └── tags/<tag>/current/link       what the tag means
//! │                         /index/<alg>/<hex>/link   what it has meant
//! │                         /history          ours: since when and who said so, and whether it is pinned
//! ├── spool/                                    bytes that are not verified yet; at start all but these are removed:
//! │   └── <alg>-<hex>.{part,note}               a blob that came in part, and how far it is known to be right
//! ├── private/{signing-key,robots.json}         what nobody else reads: what signs our tokens, and who the robots are
//! ├── uploads/<id>/{data,state.json}            push sessions
//! ├── trash/<alg>-<hex>{,.images}               what nothing needed, and can still be taken back
//! ├── quarantine/<when>/<path>                  what was damaged, where it was: put aside by `entrepot verify --repair`
//! ├── reclaim.json                              what may go, and since when: written when the store is closed
//! ├── index/{session,sled/}                     what can be rebuilt from the rest
//! ├── index.stamp                               that the index was closed cleanly, and what was in it
//! ├── format                                    which version of this tree it is
//! └── lock                                      held by the process that has the store open
//! ```
//!
//! A `link` holds a digest as text, `sha256:…`, without a line end. The names of images nest, and one may be a prefix
//! of another; since no component of a name begins with `_`, none can be taken for `_manifests` or `_layers`.
//!
//! Names come typed, so none of them can leave the tree: the grammars have no empty component, no `.`, no `..`.

use std::path::{Path, PathBuf};

use super::documents::Document;
use crate::oci::operation::UploadId;
use crate::oci::{Digest, ImageName, RepositoryKey, Tag};

/// An image of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    /// The repository.
    pub(super) repository: RepositoryKey,
    /// The image in it.
    pub(super) image: ImageName,
}

/// The paths below one root.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
    registry: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            registry: root.join("docker/registry/v2"),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.registry.join("blobs")
    }

    /// In the tree that it speaks of: another tree in its place has another one, or none.
    pub(super) fn session(&self) -> PathBuf {
        self.registry.join("entrepot-session")
    }

    /// The bytes of a blob.
    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let mut path = self.blobs();
        path.extend([digest.algorithm().as_str(), &hex[..2], hex, "data"]);
        path
    }

    pub(super) fn repositories(&self) -> PathBuf {
        self.registry.join("repositories")
    }

    pub(super) fn image(&self, place: &Place) -> PathBuf {
        let mut path = self.repositories();
        path.push(place.repository.as_str());
        path.extend(place.image.components());
        path
    }

    /// `<hex>` below it, by algorithm, each with a link.
    pub(super) fn layers(&self, place: &Place) -> PathBuf {
        self.image(place).join("_layers")
    }

    pub(super) fn layer(&self, place: &Place, digest: &Digest) -> PathBuf {
        linked(self.layers(place), digest)
    }

    /// `<hex>` below it, by algorithm, each with a link.
    pub(super) fn revisions(&self, place: &Place) -> PathBuf {
        self.image(place).join("_manifests/revisions")
    }

    pub(super) fn revision(&self, place: &Place, digest: &Digest) -> PathBuf {
        linked(self.revisions(place), digest)
    }

    /// Beside the revision's link: the type of a manifest that does not say it itself. registry:2 does not look at it.
    pub(super) fn media_type(&self, place: &Place, digest: &Digest) -> PathBuf {
        self.revision(place, digest).with_file_name("media-type")
    }

    /// Beside the revision's link: since when no tag leads to it, as far as a rule has asked.
    pub(super) fn untagged(&self, place: &Place, digest: &Digest) -> PathBuf {
        self.revision(place, digest).with_file_name("untagged")
    }

    pub(super) fn tags(&self, place: &Place) -> PathBuf {
        self.image(place).join("_manifests/tags")
    }

    /// All that is kept of one tag.
    pub(super) fn tag(&self, place: &Place, tag: &Tag) -> PathBuf {
        self.tags(place).join(tag.as_str())
    }

    /// What the tag means.
    pub(super) fn current(&self, place: &Place, tag: &Tag) -> PathBuf {
        self.tag(place, tag).join("current/link")
    }

    /// That the tag means, or has meant, this.
    pub(super) fn meaning(&self, place: &Place, tag: &Tag, digest: &Digest) -> PathBuf {
        linked(self.tag(place, tag).join("index"), digest)
    }

    /// Beside them: what registry:2 does not note of a tag. It does not look at it, and a tag that goes takes it along.
    pub(super) fn history(&self, place: &Place, tag: &Tag) -> PathBuf {
        self.tag(place, tag).join("history")
    }

    pub(super) fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    pub(super) fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    pub(super) fn upload(&self, id: UploadId) -> PathBuf {
        self.uploads().join(id.to_string())
    }

    pub(super) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    /// What was put aside: nobody looks there.
    pub(super) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    pub(super) fn sightings(&self) -> PathBuf {
        self.root.join("reclaim.json")
    }

    pub(super) fn documents(&self) -> PathBuf {
        self.root.join("private")
    }

    pub(super) fn document(&self, which: Document) -> PathBuf {
        self.documents().join(which.file_name())
    }

    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    pub(super) fn index_stamp(&self) -> PathBuf {
        self.root.join("index.stamp")
    }

    pub(super) fn format(&self) -> PathBuf {
        self.root.join("format")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }
}

/// The link of a digest below a directory of links.
pub(super) fn linked(mut path: PathBuf, digest: &Digest) -> PathBuf {
    path.extend([digest.algorithm().as_str(), digest.hex(), "link"]);
    path
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn the_tree_is_that_of_registry_2() {
        let layout = Layout::new(Path::new("/r"));
        let place = Place {
            repository: "docker-local".parse().unwrap(),
            image: "team/app".parse().unwrap(),
        };
        let digest = Digest::of(Algorithm::Sha256, b"");
        let tag: Tag = "v1".parse().unwrap();
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let image = "/r/docker/registry/v2/repositories/docker-local/team/app";
        for (path, expected) in [
            (
                layout.blob(&digest),
                format!("/r/docker/registry/v2/blobs/sha256/e3/{hex}/data"),
            ),
            (
                layout.layer(&place, &digest),
                format!("{image}/_layers/sha256/{hex}/link"),
            ),
            (
                layout.revision(&place, &digest),
                format!("{image}/_manifests/revisions/sha256/{hex}/link"),
            ),
            (
                layout.media_type(&place, &digest),
                format!("{image}/_manifests/revisions/sha256/{hex}/media-type"),
            ),
            (
                layout.current(&place, &tag),
                format!("{image}/_manifests/tags/v1/current/link"),
            ),
            (
                layout.meaning(&place, &tag, &digest),
                format!("{image}/_manifests/tags/v1/index/sha256/{hex}/link"),
            ),
            (
                layout.history(&place, &tag),
                format!("{image}/_manifests/tags/v1/history"),
            ),
        ] {
            assert_eq!(path, Path::new(&expected));
        }
    }

    proptest! {
        /// Whatever passes as a name, no path made of it steps out of the root or onto a directory of another kind.
        #[test]
        fn no_path_leaves_the_root(
            key in r"[a-z0-9._/\\-]{1,12}|\.\.", image in r"[a-z0-9._/-]{1,16}|(\.\./)+[a-z]", tag in r"[\PC]{1,8}|\.\.|[a-z._-]{1,6}"
        ) {
            let layout = Layout::new(Path::new("/r"));
            let digest = Digest::of(Algorithm::Sha512, b"");
            if let (Ok(repository), Ok(image), Ok(tag)) = (key.parse(), image.parse(), tag.parse::<Tag>()) {
                let place = Place { repository, image };
                let images = layout.repositories().components().count();
                for path in [
                    layout.layer(&place, &digest),
                    layout.media_type(&place, &digest),
                    layout.current(&place, &tag),
                    layout.meaning(&place, &tag, &digest),
                    layout.history(&place, &tag),
                ] {
                    prop_assert!(path.starts_with(layout.repositories()));
                    prop_assert!(path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_))));
                    let own = path.components().skip(images).position(|c| c.as_os_str().as_encoded_bytes()[0] == b'_');
                    prop_assert_eq!(own, Some(1 + place.image.components().count()));
                }
                prop_assert!(!layout.image(&place).as_os_str().as_encoded_bytes().contains(&b'_')
                    || layout.image(&place).components().all(|c| c.as_os_str().as_encoded_bytes()[0] != b'_'));
            }
        }
    }
}
