//! The whole distribution API as one enum, and the one function that reads it out of a request line.
//!
//! `/v2/{name…}/blobs/{digest}` has the variable part in the middle and of any depth, so paths are read from their end.
//! Names are decoded once, here, and are typed afterwards; what decodes to a separator is refused before any routing.

use std::borrow::Cow;

use super::digest::{Algorithm, Digest};
use super::error_code::{ErrorCode, Refusal};
use super::name::{ImageName, RepositoryKey};
use super::page::{MAX_PAGE, Page};
use super::reference::{Reference, Tag};

/// One operation of the distribution API. `name` is as the client wrote it: a repository key may come first in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the variants and their fields are the specification's own words"
)]
pub enum Operation {
    CheckVersion,
    Catalog {
        page: Page,
    },
    PullManifest {
        name: ImageName,
        reference: Reference,
    },
    PushManifest {
        name: ImageName,
        reference: Reference,
        tags: Vec<Tag>,
    },
    DeleteManifest {
        name: ImageName,
        reference: Reference,
    },
    PullBlob {
        name: ImageName,
        digest: Digest,
    },
    DeleteBlob {
        name: ImageName,
        digest: Digest,
    },
    StartUpload {
        name: ImageName,
        start: StartUpload,
    },
    UploadStatus {
        name: ImageName,
        id: UploadId,
    },
    AppendUpload {
        name: ImageName,
        id: UploadId,
    },
    FinishUpload {
        name: ImageName,
        id: UploadId,
        digest: Digest,
    },
    CancelUpload {
        name: ImageName,
        id: UploadId,
    },
    ListTags {
        name: ImageName,
        page: Page,
    },
    ListReferrers {
        name: ImageName,
        subject: Digest,
        artifact_type: Option<String>,
    },
}

/// What a `POST …/blobs/uploads/` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartUpload {
    /// The body is the whole blob, with this digest.
    pub digest: Option<Digest>,
    /// Take over this blob from another image instead of sending it.
    pub mount: Option<Digest>,
    /// The image that has it, as the client names it.
    pub from: Option<ImageName>,
    /// What the final digest will be of.
    pub algorithm: Option<Algorithm>,
}

/// An upload session's name: 32 hexadecimal digits, 122 of their bits random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UploadId(uuid::Uuid);

impl UploadId {
    /// A new one, not to be guessed.
    #[expect(clippy::new_without_default, reason = "each one is different: there is no default")]
    pub fn new() -> Self {
        Self(uuid::Uuid::new_v4())
    }

    /// Reads one back; only the form that `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        let is_ours = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_ours.then(|| uuid::Uuid::try_parse(text).ok().map(Self)).flatten()
    }
}

impl std::fmt::Display for UploadId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.simple().fmt(f)
    }
}

/// What may be done with an image, for those who decide who may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read.
    Pull,
    /// Write.
    Push,
    /// Remove.
    Delete,
    /// Decide what tags mean, and what is fetched ahead of time.
    Admin,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pull, Self::Push, Self::Delete, Self::Admin];

    /// Its word, in policies, scopes and audits.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::Admin => "admin",
        }
    }

    /// The one that a word means.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == word)
    }
}

impl Operation {
    /// The image that it is about.
    pub const fn name(&self) -> Option<&ImageName> {
        match self {
            Self::CheckVersion | Self::Catalog { .. } => None,
            Self::PullManifest { name, .. }
            | Self::PushManifest { name, .. }
            | Self::DeleteManifest { name, .. }
            | Self::PullBlob { name, .. }
            | Self::DeleteBlob { name, .. }
            | Self::StartUpload { name, .. }
            | Self::UploadStatus { name, .. }
            | Self::AppendUpload { name, .. }
            | Self::FinishUpload { name, .. }
            | Self::CancelUpload { name, .. }
            | Self::ListTags { name, .. }
            | Self::ListReferrers { name, .. } => Some(name),
        }
    }

