//! Which bytes of a blob are here, who fetches which, and what to fetch next: pure, so that it can be tried out.
//!
//! Work is given out in order, a segment at a time, and not far ahead of the first byte that is missing: whoever reads
//! in order waits for that one. Where nothing is left to give out, the longest piece under way is split; where the one
//! that everybody waits for stands still, it is taken away.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// The shortest segment.
const SHORTEST: u64 = 4 << 20;
/// The longest segment: what a reader may have to wait for as a whole.
const LONGEST: u64 = 16 << 20;
/// A piece under way is split only into halves of at least this.
const HALF: u64 = 2 << 20;

/// How many times slower than the best a connection may be.
const SLOW: u64 = 8;

/// How much it takes to tell how fast a connection is.
const MEASURED: u64 = 1 << 20;

/// Names a claim.
pub(super) type Id = u32;

/// Bytes that somebody fetches: from `at` to before `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) id: Id,
    pub(super) at: u64,
    pub(super) end: u64,
}

/// What to do for the next connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) claim: Claim,
    /// Whose claim is over: this one has its bytes.
    pub(super) instead_of: Option<Id>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    begin: u64,
    at: u64,
    end: u64,
    since: Instant,
    moved: Instant,
}

impl Held {
    /// Bytes in a second, so far.
    fn rate(&self, now: Instant) -> u64 {
        let millis = u64::try_from(now.duration_since(self.since).as_millis()).unwrap_or(u64::MAX);
        (self.at - self.begin).saturating_mul(1000) / millis.max(1)
    }

    /// Whether it keeps the others waiting: it has stood still for so long, or is far slower than one has been.
    fn is_slow(&self, best: u64, patience: Duration, now: Instant) -> bool {
        now.duration_since(self.moved) >= patience
            || (now.duration_since(self.since) >= patience && self.rate(now) < best / SLOW)
    }
}

/// The plan of one blob.
#[derive(Debug)]
pub(super) struct Plan {
    /// `u64::MAX` when nobody says.
    total: u64,
    segment: u64,
    /// How far ahead of the first missing byte work is given out.
    window: u64,
    /// What is here, without overlaps, and no two that touch: start and end.
    here: BTreeMap<u64, u64>,
    claims: BTreeMap<Id, Held>,
    next_id: Id,
    /// The best rate of a claim that is over.
    best: u64,
}

impl Plan {
    /// Of a blob of which the first `known` bytes are here, for so many connections.
    pub(super) fn new(total: Option<u64>, known: u64, parts: usize) -> Self {
        let total = total.unwrap_or(u64::MAX);
        let parts = parts.max(1) as u64;
        let segment = (total / parts).clamp(SHORTEST, LONGEST);
        Self {
            total,
            segment,
            window: segment * parts * 2,
            here: if known > 0 {
                BTreeMap::from([(0, known)])
            } else {
                BTreeMap::new()
            },
            claims: BTreeMap::new(),
            next_id: 0,
            best: 0,
        }
    }

    /// Whether several connections are of use.
    pub(super) fn is_worth_parts(&self) -> bool {
        self.total != u64::MAX && self.total.saturating_sub(self.frontier()) > 2 * SHORTEST
    }

    /// Up to where nothing is missing.
    pub(super) fn frontier(&self) -> u64 {
        self.here.get(&0).copied().unwrap_or(0)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.frontier() >= self.total
    }

    /// How many bytes are here.
    pub(super) fn amount(&self) -> u64 {
        self.here.iter().map(|(start, end)| end - start).sum()
    }

    /// The first bytes that nobody has or fetches, not more than a segment.
    pub(super) fn take(&mut self, now: Instant) -> Option<Claim> {
        let (at, gap) = self.gap(self.frontier())?;
        if at >= self.frontier().saturating_add(self.window) {
            return None;
        }
        Some(self.claim(at, self.cut(at, gap), now))
    }

