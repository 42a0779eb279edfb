//! Whether the runtime still turns: a task that runs every half second, and a thread of its own that watches it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tokio_util::task::AbortOnDropHandle;

use crate::telemetry::Metrics;

/// How often the task runs.
const BEAT: Duration = Duration::from_millis(500);
/// How late it may be before we count as dead. Orchestrators restart what does: better late than wrongly.
const STUCK: Duration = Duration::from_secs(10);

/// The runtime's pulse.
#[derive(Debug)]
pub(super) struct Pulse {
    heart: Arc<Heart>,
    _beating: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Heart {
    began: Instant,
    /// When it beat last, in milliseconds since then.
    last: AtomicU64,
    stuck: Duration,
}

impl Pulse {
    /// Begins to beat. To be called within the runtime.
    pub(super) fn start(metrics: Arc<Metrics>) -> Self {
        Self::with(metrics, BEAT, STUCK)
    }

    fn with(metrics: Arc<Metrics>, every: Duration, stuck: Duration) -> Self {
        let heart = Arc::new(Heart {
            began: Instant::now(),
            last: AtomicU64::new(0),
            stuck,
        });
        let watched = Arc::downgrade(&heart);
        let watching = thread::Builder::new().name("pulse".to_owned());
        // Without the thread nobody is told, and everything else works.
        if let Err(error) = watching.spawn(move || watch(&watched, every)) {
            tracing::warn!(%error, "nobody watches the runtime");
        }
        let beating = tokio::spawn(beat(Arc::clone(&heart), metrics, every));
        Self {
            heart,
            _beating: AbortOnDropHandle::new(beating),
        }
    }

    /// Whether the runtime has not got round to an easy task for so long that it never will.
    pub(super) fn is_stuck(&self) -> bool {
        self.heart.late() >= self.heart.stuck
    }
}

impl Heart {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn late(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.last.load(Ordering::Relaxed)))
    }
}

async fn beat(heart: Arc<Heart>, metrics: Arc<Metrics>, every: Duration) {
    loop {
        let due = Instant::now() + every;
        tokio::time::sleep(every).await;
        metrics.runtime_lagged(due.elapsed());
        heart.last.store(heart.now(), Ordering::Relaxed);
    }
}

/// Tells the log when the runtime does not turn any more: its own tasks cannot.
fn watch(heart: &Weak<Heart>, every: Duration) {
    let mut was_stuck = false;
    loop {
        thread::sleep(every);
        let Some(heart) = heart.upgrade() else { return };
        let is_stuck = heart.late() >= heart.stuck;
        if is_stuck && !was_stuck {
            tracing::error!(
                seconds = heart.stuck.as_secs(),
                "the runtime is blocked: no task has run"
            );
        } else if was_stuck && !is_stuck {
            tracing::warn!("the runtime turns again");
        }
        was_stuck = is_stuck;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_runtime_is_noticed_and_so_is_its_recovery() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .expect("a runtime");
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let (every, stuck) = (Duration::from_millis(10), Duration::from_secs(1));
        let pulse = runtime.block_on(async { Pulse::with(metrics, every, stuck) });
        let (release, released) = std::sync::mpsc::channel::<()>();
        let blocked = runtime.spawn(async move { released.recv() });
        let until = |stuck: bool| {
            let began = Instant::now();
            while pulse.is_stuck() != stuck {
                assert!(began.elapsed() < Duration::from_secs(30), "stuck: never {stuck}");
                thread::sleep(every);
            }
        };
        until(true);
        drop(release);
        until(false);
        assert!(runtime.block_on(blocked).is_ok());
    }
}
