//! The connections that one blob comes over: the first one goes on from its beginning, and further ones, where there
//! are some to spare, fetch what lies ahead.
//!
//! All of them are polled by the fetch's one task, each when it has room to write: who is slow is not read from, and
//! nothing piles up in memory. What a connection brings is put where it belongs; what the readers see ends at the first
//! byte that is missing. Whatever goes wrong with one connection, its bytes are free for the next; only when none is
//! left has the blob broken off.

use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_fn;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::Error;
use super::download::Download;
use super::fetch::LONGEST;
use super::plan::{Claim, Plan};
use super::source::{Setbacks, Source, is_about_ranges};
use super::worker::{Kind, News, Worker};
use crate::store::{self, Reservation};
use crate::upstream::{self, BlobStream, Range, Validator};

/// How often it is seen whether another connection would help.
const TICK: Duration = Duration::from_millis(200);
/// How long no further connection is opened after one that came to nothing; it doubles, up to sixteen times this.
const REST: Duration = Duration::from_millis(250);
/// The least time between two connections that are given back: the first one may be enough.
const GIVING_WAY: Duration = Duration::from_millis(50);
/// How long a connection may stand still that everybody waits for, before another one gets its work.
const STANDSTILL: Duration = Duration::from_secs(2);
/// How often that is done without anything coming of it.
const TAKEN_AWAY: u32 = 3;

/// Why a blob does not arrive.
pub(super) enum Stop {
    /// It cannot be had.
    Failed(Error),
    /// It cannot be kept.
    Unkept(store::Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Those who fetch one blob.
pub(super) struct Crew<'a> {
    source: &'a Source,
    download: &'a mut Download,
    reservation: &'a mut Reservation,
    plan: Plan,
    parts: usize,
    /// Nobody has asked for it yet.
    is_ahead: bool,
    workers: Vec<Worker>,
    /// Who is looked at first next time.
    turn: usize,
    validator: Option<Validator>,
    has_ranges: bool,
    setbacks: Setbacks,
    /// Until when no connection is added, and how often in a row one came to nothing.
    rests_until: Option<Instant>,
    failures: u32,
    gave_way: Option<Instant>,
    /// How many connections were taken their work away from since anything came.
    taken_away: u32,
}

impl<'a> Crew<'a> {
    pub(super) fn new(
        source: &'a Source,
        download: &'a mut Download,
        reservation: &'a mut Reservation,
        is_ahead: bool,
    ) -> Self {
        let parts = source.inner.fetch_parts.max(1);
        let plan = Plan::new(download.total(), download.written(), parts);
        Self {
            parts: if plan.is_worth_parts() { parts } else { 1 },
            source,
            download,
            reservation,
            plan,
            is_ahead,
            workers: Vec::new(),
            turn: 0,
            validator: None,
            has_ranges: true,
            setbacks: Setbacks::default(),
            rests_until: None,
            failures: 0,
            gave_way: None,
            taken_away: 0,
        }
    }

    /// Gets all of it. When this is over, the download has every byte, right or wrong.
    pub(super) async fn fetch(mut self, first: BlobStream) -> Result<(), Stop> {
        self.validator = first.validator().cloned();
        self.begin(first, None);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut trouble = None;
        loop {
            self.catch_up()?;
            if self.plan.is_complete() && !self.lags() {
                return Ok(());
            }
            self.add_workers();
            if self.workers.is_empty() && !self.plan.is_complete() {
                self.take_up(trouble.take()).await?;
            }
            tokio::select! {
                biased;
                (index, news) = next_news(&mut self.workers, &mut self.turn) => {
                    // As long as there are others, what one of them came to nothing with is no matter.
                    trouble = self.hear(index, news).await?.filter(|_| self.workers.is_empty());
                }
                () = tokio::task::yield_now(), if self.lags() => {}
                _ = tick.tick(), if !self.plan.is_complete() => {}
            }
        }
    }

    /// Whether something is here that was not hashed yet.
    fn lags(&self) -> bool {
        self.plan.frontier() > self.download.written()
    }

    fn catch_up(&mut self) -> Result<(), Stop> {
        if self.lags() {
            self.download.catch_up(self.plan.frontier()).map_err(unkept)?;
        }
        Ok(())
    }

