//! All that outlives the server: what clients know, what is upstream, and what is allowed to happen now.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use entrepot::oci::Digest;

use crate::caller::{Caller, Door};
use crate::dice::Dice;
use crate::oracle::{Key, Oracle};
use crate::support::upstream::{Image, Server, noise};

/// Images that are in the upstream at a time; older ones go.
const UPSTREAM: usize = 40;
/// Blobs that can be mounted from elsewhere.
const MOUNTABLE: usize = 200;

/// An upload that somebody has begun and not ended.
pub(crate) struct Unfinished {
    pub(crate) image: String,
    pub(crate) location: String,
    pub(crate) bytes: Bytes,
    /// What was acknowledged of it.
    pub(crate) taken: usize,
    /// Whether its end was asked for.
    pub(crate) is_ending: bool,
}

/// How long what nothing needs stays. Far less than anybody should have: so that it goes within a life.
pub(crate) const GRACE: Duration = Duration::from_millis(500);

/// All that outlives the server.
pub(crate) struct World {
    pub(crate) oracle: Oracle,
    upstream: Server,
    published: Mutex<BTreeMap<u64, Image>>,
    mountable: Mutex<Vec<(String, Digest)>>,
    manifests: Mutex<HashMap<Digest, Vec<Digest>>>,
    unfinished: Mutex<Vec<Unfinished>>,
    requests: AtomicU64,
    passes: AtomicUsize,
    may_vanish: AtomicBool,
    may_fail: AtomicBool,
    /// How many changes are to be acknowledged before clients end by themselves.
    enough: AtomicU64,
    /// When the last life had ended.
    ended: Mutex<Instant>,
    longest_start: Mutex<Duration>,
}

/// An image of the upstream: its name, its manifest, its blobs.
pub(crate) type Upstream = (String, Digest, Vec<Digest>);

fn named((number, image): (&u64, &Image)) -> Upstream {
    let blobs = image.layers.iter().chain([&image.config]).cloned().collect();
    (format!("h{number}"), image.digest.clone(), blobs)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("not poisoned")
}

impl World {
    pub(crate) async fn new() -> Arc<Self> {
        Arc::new(Self {
            oracle: Oracle::default(),
            upstream: Server::start().await,
            published: Mutex::default(),
            mountable: Mutex::default(),
            manifests: Mutex::default(),
            unfinished: Mutex::default(),
            requests: AtomicU64::new(0),
            passes: AtomicUsize::new(0),
            may_vanish: AtomicBool::new(false),
            may_fail: AtomicBool::new(false),
            enough: AtomicU64::new(u64::MAX),
            ended: Mutex::new(Instant::now()),
            longest_start: Mutex::default(),
        })
    }

    /// The repositories that all this is about.
    pub(crate) fn configuration(&self) -> String {
        format!(
            "server: {{ listen: '127.0.0.1:0' }}\n\
             storage: {{ path: data, gc: {{ every: forever, grace: {}ms }} }}\nrepositories:\n  \
             local: {{ type: local }}\n  hub: {{ type: remote, url: '{}', insecure: true }}\n",
            GRACE.as_millis(),
            self.upstream.url()
        )
    }

    /// A new life of the server begins, in which every request is answered, and well.
    pub(crate) fn begin(&self) {
        for flag in [&self.may_vanish, &self.may_fail] {
            flag.store(false, Ordering::SeqCst);
        }
    }

    /// From now on the server may be gone.
    pub(crate) fn let_vanish(&self) {
        self.may_vanish.store(true, Ordering::SeqCst);
    }

    /// From now on it may say that it has failed.
    pub(crate) fn let_fail(&self) {
        self.may_fail.store(true, Ordering::SeqCst);
    }

    /// Clients are to end once so many changes were acknowledged.
    pub(crate) fn end_after(&self, acknowledged: u64) {
        self.enough.store(acknowledged, Ordering::SeqCst);
    }

    /// The server is gone.
    pub(crate) fn has_ended(&self) {
        *lock(&self.ended) = Instant::now();
    }

