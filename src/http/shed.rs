//! Too much at once: what costs most is refused first, at once and with a word on when to come back.

use std::sync::Arc;

use axum::response::Response;
use http::{HeaderMap, HeaderValue, header};

use super::error::Failure;
use super::site::Front;
use crate::cache::load::{Class, Held, Load, come_back};
use crate::oci::ErrorCode;
use crate::oci::operation::Operation;

/// A request that may go on.
pub(super) struct Admitted {
    request: Held,
    /// Until the request is answered.
    _push: Option<Held>,
}

impl Admitted {
    /// Lets a request in, if there is room for what it does.
    pub(super) fn of(front: &Front, operation: &Operation) -> Result<Self, Failure> {
        let site = front.site.load();
        let load = site.repositories.load();
        let push = if sends_much(operation) {
            Some(begin(front, load, Class::Push)?)
        } else {
            None
        };
        Ok(Self {
            request: begin(front, load, Class::Request)?,
            _push: push,
        })
    }

    /// The request is under way until its answer has been sent.
    pub(super) fn until_sent(self, response: &mut Response) {
        response.extensions_mut().insert(UntilSent(Arc::new(self.request)));
    }
}

/// What the connection keeps as long as the body of an answer. In an answer's extensions, where things are cloned.
#[derive(Clone)]
pub(super) struct UntilSent(#[expect(dead_code, reason = "it is dropped, nothing else")] Arc<Held>);

fn begin(front: &Front, load: &Arc<Load>, class: Class) -> Result<Held, Failure> {
    load.begin(class).ok_or_else(|| {
        front.metrics.shed(class.label());
        overloaded("too much is under way at the moment")
    })
}

/// A refusal for want of room.
pub(super) fn overloaded(message: &'static str) -> Failure {
    let mut headers = HeaderMap::with_capacity(1);
    headers.insert(header::RETRY_AFTER, HeaderValue::from(come_back().as_secs()));
    Failure::new(ErrorCode::Unavailable, message).with_headers(headers)
}

const fn sends_much(operation: &Operation) -> bool {
    match operation {
        Operation::PushManifest { .. }
        | Operation::StartUpload { .. }
        | Operation::AppendUpload { .. }
        | Operation::FinishUpload { .. } => true,
        Operation::CheckVersion
        | Operation::Catalog { .. }
        | Operation::PullManifest { .. }
        | Operation::PullBlob { .. }
        | Operation::ListTags { .. }
        | Operation::ListReferrers { .. }
        | Operation::DeleteManifest { .. }
        | Operation::DeleteBlob { .. }
        | Operation::UploadStatus { .. }
        | Operation::CancelUpload { .. } => false,
    }
}
