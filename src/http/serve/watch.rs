//! How long one connection may keep us waiting: for its first byte, a request's head, the next request, and for
//! anything of an answer to be taken.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::slots::Pressure;

/// Less than this within [`Patience::stall`] is no progress: pings and their like go on while nothing is read.
const PROGRESS: u64 = 1024;
/// While connections are scarce, nobody is waited for longer than this.
const SCARCE: Patience = Patience {
    head: Duration::from_secs(5),
    idle: Duration::from_secs(5),
    stall: Duration::from_secs(15),
};
/// What has to come or go within [`SCARCE`]'s `stall` meanwhile: who is slower than that may come back.
const SCARCE_PROGRESS: u64 = 64 * 1024;
/// How often it is looked whether connections are scarce.
const LOOK: Duration = Duration::from_secs(5);

/// How long clients may keep us waiting. None of these limits a whole transfer.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the first byte, for the whole TLS handshake, and for the whole head of a request.
    pub head: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// For the next byte of a request's body, and for anything of an answer to be taken.
    pub stall: Duration,
}

/// What holds right now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) patience: Patience,
    /// Bytes that have to go out, or come in, within `stall`.
    pub(super) progress: u64,
    /// Connections are scarce.
    pub(super) scarce: bool,
}

impl Patience {
    const fn terms(self, scarce: bool) -> Terms {
        let (patience, progress) = if scarce {
            let patience = Self {
                head: shorter(self.head, SCARCE.head),
                idle: shorter(self.idle, SCARCE.idle),
                stall: shorter(self.stall, SCARCE.stall),
            };
            (patience, SCARCE_PROGRESS)
        } else {
            (self, PROGRESS)
        };
        Terms {
            patience,
            progress,
            scarce,
        }
    }
}

const fn shorter(one: Duration, other: Duration) -> Duration {
    if one.as_nanos() < other.as_nanos() { one } else { other }
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No first byte, or no whole head, in time.
    NoRequest,
    /// No further request.
    Idle,
    /// Nothing of an answer is taken.
    Stalled,
}

/// What one connection is doing. Its socket, its requests and the bodies of its answers report here.
pub(super) struct Watch {
    patience: Patience,
    pressure: Pressure,
    state: Mutex<State>,
    /// Bytes that went into the socket.
    written: AtomicU64,
    /// The socket takes no more: then it is for the kernel to tell slow from dead (`TCP_USER_TIMEOUT`), which sees
    /// every byte that is acknowledged; we would only see every third of a buffer that is.
    full: AtomicBool,
    /// Bodies that have handed out a frame and were not asked for the next one.
    owing: AtomicUsize,
    /// The latest request's body was not read to its end.
    unread: AtomicBool,
}

struct State {
    phase: Phase,
    since: Instant,
    requests: usize,
    /// HTTP/2: a client's bytes between requests need not be a request.
    multiplexed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing has come yet.
    Silent,
    /// A request has begun to come.
    Asking,
    /// At least one request is under way.
    Answering,
    /// Between requests.
    Idle,
}

impl Watch {
    pub(super) fn new(patience: Patience, pressure: Pressure) -> Self {
        Self {
            patience,
            pressure,
            state: Mutex::new(State {
                phase: Phase::Silent,
                since: Instant::now(),
                requests: 0,
                multiplexed: false,
            }),
            written: AtomicU64::new(0),
            full: AtomicBool::new(false),
            owing: AtomicUsize::new(0),
            unread: AtomicBool::new(false),
        }
    }

    /// What the client has to keep to now, and when to ask again at the latest.
    pub(super) fn terms(&self, now: Instant) -> (Terms, Instant) {
        let terms = self.patience.terms(self.pressure.is_high(now));
        let Patience { head, idle, stall } = terms.patience;
        (terms, now + head.min(idle).min(stall).min(LOOK))
    }

    /// Whether connections are scarce.
    pub(super) fn is_scarce(&self) -> bool {
        self.pressure.is_high(Instant::now())
    }

    /// The TLS handshake is over: what came until now was not of a request.
    pub(super) fn handshake_done(&self) {
        let mut state = self.state();
        state.phase = Phase::Silent;
        state.since = Instant::now();
    }

    /// Bytes came.
    pub(super) fn received(&self) {
        let mut state = self.state();
        if state.phase == Phase::Silent || (state.phase == Phase::Idle && !state.multiplexed) {
            state.phase = Phase::Asking;
            state.since = Instant::now();
        }
    }

    /// The socket took this many bytes, or none because it is full.
    pub(super) fn sent(&self, taken: Option<usize>) {
        self.full.store(taken.is_none(), Ordering::Relaxed);
        self.written.fetch_add(taken.unwrap_or(0) as u64, Ordering::Relaxed);
    }

    /// A request's head is complete. The guard is dropped when its answer's body is.
    pub(super) fn request(self: &Arc<Self>, multiplexed: bool) -> Running {
        let mut state = self.state();
        state.requests += 1;
        state.phase = Phase::Answering;
        state.multiplexed |= multiplexed;
        drop(state);
        self.unread.store(false, Ordering::Relaxed);
        Running {
            watch: Arc::clone(self),
            owing: false,
        }
    }

