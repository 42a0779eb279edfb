//! The one place where a failure becomes a status, the specification's JSON and a line in the log.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;

use super::RequestId;
use super::challenge::TokenError;
use crate::access::Unidentified;
use crate::oci::{ErrorCode, Refusal};
use crate::repository::{self, Unknown};
use crate::store;

/// Seconds after which asking again makes sense, when nothing better is known.
const RETRY_AFTER: u64 = 5;

/// What a client is told instead of an answer.
#[derive(Debug)]
pub(super) struct Failure {
    code: ErrorCode,
    message: String,
    /// What else the answer says: when to ask again, what the path takes, how far an upload is.
    headers: Box<HeaderMap>,
    /// What the log says and the client does not see.
    cause: Option<String>,
    /// The status, where it is not the code's own.
    status: Option<StatusCode>,
    /// What a token would have to be for, in the words of the token protocol.
    scope: Option<String>,
    /// What was wrong with the token that was shown.
    token_error: Option<TokenError>,
}

impl Failure {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            headers: Box::default(),
            cause: None,
            status: None,
            scope: None,
            token_error: None,
        }
    }

    /// The same, saying what a token would have to be for.
    pub(super) fn with_scope(mut self, scope: String) -> Self {
        self.scope = Some(scope);
        self
    }

    /// The same, about a token that was shown.
    pub(super) const fn of_token(mut self, error: TokenError) -> Self {
        self.token_error = Some(error);
        self
    }

    /// What was wrong with the token that was shown.
    pub(super) const fn token_error(&self) -> Option<TokenError> {
        self.token_error
    }

    /// What a token would have to be for.
    pub(super) fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }

    /// Whether it says who has not logged in should.
    pub(super) fn wants_login(&self) -> bool {
        self.code == ErrorCode::Unauthorized
    }

    /// Whether it says that something is not here.
    pub(super) const fn is_not_found(&self) -> bool {
        matches!(
            self.code,
            ErrorCode::ManifestUnknown | ErrorCode::BlobUnknown | ErrorCode::NameUnknown
        )
    }

    /// The same with another status than the code's own.
    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// The answer in our own API, which has one error and not a list of them.
    pub(super) fn respond_plainly(self, id: &RequestId) -> Response {
        let document = serde_json::json!({ "error": { "code": self.code.as_str(), "message": self.message } });
        let mut response = self.respond(id);
        *response.body_mut() = Body::from(document.to_string());
        response
    }

    /// The code, for who tells of it in another way.
    pub(super) const fn code(&self) -> &'static str {
        self.code.as_str()
    }

    /// The message, for who tells of it in another way.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn method(allow: &'static str) -> Self {
        let failure = Self::new(ErrorCode::Unsupported, format!("this path takes only {allow}"));
        failure.with(header::ALLOW, HeaderValue::from_static(allow))
    }

    /// The status that the answer has.
    pub(super) fn status(&self) -> u16 {
        self.status.map_or_else(|| self.code.status(), |status| status.as_u16())
    }

    /// The same with one more header.
    pub(super) fn with(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.insert(name, value.into());
        self
    }

    /// The same with more headers.
    pub(super) fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.headers.extend(headers);
        self
    }

    /// The answer.
    pub(super) fn respond(self, id: &RequestId) -> Response {
        if self.code.status() >= 500 {
            let cause = self.cause.as_deref().unwrap_or(&self.message);
            tracing::warn!(request_id = %id, code = self.code.as_str(), cause, "a request failed");
        }
        let document = Document {
            errors: [Entry {
                code: self.code.as_str(),
                message: &self.message,
                detail: Detail {
                    request_id: id.as_str(),
                },
            }],
        };
        let json = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = Response::new(Body::from(json));
        let status = StatusCode::from_u16(self.status());
        *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        *response.headers_mut() = *self.headers;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        // What was to be stored is still on its way: nobody should send another request behind it.
        if matches!(response.status().as_u16(), 413 | 507) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }
}

/// distribution-spec, "Error codes". `detail` is free: it carries what a report should quote.
#[derive(Serialize)]
struct Document<'a> {
    errors: [Entry<'a>; 1],
}

