//! What a repository holds, in numbers: pure, and small, since there may be a million blobs.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet};
use std::str::FromStr as _;

use super::Keeping;
use crate::oci::{Algorithm, Digest};
use crate::store::Error;

/// Above this part of the limit, room is made before anybody needs it; in hundredths.
const HIGH: u64 = 95;
/// As much of the limit is left when room is made.
const LOW: u64 = 90;
/// A use is written down again when the one that is written is so much older, in milliseconds.
const NOTE_EVERY: u64 = 60 * 60 * 1000;

/// A digest in as few bytes as it has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Sha256([u8; 32]),
    Sha512(Box<[u8; 64]>),
}

/// What is known of a blob. Times are milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    size: u64,
    used: u64,
    /// The last use that the index, or else the file's time, tells of; in seconds.
    noted: u32,
}

/// Whether something of a size fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Fits,
    /// Not before this much is gone; and then it is best to let so much go.
    After {
        least: u64,
        best: u64,
    },
    Never,
}

/// The account of one repository.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) keeping: Keeping,
    blobs: BTreeMap<Key, Entry>,
    /// When manifests were used; they count for nothing else.
    manifests: BTreeMap<Key, Entry>,
    bytes: u64,
    reserved: u64,
    /// The last time given to a use, so that no two are at once.
    clock: u64,
    /// While what there is is being read: what has gone since.
    gone: Option<BTreeSet<Key>>,
}

impl Account {
    pub(super) fn new(keeping: Keeping) -> Self {
        Self {
            keeping,
            blobs: BTreeMap::new(),
            manifests: BTreeMap::new(),
            bytes: 0,
            reserved: 0,
            clock: 0,
            gone: None,
        }
    }

    /// Bytes of blobs.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that are about to come.
    pub(super) const fn reserved(&self) -> u64 {
        self.reserved
    }

