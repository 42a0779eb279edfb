//! One connection of a blob, as one of several.

use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use futures_util::stream::{self, BoxStream, StreamExt as _};

use super::plan::{Id, Plan};
use super::source::Source;
use crate::upstream::{self, BlobStream, Range, Validator};

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The one that a blob has a right to.
    Main,
    /// One more, as long as nobody else has a use for it.
    Helper,
}

/// What a connection has to say.
pub(super) enum News {
    /// It was asked for a part: this is where it begins, and how long it says the whole is.
    Begins(u64, Option<u64>),
    /// Bytes.
    Bytes(Bytes),
    /// All of its body has come.
    Ended,
    /// Upstream does not have it.
    Absent,
    /// It broke, or was never made.
    Failed(upstream::Error),
}

/// A connection, and the bytes that it is to bring.
pub(super) struct Worker {
    pub(super) kind: Kind,
    pub(super) claim: Id,
    /// Where its body ends, if that is before the blob's end.
    to: Option<u64>,
    /// How many bytes come first that are known already.
    known: u64,
    /// Whether it asked for a part of what had a certain tag.
    pub(super) has_validator: bool,
    flow: BoxStream<'static, News>,
}

impl Worker {
    /// One whose body has begun.
    pub(super) fn open(claim: Id, stream: BlobStream, known: u64, to: Option<u64>) -> Self {
        Self {
            kind: Kind::Main,
            claim,
            to,
            known,
            has_validator: false,
            flow: body(stream),
        }
    }

    /// One that asks for a part.
    pub(super) fn asking(kind: Kind, claim: Id, source: &Source, range: Range, validator: Option<Validator>) -> Self {
        let source = source.clone();
        let has_validator = validator.is_some();
        let answer = async move {
            let (upstream, image, digest) = (&source.inner.upstream, &source.image, &source.digest);
            match kind {
                Kind::Main => upstream.blob(image, digest, range, validator.as_ref()).await,
                Kind::Helper => upstream.spare_blob(image, digest, range, validator.as_ref()).await,
            }
        };
        let flow = stream::once(answer).flat_map(|answer| match answer {
            Ok(Some(stream)) => {
                let begins = News::Begins(stream.start(), stream.total());
                stream::iter([begins]).chain(body(stream)).boxed()
            }
            Ok(None) => stream::iter([News::Absent]).boxed(),
            Err(error) => stream::iter([News::Failed(error)]).boxed(),
        });
        Self {
            kind,
            claim,
            to: range.to,
            known: 0,
            has_validator,
            flow: flow.boxed(),
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<News> {
        self.flow.poll_next_unpin(cx).map(|news| news.unwrap_or(News::Ended))
    }

    /// Whether its body has nothing more to bring.
    pub(super) fn is_at_its_end(&self, plan: &Plan) -> bool {
        self.to.is_some() && plan.at(self.claim) == self.to
    }

    /// Drops what is known already.
    pub(super) fn skip(&mut self, bytes: &mut Bytes) {
        let again = usize::try_from(self.known).map_or(bytes.len(), |known| known.min(bytes.len()));
        bytes.advance(again);
        self.known -= again as u64;
    }
}

fn body(stream: BlobStream) -> BoxStream<'static, News> {
    let unfold = stream::unfold(Some(stream), async |stream| {
        let mut stream = stream?;
        match stream.chunk().await {
            Ok(Some(bytes)) => Some((News::Bytes(bytes), Some(stream))),
            Ok(None) => Some((News::Ended, None)),
            Err(error) => Some((News::Failed(error), None)),
        }
    });
    unfold.boxed()
}
