//! How time passes. There are two clocks, and each is wrong for what the other is there for.
//!
//! The *wall clock*, [`SystemTime::now`], says what everybody means by a time: tokens, certificates and robots run out by it, logs and
//! audits are dated by it. It jumps whenever somebody puts it right. The *steady clock*, [`now`], is for ages: how long ago something
//! was asked, wanted, or seen. It said what the wall clock said when this process began, and has gone on evenly since then; nothing
//! gets older, or younger, because a clock was put right. `tests/house.rs` says who may read the wall clock.
//!
//! Ages outlive a process as times on the disk, by the steady clock of the process that wrote them. The next one has nothing to
//! judge them by but its own; what cannot be true by that is not believed ([`age`]).

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

/// 2014: before it there was no registry of images, and nothing that one could have written down.
const BEGINNING: Duration = Duration::from_secs(1_388_534_400);

static START: LazyLock<(SystemTime, Instant)> = LazyLock::new(|| (SystemTime::now(), Instant::now()));

/// The time by the steady clock.
pub fn now() -> SystemTime {
    let (wall, start) = *START;
    wall + start.elapsed()
}

/// What the wall clock would call a time of the steady clock: to be told to people.
pub fn told(steady: SystemTime) -> SystemTime {
    let (now, wall) = (now(), SystemTime::now());
    let told = match now.duration_since(steady) {
        Ok(ago) => wall.checked_sub(ago),
        Err(ahead) => wall.checked_add(ahead.duration()),
    };
    told.unwrap_or(steady)
}

/// How long ago that was. Not known of what lies in the future, or before there was anything to write down, unless it is that
/// early now: a clock said so that was wrong.
pub fn age(then: SystemTime, now: SystemTime) -> Option<Duration> {
    let beginning = SystemTime::UNIX_EPOCH + BEGINNING;
    let can_be = then >= beginning || now < beginning;
    now.duration_since(then).ok().filter(|_| can_be)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_have_been_has_no_age() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (then, now, expected) in [
            (1_800_000_000, 1_800_000_007, Some(7)),
            (1_800_000_000, 1_800_000_000, Some(0)),
            (1_800_000_001, 1_800_000_000, None),
            (4_291_747_200, 1_800_000_000, None),
            (86_400, 1_800_000_000, None),
            (86_400, 86_407, Some(7)),
            (1_800_000_000, 86_400, None),
        ] {
            assert_eq!(
                age(at(then), at(now)),
                expected.map(Duration::from_secs),
                "{then} at {now}"
            );
        }
    }

    #[test]
    fn it_goes_on_evenly_and_people_are_told_their_own_time() {
        let (before, began) = (now(), Instant::now());
        let passed = now().duration_since(before).expect("not backwards");
        assert!(passed <= began.elapsed() + Duration::from_millis(1));
        let hour = Duration::from_secs(3600);
        for steady in [before - hour, before, before + hour] {
            let wall = told(steady);
            let apart = wall.duration_since(steady).unwrap_or_else(|error| error.duration());
            // In a test nobody puts the clock right by so much.
            assert!(apart < Duration::from_secs(60), "{apart:?}");
        }
    }
}
