//! Manifests: bytes that are kept as they came, and what they refer to.

mod outline;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;

use super::descriptor::Descriptor;
use super::digest::{Algorithm, Digest};
use super::media_type::{self, MediaType};
use outline::{DEPTH, Outline, scan};

/// A manifest or index as it is stored and served: the bytes are never written anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The document, byte for byte.
    pub bytes: Bytes,
    /// Its media type, decided once.
    pub media_type: MediaType,
    /// The digest of the bytes.
    pub digest: Digest,
}

/// What a manifest says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The configuration of an image.
    pub config: Option<Descriptor>,
    /// The layers of an image.
    pub layers: Vec<Descriptor>,
    /// The manifests of an index.
    pub manifests: Vec<Descriptor>,
    /// The manifest that this one is about.
    pub subject: Option<Descriptor>,
    /// What it is called in the subject's list of referrers: `artifactType`, for an image manifest without one the
    /// media type of its configuration.
    pub artifact_type: Option<String>,
    /// Its annotations.
    pub annotations: Option<BTreeMap<String, String>>,
}

/// The document as written. Unknown fields are allowed, a known field twice is not: serde refuses it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

/// The most manifests that an index which is pushed may list, and the most layers of an image: each is looked up. And the
/// most annotations, of which every reader makes far more than what is pushed.
const CHILDREN: usize = 1000;

/// The most values that a manifest which is pushed may hold, of whatever kind and wherever.
const VALUES: usize = 20_000;

/// Why bytes are not a manifest we keep.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or a field of the wrong type, or a known field twice.
    #[error("the manifest is not valid: {0}")]
    Json(String),
    /// More levels than any manifest has: whoever reads it recursively would run out of stack.
    #[error("the manifest is nested more than {DEPTH} levels deep")]
    TooDeep,
    /// More than we look up for one push.
    #[error("the manifest lists {0} manifests, layers or annotations: {CHILDREN} are the most")]
    TooMany(usize),
    /// More than is worth reading.
    #[error("the manifest holds more than {VALUES} values")]
    TooMuch,
    /// An image and an index in one document: readers would disagree on what it is (CVE-2021-41190).
    #[error("the manifest is ambiguous: it has both `manifests` and `layers` or `config`")]
    Ambiguous,
    /// A field that some readers take for another one: Go reads names without regard to case, and the last one counts.
    #[error("the manifest is ambiguous: some readers take {0:?} for `{1}`")]
    Misspelt(String, &'static str),
    /// The header and the document say different things.
    #[error("the Content-Type is {header} but the manifest's mediaType is {field}")]
    TypeMismatch {
        /// What the header said.
        header: String,
        /// What the document says.
        field: String,
    },
    /// The type says image and the document is an index, or the other way round.
    #[error("the media type {0} does not fit the manifest's fields")]
    ShapeMismatch(MediaType),
    /// No type in the header, none in the document, and none to be told from its shape.
    #[error("the manifest has no media type: set `mediaType` or send a Content-Type")]
    NoType,
    /// Docker's first format, whose digest is not one of its bytes.
    #[error("Docker schema 1 manifests are not supported: the image has to be pushed again by Docker 1.10 or newer")]
    SchemaOne,
}

