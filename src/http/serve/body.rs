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

use super::watch::{Running, Terms, Watch};
use crate::http::sendfile::Way;
use crate::http::shed::UntilSent;

/// Why a request's body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client sent nothing for too long.
    #[error("the client sent nothing for {0:?}")]
    Stalled(Duration),
    /// The client sends so little that others need its connection more.
    #[error("the client sends too slowly while connections are scarce")]
    Slow,
    /// The connection broke, or what came on it was not HTTP.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

/// A request's body: each wait for more of it ends, the whole may take as long as it takes.
pub(super) struct Received {
    body: Incoming,
    watch: Arc<Watch>,
    waiting_since: Option<Instant>,
    pace: Pace,
    /// Kept from wait to wait, and moved only when it fires: most waits are short.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Received {
    pub(super) fn new(body: Incoming, watch: Arc<Watch>) -> Self {
        Self {
            body,
            watch,
            waiting_since: None,
            pace: Pace::default(),
            alarm: None,
        }
    }

    /// Ready when the wait for the next frame, which began now or earlier, has been too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        loop {
            let now = Instant::now();
            let since = *self.waiting_since.get_or_insert(now);
            let (terms, look) = self.watch.terms(now);
            let stall = terms.patience.stall;
            if now >= since + stall {
                return Poll::Ready(BodyError::Stalled(stall));
            }
            if self.pace.is_slow(now - since, &terms) {
                return Poll::Ready(BodyError::Slow);
            }
            let next = look.min(since + stall);
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(next)));
            if alarm.deadline() <= now || alarm.deadline() > next {
                alarm.as_mut().reset(next);
            }
            ready!(alarm.as_mut().poll(cx));
        }
    }

    /// Something came, and that was the end of a wait for it.
    fn came(&mut self, bytes: u64) -> Result<(), BodyError> {
        let now = Instant::now();
        let waited = self.waiting_since.take().map_or(Duration::ZERO, |since| now - since);
        let (terms, _) = self.watch.terms(now);
        if self.pace.came(waited, bytes, &terms) {
            Ok(())
        } else {
            Err(BodyError::Slow)
        }
    }
}

/// How much a client sends while it is waited for.
#[derive(Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// After a wait, so many bytes came. Whether that goes on well enough.
    fn came(&mut self, waited: Duration, bytes: u64, terms: &Terms) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        let slow = self.is_slow(Duration::ZERO, terms);
        if self.waited >= terms.patience.stall {
            *self = Self::default();
        }
        !slow
    }

    fn is_slow(&self, waiting: Duration, terms: &Terms) -> bool {
        terms.scarce && self.waited + waiting >= terms.patience.stall && self.bytes < terms.progress
    }
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            let Some(Ok(frame)) = frame else {
                return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)));
            };
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            return Poll::Ready(Some(self.came(bytes as u64).map(|()| frame)));
        }
        self.poll_stalled(cx).map(|error| Some(Err(error)))
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
    _held: Option<UntilSent>,
}

impl Sent {
    pub(super) fn new(body: Body, way: Way, running: Running, until_sent: Option<UntilSent>) -> Self {
        Self {
            body,
            way,
            running,
            _held: until_sent,
        }
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

#[cfg(test)]
mod tests {
    use super::super::watch::Patience;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn terms(scarce: bool) -> Terms {
        Terms {
            patience: Patience {
                head: SECOND,
                idle: SECOND,
                stall: 15 * SECOND,
            },
            progress: 1000,
            scarce,
        }
    }

    #[test]
    fn who_sends_in_drops_is_borne_while_there_is_room() {
        for (scarce, bytes, taken) in [(false, 1, 100), (true, 1, 14), (true, 70, 100)] {
            let mut pace = Pace::default();
            let terms = terms(scarce);
            let went = (0..100).take_while(|_| pace.came(SECOND, bytes, &terms)).count();
            assert_eq!(went, taken, "{bytes} bytes a second, scarce: {scarce}");
        }
        // What we make a client wait for does not count against it.
        let mut pace = Pace::default();
        assert!((0..100).all(|_| pace.came(Duration::ZERO, 1, &terms(true))));
    }
}
