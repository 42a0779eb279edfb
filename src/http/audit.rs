//! What the audit is told of requests: which of them change or refuse something, and in which words.

use std::time::SystemTime;

use super::RequestId;
use super::credentials::Visitor;
use crate::access::Identity;
use crate::oci::operation::Operation;
use crate::telemetry::Audit;
use crate::telemetry::audit::{Entry, Outcome, Who};

/// One decision, as it is known here.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) id: &'a RequestId,
    pub(super) visitor: &'a Visitor,
    /// Who they are; `None` when they said something that nobody here knows.
    pub(super) identity: Option<&'a Identity>,
    pub(super) action: &'a str,
    pub(super) repository: Option<&'a str>,
    pub(super) image: Option<&'a str>,
    pub(super) reference: Option<&'a str>,
    pub(super) status: u16,
    pub(super) why: Option<&'a str>,
}

impl<'a> Told<'a> {
    /// One of which only this much is known.
    pub(super) const fn of(id: &'a RequestId, visitor: &'a Visitor, identity: Option<&'a Identity>) -> Self {
        Self {
            id,
            visitor,
            identity,
            action: "",
            repository: None,
            image: None,
            reference: None,
            status: 0,
            why: None,
        }
    }

    /// The same, answered.
    pub(super) const fn ended(self, status: u16, why: Option<&'a str>) -> Self {
        Self { status, why, ..self }
    }

    fn who(&self) -> Who<'_> {
        match self.identity {
            Some(Identity::Known(known)) => Who {
                kind: known.kind.as_str(),
                name: Some(&known.name),
            },
            Some(Identity::Anonymous) => Who {
                kind: "anonymous",
                name: None,
            },
            None => Who {
                kind: "unproven",
                name: self.visitor.shown.claimed(),
            },
        }
    }
}

impl Audit {
    /// Writes a request's decision down.
    pub(super) fn tell_of(&self, told: &Told<'_>) {
        let from = told.visitor.origin.client.to_string();
        let entry = Entry {
            request_id: Some(told.id.as_str()),
            who: told.who(),
            from: Some(&from),
            action: told.action,
            repository: told.repository,
            image: told.image,
            reference: told.reference,
            outcome: outcome(told.status),
            status: Some(told.status),
            why: told.why,
        };
        self.tell(entry, SystemTime::now());
    }
}

/// What came of a request that was answered so.
pub(super) const fn outcome(status: u16) -> Outcome {
    match status {
        401 | 403 => Outcome::Denied,
        400.. => Outcome::Failed,
        _ => Outcome::Allowed,
    }
}

/// What an operation that was answered so is called, if it is to be told. Changes are, and refusals; the parts of an
/// upload are not, before its end; nor is the question that every client begins with, unless it came with a login.
pub(super) fn action(
    operation: &Operation,
    is_head: bool,
    status: u16,
    shown: bool,
    pulls: bool,
) -> Option<&'static str> {
    let is_refused = outcome(status) == Outcome::Denied;
    let is_pulled = pulls && !is_head && outcome(status) == Outcome::Allowed;
    match operation {
        Operation::CheckVersion => (is_refused && shown).then_some("login"),
        Operation::Catalog { .. } => is_refused.then_some("catalog"),
        Operation::ListTags { .. } => is_refused.then_some("list-tags"),
        Operation::ListReferrers { .. } => is_refused.then_some("list-referrers"),
        Operation::PullManifest { .. } => (is_refused || is_pulled).then_some("pull"),
        Operation::PullBlob { .. } => (is_refused || is_pulled).then_some("pull-blob"),
        Operation::PushManifest { .. } => Some("push"),
        Operation::StartUpload { start, .. } if start.mount.is_some() && status == 201 => Some("mount"),
        Operation::StartUpload { start, .. } if start.digest.is_some() => Some("push-blob"),
        Operation::FinishUpload { .. } => Some("push-blob"),
        Operation::StartUpload { .. }
        | Operation::UploadStatus { .. }
        | Operation::AppendUpload { .. }
        | Operation::CancelUpload { .. } => is_refused.then_some("push-blob"),
        Operation::DeleteManifest { .. } => Some("delete"),
        Operation::DeleteBlob { .. } => Some("delete-blob"),
    }
}