    fn tick(&mut self, now: u64) -> u64 {
        self.clock = now.max(self.clock + 1);
        self.clock
    }

    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.blobs.contains_key(&Key::of(digest))
    }

    /// Whether so much more fits, where nothing is let go to make room for it.
    pub(super) fn check_quota(&self, more: u64) -> Result<(), Error> {
        match self.keeping.max_size {
            Some(quota) if self.bytes.saturating_add(more) > quota => Err(Error::OverQuota {
                quota,
                used: self.bytes,
                more,
            }),
            _ => Ok(()),
        }
    }

    /// A blob is here, as of now.
    pub(super) fn add(&mut self, digest: &Digest, size: u64, now: u64) {
        let used = self.tick(now);
        self.insert(Key::of(digest), size, used);
    }

    fn insert(&mut self, key: Key, size: u64, used: u64) {
        let entry = Entry {
            size,
            used,
            noted: seconds(used),
        };
        if let Some(old) = self.blobs.insert(key, entry) {
            self.bytes -= old.size;
        }
        self.bytes += size;
    }

    /// A manifest is here, as of now.
    pub(super) fn add_manifest(&mut self, digest: &Digest, now: u64) {
        let used = self.tick(now);
        let noted = seconds(used);
        self.manifests.insert(Key::of(digest), Entry { size: 0, used, noted });
    }

    /// A blob is not here any more.
    pub(super) fn remove(&mut self, digest: &Digest) -> Option<u64> {
        let key = Key::of(digest);
        let removed = self.blobs.remove(&key);
        if let Some(gone) = &mut self.gone {
            gone.insert(key);
        }
        let size = removed?.size;
        self.bytes -= size;
        Some(size)
    }

    pub(super) fn remove_manifest(&mut self, digest: &Digest) {
        self.manifests.remove(&Key::of(digest));
    }

    /// From now on what was found here is told by [`Self::found`].
    pub(super) fn begin_reading(&mut self) {
        self.gone = Some(BTreeSet::new());
    }

    /// A blob was found here, which may have come or gone meanwhile.
    pub(super) fn found(&mut self, digest: &Digest, size: u64, used: u64) {
        let key = Key::of(digest);
        let has_gone = self.gone.as_ref().is_some_and(|gone| gone.contains(&key));
        if !has_gone && !self.blobs.contains_key(&key) {
            self.insert(key, size, used);
        }
    }

    pub(super) fn found_manifest(&mut self, digest: &Digest, used: u64) {
        let noted = seconds(used);
        let entry = Entry { size: 0, used, noted };
        self.manifests.entry(Key::of(digest)).or_insert(entry);
    }

    pub(super) fn end_reading(&mut self) {
        self.gone = None;
    }

    /// A blob or a manifest was wanted.
    pub(super) fn touch(&mut self, digest: &Digest, now: u64) {
        let used = self.tick(now);
        let key = Key::of(digest);
        for of_kind in [&mut self.blobs, &mut self.manifests] {
            if let Some(entry) = of_kind.get_mut(&key) {
                entry.used = entry.used.max(used);
            }
        }
    }

    /// The uses that are to be written down, `most` at most, as if they were now. `all`: however small the difference.
    pub(super) fn take_notes(&mut self, all: bool, most: usize) -> Vec<(Digest, u32)> {
        let least = if all { 60 * 1000 } else { NOTE_EVERY };
        let entries = self.blobs.iter_mut().chain(&mut self.manifests);
        let due = entries.filter(|(_, entry)| entry.used >= u64::from(entry.noted) * 1000 + least);
        let take = |(key, entry): (&Key, &mut Entry)| {
            entry.noted = seconds(entry.used);
            Some((key.digest()?, entry.noted))
        };
        due.take(most).filter_map(take).collect()
    }

    /// Nothing is written down any more.
    pub(super) fn forget_notes(&mut self) {
        for entry in self.blobs.values_mut().chain(self.manifests.values_mut()) {
            entry.noted = 0;
        }
    }

    /// Whether so much more fits below the limit.
    pub(super) fn fit(&self, size: u64) -> Fit {
        let Some(limit) = self.keeping.max_size else {
            return Fit::Fits;
        };
        if size > limit {
            return Fit::Never;
        }
        let after = self.bytes.saturating_add(self.reserved).saturating_add(size);
        if after <= limit {
            return Fit::Fits;
        }
        Fit::After {
            least: after - limit,
            best: after.saturating_sub(hundredths(limit, LOW)).min(self.bytes),
        }
    }

    pub(super) fn reserve(&mut self, size: u64) {
        self.reserved += size;
    }

    pub(super) fn give_back(&mut self, size: u64) {
        self.reserved -= size;
    }

    /// How much is to go now, so that nobody has to wait for it later.
    pub(super) fn excess(&self) -> u64 {
        let used = self.bytes + self.reserved;
        match self.keeping.max_size {
            Some(limit) if used > hundredths(limit, HIGH) => used - hundredths(limit, LOW),
            _ => 0,
        }
    }

    /// The blobs that were not wanted for the longest time and are `bytes` together, or all that may go if those are
    /// less; oldest first, with their sizes and last uses.
    pub(super) fn oldest(&self, bytes: u64, stay: &HashSet<Digest>) -> Vec<Candidate> {
        let stay: BTreeSet<Key> = stay.iter().map(Key::of).collect();
        let mut heap: BinaryHeap<(u64, &Key, u64)> = BinaryHeap::new();
        let mut sum = 0_u64;
        let may_go = self.blobs.iter().filter(|(key, _)| !stay.contains(key));
        for (key, entry) in may_go {
            let is_older = heap.peek().is_none_or(|(youngest, ..)| entry.used < *youngest);
            if sum >= bytes && !is_older {
                continue;
            }
            heap.push((entry.used, key, entry.size));
            sum += entry.size;
            while let Some((_, _, size)) = heap.peek()
                && sum - size >= bytes
            {
                sum -= size;
                heap.pop();
            }
        }
        let sorted = heap.into_sorted_vec().into_iter();
        sorted
            .filter_map(|(used, key, size)| Candidate::new(key, used, size))
            .collect()
    }

    /// The blobs that nobody has wanted since.
    pub(super) fn unused_since(&self, then: u64) -> Vec<Candidate> {
        Self::before(&self.blobs, then)
    }

    /// The manifests that nobody has wanted since.
    pub(super) fn manifests_unused_since(&self, then: u64) -> Vec<Candidate> {
        Self::before(&self.manifests, then)
    }

    fn before(entries: &BTreeMap<Key, Entry>, then: u64) -> Vec<Candidate> {
        let old = entries.iter().filter(|(_, entry)| entry.used <= then);
        old.filter_map(|(key, entry)| Candidate::new(key, entry.used, entry.size))
            .collect()
    }
}

