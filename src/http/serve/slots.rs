//! Who may have how many connections at once, and whether they run short.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::config::Network;

/// One client has at most this part of all connections.
const SHARE: usize = 4;
/// For how long connections count as scarce after half of them were in use: those who are slow are sent away within
/// it, all of them, and not only as many as bring the number below the half.
const SCARCE_FOR: Duration = Duration::from_secs(30);
/// Descriptors that are not for clients: index, log, listeners, and the connections to upstreams.
const OWN_DESCRIPTORS: u64 = 64;
/// Descriptors for each client: its connection, the file that it reads, and what is fetched for it.
const DESCRIPTORS_EACH: u64 = 3;

/// The connections that may be open.
pub(super) struct Slots {
    all: Arc<Semaphore>,
    each: usize,
    exempt: ArcSwap<Vec<Network>>,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
    pressure: Pressure,
}

/// Whether connections run short. A clone tells of the same ones.
#[derive(Clone)]
pub(super) struct Pressure {
    all: Arc<Semaphore>,
    most: usize,
    until: Arc<Mutex<Option<Instant>>>,
}

/// One open connection, until dropped.
pub(super) struct Slot {
    _permit: OwnedSemaphorePermit,
    client: IpAddr,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Slots {
    pub(super) fn new(connections: usize) -> Self {
        let most = connections.clamp(1, Semaphore::MAX_PERMITS);
        let all = Arc::new(Semaphore::new(most));
        Self {
            all: Arc::clone(&all),
            each: (most / SHARE).max(1),
            exempt: ArcSwap::default(),
            taken: Arc::default(),
            pressure: Pressure {
                all,
                most,
                until: Arc::default(),
            },
        }
    }

    pub(super) fn pressure(&self) -> Pressure {
        self.pressure.clone()
    }

    /// Clients behind these addresses are many.
    pub(super) fn exempt(&self, proxies: &[Network]) {
        self.exempt.store(Arc::new(proxies.to_vec()));
    }

    /// Waits until one more connection may be open, whosever.
    pub(super) async fn any(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all).acquire_owned().await.ok()
    }

    /// Gives it to a client, unless that has its share already.
    pub(super) fn give(&self, permit: OwnedSemaphorePermit, address: IpAddr) -> Option<Slot> {
        let client = client(address);
        let mut taken = lock(&self.taken);
        let count = taken.entry(client).or_default();
        // Who can connect from this machine itself is a proxy, or needs no connections to do harm.
        let is_many = || client.is_loopback() || self.exempt.load().iter().any(|proxy| proxy.contains(address));
        if *count >= self.each && !is_many() {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Slot {
            _permit: permit,
            client,
            taken: Arc::clone(&self.taken),
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(count) = taken.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.client);
            }
        }
    }
}

impl Pressure {
    /// Whether somebody who is slow takes a connection from others.
    pub(super) fn is_high(&self, now: Instant) -> bool {
        let used = self.most.saturating_sub(self.all.available_permits());
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if used * 2 >= self.most && used > 1 {
            *until = Some(now + SCARCE_FOR);
        }
        until.is_some_and(|until| now < until)
    }

    #[cfg(test)]
    pub(super) fn none() -> Self {
        Slots::new(1000).pressure()
    }
}

/// Whose address this is: of IPv6, one customer has a whole /64.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        other => other,
    }
}

/// How many connections the system's limit of open files leaves room for, after that limit has been raised as far as
/// it can be; `None` if there is no limit.
pub fn affordable() -> Option<usize> {
    let limit = raise(rustix::process::Resource::Nofile)?;
    let affordable = limit.saturating_sub(OWN_DESCRIPTORS) / DESCRIPTORS_EACH;
    Some(usize::try_from(affordable).unwrap_or(usize::MAX).max(1))
}

fn raise(resource: rustix::process::Resource) -> Option<u64> {
    use rustix::process::{Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(resource);
    if limit.current == limit.maximum {
        return limit.current;
    }
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(resource, most) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

fn lock(taken: &Mutex<HashMap<IpAddr, usize>>) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn give(slots: &Slots, address: &str) -> Option<Slot> {
        let permit = Arc::clone(&slots.all).try_acquire_owned().ok()?;
        slots.give(permit, address.parse().expect("an address"))
    }

    #[test]
    fn one_client_has_a_quarter_of_all_connections() {
        let slots = Slots::new(12);
        let mut held: Vec<Slot> = (0..3).map(|_| give(&slots, "192.0.2.1").expect("free")).collect();
        assert!(give(&slots, "192.0.2.1").is_none());
        assert!(give(&slots, "::ffff:192.0.2.1").is_none(), "the same in other words");
        held.push(give(&slots, "192.0.2.2").expect("another client"));
        held.remove(0);
        held.push(give(&slots, "192.0.2.1").expect("free again"));
        for number in 1..=3 {
            held.push(give(&slots, &format!("2001:db8::{number}")).expect("free"));
        }
        assert!(give(&slots, "2001:db8::4").is_none(), "one network is one client");
        held.push(give(&slots, "2001:db8:0:1::1").expect("another network"));
        drop(held);
        assert_eq!(slots.all.available_permits(), 12);
        assert!(lock(&slots.taken).is_empty(), "nobody is remembered who has left");
    }

    #[test]
    fn proxies_speak_for_many() {
        let slots = Slots::new(12);
        slots.exempt(&["192.0.2.0/24".parse().expect("a network")]);
        let proxied: Vec<Slot> = (0..6).filter_map(|_| give(&slots, "192.0.2.1")).collect();
        let local: Vec<Slot> = (0..6).filter_map(|_| give(&slots, "127.0.0.1")).collect();
        assert_eq!((proxied.len(), local.len()), (6, 6));
        drop((proxied, local));
        slots.exempt(&[]);
        let fewer: Vec<Slot> = (0..6).filter_map(|_| give(&slots, "192.0.2.1")).collect();
        assert_eq!(fewer.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_scarce_for_a_while_after_half_were_in_use() {
        let slots = Slots::new(8);
        let pressure = slots.pressure();
        let mut held: Vec<Slot> = (0..3).map(|_| give(&slots, "127.0.0.1").expect("free")).collect();
        assert!(!pressure.is_high(Instant::now()));
        held.push(give(&slots, "127.0.0.1").expect("free"));
        assert!(pressure.is_high(Instant::now()));
        drop(held);
        tokio::time::advance(SCARCE_FOR.saturating_sub(Duration::from_secs(1))).await;
        assert!(pressure.is_high(Instant::now()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!pressure.is_high(Instant::now()));
    }
}