impl Manifest {
    /// Takes bytes that came with a push: the header counts, and must agree with the document.
    pub fn from_push(
        bytes: Bytes,
        content_type: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<(Self, Contents), ManifestError> {
        let header = match content_type {
            None => None,
            Some(text) => Some(MediaType::parse(text).ok_or(ManifestError::NoType)?),
        };
        // Before anything is made of it: what is short in a document can be large in memory.
        scan(&bytes, VALUES)?;
        let outline = Outline::of(&bytes)?;
        if outline.longest > CHILDREN {
            return Err(ManifestError::TooMany(outline.longest));
        }
        Self::read(bytes, header, algorithm)
    }

    /// Takes bytes that an upstream gave, or a disk without a record of their type: a header that names no manifest type
    /// (`application/json`, `text/plain`) says nothing, one that names another type than the document is a lie.
    pub fn from_elsewhere(
        bytes: Bytes,
        content_type: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<(Self, Contents), ManifestError> {
        let header = content_type.and_then(MediaType::parse).filter(|media_type| {
            media_type.is_manifest()
                || !matches!(
                    media_type.as_str(),
                    "application/json" | "text/plain" | "application/octet-stream"
                )
        });
        Self::of_any_length(bytes, header, algorithm)
    }

    /// Takes bytes that were stored, and the type that was recorded with them. They may have come from an upstream, and
    /// hold more than a push may.
    pub fn from_store(bytes: Bytes, recorded: &str, algorithm: Algorithm) -> Result<(Self, Contents), ManifestError> {
        let media_type = MediaType::parse(recorded).ok_or(ManifestError::NoType)?;
        Self::of_any_length(bytes, Some(media_type), algorithm)
    }

    fn of_any_length(
        bytes: Bytes,
        header: Option<MediaType>,
        algorithm: Algorithm,
    ) -> Result<(Self, Contents), ManifestError> {
        scan(&bytes, usize::MAX)?;
        Outline::of(&bytes)?;
        Self::read(bytes, header, algorithm)
    }

    /// Reads a document whose outline is sound.
    fn read(bytes: Bytes, header: Option<MediaType>, algorithm: Algorithm) -> Result<(Self, Contents), ManifestError> {
        let written: Written =
            serde_json::from_slice(&bytes).map_err(|error| ManifestError::Json(error.to_string()))?;
        if written.schema_version == Some(1) || written.fs_layers.is_some() {
            return Err(ManifestError::SchemaOne);
        }
        let is_index = written.manifests.is_some();
        if is_index && (written.layers.is_some() || written.config.is_some()) {
            return Err(ManifestError::Ambiguous);
        }
        let field = match written.media_type.as_deref() {
            None | Some("") => None,
            Some(text) => Some(MediaType::parse(text).ok_or(ManifestError::NoType)?),
        };
        let media_type = match (header, field) {
            (Some(header), Some(field)) if header != field => {
                return Err(ManifestError::TypeMismatch {
                    header: header.to_string(),
                    field: field.to_string(),
                });
            }
            (Some(media_type), _) | (None, Some(media_type)) => media_type,
            (None, None) => from_shape(&written).ok_or(ManifestError::NoType)?,
        };
        let fits = match media_type.as_str() {
            media_type::OCI_INDEX | media_type::DOCKER_LIST => is_index,
            media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST => !is_index && written.config.is_some(),
            _ => true,
        };
        if !fits {
            return Err(ManifestError::ShapeMismatch(media_type));
        }
        let config_type = written.config.as_ref().map(|config| config.media_type.clone());
        let contents = Contents {
            config: written.config,
            layers: written.layers.or(written.blobs).unwrap_or_default(),
            manifests: written.manifests.unwrap_or_default(),
            subject: written.subject,
            artifact_type: written.artifact_type.filter(|text| !text.is_empty()).or(config_type),
            annotations: written.annotations,
        };
        let digest = Digest::of(algorithm, &bytes);
        Ok((
            Self {
                bytes,
                media_type,
                digest,
            },
            contents,
        ))
    }

    /// What it says, read once more: for one that is stored and was sound when it came.
    pub fn contents(&self) -> Result<Contents, ManifestError> {
        let media_type = Some(self.media_type.clone());
        Self::of_any_length(self.bytes.clone(), media_type, self.digest.algorithm()).map(|(_, contents)| contents)
    }

    /// How long the document is, in bytes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The entry of this manifest in its subject's list of referrers.
    pub fn as_referrer(&self, contents: &Contents) -> Descriptor {
        Descriptor {
            media_type: self.media_type.to_string(),
            digest: self.digest.clone(),
            size: self.size(),
            artifact_type: contents.artifact_type.clone(),
            annotations: contents.annotations.clone(),
            platform: None,
            urls: None,
        }
    }
}

/// The type of a document that does not name one, as image-spec allows.
fn from_shape(written: &Written) -> Option<MediaType> {
    if written.manifests.is_some() {
        MediaType::parse(media_type::OCI_INDEX)
    } else if written.config.is_some() {
        MediaType::parse(media_type::OCI_MANIFEST)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn push(text: &str, content_type: Option<&str>) -> Result<(Manifest, Contents), ManifestError> {
        Manifest::from_push(Bytes::copy_from_slice(text.as_bytes()), content_type, Algorithm::Sha256)
    }

    fn image(extra: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.example+json","digest":"{NOTHING}","size":0}},"layers":null{extra}}}"#
        )
    }

    #[test]
    fn a_manifest_without_a_type_gets_it_from_the_header_or_its_shape() {
        let (manifest, contents) = push(&image(""), None).expect("an image");
        assert_eq!(manifest.media_type.as_str(), media_type::OCI_MANIFEST);
        assert_eq!(contents.artifact_type.as_deref(), Some("application/vnd.example+json"));
        let (manifest, contents) = push(&image(""), Some(media_type::DOCKER_MANIFEST)).expect("an image");
        assert_eq!(manifest.media_type.as_str(), media_type::DOCKER_MANIFEST);
        assert_eq!(manifest.contents(), Ok(contents));
        let (manifest, contents) = push(r#"{"manifests":[]}"#, None).expect("an index");
        assert!(manifest.media_type.is_index());
        assert_eq!(contents.artifact_type, None);
    }

    #[test]
    fn an_ambiguous_or_mismatched_manifest_is_refused() {
        assert_eq!(push(&image(r#","manifests":[]"#), None), Err(ManifestError::Ambiguous));
        assert!(matches!(
            push(
                &image(&format!(r#","mediaType":"{}""#, media_type::OCI_MANIFEST)),
                Some(media_type::DOCKER_MANIFEST)
            ),
            Err(ManifestError::TypeMismatch { .. })
        ));
        assert!(matches!(
            push(&image(""), Some(media_type::OCI_INDEX)),
            Err(ManifestError::ShapeMismatch(_))
        ));
        assert!(matches!(
            push(&image(r#","layers":[]"#), None),
            Err(ManifestError::Json(_))
        ));
        assert_eq!(
            push(r#"{"schemaVersion":1,"fsLayers":[]}"#, None),
            Err(ManifestError::SchemaOne)
        );
        assert_eq!(push("{}", None), Err(ManifestError::NoType));
        for name in [
            "Layers",
            "LAYERS",
            "layer\\u017f",
            "\\u004cayers",
            "Manifests",
            "fslayers",
            "mediatype",
        ] {
            let refused = push(&image(&format!(r#","{name}":null"#)), None);
            assert!(
                matches!(refused, Err(ManifestError::Misspelt(..))),
                "{name}: {refused:?}"
            );
        }
        assert!(push(&image(r#","layers2":[],"Other":1"#), None).is_ok());
        assert!(matches!(push("not json", None), Err(ManifestError::Json(_))));
    }

    #[test]
    fn a_manifest_has_limits_that_no_real_one_meets() {
        let nested = |levels: usize| image(&format!(r#","x":{}{}"#, "[".repeat(levels), "]".repeat(levels)));
        assert!(push(&nested(DEPTH - 1), None).is_ok());
        assert_eq!(push(&nested(DEPTH), None), Err(ManifestError::TooDeep));
        assert_eq!(push(&nested(1_000_000), None), Err(ManifestError::TooDeep));
        assert!(push(&image(&format!(r#","x":"\"{}""#, "[".repeat(100))), None).is_ok());
        let entry = format!(r#"{{"mediaType":"application/vnd.example","digest":"{NOTHING}","size":0}}"#);
        let index = |entries: usize| format!(r#"{{"manifests":[{}]}}"#, vec![entry.as_str(); entries].join(","));
        assert!(push(&index(CHILDREN), None).is_ok());
        assert_eq!(
            push(&index(CHILDREN + 1), None),
            Err(ManifestError::TooMany(CHILDREN + 1))
        );
        let annotations = |number: usize| {
            let all: Vec<String> = (0..number).map(|number| format!(r#""{number}":"""#)).collect();
            all.join(",")
        };
        let annotated = |number: usize| image(&format!(r#","annotations":{{{}}}"#, annotations(number)));
        assert!(push(&annotated(CHILDREN), None).is_ok());
        assert_eq!(
            push(&annotated(CHILDREN + 1), None),
            Err(ManifestError::TooMany(CHILDREN + 1))
        );
        let elsewhere = |number: usize| image(&format!(r#","x":{{"y":{{{}}}}}"#, annotations(number)));
        assert!(push(&elsewhere(VALUES - 10), None).is_ok());
        assert_eq!(push(&elsewhere(VALUES + 1), None), Err(ManifestError::TooMuch));
        assert!(push(&image(&format!(r#","x":"{}""#, ",".repeat(VALUES + 1))), None).is_ok());
        // What an upstream has is not ours to refuse.
        let bytes = Bytes::from(index(CHILDREN + 1));
        assert!(Manifest::from_elsewhere(bytes, None, Algorithm::Sha256).is_ok());
    }

    #[test]
    fn a_header_that_says_nothing_does_not_hide_what_the_document_says() {
        let text = image(&format!(r#","mediaType":"{}""#, media_type::OCI_MANIFEST));
        let bytes = Bytes::from(text);
        for header in ["application/json", "text/plain; charset=utf-8"] {
            let (manifest, _) =
                Manifest::from_elsewhere(bytes.clone(), Some(header), Algorithm::Sha256).expect("a manifest");
            assert_eq!(manifest.media_type.as_str(), media_type::OCI_MANIFEST);
        }
    }
}
