//! The layers of a manifest that somebody has just asked for: he will ask for them next, so they begin to arrive.
//!
//! Over connections that nobody else has a use for, a few at once, in their order. Whoever asks for one of them joins
//! it if it has begun, and begins it himself if it has not: nobody ever waits for what was fetched ahead.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::sync::Cache;
use tokio::time::sleep;

use super::blobs::State;
use super::{Error, Inner};
use crate::oci::{Digest, ImageName, Manifest};
use crate::upstream;

/// How many are fetched ahead at once.
const AT_ONCE: usize = 3;
/// How many may wait; what is too many is left to be asked for.
const WAITING: usize = 256;
/// For how long a manifest that was asked for again has nothing more to say, and how many such are remembered.
const REMEMBERED: (Duration, u64) = (Duration::from_secs(60), 4096);
/// How long to wait for a connection, and how often. A tenth of a second each time, half a minute in all.
const PATIENCE: (Duration, u32) = (Duration::from_millis(100), 300);

/// What is fetched before it is asked for.
pub(super) struct Ahead {
    seen: Cache<(ImageName, Digest), ()>,
    state: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(ImageName, Digest)>,
    running: usize,
}

impl Default for Ahead {
    fn default() -> Self {
        Self {
            seen: Cache::builder()
                .time_to_live(REMEMBERED.0)
                .max_capacity(REMEMBERED.1)
                .build(),
            state: Mutex::default(),
        }
    }
}

impl Ahead {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next one for a task that runs; without one, it is to end.
    fn next(&self) -> Option<(ImageName, Digest)> {
        let mut queue = self.queue();
        let next = queue.waiting.pop_front();
        if next.is_none() {
            queue.running -= 1;
        }
        next
    }

    /// Puts these at the end, and says how many more tasks are to run.
    fn add(&self, image: &ImageName, digests: impl Iterator<Item = Digest>) -> usize {
        let mut queue = self.queue();
        for digest in digests {
            let job = (image.clone(), digest);
            if queue.waiting.len() < WAITING && !queue.waiting.contains(&job) {
                queue.waiting.push_back(job);
            }
        }
        let more = queue.waiting.len().min(AT_ONCE - queue.running);
        queue.running += more;
        more
    }
}

impl Inner {
    /// Has what a manifest refers to fetched, if it is an image's.
    pub(super) fn fetch_ahead(self: &Arc<Self>, ahead: &Ahead, image: &ImageName, manifest: &Manifest) {
        let seen = (image.clone(), manifest.digest.clone());
        if manifest.media_type.is_index() || ahead.seen.contains_key(&seen) {
            return;
        }
        ahead.seen.insert(seen, ());
        let read = Manifest::from_elsewhere(
            manifest.bytes.clone(),
            Some(manifest.media_type.as_str()),
            manifest.digest.algorithm(),
        );
        let Ok((_, contents)) = read else { return };
        self.remember_sizes(image, &contents);
        let wanted = contents.config.iter().chain(&contents.layers);
        let digests = wanted
            .filter(|descriptor| !descriptor.may_be_absent())
            .map(|descriptor| descriptor.digest.clone());
        for _ in 0..ahead.add(image, digests) {
            tokio::spawn(Arc::clone(self).run_ahead());
        }
    }

    /// One after another, until none waits.
    async fn run_ahead(self: Arc<Self>) {
        while let Some((image, digest)) = self.ahead.as_ref().and_then(Ahead::next) {
            if let Err(error) = self.bring(&image, &digest).await {
                tracing::debug!(repository = %self.key, %image, %digest, %error, "a blob was not fetched ahead");
            }
        }
    }

    async fn bring(&self, image: &ImageName, digest: &Digest) -> Result<(), Error> {
        for _ in 0..PATIENCE.1 {
            // What another image has brought here costs a question only once it is asked for.
            if self.fetches.under_way(digest).is_some() || self.store.open_blob(digest).await?.is_some() {
                return Ok(());
            }
            let (fetch, _) = self.fetch(image, digest, true)?;
            match fetch.begun().await {
                State::Failed(error) if matches!(error.upstream(), Some(upstream::Error::Busy)) => {
                    sleep(PATIENCE.0).await;
                }
                State::Failed(error) => return Err(error),
                // Not even looked at, or it would seem to be read.
                State::Arriving(_) => {
                    fetch.over().await;
                    return Ok(());
                }
                State::Asking | State::Absent | State::Unkept(_) => return Ok(()),
            }
        }
        Err(self.wrap(upstream::Error::Busy))
    }
}
