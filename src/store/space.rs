//! How much of the disk is free, and how much has to stay so.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::Error;
use crate::config::Share;
use crate::telemetry::Metrics;

/// For how long what the disk said is believed.
const SAMPLE: Duration = Duration::from_secs(1);

/// What a disk has, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// All of it.
    pub(super) total: u64,
    /// What we may still write.
    pub(super) free: u64,
}

/// How much is missing when so much more is to be written, and as much as configured is to stay free.
pub(super) fn shortfall(room: Room, min_free: Share, wanted: u64) -> u64 {
    min_free.of(room.total).saturating_add(wanted).saturating_sub(room.free)
}

/// The disk below one store.
#[derive(Debug)]
pub(super) struct Space {
    path: PathBuf,
    min_free: Share,
    metrics: Arc<Metrics>,
    sample: Mutex<Option<(Instant, Room)>>,
}

impl Space {
    pub(super) fn new(path: PathBuf, min_free: Share, metrics: Arc<Metrics>) -> Self {
        Self {
            path,
            min_free,
            metrics,
            sample: Mutex::default(),
        }
    }

    /// What the disk said within the last second. One that does not say has room: who writes will find out.
    pub(super) fn room(&self) -> Option<Room> {
        let mut sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, room)) = sample.filter(|(taken, _)| taken.elapsed() < SAMPLE) {
            return Some(room);
        }
        let said = rustix::fs::statvfs(&self.path).ok()?;
        let room = Room {
            total: said.f_blocks.saturating_mul(said.f_frsize),
            free: said.f_bavail.saturating_mul(said.f_frsize),
        };
        *sample = Some((Instant::now(), room));
        self.metrics.disk_sampled(room.free, self.min_free.of(room.total));
        Some(room)
    }

    /// What the disk said is not believed any more.
    pub(super) fn forget(&self) {
        *self.sample.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How much is missing for so much more.
    pub(super) fn shortfall(&self, wanted: u64) -> u64 {
        self.room().map_or(0, |room| shortfall(room, self.min_free, wanted))
    }

    /// Refuses to take in what clients push when less is free than is to stay so.
    pub(super) fn check(&self) -> Result<(), Error> {
        match self.room() {
            Some(room) if shortfall(room, self.min_free, 0) > 0 => Err(Error::LowSpace {
                free: room.free,
                min_free: self.min_free.of(room.total),
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_share_of_the_disk_stays_free() {
        let room = Room { total: 1000, free: 100 };
        for (min_free, wanted, missing) in [
            (Share::Bytes(0), 100, 0),
            (Share::Bytes(0), 101, 1),
            (Share::Percent(5), 50, 0),
            (Share::Percent(5), 51, 1),
            (Share::Percent(10), 0, 0),
            (Share::Percent(20), 7, 107),
            (Share::Bytes(u64::MAX), u64::MAX, u64::MAX - 100),
        ] {
            assert_eq!(shortfall(room, min_free, wanted), missing, "{min_free:?} {wanted}");
        }
    }

    #[test]
    fn the_disk_is_asked_once_a_second() {
        let root = tempfile::tempdir().unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let space = |min_free| Space::new(root.path().to_owned(), min_free, Arc::clone(&metrics));
        assert!(space(Share::Bytes(0)).check().is_ok());
        let low = space(Share::Bytes(u64::MAX));
        assert!(matches!(low.check(), Err(Error::LowSpace { min_free: u64::MAX, .. })));
        *low.sample.lock().unwrap() = Some((
            Instant::now(),
            Room {
                total: u64::MAX,
                free: u64::MAX,
            },
        ));
        assert!(low.check().is_ok(), "what was just said is believed");
        low.forget();
        assert!(low.check().is_err());
    }

    proptest! {
        /// What is freed of a shortfall mends it, and nothing less does.
        #[test]
        fn a_shortfall_is_what_has_to_be_freed(
            total in 1..u64::MAX / 4, free in 0..u64::MAX / 4, percent in 0..100_u8, wanted in 0..u64::MAX / 4
        ) {
            let min_free = Share::Percent(percent);
            let missing = shortfall(Room { total, free }, min_free, wanted);
            let after = |freed: u64| shortfall(Room { total, free: free + freed }, min_free, wanted);
            prop_assert_eq!(after(missing), 0);
            if missing > 0 {
                prop_assert_eq!(after(missing - 1), 1);
            }
        }
    }
}
