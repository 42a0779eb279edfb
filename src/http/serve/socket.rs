//! A client's TCP connection: tells the [`Watch`] what comes and goes, and closes so that the last answer arrives.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::watch::Watch;
use crate::http::sendfile::{Lane, Way};

/// How long, and how much, is read and thrown away after the last answer.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 64 * 1024 * 1024);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One client's TCP connection, below TLS.
pub(super) struct Socket {
    stream: TcpStream,
    watch: Arc<Watch>,
    /// What [`Socket::speaks_http2`] has read: it is read once more.
    prefix: Bytes,
    /// The files that go out between the bytes, when this connection can send files.
    lane: Option<Lane>,
    linger: Option<Linger>,
}

struct Linger {
    end: Pin<Box<Sleep>>,
    budget: usize,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, watch: Arc<Watch>) -> Self {
        Self {
            stream,
            watch,
            prefix: Bytes::new(),
            lane: None,
            linger: None,
        }
    }

    /// Whether the client begins with HTTP/2's preface (RFC 9113, 3.3), as soon as that can be told.
    pub(super) async fn speaks_http2(&mut self) -> io::Result<bool> {
        let mut start = BytesMut::with_capacity(PREFACE.len());
        while start.len() < PREFACE.len() && PREFACE.starts_with(&start) {
            let missing = PREFACE.len() - start.len();
            if self.stream.read_buf(&mut (&mut start).limit(missing)).await? == 0 {
                break;
            }
            self.watch.received();
        }
        self.prefix = start.freeze();
        Ok(self.prefix == PREFACE)
    }

    /// From now on files are sent by the kernel. Only for what is written here as HTTP/1 made it.
    pub(super) fn open_lane(&mut self) -> Way {
        Way::Lane(self.lane.insert(Lane::default()).clone())
    }

    /// Reads on after the last answer. A client that still sends a body nobody wanted would be answered with a reset
    /// when the socket is closed, and the reset can reach it before it has read why (RFC 9112, 9.6).
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let linger = self.linger.get_or_insert_with(|| Linger {
            end: Box::pin(sleep(LINGER.0)),
            budget: LINGER.1,
        });
        let mut buffer = [0; 16 * 1024];
        while linger.budget > 0 && linger.end.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut buffer);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    linger.budget = linger.budget.saturating_sub(buffer.filled().len());
                }
                _ => break,
            }
        }
        Poll::Ready(())
    }

    fn written(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &outcome {
            Poll::Ready(Ok(taken)) => self.watch.sent(Some(*taken)),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.watch.sent(None),
        }
        outcome
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let length = self.prefix.len().min(buffer.remaining());
            buffer.put_slice(&self.prefix.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.watch.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let outcome = match &this.lane {
            Some(lane) => lane.poll_write(&mut this.stream, cx, slices),
            None => Pin::new(&mut this.stream).poll_write_vectored(cx, slices),
        };
        this.written(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lane.as_ref().is_some_and(Lane::owes) {
            return Poll::Ready(Err(io::Error::other("a file was not sent to its end")));
        }
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        if self.watch.left_unread() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
