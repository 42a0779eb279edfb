//! One task for all who want the same thing.
//!
//! The task is spawned: it belongs to nobody who waits for it, so nobody who leaves, stalls or panics ends it for the
//! others. When it is over, however it ends, its place is free again: nothing here remembers a failure.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// What is under way, by what it is about. `V` is what those who join get to see of it.
pub(super) struct Flights<K, V> {
    slots: Arc<Mutex<HashMap<K, V>>>,
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self { slots: Arc::default() }
    }
}

/// A flight's place. Whoever does the work keeps it; dropping it makes room for the next flight.
pub(super) struct Landing<K: Hash + Eq, V> {
    slots: Arc<Mutex<HashMap<K, V>>>,
    key: K,
}

impl<K: Hash + Eq, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        lock(&self.slots).remove(&self.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Hash + Eq + Clone, V: Clone> Flights<K, V> {
    /// What is under way about `key`, and true; or what `start` makes, and false. `start` spawns the work, hands it the
    /// landing, and must not wait: everybody else does meanwhile.
    pub(super) fn join_or_start(&self, key: &K, start: impl FnOnce(Landing<K, V>) -> V) -> (V, bool) {
        let mut slots = lock(&self.slots);
        if let Some(flight) = slots.get(key) {
            return (flight.clone(), true);
        }
        let flight = start(Landing {
            slots: Arc::clone(&self.slots),
            key: key.clone(),
        });
        slots.insert(key.clone(), flight.clone());
        (flight, false)
    }

    /// What is under way about `key`.
    pub(super) fn under_way(&self, key: &K) -> Option<V> {
        lock(&self.slots).get(key).cloned()
    }
}

/// A flight that ends with one answer for all.
#[derive(Clone)]
pub(super) struct Flight<T>(watch::Receiver<Option<T>>);

impl<T: Clone> Flight<T> {
    /// Waits for the answer. `None` if the task died without one.
    pub(super) async fn landed(mut self) -> Option<T> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}

impl<K, T> Flights<K, Flight<T>>
where
    K: Hash + Eq + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Joins the flight about `key`, or spawns `work` as one. True if joined.
    pub(super) fn run<F>(&self, key: &K, work: impl FnOnce() -> F) -> (Flight<T>, bool)
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.join_or_start(key, |landing| {
            let (tell, told) = watch::channel(None);
            let work = work();
            tokio::spawn(async move {
                let answer = work.await;
                // First the room for the next one: who comes after a failure has been told must not join it.
                drop(landing);
                tell.send_replace(Some(answer));
            });
            Flight(told)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn all_who_want_the_same_share_one_task() {
        let flights: Flights<&str, Flight<usize>> = Flights::default();
        let (runs, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let ask = || {
            flights.run(&"a", || {
                let (runs, gate) = (Arc::clone(&runs), Arc::clone(&gate));
                async move {
                    gate.notified().await;
                    runs.fetch_add(1, Ordering::Relaxed)
                }
            })
        };
        let (first, joined) = ask();
        assert!(!joined);
        let others: Vec<_> = (0..9).map(|_| ask()).collect();
        assert!(others.iter().all(|(_, joined)| *joined));
        // The one who began it leaves; the others do not notice.
        drop(first);
        gate.notify_one();
        for (flight, _) in others {
            assert_eq!(flight.landed().await, Some(0));
        }
        gate.notify_one();
        let (next, joined) = ask();
        assert!(!joined, "what is over is not joined");
        assert_eq!(next.landed().await, Some(1));
    }

    #[tokio::test]
    async fn a10_a_panic_frees_the_place_and_tells_those_who_wait() {
        let flights: Flights<&str, Flight<usize>> = Flights::default();
        let gate = Arc::new(Notify::new());
        let wait = Arc::clone(&gate);
        let (first, _) = flights.run(&"a", || async move {
            wait.notified().await;
            panic!("on purpose")
        });
        let (second, joined) = flights.run(&"a", || async { 7 });
        assert!(joined);
        gate.notify_one();
        assert_eq!(first.landed().await, None);
        assert_eq!(second.landed().await, None);
        let (third, joined) = flights.run(&"a", || async { 7 });
        assert!(!joined);
        assert_eq!(third.landed().await, Some(7));
    }

    #[tokio::test]
    async fn other_keys_are_other_flights() {
        let flights: Flights<u8, Flight<u8>> = Flights::default();
        let (one, _) = flights.run(&1, || async { 1 });
        let (two, joined) = flights.run(&2, || async { 2 });
        assert!(!joined);
        assert_eq!((one.landed().await, two.landed().await), (Some(1), Some(2)));
        assert!(flights.under_way(&1).is_none());
    }
}