/// The tag or digest that an operation is about.
pub(super) fn reference(operation: &Operation) -> Option<String> {
    match operation {
        Operation::PullManifest { reference, .. }
        | Operation::PushManifest { reference, .. }
        | Operation::DeleteManifest { reference, .. } => Some(reference.to_string()),
        Operation::PullBlob { digest, .. }
        | Operation::DeleteBlob { digest, .. }
        | Operation::FinishUpload { digest, .. }
        | Operation::ListReferrers { subject: digest, .. } => Some(digest.to_string()),
        Operation::StartUpload { start, .. } => start.mount.as_ref().or(start.digest.as_ref()).map(ToString::to_string),
        Operation::CheckVersion
        | Operation::Catalog { .. }
        | Operation::UploadStatus { .. }
        | Operation::AppendUpload { .. }
        | Operation::CancelUpload { .. }
        | Operation::ListTags { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::operation::Request;

    #[test]
    fn changes_and_refusals_are_told_and_nothing_else() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let upload = "0123456789abcdef0123456789abcdef";
        let uploads = "/v2/a/blobs/uploads/";
        let told = |line: &str, status: u16, shown: bool, pulls: bool| {
            let (method, target) = line.split_once(' ').expect(line);
            let (path, query) = target
                .split_once('?')
                .map_or((target, None), |(path, query)| (path, Some(query)));
            let request = Request::parse(method, path, query).unwrap_or_else(|error| panic!("{line}: {error:?}"));
            action(&request.operation, method == "HEAD", status, shown, pulls)
        };
        for (line, status, expected) in [
            ("GET /v2/", 200, None),
            ("GET /v2/", 401, None),
            ("GET /v2/a/manifests/v1", 200, None),
            ("GET /v2/a/manifests/v1", 404, None),
            ("GET /v2/a/manifests/v1", 401, Some("pull")),
            ("HEAD /v2/a/manifests/v1", 403, Some("pull")),
            ("GET /v2/a/tags/list", 403, Some("list-tags")),
            ("GET /v2/_catalog", 401, Some("catalog")),
            ("PUT /v2/a/manifests/v1", 201, Some("push")),
            ("PUT /v2/a/manifests/v1", 400, Some("push")),
            ("DELETE /v2/a/manifests/v1", 202, Some("delete")),
            (&format!("DELETE /v2/a/blobs/{digest}"), 405, Some("delete-blob")),
            (&format!("POST {uploads}"), 202, None),
            (&format!("POST {uploads}"), 403, Some("push-blob")),
            (&format!("POST {uploads}?digest={digest}"), 201, Some("push-blob")),
            (&format!("POST {uploads}?mount={digest}&from=b"), 201, Some("mount")),
            (&format!("POST {uploads}?mount={digest}&from=b"), 202, None),
            (&format!("PATCH {uploads}{upload}"), 202, None),
            (
                &format!("PUT {uploads}{upload}?digest={digest}"),
                201,
                Some("push-blob"),
            ),
            (&format!("DELETE {uploads}{upload}"), 204, None),
        ] {
            assert_eq!(told(line, status, false, false), expected, "{line} {status}");
        }
        assert_eq!(told("GET /v2/", 401, true, false), Some("login"));
        assert_eq!(told("GET /v2/a/manifests/v1", 200, false, true), Some("pull"));
        assert_eq!(told("HEAD /v2/a/manifests/v1", 200, false, true), None);
        assert_eq!(
            told(&format!("GET /v2/a/blobs/{digest}"), 206, false, true),
            Some("pull-blob")
        );
    }
}