    /// What the caller must be allowed to do.
    pub const fn action(&self) -> Action {
        match self {
            Self::CheckVersion
            | Self::Catalog { .. }
            | Self::PullManifest { .. }
            | Self::PullBlob { .. }
            | Self::ListTags { .. }
            | Self::ListReferrers { .. } => Action::Pull,
            Self::PushManifest { .. }
            | Self::StartUpload { .. }
            | Self::UploadStatus { .. }
            | Self::AppendUpload { .. }
            | Self::FinishUpload { .. }
            | Self::CancelUpload { .. } => Action::Push,
            Self::DeleteManifest { .. } | Self::DeleteBlob { .. } => Action::Delete,
        }
    }

    /// What metrics call it: the names that Distribution's dashboards know.
    pub const fn handler(&self) -> &'static str {
        match self {
            Self::CheckVersion => "base",
            Self::Catalog { .. } => "catalog",
            Self::PullManifest { .. } | Self::PushManifest { .. } | Self::DeleteManifest { .. } => "manifest",
            Self::PullBlob { .. } | Self::DeleteBlob { .. } => "blob",
            Self::StartUpload { .. } => "blob_upload",
            Self::UploadStatus { .. }
            | Self::AppendUpload { .. }
            | Self::FinishUpload { .. }
            | Self::CancelUpload { .. } => "blob_upload_chunk",
            Self::ListTags { .. } => "tags",
            Self::ListReferrers { .. } => "referrers",
        }
    }
}

/// A request line, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The key before `/v2`, as in `/docker/v2/…`.
    pub prefix: Option<RepositoryKey>,
    /// The registry that the image belongs to, as mirrors are told: `?ns=docker.io`.
    pub namespace: Option<String>,
    /// What is asked.
    pub operation: Operation,
}

/// Why a request line is no operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// Not a path of the distribution API at all.
    Elsewhere,
    /// A path of it, with a method that it does not take.
    Method {
        /// The methods that it takes, for the `Allow` header.
        allow: &'static str,
    },
    /// A path of it that breaks its grammar.
    Refused(Refusal),
}

impl From<Refusal> for ParseError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

const READ: &str = "GET, HEAD";

impl Request {
    /// Reads a method, a path as it came (still percent-encoded) and a query.
    pub fn parse(method: &str, path: &str, query: Option<&str>) -> Result<Self, ParseError> {
        let path = path.strip_prefix('/').ok_or(ParseError::Elsewhere)?;
        let mut segments: Vec<Cow<'_, str>> = Vec::with_capacity(8);
        let (first, rest) = path
            .split_once('/')
            .map_or((path, None), |(first, rest)| (first, Some(rest)));
        let (prefix, rest) = if first == "v2" {
            (None, rest)
        } else {
            let (second, rest) = match rest {
                None => return Err(ParseError::Elsewhere),
                Some(rest) => rest
                    .split_once('/')
                    .map_or((rest, None), |(second, rest)| (second, Some(rest))),
            };
            if second != "v2" {
                return Err(ParseError::Elsewhere);
            }
            let key = decode(first)?.parse().map_err(|error| name_invalid(&error))?;
            (Some(key), rest)
        };
        for segment in rest.unwrap_or_default().split('/') {
            segments.push(decode(segment)?);
        }
        let query = Query::parse(query.unwrap_or_default());
        let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        let operation = operation(method, &segments, &query)?;
        Ok(Self {
            prefix,
            namespace: query.namespace,
            operation,
        })
    }
}

