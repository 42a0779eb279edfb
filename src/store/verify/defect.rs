//! What can be wrong with a store, each with a name.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::oci::{Digest, Tag};

/// A kind of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Defect {
    /// As many bytes as there should be, or nobody knows how many, and others.
    BlobWrongBytes,
    /// Fewer than a manifest says.
    BlobTruncated,
    /// None at all.
    BlobEmpty,
    /// More than a manifest says.
    BlobLonger,
    /// A directory, or something else that holds no bytes, in the place of a blob.
    BlobNotAFile,
    /// A blob in the directory of another prefix, where nobody looks.
    BlobMisplaced,
    /// What belongs to nothing that is kept here.
    ForeignFile,
    /// What is behind it cannot be told from what is ours.
    SymbolicLink,
    /// The disk does not give it out.
    Unreadable,
    /// Its owner may not read it.
    Permissions,
    /// A link without a byte.
    LinkEmpty,
    /// A link that holds no digest.
    LinkGarbage,
    /// A link that holds another digest than the one that it lies under.
    LinkOtherDigest,
    /// A directory in the place of a link.
    LinkNotAFile,
    /// A blob of an image that is not stored.
    LayerDangling,
    /// A manifest of an image that is not stored.
    RevisionDangling,
    /// A tag without a byte.
    TagEmpty,
    /// A tag that means no digest.
    TagGarbage,
    /// A tag that means what is no manifest of its image.
    TagDangling,
    /// A tag that does not say what it means: what is left of one that was deleted, or lost.
    TagLeftOver,
    /// A tag whose name can be no tag's.
    TagNoName,
    /// It is not written down beside it what a tag means.
    TagMeaningMissing,
    /// What a tag has meant cannot be read.
    TagHistoryGarbage,
    /// The note of a manifest's type does not fit it, or is missing.
    ManifestTypeWrong,
    /// The bytes are those that were stored, and no manifest.
    ManifestUnreadable,
    /// Readers would disagree on what it says.
    ManifestAmbiguous,
    /// A manifest needs a blob that is stored and that its image may not read.
    ManifestLayerUnlinked,
    /// A manifest needs a blob that is not stored.
    ManifestLayerMissing,
    /// A manifest says that a blob has another size.
    ManifestLayerSize,
    /// An index lists a manifest that its image does not have.
    ManifestChildMissing,
    /// What was taken away is not what its name says.
    TrashWrongBytes,
    /// A note that does not name images.
    TrashNoteGarbage,
    /// Bytes on their way that nobody can go on with.
    SpoolLeftOver,
    /// An upload that nobody can go on with.
    UploadLeftOver,
    /// Records below a name that nobody can ask for.
    NameUnreachable,
}

impl Defect {
    /// Its name.
    pub fn name(self) -> String {
        let name = serde_json::to_value(self).unwrap_or_default();
        name.as_str().unwrap_or_default().to_owned()
    }

    /// Whether nothing is lost or in danger by it: a crash leaves such things behind.
    pub const fn is_notice(self) -> bool {
        matches!(
            self,
            Self::TagLeftOver | Self::SpoolLeftOver | Self::UploadLeftOver | Self::NameUnreachable
        )
    }

    /// Whether it is about content, which a scrub may put aside without being asked to.
    pub(super) const fn is_of_content(self) -> bool {
        matches!(
            self,
            Self::BlobWrongBytes
                | Self::BlobTruncated
                | Self::BlobEmpty
                | Self::BlobLonger
                | Self::TrashWrongBytes
                | Self::LayerDangling
                | Self::RevisionDangling
        )
    }
}

/// What can be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mend {
    /// Nothing.
    Leave,
    /// It goes where nobody looks, and nothing of it is lost.
    PutAside,
    /// The owner may read it again.
    Permit,
    /// The bytes are right and go where they belong.
    Move(Digest),
    /// The link says again what it lies under.
    Link(Digest),
    /// The manifest is in the image again.
    Revision(Digest),
    /// The blob may be read in the image again.
    LinkLayer(Digest),
    /// The bytes come back from the trash.
    PutBack(Digest),
    /// The blob is not of the image any more; it will be fetched, or pushed, again.
    Unlink(Digest),
    /// The same for a manifest, and the tags that mean it.
    ForgetManifest(Digest),
    /// The tag is asked for again.
    ForgetTag(Tag),
    /// The tag means again what it was last known to.
    SetTag(Tag, Digest),
    /// The note of the manifest's type is put aside: the document says it.
    Untype(Digest),
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) defect: Defect,
    pub(super) path: PathBuf,
    pub(super) detail: String,
    pub(super) mend: Mend,
}

impl Problem {
    pub(super) fn new(defect: Defect, path: impl Into<PathBuf>, mend: Mend) -> Self {
        Self {
            defect,
            path: path.into(),
            detail: String::new(),
            mend,
        }
    }

    pub(super) fn because(mut self, detail: &dyn fmt::Display) -> Self {
        self.detail = detail.to_string();
        self
    }
}
