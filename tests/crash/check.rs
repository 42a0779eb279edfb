//! What is asked of a server that has come back: everything that was acknowledged, whole and right, and nothing half.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use entrepot::oci::Digest;
use futures_util::StreamExt as _;
use futures_util::stream;
use reqwest::StatusCode;

use crate::caller::{Answer, Caller};
use crate::dice::Dice;
use crate::oracle::{Key, State};
use crate::workload::blobs_of;
use crate::world::Unfinished;

/// Requests at a time.
const AT_ONCE: usize = 8;
/// Things that nobody has touched, and that are asked for all the same.
const OTHERS: usize = 30;
/// How soon it is to be ready, beside what it waits for a processor.
pub(crate) const READY: Duration = Duration::from_secs(5);

/// What a crash may do beyond ending the process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nothing that was written is lost.
    Process,
    /// What was not synced may be.
    Power,
}

pub(crate) struct Check<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) loss: Loss,
    /// Blobs that have been read whole since the restart, by image.
    right: Mutex<HashSet<(String, Digest)>>,
}

impl<'a> Check<'a> {
    pub(crate) fn new(caller: &'a Caller, loss: Loss) -> Self {
        Self {
            caller,
            loss,
            right: Mutex::default(),
        }
    }

    /// Everything that has been touched, and some of the rest.
    pub(crate) async fn touched(&self, dice: &mut Dice) {
        self.uploads().await;
        let oracle = &self.caller.world.oracle;
        let mut keys: BTreeSet<Key> = oracle.touched().into_iter().collect();
        let all = oracle.all();
        keys.extend((0..OTHERS).filter_map(|_| dice.pick(&all).cloned()));
        self.keys(keys.into_iter().collect()).await;
        for _ in 0..3 {
            if let Some(image) = self.caller.world.published(dice) {
                self.caller.pull_from_upstream(&image).await.expect("it is there");
            }
        }
    }

    pub(crate) async fn everything(&self) {
        self.uploads().await;
        self.keys(self.caller.world.oracle.all()).await;
    }

