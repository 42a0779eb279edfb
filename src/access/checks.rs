//! Checks of passwords, which are slow on purpose: few at once, on threads of their own that stand back behind those that serve, one
//! for all who ask the same meanwhile, and their outcome remembered for a while.
//!
//! What is remembered is a mark that only this process can make, never a password.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use moka::sync::Cache;
use ring::hmac;
use tokio::sync::{Semaphore, oneshot, watch};

use super::Unidentified;
use super::signer::random;

/// How many are computed at once.
const AT_ONCE: usize = 2;
/// How many more may wait to be.
const WAITING: usize = 64;
/// How far back its threads stand: a tenth of what others get of a processor that they want too. Guessing takes as much as there is of
/// it, and pulls do not wait for that.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;
/// How long somebody waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// When somebody whom there was no room for should come again.
const LATER: Duration = Duration::from_secs(2);
/// How long a right password is taken without computing.
const RIGHT: Duration = Duration::from_secs(300);
/// How long a wrong one is: a client that goes on with it costs nothing.
const WRONG: Duration = Duration::from_secs(30);
/// How many outcomes of each kind are remembered.
const REMEMBERED: u64 = 10_000;

/// What stands for a secret, its holder, and what it is compared with.
pub(super) type Mark = [u8; 32];

/// The checks of one process.
pub(super) struct Checks {
    key: hmac::Key,
    shared: Arc<Shared>,
}

struct Shared {
    slots: Semaphore,
    running: Mutex<HashMap<Mark, watch::Receiver<Option<bool>>>>,
    right: Cache<Mark, ()>,
    wrong: Cache<Mark, ()>,
}

impl Checks {
    pub(super) fn new() -> Self {
        // Without randomness nothing else of this process works either; what is remembered stays in it anyway.
        let key = random::<32>().unwrap_or_default();
        let remember = |during| Cache::builder().max_capacity(REMEMBERED).time_to_live(during).build();
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            shared: Arc::new(Shared {
                slots: Semaphore::new(AT_ONCE),
                running: Mutex::default(),
                right: remember(RIGHT),
                wrong: remember(WRONG),
            }),
        }
    }

    /// What stands for these. No two lists of parts have the same.
    pub(super) fn mark(&self, parts: &[&str]) -> Mark {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut mark = Mark::default();
        mark.copy_from_slice(context.sign().as_ref());
        mark
    }

    /// Whether it is known to be right, or wrong.
    pub(super) fn remembered(&self, mark: &Mark) -> Option<bool> {
        if self.shared.right.contains_key(mark) {
            return Some(true);
        }
        self.shared.wrong.contains_key(mark).then_some(false)
    }

    /// What the work says; or what the same work under way says.
    pub(super) async fn check(
        &self,
        mark: Mark,
        work: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<bool, Unidentified> {
        let Some(mut verdict) = self.join(mark, work) else {
            return Err(Unidentified::Busy { retry_after: LATER });
        };
        let decided = tokio::time::timeout(PATIENCE, verdict.wait_for(Option::is_some)).await;
        let Ok(Ok(right)) = decided else {
            return Err(Unidentified::Busy { retry_after: LATER });
        };
        Ok(right.unwrap_or_default())
    }

    fn join(&self, mark: Mark, work: impl FnOnce() -> bool + Send + 'static) -> Option<watch::Receiver<Option<bool>>> {
        let mut running = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = running.get(&mark) {
            return Some(same.clone());
        }
        // It may have been decided since the caller looked.
        if let Some(right) = self.remembered(&mark) {
            return Some(watch::channel(Some(right)).1);
        }
        if running.len() >= AT_ONCE + WAITING {
            return None;
        }
        let (tell, verdict) = watch::channel(None);
        running.insert(mark, verdict.clone());
        let entry = Entry {
            shared: Arc::clone(&self.shared),
            mark,
        };
        // A task of its own: it ends whoever loses patience, and the next one finds what came of it.
        tokio::spawn(entry.run(work, tell));
        Some(verdict)
    }
}

/// A check that is under way. However it ends, it is taken from the list.
struct Entry {
    shared: Arc<Shared>,
    mark: Mark,
}

impl Entry {
    async fn run(self, work: impl FnOnce() -> bool + Send + 'static, tell: watch::Sender<Option<bool>>) {
        let Ok(_slot) = self.shared.slots.acquire().await else {
            return;
        };
        let right = match apart(work) {
            Ok(told) => told.await.map_err(io::Error::other),
            Err(error) => Err(error),
        };
        let right = match right {
            Ok(right) => right,
            Err(error) => {
                tracing::error!(%error, "the check of a password failed unexpectedly");
                return;
            }
        };
        let outcomes = if right { &self.shared.right } else { &self.shared.wrong };
        outcomes.insert(self.mark, ());
        tell.send_replace(Some(right));
    }
}

/// Runs work on a thread of its own, which stands back behind the others. Nothing comes of it if it panics.
fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<oneshot::Receiver<T>> {
    let (tell, told) = oneshot::channel();
    thread::Builder::new().name("password".to_owned()).spawn(move || {
        // Elsewhere than on Linux this would be about the whole process. Where it may not be, others wait a little.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::setpriority_process(None, NICE);
        let _ = tell.send(work());
    })?;
    Ok(told)
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut running = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.remove(&self.mark);
    }
}

impl fmt::Debug for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Checks")
    }
}
