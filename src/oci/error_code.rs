//! The error codes of the distribution API: one table of code, status and what it stands for.

use std::borrow::Cow;

/// A code that a client may see; distribution-spec, "Error codes", and those that registries have added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// A blob that is not here.
    BlobUnknown,
    /// An upload that cannot go on.
    BlobUploadInvalid,
    /// An upload session that does not exist.
    BlobUploadUnknown,
    /// A digest outside the grammar, or one that the bytes do not have.
    DigestInvalid,
    /// A manifest refers to a blob or manifest that is not here.
    ManifestBlobUnknown,
    /// A manifest outside the rules.
    ManifestInvalid,
    /// A manifest that is not here.
    ManifestUnknown,
    /// A name outside the grammar.
    NameInvalid,
    /// An image or repository that is not here.
    NameUnknown,
    /// A length that does not fit.
    SizeInvalid,
    /// A tag outside the grammar.
    TagInvalid,
    /// Bytes that do not continue where the upload stands, or a range outside the blob.
    RangeInvalid,
    /// `n` is not a number.
    PaginationNumberInvalid,
    /// Nobody has said who they are.
    Unauthorized,
    /// The caller may not.
    Denied,
    /// What was asked for is not done here.
    Unsupported,
    /// Too much of something: a body, a header.
    TooLarge,
    /// Too many requests, here or upstream.
    TooManyRequests,
    /// It cannot be told at the moment.
    Unavailable,
    /// There is no room left.
    InsufficientStorage,
    /// Our own fault.
    Internal,
}

impl ErrorCode {
    /// The code as it is written in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid | Self::TooLarge => "SIZE_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unavailable => "UNAVAILABLE",
            Self::InsufficientStorage | Self::Internal => "UNKNOWN",
        }
    }

    /// The HTTP status that goes with it.
    pub const fn status(self) -> u16 {
        match self {
            Self::BlobUploadInvalid
            | Self::DigestInvalid
            | Self::ManifestInvalid
            | Self::ManifestBlobUnknown
            | Self::NameInvalid
            | Self::SizeInvalid
            | Self::TagInvalid
            | Self::PaginationNumberInvalid => 400,
            Self::Unauthorized => 401,
            Self::Denied => 403,
            Self::BlobUnknown | Self::BlobUploadUnknown | Self::ManifestUnknown | Self::NameUnknown => 404,
            Self::Unsupported => 405,
            Self::TooLarge => 413,
            Self::RangeInvalid => 416,
            Self::TooManyRequests => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
            Self::InsufficientStorage => 507,
        }
    }
}

/// A request refused: the code, and a sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The code.
    pub code: ErrorCode,
    /// For a person.
    pub message: Cow<'static, str>,
}

impl Refusal {
    /// A refusal with this code and message.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}
