//! One request of the distribution API, as the handlers see it.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderName, Method};

use super::RequestId;
use super::credentials::Visitor;
use super::error::Failure;
use super::gate::{Caller, Gate, Target};
use super::serve::Peer;
use super::site::{Front, Site};
use crate::oci::ImageName;
use crate::oci::operation::Action;
use crate::oci::operation::Request as Line;
use crate::repository::router::{Hints, Route};

/// A request: what it asks, of whom, and with what.
pub(super) struct Call {
    pub(super) front: Arc<Front>,
    pub(super) site: Arc<Site>,
    pub(super) parts: Parts,
    pub(super) line: Line,
    pub(super) visitor: Visitor,
    pub(super) caller: Caller,
    pub(super) id: RequestId,
}

impl Call {
    /// Whether only headers are wanted.
    pub(super) fn is_head(&self) -> bool {
        self.parts.method == Method::HEAD
    }

    /// A header's value, if it is text.
    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.parts.headers.get(name)?.to_str().ok()
    }

    /// The one way to the repositories.
    pub(super) fn gate(&self) -> Gate<'_> {
        Gate {
            site: &self.site,
            caller: &self.caller,
            hints: self.hints(),
            judged: None,
        }
    }

    /// What a name means in this request, to this caller, for this purpose.
    pub(super) fn route(&self, name: &ImageName, action: Action) -> Result<Route, Failure> {
        self.gate().route(name, action)
    }

    /// Where a push or deletion by this name lands.
    pub(super) fn target(&self, name: &ImageName, action: Action) -> Result<Target, Failure> {
        self.gate().target(name, action)
    }

    /// What the request says, besides a name, of which repository it means.
    fn hints(&self) -> Hints<'_> {
        let peer = self.parts.extensions.get::<Peer>();
        Hints {
            prefix: self.line.prefix.as_ref(),
            namespace: self.line.namespace.as_deref(),
            listener: peer.and_then(|peer| peer.repository.as_ref()),
            host: self.visitor.origin.host(),
        }
    }

    /// The path of the image in the form that the client used, for `Location` and `Link`.
    pub(super) fn base(&self, name: &ImageName) -> String {
        let before = &self.visitor.origin.base.path;
        match &self.line.prefix {
            Some(prefix) => format!("{before}/{prefix}/v2/{name}"),
            None => format!("{before}/v2/{name}"),
        }
    }

    /// `?ns=` again, so that the next request of an upload means the same repository.
    pub(super) fn namespace_query(&self, separator: char) -> String {
        self.line.namespace.as_deref().map_or_else(String::new, |namespace| {
            let encoded: String = url::form_urlencoded::byte_serialize(namespace.as_bytes()).collect();
            format!("{separator}ns={encoded}")
        })
    }
}