    pub(super) fn leave_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    pub(super) fn left_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// Waits until this connection has kept us waiting for too long. `leaving`: it has been asked to end.
    ///
    /// The clock is looked at once in the shortest of the three times, or sooner. So no time can begin and run out
    /// between two looks, and nobody has to wake this, nor when connections become scarce.
    pub(super) async fn verdict(&self, leaving: bool) -> Verdict {
        let mut seen = self.written.load(Ordering::Relaxed);
        let mut stalled = None;
        loop {
            let now = Instant::now();
            let (terms, mut next) = self.terms(now);
            let Patience { head, idle, stall } = terms.patience;
            let full = self.full.load(Ordering::Relaxed);
            let written = self.written.load(Ordering::Relaxed);
            let (phase, since, requests) = self.phase(now, full || written != seen);
            seen = written;
            let owing = self.owing.load(Ordering::Relaxed) > 0;
            let waiting = owing || (leaving && requests == 0) || full;
            stalled = match stalled {
                _ if !waiting || (full && !terms.scarce) => None,
                Some((mark, since)) if written < mark + terms.progress => Some((mark, since)),
                _ => Some((written, now)),
            };
            let deadline = match phase {
                Phase::Silent | Phase::Asking if !leaving => Some((since + head, Verdict::NoRequest)),
                Phase::Idle if !leaving => Some((since + idle, Verdict::Idle)),
                _ => None,
            };
            let stall = stalled.map(|(_, since)| (since + stall, Verdict::Stalled));
            for (deadline, verdict) in [deadline, stall].into_iter().flatten() {
                if now >= deadline {
                    return verdict;
                }
                next = next.min(deadline);
            }
            sleep_until(next).await;
        }
    }

    /// What the connection is doing, and since when. It is not idle while the last answer still goes out.
    fn phase(&self, now: Instant, sending: bool) -> (Phase, Instant, usize) {
        let mut state = self.state();
        if state.phase == Phase::Idle && sending {
            state.since = now;
        }
        (state.phase, state.since, state.requests)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way, from its head to the end of its answer's body.
pub(super) struct Running {
    watch: Arc<Watch>,
    owing: bool,
}

impl Running {
    pub(super) fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// A frame of the answer was handed out (`true`), or the next one is asked for.
    pub(super) fn owe(&mut self, owing: bool) {
        if owing != self.owing {
            self.owing = owing;
            if owing {
                self.watch.owing.fetch_add(1, Ordering::Relaxed);
            } else {
                self.watch.owing.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.owe(false);
        let mut state = self.watch.state();
        state.requests -= 1;
        if state.requests == 0 {
            state.phase = Phase::Idle;
            state.since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(75),
        stall: Duration::from_secs(60),
    };

    fn begin() -> (Arc<Watch>, Instant) {
        (Arc::new(Watch::new(PATIENCE, Pressure::none())), Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_must_begin_and_end_in_time() {
        let (watch, start) = begin();
        assert_eq!(watch.verdict(false).await, Verdict::NoRequest);
        assert_eq!(start.elapsed(), PATIENCE.head);

        let (watch, start) = begin();
        let drip = async {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_secs(7)).await;
                watch.received();
            }
        };
        let verdict = tokio::select! { () = drip => unreachable!(), verdict = watch.verdict(false) => verdict };
        assert_eq!(verdict, Verdict::NoRequest);
        assert_eq!(start.elapsed(), Duration::from_secs(7) + PATIENCE.head);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_of_ours_is_nobodys_fault() {
        let (watch, start) = begin();
        let running = watch.request(false);
        let answered = async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            drop(running);
            std::future::pending::<()>().await;
        };
        let verdict = tokio::select! { () = answered => unreachable!(), verdict = watch.verdict(false) => verdict };
        assert_eq!(verdict, Verdict::Idle);
        assert_eq!(start.elapsed(), Duration::from_secs(3600) + PATIENCE.idle);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_must_be_taken() {
        for (every, taken, ends) in [(5, 17, true), (5, 4096, false), (50, 4096, false)] {
            let (watch, start) = begin();
            let mut running = watch.request(true);
            running.owe(true);
            let reader = async {
                for _ in 0..1000 {
                    tokio::time::sleep(Duration::from_secs(every)).await;
                    watch.sent(Some(taken));
                }
            };
            let verdict = tokio::select! { () = reader => None, verdict = watch.verdict(false) => Some(verdict) };
            assert_eq!(verdict, ends.then_some(Verdict::Stalled), "{taken} every {every} s");
            assert!(!ends || start.elapsed() <= PATIENCE.stall + PATIENCE.head);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_still_goes_out_is_not_idle() {
        let (watch, start) = begin();
        drop(watch.request(false));
        let reader = async {
            for _ in 0..100 {
                watch.sent(None);
                tokio::time::sleep(Duration::from_secs(20)).await;
                watch.sent(Some(1));
            }
            std::future::pending::<()>().await;
        };
        let verdict = tokio::select! { () = reader => unreachable!(), verdict = watch.verdict(false) => verdict };
        assert_eq!(verdict, Verdict::Idle);
        assert!(start.elapsed() + PATIENCE.head >= Duration::from_secs(2000) + PATIENCE.idle);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_asked_to_leave_may_take_the_rest() {
        let (watch, start) = begin();
        drop(watch.request(true));
        assert_eq!(watch.verdict(true).await, Verdict::Stalled);
        assert_eq!(start.elapsed(), PATIENCE.stall);
    }
}
