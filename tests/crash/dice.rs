//! Chance that can be had again.

use std::time::SystemTime;

#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbouring seeds are to have nothing in common.
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed ^ (mixed >> 31)) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    /// Whether something happens that does so in one of `times`.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let index = self.below((from.len() as u64).max(1));
        from.get(usize::try_from(index).expect("an index"))
    }
}

/// The seed of this run: `ENTREPOT_SEED`, or a new one, which is told. It decides what is done and when; how the tasks
/// of the server interleave stays its own affair.
pub(crate) fn seed(test: &str) -> u64 {
    let given = std::env::var("ENTREPOT_SEED").ok();
    let seed = given.map_or_else(
        || {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            u64::from(now.expect("after 1970").subsec_nanos())
        },
        |text| text.parse().expect("ENTREPOT_SEED is a number"),
    );
    eprintln!("{test}: ENTREPOT_SEED={seed}");
    seed
}
