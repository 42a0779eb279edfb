//! Media types of manifests.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A media type without parameters, as it is stored and sent back.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MediaType(Arc<str>);

/// An OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// A Docker image manifest, version 2, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// A Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// All that an upstream is asked for, always all of it: registries answer 404 to a client that does not name the
/// stored type, and what a client of ours names never changes what is stored.
pub const MANIFEST_TYPES: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

impl MediaType {
    /// From a `Content-Type` value or a `mediaType` field: parameters are dropped, case is folded. `None` when it is
    /// not of the form `type/subtype` or longer than RFC 6838 allows.
    pub fn parse(text: &str) -> Option<Self> {
        let essence = text.split(';').next().unwrap_or_default().trim();
        let (kind, subtype) = essence.split_once('/')?;
        let is_name = |name: &str| {
            !name.is_empty()
                && name.len() <= 127
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
        };
        (is_name(kind) && is_name(subtype)).then(|| Self(essence.to_ascii_lowercase().into()))
    }

    /// The media type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is one of the four manifest types of today.
    pub fn is_manifest(&self) -> bool {
        MANIFEST_TYPES.contains(&self.as_str())
    }

    /// Whether it names a list of manifests.
    pub fn is_index(&self) -> bool {
        matches!(self.as_str(), OCI_INDEX | DOCKER_LIST)
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_dropped_and_junk_refused() {
        let parsed = MediaType::parse("application/vnd.oci.image.index.v1+json; charset=utf-8");
        assert_eq!(parsed.as_ref().map(MediaType::as_str), Some(OCI_INDEX));
        assert!(parsed.is_some_and(|media_type| media_type.is_index()));
        for text in ["", "json", "a/b/c", "a/", "/b", "a/b\r\nX: y"] {
            assert!(MediaType::parse(text).is_none(), "{text:?}");
        }
    }
}