#[derive(Serialize)]
struct Entry<'a> {
    code: &'a str,
    message: &'a str,
    detail: Detail<'a>,
}

#[derive(Serialize)]
struct Detail<'a> {
    request_id: &'a str,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code, refusal.message)
    }
}

impl From<Unidentified> for Failure {
    fn from(error: Unidentified) -> Self {
        match error {
            Unidentified::Unknown => Self::new(
                ErrorCode::Unauthorized,
                "nobody here is known by these credentials: check user and password, or log in again",
            ),
            Unidentified::Expired => Self::new(
                ErrorCode::Unauthorized,
                "this token has run out, or what it was given for is no more: get a new one, or log in again",
            ),
            Unidentified::Busy { retry_after } => Self::new(
                ErrorCode::TooManyRequests,
                "too many logins are being checked, or have failed: try again later",
            )
            .with(header::RETRY_AFTER, seconds(retry_after)),
            Unidentified::Unavailable(reason) => Self {
                cause: Some(reason),
                ..Self::new(
                    ErrorCode::Unavailable,
                    "who you are cannot be checked at the moment: try again later",
                )
            }
            .with(header::RETRY_AFTER, RETRY_AFTER),
        }
    }
}

/// Whole seconds, at least one.
fn seconds(after: Duration) -> u64 {
    (after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1)
}

impl From<repository::Error> for Failure {
    fn from(error: repository::Error) -> Self {
        match error {
            repository::Error::Refused(refusal) => refusal.into(),
            repository::Error::Unknown(unknown) => unknown.into(),
            repository::Error::Store(error) => error.into(),
        }
    }
}

impl From<Unknown> for Failure {
    fn from(unknown: Unknown) -> Self {
        let code = if unknown.rate_limited {
            ErrorCode::TooManyRequests
        } else {
            ErrorCode::Unavailable
        };
        let seconds = unknown.retry_after.map_or(RETRY_AFTER, seconds);
        Self::new(code, unknown.to_string()).with(header::RETRY_AFTER, seconds)
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        let (code, message) = match &error {
            store::Error::Mismatch(_) => (ErrorCode::DigestInvalid, error.to_string()),
            store::Error::TooManyUploads => (ErrorCode::TooManyRequests, error.to_string()),
            store::Error::UploadTooLarge { .. } => (ErrorCode::TooLarge, error.to_string()),
            store::Error::Pinned(_) | store::Error::Immutable(_) | store::Error::OverQuota { .. } => {
                (ErrorCode::Denied, error.to_string())
            }
            store::Error::UploadBusy => (ErrorCode::BlobUploadInvalid, error.to_string()),
            store::Error::LowSpace { .. } => (
                ErrorCode::InsufficientStorage,
                format!(
                    "{error}: nothing was stored, pulls go on; free some space, or ask for less of it to stay free"
                ),
            ),
            error if error.is_full() => (
                ErrorCode::InsufficientStorage,
                "there is no space left on the disk: nothing was stored, pulls go on; free some space, then push again"
                    .to_owned(),
            ),
            error if error.is_crowded() => (
                ErrorCode::Unavailable,
                "too many files are open at the moment: nothing was stored".to_owned(),
            ),
            store::Error::NoSuchBlob(digest) => (
                ErrorCode::ManifestBlobUnknown,
                format!("{digest} is not in this image any more: push it again"),
            ),
            store::Error::ReadOnly => (
                ErrorCode::Unavailable,
                "the disk of this registry fails: nothing was stored, pulls go on; tell its operator".to_owned(),
            ),
            store::Error::Index(_) | store::Error::Closed => (ErrorCode::Unavailable, error.to_string()),
            _ => (
                ErrorCode::Internal,
                "the disk failed; the log has the reason under this request's id".to_owned(),
            ),
        };
        let failure = Self {
            cause: Some(error.to_string()),
            ..Self::new(code, message)
        };
        match code.status() {
            429 | 503 => failure.with(header::RETRY_AFTER, RETRY_AFTER),
            _ => failure,
        }
    }
}