/// Decodes one segment. A segment that hides a separator or a NUL would mean one thing here and another further on.
fn decode(segment: &str) -> Result<Cow<'_, str>, Refusal> {
    if !segment.contains('%') {
        return Ok(Cow::Borrowed(segment));
    }
    let bytes: Cow<'_, [u8]> = percent_decode(segment.as_bytes())
        .ok_or_else(|| Refusal::new(ErrorCode::NameInvalid, "the path has a broken percent-encoding"))?
        .into();
    if bytes
        .iter()
        .any(|b| matches!(b, b'/' | b'\\' | b'%') || b.is_ascii_control())
    {
        return Err(Refusal::new(
            ErrorCode::NameInvalid,
            "the path hides a separator or a control character behind percent-encoding",
        ));
    }
    String::from_utf8(bytes.into_owned())
        .map(Cow::Owned)
        .map_err(|_| Refusal::new(ErrorCode::NameInvalid, "the path is not UTF-8"))
}

fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(*rest.next()?).to_digit(16)?;
            let low = char::from(*rest.next()?).to_digit(16)?;
            decoded.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    Some(decoded)
}

/// The parameters that some operation knows. Others are ignored, as everywhere on the web; so is all but the first of
/// one that is to be given once.
#[derive(Default)]
struct Query {
    namespace: Option<String>,
    n: Option<String>,
    last: Option<String>,
    digest: Option<String>,
    mount: Option<String>,
    from: Option<String>,
    algorithm: Option<String>,
    artifact_type: Option<String>,
    tags: Vec<String>,
}

impl Query {
    fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let place = match &*key {
                "ns" => &mut parsed.namespace,
                "n" => &mut parsed.n,
                "last" => &mut parsed.last,
                "digest" => &mut parsed.digest,
                "mount" => &mut parsed.mount,
                "from" => &mut parsed.from,
                "digest-algorithm" => &mut parsed.algorithm,
                "artifactType" => &mut parsed.artifact_type,
                "tag" => {
                    parsed.tags.push(value.into_owned());
                    continue;
                }
                _ => continue,
            };
            if place.is_none() {
                *place = Some(value.into_owned());
            }
        }
        parsed
    }

    fn page(&self) -> Result<Page, Refusal> {
        let n = match self.n.as_deref() {
            None => None,
            Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                Some(text.parse::<usize>().unwrap_or(MAX_PAGE).min(MAX_PAGE))
            }
            Some(_) => {
                return Err(Refusal::new(
                    ErrorCode::PaginationNumberInvalid,
                    "`n` is how many entries to return: a number, 0 or more",
                ));
            }
        };
        Ok(Page {
            n,
            last: self.last.clone().filter(|last| !last.is_empty()),
        })
    }

    fn start_upload(&self) -> Result<StartUpload, Refusal> {
        // A mount that cannot be understood is an upload like any other: clients go on with the session they get.
        Ok(StartUpload {
            digest: self.digest.as_deref().map(digest).transpose()?,
            mount: self.mount.as_deref().map(digest).transpose()?,
            from: self.from.as_deref().and_then(|name| name.parse().ok()),
            algorithm: self
                .algorithm
                .as_deref()
                .map(|text| text.parse().map_err(digest_invalid))
                .transpose()?,
        })
    }
}

fn operation(method: &str, segments: &[&str], query: &Query) -> Result<Operation, ParseError> {
    let reads = matches!(method, "GET" | "HEAD");
    match segments {
        [] | [""] => only(reads, READ, || Ok(Operation::CheckVersion)),
        ["_catalog"] => only(reads, READ, || Ok(Operation::Catalog { page: query.page()? })),
        [name @ .., "manifests", reference] => manifest(method, name, reference, query),
        [name @ .., "tags", "list"] => only(reads, READ, || {
            Ok(Operation::ListTags {
                name: image_name(name)?,
                page: query.page()?,
            })
        }),
        [name @ .., "referrers", subject] => only(reads, READ, || {
            Ok(Operation::ListReferrers {
                name: image_name(name)?,
                subject: digest(subject)?,
                artifact_type: query.artifact_type.clone().filter(|text| !text.is_empty()),
            })
        }),
        [name @ .., "blobs", "uploads", ""] | [name @ .., "blobs", "uploads"] => only(method == "POST", "POST", || {
            Ok(Operation::StartUpload {
                name: image_name(name)?,
                start: query.start_upload()?,
            })
        }),
        [name @ .., "blobs", "uploads", id] => upload(method, name, id, query),
        [name @ .., "blobs", text] => {
            let (name, digest) = (image_name(name)?, digest(text)?);
            match method {
                "GET" | "HEAD" => Ok(Operation::PullBlob { name, digest }),
                "DELETE" => Ok(Operation::DeleteBlob { name, digest }),
                _ => Err(ParseError::Method {
                    allow: "GET, HEAD, DELETE",
                }),
            }
        }
        _ => Err(ParseError::Elsewhere),
    }
}

