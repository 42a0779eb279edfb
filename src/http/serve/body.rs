//! The bodies of requests and answers, as the connection sees them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::watch::{Running, Watch};
use crate::http::sendfile::Way;

/// Why a request's body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client sent nothing for too long.
    #[error("the client sent nothing for {0:?}")]
    Stalled(Duration),
    /// The connection broke, or what came on it was not HTTP.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

/// A request's body: each wait for more of it ends, the whole may take as long as it takes.
pub(super) struct Received {
    body: Incoming,
    watch: Arc<Watch>,
    waiting_since: Option<Instant>,
    /// Kept from wait to wait, and moved only when it fires: most waits are short.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Received {
    pub(super) fn new(body: Incoming, watch: Arc<Watch>) -> Self {
        Self {
            body,
            watch,
            waiting_since: None,
            alarm: None,
        }
    }

    /// Ready when the wait for the next frame, which began now or earlier, has been too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let stall = self.watch.patience.stall;
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(since + stall)));
        loop {
            ready!(alarm.as_mut().poll(cx));
            if Instant::now() >= since + stall {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(since + stall);
        }
    }
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.waiting_since = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)));
        }
        ready!(self.poll_stalled(cx));
        Poll::Ready(Some(Err(BodyError::Stalled(self.watch.patience.stall))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if !self.body.is_end_stream() {
            self.watch.leave_unread();
        }
    }
}

/// An answer's body: while it exists, its request is under way.
pub(super) struct Sent {
    body: Body,
    way: Way,
    running: Running,
}

impl Sent {
    pub(super) fn new(body: Body, way: Way, running: Running) -> Self {
        Self { body, way, running }
    }
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        this.running.owe(false);
        let frame = ready!(this.way.lead(|| Pin::new(&mut this.body).poll_frame(cx)));
        self.running.owe(matches!(frame, Some(Ok(_))));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