/// A blob that may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) digest: Digest,
    pub(super) used: u64,
    pub(super) size: u64,
}

impl Candidate {
    fn new(key: &Key, used: u64, size: u64) -> Option<Self> {
        let digest = key.digest()?;
        Some(Self { digest, used, size })
    }
}

fn hundredths(limit: u64, part: u64) -> u64 {
    limit / 100 * part + limit % 100 * part / 100
}

fn seconds(milliseconds: u64) -> u32 {
    u32::try_from(milliseconds / 1000).unwrap_or(u32::MAX)
}

impl Key {
    fn of(digest: &Digest) -> Self {
        match digest.algorithm() {
            Algorithm::Sha256 => Self::Sha256(bytes_of(digest.hex())),
            Algorithm::Sha512 => Self::Sha512(Box::new(bytes_of(digest.hex()))),
        }
    }

    fn digest(&self) -> Option<Digest> {
        let (algorithm, bytes) = match self {
            Self::Sha256(bytes) => (Algorithm::Sha256, &bytes[..]),
            Self::Sha512(bytes) => (Algorithm::Sha512, &bytes[..]),
        };
        let mut text = format!("{algorithm}:");
        for byte in bytes {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(nibble), 16)?);
            }
        }
        Digest::from_str(&text).ok()
    }
}