    async fn keys(&self, keys: Vec<Key>) {
        let mut tags: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let images: BTreeSet<String> = keys.iter().map(|key| key.image().to_owned()).collect();
        // An image's list is to be that of all its tags, not only of those that were touched.
        let mut keys: BTreeSet<Key> = keys.into_iter().collect();
        let all = self.caller.world.oracle.all();
        keys.extend(
            all.into_iter()
                .filter(|key| matches!(key, Key::Tag(image, _) if images.contains(image))),
        );
        let mut found = stream::iter(keys)
            .map(async |key| {
                let state = self.key(&key).await;
                (key, state)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((key, state)) = found.next().await {
            if let (Key::Tag(image, tag), Some(_)) = (key, state) {
                tags.entry(image).or_default().insert(tag);
            }
        }
        for image in images {
            let listed = self.listed(&image).await;
            assert_eq!(listed, tags.remove(&image).unwrap_or_default(), "the tags of {image}");
        }
    }

    async fn ask(&self, path: &str) -> Answer {
        let request = self.caller.door.request("GET", path);
        self.caller.ask(request).await.expect("nothing ends it now")
    }

    /// What a thing is, which must be what it may be.
    async fn key(&self, key: &Key) -> State {
        let image = key.image();
        let local = crate::caller::LOCAL;
        let state = match key {
            Key::Tag(_, tag) => self.manifest(image, &format!("{local}/{image}/manifests/{tag}")).await,
            Key::Manifest(_, digest) => {
                let path = format!("{local}/{image}/manifests/{digest}");
                self.manifest(image, &path).await
            }
            Key::Blob(_, digest) => self.blob(image, digest).await.then(|| digest.clone()),
        };
        let oracle = &self.caller.world.oracle;
        // One that a manifest needs is asked for with the manifest.
        if matches!(key, Key::Blob(..)) && state.is_none() && !self.caller.world.was_promised(key) {
            oracle.forget(key);
            return None;
        }
        let possible = oracle.possible(key);
        assert!(
            oracle.settle(key, &state),
            "{key:?} was acknowledged to be one of {possible:?}, and is {state:?}"
        );
        state
    }

    /// The digest of a manifest that is there, with all its blobs.
    async fn manifest(&self, image: &str, path: &str) -> State {
        let answer = self.ask(path).await;
        if answer.status == StatusCode::NOT_FOUND {
            return None;
        }
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        for digest in blobs_of(&answer) {
            assert!(
                self.blob(image, &digest).await,
                "{path} is there without its blob {digest}"
            );
        }
        Some(answer.digest())
    }

    /// Whether a blob is in an image: if it is, it is right.
    async fn blob(&self, image: &str, digest: &Digest) -> bool {
        let key = (image.to_owned(), digest.clone());
        if self.right.lock().expect("not poisoned").contains(&key) {
            return true;
        }
        let path = format!("{}/{image}/blobs/{digest}", crate::caller::LOCAL);
        let answer = self.ask(&path).await;
        if answer.status == StatusCode::NOT_FOUND {
            return false;
        }
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert_eq!(crate::binary::sha256(&answer.body), *digest, "a wrong body: {path}");
        self.right.lock().expect("not poisoned").insert(key);
        true
    }

    async fn listed(&self, image: &str) -> BTreeSet<String> {
        let path = format!("{}/{image}/tags/list", crate::caller::LOCAL);
        let answer = self.ask(&path).await;
        if answer.status == StatusCode::NOT_FOUND {
            return BTreeSet::new();
        }
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        let document: serde_json::Value = serde_json::from_slice(&answer.body).expect("a list");
        let tags = document["tags"].as_array().expect("tags");
        tags.iter().map(|tag| tag.as_str().expect("a tag").to_owned()).collect()
    }

    /// Uploads that were cut off go on where they were.
    pub(crate) async fn uploads(&self) {
        for upload in self.caller.world.take_unfinished() {
            self.resume(upload).await;
        }
    }

    async fn resume(&self, mut upload: Unfinished) {
        let location = upload.location.split("//").last().expect("a part");
        let location = location.find("/v2/").map_or(location, |at| &location[at..]).to_owned();
        let answer = self.ask(&location).await;
        if answer.status == StatusCode::NOT_FOUND {
            // A session is no promise over a power cut, and none that was asked to end.
            assert!(
                upload.is_ending || self.loss == Loss::Power,
                "an upload is gone: {location}"
            );
            return;
        }
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{location}");
        let (_, last) = answer.header("range").split_once('-').expect("a range");
        let last: usize = last.parse().expect("a number");
        let there = if last == 0 { 0 } else { last + 1 };
        assert!(
            there <= upload.bytes.len() && (there >= upload.taken || self.loss == Loss::Power),
            "an upload has {there} bytes, and {} of {} were taken",
            upload.taken,
            upload.bytes.len()
        );
        self.astray(&location, there).await;
        upload.taken = there;
        upload.location = location;
        let image = Caller {
            world: self.caller.world.clone(),
            door: self.caller.door.clone(),
            image: upload.image.clone(),
            is_alone: false,
            dice: Dice::new(0),
        };
        assert!(image.finish(&upload).await.expect("nothing ends it now"));
    }
}

impl Check<'_> {
    /// A piece that does not go on where an upload is is refused, before any of it is read, and told where that is.
    async fn astray(&self, location: &str, there: usize) {
        let request = self.caller.door.request("PATCH", location);
        let request = request.header("content-range", format!("{}-{}", there + 1, there + 1000));
        let answer = self.caller.ask(request).await.expect("nothing ends it now");
        assert_eq!(answer.status, StatusCode::RANGE_NOT_SATISFIABLE, "{location}");
        let range = format!("0-{}", there.saturating_sub(1));
        assert_eq!(answer.header("range"), range, "{location}");
    }
}

/// Waits until nothing is left in the spool that is not there to be gone on with: what the probe of readiness is writing
/// at the moment goes, too.
pub(crate) async fn staging_is_clean(data: &Path) {
    let end = Instant::now() + READY;
    loop {
        let left: Vec<String> = std::fs::read_dir(data.join("spool"))
            .expect("a spool")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .filter(|name| {
                let extension = Path::new(name).extension();
                !extension.is_some_and(|extension| extension == "part" || extension == "note")
            })
            .collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "left in the spool: {left:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
