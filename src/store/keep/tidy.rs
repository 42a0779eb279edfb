//! Housekeeping: what goes without anybody asking for its room.

use std::sync::Arc;

use super::account::Candidate;
use super::evict::{self, Why};
use super::links::Kind;
use super::{Kept, Tidied, now, to_milliseconds};
use crate::store::{Error, Inner};

/// How many times `unused_after` a manifest stays unused before it goes.
const MANIFESTS_STAY: u32 = 2;

impl Inner {
    pub(super) fn tidy(self: &Arc<Self>) -> Result<Tidied, Error> {
        let mut tidied = Tidied::default();
        for kept in self.keep.caches() {
            self.read_account(&kept)?;
            let _alone = self.keep.one_at_a_time();
            let unused_after = kept.account().keeping.unused_after;
            if let Some(unused_after) = unused_after {
                let since = |times| now().saturating_sub(to_milliseconds(unused_after.saturating_mul(times)));
                let unused = kept.account().unused_since(since(1));
                tidied += evict::evict(self, &kept, Kind::Layer, &unused, Why::Unused)?;
                let unused = kept.account().manifests_unused_since(since(MANIFESTS_STAY));
                tidied += evict::evict(self, &kept, Kind::Revision, &unused, Why::Unused)?;
            }
            let being_read = self.blobs.guards.being_read();
            let (excess, oldest) = {
                let account = kept.account();
                let excess = account.excess();
                (excess, account.oldest(excess, &being_read))
            };
            if excess > 0 {
                tidied += evict::evict(self, &kept, Kind::Layer, &oldest, Why::MaxSize)?;
            }
        }
        if self.space.shortfall(0) > 0 {
            let _alone = self.keep.one_at_a_time();
            self.clear_partials();
            self.empty_trash()?;
            tidied += self.free_disk(self.space.shortfall(0))?;
        }
        self.write_notes(false);
        Ok(tidied)
    }

    /// What came in part and nobody is at work on goes before anything that is whole.
    pub(super) fn clear_partials(&self) {
        self.partials.clear();
        self.space.forget();
    }

    /// Lets blobs go, wherever room may be made, until so much more of the disk is free; none at all if that cannot be
    /// reached: a cache that is empty as well helps nobody. By the one who evicts.
    pub(super) fn free_disk(self: &Arc<Self>, bytes: u64) -> Result<Tidied, Error> {
        if bytes == 0 {
            return Ok(Tidied::default());
        }
        let being_read = self.blobs.guards.being_read();
        let mut going: Vec<(Arc<Kept>, Candidate)> = Vec::new();
        for kept in self.keep.caches() {
            if kept.account().keeping.max_size.is_some() {
                self.read_account(&kept)?;
                let oldest = kept.account().oldest(bytes, &being_read);
                going.extend(oldest.into_iter().map(|old| (Arc::clone(&kept), old)));
            }
        }
        going.sort_by_key(|(_, candidate)| candidate.used);
        let mut sum = 0_u64;
        let enough = going.iter().position(|(_, candidate)| {
            sum = sum.saturating_add(candidate.size);
            sum >= bytes
        });
        let mut tidied = Tidied::default();
        let Some(last) = enough else { return Ok(tidied) };
        going.truncate(last + 1);
        for kept in self.keep.caches() {
            let mine = going.iter().filter(|(owner, _)| Arc::ptr_eq(owner, &kept));
            let mine: Vec<Candidate> = mine.map(|(_, candidate)| candidate.clone()).collect();
            tidied += evict::evict(self, &kept, Kind::Layer, &mine, Why::MinFree)?;
        }
        self.space.forget();
        Ok(tidied)
    }
}