/// The bytes of hexadecimal digits, of which a digest has as many as it should.
fn bytes_of<const N: usize>(hex: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let nibble = |digit: u8| match digit {
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'0'),
    };
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn digest(number: u64) -> Digest {
        let algorithm = if number % 5 == 4 {
            Algorithm::Sha512
        } else {
            Algorithm::Sha256
        };
        Digest::of(algorithm, &number.to_be_bytes())
    }

    fn account(max_size: Option<u64>) -> Account {
        Account::new(Keeping {
            max_size,
            unused_after: Some(Duration::from_secs(1)),
        })
    }

    #[test]
    fn a_key_is_its_digest() {
        for number in 0..50 {
            let digest = digest(number);
            assert_eq!(Key::of(&digest).digest(), Some(digest));
        }
    }

    #[test]
    fn room_is_made_down_to_the_low_mark_and_no_further_than_there_is() {
        let mut account = account(Some(1000));
        assert_eq!(account.fit(1001), Fit::Never);
        assert_eq!(account.fit(1000), Fit::Fits);
        for number in 0..9 {
            account.add(&digest(number), 100, 0);
        }
        assert_eq!(
            (account.bytes(), account.fit(100), account.excess()),
            (900, Fit::Fits, 0)
        );
        account.reserve(60);
        assert_eq!(account.excess(), 60);
        assert_eq!(account.fit(41), Fit::After { least: 1, best: 101 });
        assert_eq!(account.fit(1000), Fit::After { least: 960, best: 900 });
        account.give_back(60);
        assert_eq!(account.excess(), 0);
        assert_eq!(account.remove(&digest(3)), Some(100));
        assert_eq!(account.remove(&digest(3)), None);
        account.add(&digest(0), 50, 0);
        assert_eq!(account.bytes(), 750, "a blob counts once");
        account.keeping.max_size = None;
        assert_eq!(account.fit(u64::MAX), Fit::Fits);
    }

    #[test]
    fn what_was_wanted_last_goes_last() {
        let mut account = account(Some(1000));
        for number in 0..5 {
            account.add(&digest(number), 100, 7);
        }
        account.touch(&digest(0), 7);
        let oldest = |account: &Account, bytes, stay: &[u64]| -> Vec<Digest> {
            let stay = stay.iter().copied().map(digest).collect();
            let oldest = account.oldest(bytes, &stay).into_iter();
            oldest.map(|candidate| candidate.digest).collect()
        };
        assert_eq!(oldest(&account, 101, &[]), [digest(1), digest(2)]);
        assert_eq!(oldest(&account, 200, &[1, 3]), [digest(2), digest(4)]);
        assert_eq!(oldest(&account, 900, &[1, 3]), [digest(2), digest(4), digest(0)]);
        assert!(oldest(&account, 0, &[]).is_empty());
    }

    #[test]
    fn a_use_is_written_down_once_an_hour() {
        const HOUR: u64 = 60 * 60 * 1000;
        let mut account = account(None);
        account.add(&digest(1), 1, HOUR);
        account.add_manifest(&digest(2), HOUR);
        account.touch(&digest(1), 2 * HOUR - 10_000);
        account.touch(&digest(2), 2 * HOUR);
        assert_eq!(account.take_notes(false, 9), [(digest(2), 7200)]);
        assert_eq!(account.take_notes(true, 9), [(digest(1), 7190)]);
        assert!(account.take_notes(true, 9).is_empty());
        account.forget_notes();
        assert_eq!(account.take_notes(false, 1).len(), 1);
        assert_eq!(account.take_notes(false, 9).len(), 1);
    }

    #[test]
    fn what_comes_and_goes_while_it_is_read_counts_as_it_is() {
        let mut account = account(None);
        account.begin_reading();
        account.add(&digest(1), 10, 5);
        account.add(&digest(2), 10, 5);
        account.remove(&digest(2));
        for number in 1..4 {
            account.found(&digest(number), 10, 1);
        }
        account.end_reading();
        assert_eq!(account.bytes(), 20);
        let unused: Vec<Digest> = account.unused_since(1).into_iter().map(|old| old.digest).collect();
        assert_eq!(unused, [digest(3)]);
    }

    proptest! {
        /// However blobs come, go and are wanted: the sum is right, what goes is older than what stays, and no more goes
        /// than has to.
        #[test]
        fn the_account_adds_up(
            steps in prop::collection::vec((0..20_u64, 1..100_u64, 0..3_u8), 1..100), wanted in 0..1000_u64
        ) {
            let mut account = account(Some(500));
            let mut model: BTreeMap<Digest, (u64, usize)> = BTreeMap::new();
            for (time, (number, size, step)) in steps.into_iter().enumerate() {
                let digest = digest(number);
                match step {
                    0 => {
                        account.add(&digest, size, 0);
                        model.insert(digest, (size, time));
                    }
                    1 => prop_assert_eq!(account.remove(&digest), model.remove(&digest).map(|(size, _)| size)),
                    _ => {
                        account.touch(&digest, 0);
                        model.entry(digest).and_modify(|(_, used)| *used = time);
                    }
                }
            }
            prop_assert_eq!(account.bytes(), model.values().map(|(size, _)| size).sum::<u64>());
            let going = account.oldest(wanted, &HashSet::new());
            let freed: u64 = going.iter().map(|candidate| candidate.size).sum();
            prop_assert!(freed >= wanted.min(account.bytes()));
            if let Some(last) = going.last() {
                prop_assert!(freed - last.size < wanted);
            }
            let mut by_use: Vec<_> = model.into_iter().map(|(digest, (_, used))| (used, digest)).collect();
            by_use.sort();
            let expected = by_use.into_iter().take(going.len()).map(|(_, digest)| digest);
            prop_assert!(going.iter().map(|candidate| candidate.digest.clone()).eq(expected));
        }
    }
}