    /// Gives what is missing first to a connection that is open already.
    fn begin(&mut self, stream: BlobStream, to: Option<u64>) {
        if let Some(claim) = self.plan.take(Instant::now()) {
            let skip = claim.at.saturating_sub(stream.start());
            self.workers.push(Worker::open(claim.id, stream, skip, to));
        }
    }

    /// Adds connections as long as they are of use and there are some.
    fn add_workers(&mut self) {
        let now = Instant::now();
        self.give_way(now);
        let rests = self.rests_until.is_some_and(|until| now < until);
        if self.parts == 1 || rests || self.workers.is_empty() || !self.may_have_parts() {
            return;
        }
        if !self.workers.iter().any(|worker| worker.kind == Kind::Main)
            && let Some(claim) = self.plan.take(now)
        {
            self.ask(Kind::Main, claim);
        }
        while self.workers.len() < self.parts && !self.source.inner.upstream.is_crowded() {
            let patience = (self.taken_away < TAKEN_AWAY).then_some(STANDSTILL);
            let Some(next) = self.plan.help(now, patience) else {
                break;
            };
            if let Some(over) = next.instead_of {
                self.taken_away += 1;
                self.workers.retain(|worker| worker.claim != over);
            }
            self.ask(Kind::Helper, next.claim);
        }
    }

    /// Whether ranges are known here, and somebody waits.
    fn may_have_parts(&self) -> bool {
        self.has_ranges && !self.source.inner.rangeless.is_known() && (!self.is_ahead || self.download.has_readers())
    }

    /// Gives a connection back that others have more use for.
    fn give_way(&mut self, now: Instant) {
        let is_enough = self.gave_way.is_some_and(|then| now < then + GIVING_WAY);
        if is_enough || !self.source.inner.upstream.is_crowded() {
            return;
        }
        self.gave_way = Some(now);
        if self.is_ahead && !self.download.has_readers() {
            // It will be gone on with when it is its turn.
            while !self.workers.is_empty() {
                self.dismiss(0);
            }
        } else if let Some(index) = self.workers.iter().rposition(|worker| worker.kind == Kind::Helper) {
            self.dismiss(index);
        }
    }

    fn ask(&mut self, kind: Kind, claim: Claim) {
        let range = Range {
            from: claim.at,
            to: Some(claim.end),
        };
        let validator = self.validator.clone();
        self.workers
            .push(Worker::asking(kind, claim.id, self.source, range, validator));
    }

    /// Ends a connection: what it had not brought yet is free.
    fn dismiss(&mut self, index: usize) {
        let worker = self.workers.swap_remove(index);
        self.plan.release(worker.claim);
    }

    /// Does what a connection's news ask for. An error is one that this connection came to nothing with.
    async fn hear(&mut self, index: usize, news: News) -> Result<Option<Error>, Stop> {
        match news {
            News::Begins(start, total) => {
                self.begins(index, start, total);
                Ok(None)
            }
            News::Bytes(bytes) => self.receive(index, bytes).await.map(|()| None),
            News::Ended if self.workers[index].is_at_its_end(&self.plan) => {
                self.dismiss(index);
                Ok(None)
            }
            News::Ended if self.download.total().is_none() => {
                self.plan.ends_here();
                self.workers.clear();
                Ok(None)
            }
            News::Ended => {
                let missing = self.plan.left(self.workers[index].claim);
                let error = upstream::Error::Broken(format!("at least {missing} bytes are missing"));
                Ok(Some(self.fails(index, error)))
            }
            News::Absent => {
                let error = upstream::Error::Broken("a part of it is said not to be there".to_owned());
                Ok(Some(self.fails(index, error)))
            }
            News::Failed(error) => Ok(Some(self.fails(index, error))),
        }
    }

    /// A part was asked for, and something begins: it may be the whole.
    fn begins(&mut self, index: usize, start: u64, total: Option<u64>) {
        let is_the_part = self.plan.at(self.workers[index].claim) == Some(start);
        if is_the_part && (total.is_none() || total == self.download.total()) {
            return;
        }
        let had_validator = self.workers[index].has_validator;
        self.dismiss(index);
        // Hosts behind one name may each have a tag of their own: once more without.
        self.validator = None;
        if !had_validator {
            self.has_no_ranges();
        }
    }