fn only(
    allowed: bool,
    allow: &'static str,
    operation: impl FnOnce() -> Result<Operation, Refusal>,
) -> Result<Operation, ParseError> {
    if allowed {
        Ok(operation()?)
    } else {
        Err(ParseError::Method { allow })
    }
}

fn manifest(method: &str, name: &[&str], reference: &str, query: &Query) -> Result<Operation, ParseError> {
    let name = image_name(name)?;
    let push = method == "PUT";
    let reference: Reference = reference.parse().map_err(|error| match error {
        super::reference::ReferenceError::Digest(error) => digest_invalid(error),
        // No manifest can be stored under what is not a tag, so none is there.
        super::reference::ReferenceError::Tag(error) if push => Refusal::new(ErrorCode::TagInvalid, error.to_string()),
        super::reference::ReferenceError::Tag(error) => Refusal::new(ErrorCode::ManifestUnknown, error.to_string()),
    })?;
    match method {
        "GET" | "HEAD" => Ok(Operation::PullManifest { name, reference }),
        "DELETE" => Ok(Operation::DeleteManifest { name, reference }),
        "PUT" => {
            let tags = query
                .tags
                .iter()
                .map(|tag| {
                    tag.parse().map_err(|error: super::reference::TagError| {
                        Refusal::new(ErrorCode::TagInvalid, error.to_string())
                    })
                })
                .collect::<Result<_, _>>()?;
            Ok(Operation::PushManifest { name, reference, tags })
        }
        _ => Err(ParseError::Method {
            allow: "GET, HEAD, PUT, DELETE",
        }),
    }
}

fn upload(method: &str, name: &[&str], id: &str, query: &Query) -> Result<Operation, ParseError> {
    let name = image_name(name)?;
    let id = UploadId::parse(id).ok_or_else(|| {
        Refusal::new(
            ErrorCode::BlobUploadUnknown,
            "there is no such upload: start one with POST …/blobs/uploads/",
        )
    })?;
    match method {
        "GET" | "HEAD" => Ok(Operation::UploadStatus { name, id }),
        "PATCH" => Ok(Operation::AppendUpload { name, id }),
        "DELETE" => Ok(Operation::CancelUpload { name, id }),
        "PUT" => {
            let text = query.digest.as_deref().ok_or_else(|| {
                Refusal::new(
                    ErrorCode::DigestInvalid,
                    "the last request of an upload needs `?digest=`",
                )
            })?;
            Ok(Operation::FinishUpload {
                name,
                id,
                digest: digest(text)?,
            })
        }
        _ => Err(ParseError::Method {
            allow: "GET, HEAD, PATCH, PUT, DELETE",
        }),
    }
}

fn image_name(segments: &[&str]) -> Result<ImageName, Refusal> {
    segments.join("/").parse().map_err(|error| name_invalid(&error))
}

fn name_invalid(error: &super::name::NameError) -> Refusal {
    Refusal::new(ErrorCode::NameInvalid, error.to_string())
}

fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(digest_invalid)
}

fn digest_invalid(error: super::digest::DigestError) -> Refusal {
    Refusal::new(ErrorCode::DigestInvalid, error.to_string())
}

#[cfg(test)]
mod tests;
