//! Files as bodies: sent by the kernel from its page cache where that is possible, read and written elsewhere.
//!
//! hyper knows only bytes. So for a connection that can, a [`FileBody`] hands out slices of one static placeholder
//! instead, and notes the range of the file that each stands for in the connection's `Lane`. Where hyper writes such a
//! slice to the socket, the lane knows it by its address and sends the file's range in its place. No byte of the
//! placeholder is ever sent, or read.
//!
//! Why a client can never get a placeholder's bytes:
//! - Only a connection's outermost body leads the way (`Way::lead`), while hyper polls it: who polls a `FileBody`
//!   anywhere else, or on a connection with TLS or HTTP/2, gets the file's bytes.
//! - Should hyper, or a layer around a body, copy a slice, then bytes are to be written while the lane still owes a
//!   range, and the range's slice, at exactly the address and length that are owed, is not there to follow them. That
//!   is an error before the first of those bytes is sent, and the connection is cut. The ranges that are owed at one
//!   time have each their own part of the placeholder, so none can be taken for another.
//! - A placeholder's slice that nobody owes is an error, too.
//!
//! A range that is being sent shares the pages of its file: the store never writes to a file that it has published.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::File;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use rustix::buffer::spare_capacity;
use rustix::net::{SendFlags, send};
use tokio::io::{AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_blocking};

/// The longest range sent at once: long enough to cost nothing, short enough to be fair to other connections when the
/// file has to come from disk.
const RANGE: usize = 2 * 1024 * 1024;
/// Ranges that a connection owes at one time. hyper's queue holds as many slices, and no second one of full length.
const RANGES: usize = 16;
/// What is read at a time.
const CHUNKS: usize = 256 * 1024;
/// The same for a stream of HTTP/2, of which one connection has a hundred.
pub(super) const FRAMES: usize = 64 * 1024;

/// How files leave on a connection.
#[derive(Clone, Default)]
pub(super) enum Way {
    /// Read, as for somebody of whom nothing is known.
    #[default]
    Chunks,
    /// Read, in shorter chunks.
    Frames,
    /// Sent by the kernel.
    Lane(Lane),
}

thread_local! {
    /// The way of the connection that polls a body on this thread right now.
    static WAY: Cell<Way> = const { Cell::new(Way::Chunks) };
}

impl Way {
    /// Polls a body which this connection will write next, and itself.
    pub(super) fn lead<T>(&self, poll: impl FnOnce() -> T) -> T {
        /// Whatever happens in `poll`, the next body polled on this thread is not led by it.
        struct Restore(Way);
        impl Drop for Restore {
            fn drop(&mut self) {
                WAY.set(std::mem::take(&mut self.0));
            }
        }
        let _restore = Restore(WAY.replace(self.clone()));
        poll()
    }

    fn current() -> Self {
        let way = WAY.take();
        WAY.set(way.clone());
        way
    }
}

/// A range of a file as the body of an answer, or of anything else that reads bodies.
pub struct FileBody {
    file: Arc<File>,
    offset: u64,
    remaining: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileBody {
    /// `length` bytes of `file` from `offset` on. A file that turns out shorter is an error when that is met.
    pub fn new(file: Arc<File>, offset: u64, length: u64) -> Self {
        Self {
            file,
            offset,
            remaining: length,
            reading: None,
        }
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<Bytes>> {
        let (offset, length) = (self.offset, at_most(self.remaining, most));
        let reading = self.reading.get_or_insert_with(|| {
            let file = Arc::clone(&self.file);
            spawn_blocking(move || read(&file, offset, length))
        });
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        Poll::Ready(read.map_err(io::Error::other).flatten())
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        if this.remaining == 0 {
            return Poll::Ready(None);
        }
        let way = Way::current();
        let slice = match &way {
            Way::Lane(lane) if this.reading.is_none() => lane.enter(&this.file, this.offset, this.remaining),
            _ => None,
        };
        let most = if matches!(way, Way::Frames) { FRAMES } else { CHUNKS };
        let bytes = match slice {
            Some(slice) => slice,
            None => ready!(this.poll_chunk(cx, most))?,
        };
        this.offset += bytes.len() as u64;
        this.remaining -= bytes.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

fn at_most(remaining: u64, most: usize) -> usize {
    usize::try_from(remaining).map_or(most, |remaining| remaining.min(most))
}

fn read(file: &File, mut offset: u64, length: usize) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        match rustix::io::pread(file, spare_capacity(&mut bytes), offset) {
            Ok(0) => return Err(too_short()),
            Ok(read) => offset += read as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // The allocator may have given more than was asked for, and the file may have more than is wanted.
    bytes.truncate(length);
    Ok(bytes.into())
}

fn too_short() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the file is shorter than what was promised of it",
    )
}

/// What stands for files in hyper's hands: a part for each range that can be owed. Leaked, not a `static` array, which
/// would lie in the binary; never touched, so its pages never exist.
fn placeholder() -> &'static Bytes {
    static PLACEHOLDER: OnceLock<Bytes> = OnceLock::new();
    PLACEHOLDER.get_or_init(|| Bytes::from_static(Box::leak(vec![0; RANGES * RANGE].into_boxed_slice())))
}

fn is_placeholder(slice: &[u8]) -> bool {
    !slice.is_empty() && placeholder().as_ptr_range().contains(&slice.as_ptr())
}

/// The same bytes of memory, not equal ones.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.as_ptr_range() == other.as_ptr_range()
}