    /// Whether a blob must have been there when the last life ended: it was promised so shortly before that it stays even
    /// if nothing needs it.
    pub(crate) fn was_promised(&self, blob: &Key) -> bool {
        self.oracle.is_fresh(blob, GRACE, *lock(&self.ended))
    }

    pub(crate) fn is_over(&self) -> bool {
        self.oracle.acknowledged() >= self.enough.load(Ordering::SeqCst)
    }

    pub(crate) fn may_vanish(&self) -> bool {
        self.may_vanish.load(Ordering::SeqCst)
    }

    pub(crate) fn may_fail(&self) -> bool {
        self.may_fail.load(Ordering::SeqCst)
    }

    pub(crate) fn note_blob(&self, image: &str, digest: &Digest) {
        let mut mountable = lock(&self.mountable);
        if mountable.len() >= MOUNTABLE {
            mountable.remove(0);
        }
        mountable.push((image.to_owned(), digest.clone()));
    }

    /// An image that has been told to have a blob.
    pub(crate) fn image_with(&self, digest: &Digest) -> Option<String> {
        let mountable = lock(&self.mountable);
        let found = mountable.iter().find(|(_, noted)| noted == digest);
        found.map(|(image, _)| image.clone())
    }

    pub(crate) fn note_manifest(&self, manifest: &Digest, blobs: &[Digest]) {
        lock(&self.manifests).insert(manifest.clone(), blobs.to_vec());
    }

    /// What a manifest names.
    pub(crate) fn blobs_of(&self, manifest: &Digest) -> Vec<Digest> {
        lock(&self.manifests).get(manifest).cloned().expect("it was pushed")
    }

    /// How many manifests there may be.
    pub(crate) fn manifests(&self) -> usize {
        lock(&self.manifests).len()
    }

    pub(crate) fn leave(&self, upload: Unfinished) {
        lock(&self.unfinished).push(upload);
    }

    pub(crate) fn take_unfinished(&self) -> Vec<Unfinished> {
        std::mem::take(&mut *lock(&self.unfinished))
    }

    /// New images in the upstream; old ones leave it.
    pub(crate) fn publish(&self, dice: &mut Dice, count: usize) {
        let mut published = lock(&self.published);
        for _ in 0..count {
            let number = published.last_key_value().map_or(0, |(number, _)| number + 1);
            let layers = [noise(90_000, dice.next()), noise(3_000, dice.next())];
            let image = self.upstream.put_image(&format!("h{number}"), "v1", &layers);
            published.insert(number, image);
            if published.len() > UPSTREAM
                && let Some((old, image)) = published.pop_first()
            {
                let name = format!("h{old}");
                self.upstream.remove_manifest(&name, "v1");
                self.upstream.remove_manifest(&name, image.digest.as_str());
                for blob in image.layers.iter().chain([&image.config]) {
                    self.upstream.remove_blob(&name, blob);
                }
            }
        }
    }

    /// One of the images of the upstream. The last ones are chosen most.
    pub(crate) fn published(&self, dice: &mut Dice) -> Option<Upstream> {
        let published = lock(&self.published);
        // Not the oldest: they may leave while they are pulled.
        let most = UPSTREAM as u64 * 3 / 4;
        let back = dice.below(most).min(dice.below(most));
        let entry = published.iter().rev().nth(usize::try_from(back).ok()?)?;
        Some(named(entry))
    }

    pub(crate) fn newest(&self) -> Option<Upstream> {
        lock(&self.published).last_key_value().map(named)
    }

    pub(crate) fn note_start(&self, took: Duration) {
        let mut longest = lock(&self.longest_start);
        *longest = took.max(*longest);
    }

    pub(crate) fn longest_start(&self) -> Duration {
        *lock(&self.longest_start)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn passes(&self) -> usize {
        self.passes.load(Ordering::Relaxed)
    }

    pub(crate) fn count_pass(&self) {
        self.passes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn caller(self: &Arc<Self>, door: &Door, image: &str, is_alone: bool, dice: &mut Dice) -> Caller {
        Caller {
            world: Arc::clone(self),
            door: door.clone(),
            image: image.to_owned(),
            is_alone,
            dice: Dice::new(dice.next()),
        }
    }
}
