//! Descriptors: what one document says about another piece of content.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::platform::Platform;

/// An entry of a manifest, of an index or of a list of referrers; image-spec `descriptor.md`.
///
/// Unknown fields are dropped: this is what we read out of documents, never what we send in their place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The type of the content.
    #[serde(default)]
    pub media_type: String,
    /// The digest of the content.
    pub digest: Digest,
    /// Its length, in bytes.
    pub size: u64,
    /// What kind of artifact it is, in lists of referrers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Its annotations, in lists of referrers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// What it is made for, in an index.
    #[serde(default, skip_serializing)]
    pub platform: Option<Platform>,
    /// Where else it lies: read so that foreign layers are known, never fetched and never sent on.
    #[serde(default, skip_serializing)]
    pub urls: Option<Vec<String>>,
}

impl Descriptor {
    /// Whether a registry may be without this layer: it lies elsewhere, or must not be distributed.
    pub fn may_be_absent(&self) -> bool {
        self.urls.as_ref().is_some_and(|urls| !urls.is_empty())
            || self.media_type.contains(".nondistributable.")
            || self.media_type.contains(".foreign.")
    }
}