    /// Work for one more connection: free bytes, or else a part of what another one has, or all of what the first one
    /// has if that keeps everybody waiting for so long.
    pub(super) fn help(&mut self, now: Instant, patience: Option<Duration>) -> Option<Next> {
        if let Some(claim) = self.take(now) {
            return Some(Next {
                claim,
                instead_of: None,
            });
        }
        let (first, held) = self
            .claims
            .iter()
            .min_by_key(|(_, held)| held.at)
            .map(|(id, held)| (*id, *held))?;
        if patience.is_some_and(|patience| held.is_slow(self.best, patience, now)) {
            self.release(first);
            let claim = self.claim(held.at, held.end, now);
            return Some(Next {
                claim,
                instead_of: Some(first),
            });
        }
        let left = |held: &Held| held.end - held.at;
        let longest = self.claims.values_mut().max_by_key(|held| left(held))?;
        if longest.end == u64::MAX || left(longest) < 2 * HALF {
            return None;
        }
        let (middle, end) = (longest.at + left(longest) / 2, longest.end);
        longest.end = middle;
        let claim = self.claim(middle, end, now);
        Some(Next {
            claim,
            instead_of: None,
        })
    }

    /// Lets a claim whose end is reached go on with what follows, if that is free.
    pub(super) fn extend(&mut self, id: Id) -> bool {
        let Some(held) = self.claims.get(&id).copied() else {
            return false;
        };
        let Some((at, gap)) = self.gap(held.end).filter(|(at, _)| *at == held.end) else {
            return false;
        };
        let end = self.cut(at, gap);
        if let Some(held) = self.claims.get_mut(&id) {
            held.end = end;
        }
        true
    }

    /// The first bytes that nobody has or fetches, all of them.
    pub(super) fn first_gap(&self) -> Option<(u64, u64)> {
        self.gap(self.frontier())
    }

    /// How many bytes are left of a claim; none if it is nobody's any more.
    pub(super) fn left(&self, id: Id) -> u64 {
        self.claims.get(&id).map_or(0, |held| held.end - held.at)
    }

    /// Where a claim's next byte belongs.
    pub(super) fn at(&self, id: Id) -> Option<u64> {
        self.claims.get(&id).map(|held| held.at)
    }

    /// The next `bytes` of a claim are here.
    pub(super) fn wrote(&mut self, id: Id, bytes: u64, now: Instant) {
        let Some(held) = self.claims.get_mut(&id) else { return };
        let start = held.at;
        held.at = held.end.min(start + bytes);
        held.moved = now;
        let end = held.at;
        self.add(start, end);
    }

    /// What is left of a claim is free again.
    pub(super) fn release(&mut self, id: Id) {
        if let Some(held) = self.claims.remove(&id)
            && held.at - held.begin >= MEASURED
        {
            self.best = self.best.max(held.rate(held.moved));
        }
    }

    /// The end is where the body ended: nobody had said so before.
    pub(super) fn ends_here(&mut self) {
        self.total = self.frontier();
        self.claims.clear();
    }

    fn claim(&mut self, at: u64, end: u64, now: Instant) -> Claim {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let held = Held {
            begin: at,
            at,
            end,
            since: now,
            moved: now,
        };
        self.claims.insert(id, held);
        Claim { id, at, end }
    }

    /// The end of a segment from `at` on within a gap: what would be left of it is not worth a request of its own.
    fn cut(&self, at: u64, gap: u64) -> u64 {
        let end = at.saturating_add(self.segment);
        if gap.saturating_sub(end) < self.segment / 4 {
            gap
        } else {
            end
        }
    }

    /// The first gap from `from` on: bytes that are neither here nor claimed.
    fn gap(&self, from: u64) -> Option<(u64, u64)> {
        let mut taken: Vec<(u64, u64)> = self.here.iter().map(|(start, end)| (*start, *end)).collect();
        taken.extend(self.claims.values().map(|held| (held.at, held.end)));
        taken.sort_unstable();
        let mut at = from;
        for (start, end) in taken {
            if start > at {
                return Some((at, start));
            }
            at = at.max(end);
        }
        (at < self.total).then_some((at, self.total))
    }

    fn add(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        if let Some((before, before_end)) = self.here.range(..=start).next_back()
            && *before_end >= start
        {
            (start, end) = (*before, end.max(*before_end));
        }
        while let Some((after, after_end)) = self.here.range(start..).next().map(|(from, to)| (*from, *to))
            && after <= end
        {
            end = end.max(after_end);
            self.here.remove(&after);
        }
        self.here.insert(start, end);
    }
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
