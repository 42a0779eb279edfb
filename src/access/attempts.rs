//! Who guesses is made to wait: after some wrong passwords an address has to pause, longer each time.
//!
//! Somebody who was right at an address lately is counted there for themselves, so that a neighbour who guesses behind
//! the same address does not lock them out.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::sync::Cache;

use super::checks::Mark;

/// So many wrong passwords are mistakes.
const FREE: u32 = 5;
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(60);
/// An address of which nothing was heard for so long begins anew.
const FORGOTTEN: Duration = Duration::from_secs(900);
/// How many addresses are known at once.
const KNOWN: u64 = 20_000;

type Key = (IpAddr, Option<Arc<str>>);

/// The wrong passwords of each address.
pub(super) struct Attempts {
    failures: Cache<Key, Failures>,
    regulars: Cache<(IpAddr, Arc<str>), ()>,
}

#[derive(Clone)]
struct Failures {
    count: u32,
    until: Instant,
    /// The latest: what a client shows again and again is one mistake.
    last: Mark,
}

impl Attempts {
    pub(super) fn new() -> Self {
        Self {
            failures: Cache::builder().max_capacity(KNOWN).time_to_idle(FORGOTTEN).build(),
            regulars: Cache::builder().max_capacity(KNOWN).time_to_live(FORGOTTEN).build(),
        }
    }

    /// How long somebody has to wait before they are listened to.
    pub(super) fn pause(&self, client: IpAddr, user: &str, now: Instant) -> Option<Duration> {
        let failures = self.failures.get(&self.key(client, user))?;
        let left = failures.until.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// They were wrong.
    pub(super) fn failed(&self, client: IpAddr, user: &str, mark: Mark, now: Instant) {
        self.failures.entry(self.key(client, user)).and_upsert_with(|before| {
            let before = before.map(moka::Entry::into_value);
            match before {
                Some(before) if before.last == mark => before,
                before => {
                    let count = before.map_or(0, |before| before.count).saturating_add(1);
                    Failures {
                        count,
                        until: now + pause_after(count),
                        last: mark,
                    }
                }
            }
        });
    }

    /// They were right.
    pub(super) fn succeeded(&self, client: IpAddr, user: &str) {
        let client = network(client);
        let user: Arc<str> = user.into();
        self.failures.invalidate(&(client, Some(Arc::clone(&user))));
        self.regulars.insert((client, user), ());
    }

    fn key(&self, client: IpAddr, user: &str) -> Key {
        let regular = (network(client), Arc::from(user));
        let is_regular = self.regulars.contains_key(&regular);
        (regular.0, is_regular.then_some(regular.1))
    }
}

/// Whoever has one address of IPv6 has all of its network.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// How long to wait after so many wrong passwords.
fn pause_after(count: u32) -> Duration {
    match count.checked_sub(FREE) {
        None | Some(0) => Duration::ZERO,
        Some(over) => Duration::from_secs(1 << (over - 1).min(10)).min(LONGEST),
    }
}

impl fmt::Debug for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attempts")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn guess(attempts: &Attempts, user: &str, times: u8, now: Instant) {
        (0..times).for_each(|number| attempts.failed(HERE, user, [number; 32], now));
    }

    #[test]
    fn who_guesses_waits_longer_and_longer_and_not_for_ever() {
        let pauses: Vec<u64> = (1..15).map(|count| pause_after(count).as_secs()).collect();
        assert_eq!(pauses, [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pause_after(u32::MAX), LONGEST);
        let (attempts, now) = (Attempts::new(), Instant::now());
        guess(&attempts, "ada", 5, now);
        assert_eq!(attempts.pause(HERE, "ada", now), None);
        guess(&attempts, "ada", 8, now);
        assert_eq!(
            attempts.pause(HERE, "bob", now),
            Some(LONGEST),
            "whatever name they try"
        );
        assert_eq!(attempts.pause(HERE, "bob", now + LONGEST), None);
        assert_eq!(attempts.pause("192.0.2.2".parse().unwrap(), "ada", now), None);
    }

    #[test]
    fn the_same_mistake_again_is_none() {
        let (attempts, now) = (Attempts::new(), Instant::now());
        for _ in 0..100 {
            attempts.failed(HERE, "ada", [1; 32], now);
        }
        assert_eq!(attempts.pause(HERE, "ada", now), None);
    }

    #[test]
    fn a_neighbour_who_guesses_locks_nobody_out_who_was_right_before() {
        let (attempts, now) = (Attempts::new(), Instant::now());
        attempts.succeeded(HERE, "ada");
        guess(&attempts, "eve", 20, now);
        assert!(attempts.pause(HERE, "eve", now).is_some());
        assert_eq!(attempts.pause(HERE, "ada", now), None);
        guess(&attempts, "ada", 20, now);
        assert!(attempts.pause(HERE, "ada", now).is_some());
        attempts.succeeded(HERE, "ada");
        assert_eq!(attempts.pause(HERE, "ada", now), None);
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        for (one, other, same) in [
            ("2001:db8::1", "2001:db8::ffff:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
        ] {
            let [one, other] = [one, other].map(|text| network(text.parse().unwrap()));
            assert_eq!(one == other, same);
        }
    }
}
