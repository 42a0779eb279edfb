//! HTTP/2's frames that ask for nothing. Pings, settings, windows, empty data: each costs a client a few bytes and us more, and
//! the protocol sets no limit to them. A connection has a credit of such frames; what it asks, sends and takes renews it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The credit of a connection, in frames: what it begins with, and the most that it can have.
const CREDIT: usize = 1000;
/// What a request brings: it may be taken back, weighed, and be given windows.
const REQUEST: usize = 16;
/// How many bytes of bodies that come, or of answers that go, bring one.
const BYTES: usize = 256;

/// The client's preface (RFC 9113, 3.4), which is no frame.
const PREFACE: usize = 24;
/// The head of a frame (RFC 9113, 4.1): length, type, flags, stream.
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// A connection that speaks HTTP/2, above TLS: it breaks when its credit is used up.
pub(super) struct Counted<S> {
    stream: S,
    tally: Tally,
}

impl<S> Counted<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            tally: Tally::new(),
        }
    }
}

struct Tally {
    credit: usize,
    /// Bytes that have gone out and brought nothing yet.
    sent: usize,
    /// Bytes that come before the next frame's head.
    before_head: usize,
    head: [u8; HEAD],
    known: usize,
}

impl Tally {
    const fn new() -> Self {
        Self {
            credit: CREDIT,
            sent: 0,
            before_head: PREFACE,
            head: [0; HEAD],
            known: 0,
        }
    }

    /// Reads on. Whether there is credit for all frames that have begun.
    fn came(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let passing = self.before_head.min(bytes.len());
            bytes = &bytes[passing..];
            self.before_head -= passing;
            let of_head = (HEAD - self.known).min(bytes.len());
            self.head[self.known..self.known + of_head].copy_from_slice(&bytes[..of_head]);
            self.known += of_head;
            bytes = &bytes[of_head..];
            if self.known == HEAD && !self.frame() {
                return false;
            }
        }
        true
    }

    /// A frame begins, whose head is known.
    fn frame(&mut self) -> bool {
        let [a, b, c, kind, ..] = self.head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        (self.before_head, self.known) = (length, 0);
        self.bring(match kind {
            DATA => length / BYTES,
            HEADERS => REQUEST,
            _ => 0,
        });
        let has_some = self.credit > 0;
        self.credit = self.credit.saturating_sub(1);
        has_some
    }

    fn went(&mut self, bytes: usize) {
        self.sent += bytes;
        self.bring(self.sent / BYTES);
        self.sent %= BYTES;
    }

    fn bring(&mut self, frames: usize) {
        self.credit = (self.credit + frames).min(CREDIT);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let is_paid = self.tally.came(&buffer.filled()[before..]);
        Poll::Ready(if is_paid {
            Ok(())
        } else {
            Err(io::Error::other("a flood of frames that ask for nothing"))
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?;
        self.tally.went(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;
    const WINDOW: u8 = 8;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let size = u32::try_from(length).unwrap().to_be_bytes();
        let mut bytes = vec![size[1], size[2], size[3], kind, 0, 0, 0, 0, 1];
        bytes.resize(HEAD + length, 0);
        bytes
    }

    fn begun() -> Tally {
        let mut tally = Tally::new();
        assert!(tally.came(&[b'P'; PREFACE]));
        tally
    }

    #[test]
    fn frames_that_ask_for_nothing_use_up_the_credit_however_they_come() {
        for (kind, length) in [(PING, 8), (DATA, 0), (DATA, BYTES - 1), (WINDOW, 4), (200, 16_384)] {
            for piece in [1, 7, 4096] {
                let mut tally = begun();
                let all = frame(kind, length).repeat(101);
                tally.credit = 100;
                let taken = all.chunks(piece).take_while(|piece| tally.came(piece)).count() * piece;
                let last = all.len() - length - HEAD;
                assert!(
                    taken <= last + HEAD && last < taken + piece + HEAD,
                    "{kind}, {piece} at once"
                );
            }
        }
    }

    #[test]
    fn whoever_asks_sends_or_takes_has_frames_for_that() {
        let mut tally = begun();
        for _ in 0..100 * CREDIT {
            assert!(tally.came(&frame(HEADERS, 50)));
            assert!(tally.came(&[frame(WINDOW, 4), frame(WINDOW, 4), frame(PING, 8)].concat()));
        }
        // A push, with a window and a ping for each piece; a pull of pieces of the smallest largest size.
        for _ in 0..10 * CREDIT {
            assert!(tally.came(&[frame(DATA, 16_384), frame(WINDOW, 4), frame(PING, 8)].concat()));
            tally.went(16_384 + HEAD);
            assert!(tally.came(&[frame(WINDOW, 4), frame(WINDOW, 4), frame(PING, 8)].concat()));
        }
        assert!(tally.credit <= CREDIT);
        // What is answered to pings pays for few of them.
        let answered = (0..).take_while(|_| {
            tally.went(17);
            tally.came(&frame(PING, 8))
        });
        assert!(answered.count() <= 2 * CREDIT);
    }
}