    fn has_no_ranges(&mut self) {
        tracing::debug!(
            repository = %self.source.inner.key,
            upstream = &*self.source.inner.host,
            "the upstream does not send parts of blobs: they come over one connection"
        );
        self.has_ranges = false;
        self.source.inner.rangeless.note();
    }

    fn fails(&mut self, index: usize, error: upstream::Error) -> Error {
        if self.workers[index].kind == Kind::Helper && is_about_ranges(&error) {
            self.has_no_ranges();
        }
        self.dismiss(index);
        self.rests_until = Some(Instant::now() + REST * 2_u32.pow(self.failures.min(4)));
        self.failures += 1;
        tracing::debug!(
            repository = %self.source.inner.key,
            digest = %self.source.digest,
            %error,
            "one of the connections of a blob came to nothing"
        );
        self.source.inner.wrap(error)
    }

    /// Puts what came where it belongs.
    async fn receive(&mut self, index: usize, mut bytes: Bytes) -> Result<(), Stop> {
        (self.failures, self.taken_away) = (0, 0);
        self.workers[index].skip(&mut bytes);
        let claim = self.workers[index].claim;
        let limit = self.download.total().unwrap_or(LONGEST);
        while let Some(at) = self.plan.at(claim).filter(|_| !bytes.is_empty()) {
            if at >= limit {
                return Err(self
                    .source
                    .inner
                    .lie("it sends more of a blob than it announced")
                    .into());
            }
            let left = self.plan.left(claim);
            if left == 0 && !self.goes_on(index) {
                break;
            }
            let left = usize::try_from(self.plan.left(claim)).unwrap_or(usize::MAX);
            let piece = bytes.split_to(left.min(bytes.len()));
            self.make_room(at + piece.len() as u64).await?;
            self.download.write_at(at, &piece).map_err(unkept)?;
            self.plan.wrote(claim, piece.len() as u64, Instant::now());
        }
        if self.plan.left(claim) == 0 && !self.goes_on(index) {
            self.dismiss(index);
        }
        Ok(())
    }

    /// Whether a connection that has brought all of its claim brings what follows, too.
    fn goes_on(&mut self, index: usize) -> bool {
        let worker = &self.workers[index];
        !worker.is_at_its_end(&self.plan) && self.plan.extend(worker.claim)
    }

    /// Room for what is about to be written, where nobody has said how much there will be.
    async fn make_room(&mut self, to: u64) -> Result<(), Stop> {
        if self.download.total().is_some() || to <= self.reservation.size() {
            return Ok(());
        }
        self.reservation.grow(to).await.map_err(Stop::Unkept)
    }

    /// Goes on where the blob broke off, if that is what happened, and not too often without getting further.
    async fn take_up(&mut self, mut error: Option<Error>) -> Result<(), Stop> {
        loop {
            if let Some(error) = error.take() {
                let Some(pause) = self.setbacks.after(&error, self.plan.amount()) else {
                    return Err(error.into());
                };
                sleep(pause).await;
            }
            let Some((at, end)) = self.plan.first_gap() else {
                return Ok(());
            };
            // To its end, if that is what is missing.
            let to = (Some(end) != self.download.total() && end != u64::MAX).then_some(end);
            let range = if self.has_ranges {
                Range { from: at, to }
            } else {
                Range::default()
            };
            let total = self.download.total();
            match self.source.take_up(at, range, total, self.validator.as_ref()).await {
                Ok(stream) => {
                    self.validator = stream.validator().cloned();
                    let to = if stream.start() == at { to } else { None };
                    self.begin(stream, to);
                    return Ok(());
                }
                Err(failed) => {
                    if range.from > 0 && failed.upstream().is_some_and(is_about_ranges) {
                        self.has_no_ranges();
                    } else {
                        error = Some(failed);
                    }
                }
            }
        }
    }
}

fn unkept(source: std::io::Error) -> Stop {
    Stop::Unkept(store::Error::Disk {
        path: "the spool".into(),
        source,
    })
}

/// What the next connection has to say that has anything to say; each is the first one to be asked in turn.
async fn next_news(workers: &mut [Worker], turn: &mut usize) -> (usize, News) {
    poll_fn(|cx| {
        for offset in 0..workers.len() {
            let index = (*turn + offset) % workers.len();
            if let Poll::Ready(news) = workers[index].poll(cx) {
                *turn = index + 1;
                return Poll::Ready((index, news));
            }
        }
        Poll::Pending
    })
    .await
}
