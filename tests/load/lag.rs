//! How late this machine is by itself: what may be added to a figure that is measured on it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often the control is due. Often enough not to sleep through what delays a server.
const DUE: Duration = Duration::from_millis(5);

/// A control: a thread that has nothing to do but to be punctual, and is not. A server that shares the processors with
/// it cannot be expected to be more so.
pub(crate) struct Lag(Arc<Control>);

#[derive(Default)]
struct Control {
    worst: AtomicU64,
    /// When this round of the thread was due: one that does not run is late, too.
    due: Mutex<Option<Instant>>,
    done: AtomicBool,
}

impl Lag {
    /// Measures from now on, until dropped.
    pub(crate) fn watch() -> Self {
        let control = Arc::new(Control::default());
        let watched = Arc::clone(&control);
        thread::spawn(move || {
            while !watched.done.load(Ordering::Relaxed) {
                let due = Instant::now() + DUE;
                watched.expect(due);
                thread::sleep(DUE);
                watched.was_late(due);
            }
        });
        Self(control)
    }

    /// By how much the control was late at most.
    pub(crate) fn worst(&self) -> Duration {
        let due = *self.0.due.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(due) = due {
            self.0.was_late(due);
        }
        Duration::from_micros(self.0.worst.load(Ordering::Relaxed))
    }
}

impl Control {
    fn expect(&self, due: Instant) {
        *self.due.lock().unwrap_or_else(PoisonError::into_inner) = Some(due);
    }

    fn was_late(&self, due: Instant) {
        let late = u64::try_from(Instant::now().saturating_duration_since(due).as_micros()).unwrap_or(u64::MAX);
        self.worst.fetch_max(late, Ordering::Relaxed);
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Relaxed);
    }
}