/// The ranges of files that a connection owes, in the order in which they go out between its bytes.
#[derive(Clone, Default)]
pub(super) struct Lane(Arc<Mutex<Ranges>>);

#[derive(Default)]
struct Ranges {
    owed: VecDeque<Range>,
    /// The part of the placeholder for the next range.
    turn: usize,
}

/// What is still to be sent of a range, and the part of the placeholder that stands for just that.
struct Range {
    file: Arc<File>,
    offset: u64,
    slice: Bytes,
}

/// What to do with the slices that hyper wants written.
enum Next {
    /// They are bytes.
    Bytes,
    /// This one, the first that is not empty, is bytes; a file follows.
    BytesBefore(usize),
    /// The first stands for a file.
    File,
}

impl Lane {
    /// A slice that stands for as much of the range as can be sent at once; `None` when too much is owed already.
    fn enter(&self, file: &Arc<File>, offset: u64, remaining: u64) -> Option<Bytes> {
        let mut ranges = self.ranges();
        if ranges.owed.len() == RANGES {
            return None;
        }
        let start = ranges.turn * RANGE;
        ranges.turn = (ranges.turn + 1) % RANGES;
        let slice = placeholder().slice(start..start + at_most(remaining, RANGE));
        ranges.owed.push_back(Range {
            file: Arc::clone(file),
            offset,
            slice: slice.clone(),
        });
        Some(slice)
    }

    /// Whether something is owed that was not sent.
    pub(super) fn owes(&self) -> bool {
        !self.ranges().owed.is_empty()
    }

    /// Writes what hyper wants written, with files in the place of what stands for them.
    pub(super) fn poll_write(
        &self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut ranges = self.ranges();
        let next = ranges.next(slices)?;
        if matches!(next, Next::Bytes) {
            return Pin::new(stream).poll_write_vectored(cx, slices);
        }
        loop {
            ready!(stream.poll_write_ready(cx))?;
            let sent = stream.try_io(Interest::WRITABLE, || match next {
                // The file's first bytes are to go out in the same packet.
                Next::BytesBefore(index) => Ok(send(&*stream, &slices[index], SendFlags::MORE | SendFlags::NOSIGNAL)?),
                _ => ranges.send(stream),
            });
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    fn ranges(&self) -> MutexGuard<'_, Ranges> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ranges {
    /// Nothing is written that is not certainly what it should be; see the top of this file.
    fn next(&self, slices: &[IoSlice<'_>]) -> io::Result<Next> {
        let stands = slices.iter().position(|slice| is_placeholder(slice));
        match (stands, self.owed.front()) {
            (None, None) => Ok(Next::Bytes),
            (Some(index), Some(range)) if same(&slices[index], &range.slice) => {
                let before = slices[..index].iter().position(|slice| !slice.is_empty());
                Ok(before.map_or(Next::File, Next::BytesBefore))
            }
            _ => Err(io::Error::other("a file's place among the bytes was lost")),
        }
    }

    /// Sends of the first range what the socket takes.
    fn send(&mut self, stream: &TcpStream) -> io::Result<usize> {
        let Some(range) = self.owed.front_mut() else {
            return Ok(0);
        };
        let sent = send_file(stream, &range.file, range.offset, range.slice.len())?;
        if sent == 0 {
            return Err(too_short());
        }
        range.offset += sent as u64;
        let _ = range.slice.split_to(sent);
        if range.slice.is_empty() {
            self.owed.pop_front();
        }
        Ok(sent)
    }
}

fn send_file(stream: &TcpStream, file: &File, offset: u64, length: usize) -> io::Result<usize> {
    #[cfg(target_os = "linux")]
    {
        use rustix::io::Errno;
        let mut offset = offset;
        match rustix::fs::sendfile(stream, file, Some(&mut offset), length) {
            // Not every file system can.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            sent => return Ok(sent?),
        }
    }
    copy_file(stream, file, offset, length)
}

fn copy_file(stream: &TcpStream, file: &File, offset: u64, length: usize) -> io::Result<usize> {
    let bytes = read(file, offset, length.min(FRAMES))?;
    Ok(send(stream, &bytes, SendFlags::NOSIGNAL)?)
}

#[cfg(test)]
#[path = "sendfile/tests.rs"]
mod tests;
