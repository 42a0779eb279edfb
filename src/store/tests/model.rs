//! Any sequence of operations, restarts and crashes, against a model of what should be there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use proptest::prelude::*;

use super::images::manifest;
use super::size::is_full;
use super::*;
use crate::oci::manifest::Contents;
use crate::oci::{Descriptor, Manifest, Page, Tag};

const KEYS: [&str; 2] = ["docker-hub", "docker-local"];
const NAMES: [&str; 3] = ["a", "a-b", "a/b"];
const TAGS: [&str; 4] = ["1", "B", "_", "b.c"];
const BLOBS: [&[u8]; 3] = [b"", b"one", b"two"];

#[derive(Clone, Debug)]
enum Step {
    Put(usize, usize, Vec<usize>),
    DeleteManifest(usize, usize),
    DeleteTag(usize, usize),
    Touch(usize, usize, u64),
    Link(usize, usize),
    Unlink(usize, usize),
    Upload(usize, usize),
    /// What can be fetched again goes until no more than so much is left.
    Evict(u64),
    /// All of it goes, manifests too.
    Forget,
    /// What is local and nothing needs goes.
    Reclaim,
    /// Closed and opened again.
    Restart,
    /// Opened again without having been closed.
    Crash,
    Reindex,
}

fn step() -> impl Strategy<Value = Step> {
    let image = 0..KEYS.len() * NAMES.len();
    let (document, tag, blob) = (0..5_usize, 0..TAGS.len(), 0..BLOBS.len());
    prop_oneof![
        6 => (image.clone(), document.clone(), prop::collection::vec(tag.clone(), 0..3))
            .prop_map(|(image, document, tags)| Step::Put(image, document, tags)),
        3 => (image.clone(), document).prop_map(|(image, document)| Step::DeleteManifest(image, document)),
        2 => (image.clone(), tag.clone()).prop_map(|(image, tag)| Step::DeleteTag(image, tag)),
        2 => (image.clone(), tag, 1..1_000_000_u64).prop_map(|(image, tag, time)| Step::Touch(image, tag, time)),
        2 => (image.clone(), blob.clone()).prop_map(|(image, blob)| Step::Link(image, blob)),
        1 => (image.clone(), blob.clone()).prop_map(|(image, blob)| Step::Unlink(image, blob)),
        1 => (image, blob).prop_map(|(image, blob)| Step::Upload(image, blob)),
        2 => (0..7_u64).prop_map(Step::Evict),
        1 => Just(Step::Forget),
        2 => Just(Step::Reclaim),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
        1 => Just(Step::Reindex),
    ]
}

#[derive(Debug, Default)]
struct Expected {
    manifests: BTreeSet<usize>,
    /// What each means, and when it was found to.
    tags: BTreeMap<usize, (usize, Option<u64>)>,
    /// What each tag that is there has meant, the oldest first.
    meanings: BTreeMap<usize, Vec<usize>>,
    blobs: BTreeSet<usize>,
}

impl Expected {
    /// A tag that goes takes along what it has meant.
    fn follow(&mut self) {
        let tags = &self.tags;
        self.meanings.retain(|name, _| tags.contains_key(name));
    }
}

struct Model {
    documents: Vec<(Manifest, Contents)>,
    blobs: Vec<Digest>,
    images: Vec<Expected>,
}

fn time(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
}

fn image_of(store: &Store, number: usize) -> Image {
    let (key, name) = (KEYS[number / NAMES.len()], NAMES[number % NAMES.len()]);
    store.image(&key.parse().unwrap(), &name.parse().unwrap())
}

fn tag(number: usize) -> Tag {
    TAGS[number].parse().unwrap()
}

impl Model {
    /// Two images, one thing about the first of them, one about the second, and one about what is never there.
    fn new() -> Self {
        let (first, second) = (manifest("first", None), manifest("second", None));
        let absent = Digest::of(Algorithm::Sha256, b"absent");
        let documents = vec![
            manifest("about first", Some(&first.0.digest)),
            manifest("about second", Some(&second.0.digest)),
            manifest("about absent", Some(&absent)),
            first,
            second,
        ];
        Self {
            documents,
            blobs: BLOBS.iter().map(|bytes| Digest::of(Algorithm::Sha256, bytes)).collect(),
            images: (0..KEYS.len() * NAMES.len()).map(|_| Expected::default()).collect(),
        }
    }

    /// Does the same to the store and to the model.
    async fn act(&mut self, store: &Store, step: &Step) {
        match step {
            Step::Put(number, document, tags) => {
                let (put, contents) = &self.documents[*document];
                let names: Vec<Tag> = tags.iter().copied().map(tag).collect();
                image_of(store, *number)
                    .put_manifest(put, contents, &names, Present::default())
                    .await
                    .unwrap();
                self.images[*number].manifests.insert(*document);
                for name in tags {
                    self.images[*number].tags.insert(*name, (*document, None));
                    let meanings = self.images[*number].meanings.entry(*name).or_default();
                    if meanings.last() != Some(document) {
                        meanings.push(*document);
                    }
                }
            }
            Step::DeleteManifest(number, document) => {
                let digest = &self.documents[*document].0.digest;
                let deleted = image_of(store, *number).delete_manifest(digest).await.unwrap();
                assert_eq!(deleted, self.images[*number].manifests.remove(document));
                self.images[*number].tags.retain(|_, (meant, _)| meant != document);
                self.images[*number].follow();
            }
            Step::DeleteTag(number, name) => {
                let deleted = image_of(store, *number).delete_tag(&tag(*name)).await.unwrap();
                assert_eq!(deleted, self.images[*number].tags.remove(name).is_some());
                self.images[*number].follow();
            }
            Step::Touch(number, name, at) => {
                image_of(store, *number)
                    .touch_tag(&tag(*name), time(*at))
                    .await
                    .unwrap();
                if let Some((_, verified)) = self.images[*number].tags.get_mut(name) {
                    *verified = Some(*at);
                }
            }
            Step::Link(number, blob) => {
                publish(store, BLOBS[*blob]).await;
                image_of(store, *number).link_blob(&self.blobs[*blob]).await.unwrap();
                self.images[*number].blobs.insert(*blob);
            }
            Step::Unlink(number, blob) => {
                let unlinked = image_of(store, *number).unlink_blob(&self.blobs[*blob]).await.unwrap();
                assert_eq!(unlinked, self.images[*number].blobs.remove(blob));
            }
            Step::Upload(number, blob) => {
                let image = image_of(store, *number);
                let mut upload = image.begin_upload(None, NOBODY).await.unwrap();
                let id = upload.id();
                upload.append(BLOBS[*blob]).unwrap();
                upload.save();
                let upload = image.upload(id, NOBODY).await.unwrap().unwrap();
                upload.finish(&self.blobs[*blob]).await.unwrap();
                self.images[*number].blobs.insert(*blob);
            }
            Step::Evict(limit) => {
                let keeping = Keeping {
                    max_size: Some(*limit),
                    unused_after: None,
                };
                tidy(store, keeping).await;
                self.follow_eviction(store, *limit).await;
            }
            Step::Forget => {
                let keeping = Keeping {
                    max_size: None,
                    unused_after: Some(Duration::ZERO),
                };
                // What is used within one millisecond is told apart by stamps that run ahead of the clock.
                let begin = std::time::Instant::now();
                while self.holds_any(store).await {
                    assert!(begin.elapsed() < Duration::from_secs(10), "it does not go");
                    tidy(store, keeping).await;
                }
                self.images[..NAMES.len()].fill_with(Expected::default);
            }
            Step::Reclaim => {
                // Seen, taken away, and removed for good.
                for _ in 0..3 {
                    store.reclaim(reclaiming()).await.unwrap();
                }
                for image in &mut self.images[NAMES.len()..] {
                    // Every document has a config of no bytes.
                    let needed = !image.manifests.is_empty();
                    image.blobs.retain(|number| needed && BLOBS[*number].is_empty());
                }
            }
            // What follows does not change what is there.
            Step::Restart => {}
            Step::Crash | Step::Reindex => {
                for (_, verified) in self.images.iter_mut().flat_map(|image| image.tags.values_mut()) {
                    *verified = None;
                }
            }
        }
    }

    /// Whether there is anything of the repository that may be evicted.
    async fn holds_any(&self, store: &Store) -> bool {
        for number in 0..NAMES.len() {
            if image_of(store, number).exists().await.unwrap() {
                return true;
            }
        }
        false
    }

    /// Which blobs went is not for the model to say; but each in all images, and no more than had to.
    async fn follow_eviction(&mut self, store: &Store, limit: u64) {
        let mut held = BTreeSet::new();
        for (number, blob) in self.blobs.iter().enumerate() {
            let mut remains = None;
            for (image, expected) in self.images[..NAMES.len()].iter_mut().enumerate() {
                if expected.blobs.contains(&number) {
                    let found = image_of(store, image).has_blob(blob).await.unwrap().is_some();
                    assert_eq!(*remains.get_or_insert(found), found, "in all images, or in none");
                    if found {
                        held.insert(number);
                    } else {
                        expected.blobs.remove(&number);
                    }
                }
            }
        }
        let bytes: usize = held.iter().map(|number| BLOBS[*number].len()).sum();
        assert!(bytes as u64 <= limit);
    }

    /// Whether the store says what the model says. `fresh`: also of when tags were last verified.
    async fn check(&self, store: &Store, fresh: bool) {
        for (number, expected) in self.images.iter().enumerate() {
            self.check_image(&image_of(store, number), expected, fresh).await;
        }
        for (number, key) in KEYS.iter().enumerate() {
            let of_key = self.images.iter().skip(number * NAMES.len()).zip(NAMES);
            let images: Vec<&str> = of_key
                .filter(|(image, _)| !image.manifests.is_empty())
                .map(|(_, name)| name)
                .collect();
            let found = store.images(&key.parse().unwrap()).await.unwrap();
            let found: Vec<&str> = found.iter().map(ImageName::as_str).collect();
            assert_eq!(found, images);
        }
        for (number, blob) in self.blobs.iter().enumerate() {
            let owners = self.images.iter().filter(|image| image.blobs.contains(&number)).count();
            assert_eq!(store.find_blob_owners(blob).await.unwrap().len(), owners);
        }
        let sum = |count: fn(&Expected) -> usize| self.images.iter().map(count).sum::<usize>() as u64;
        let blobs: BTreeSet<_> = self.images.iter().flat_map(|image| &image.blobs).collect();
        let counts = IndexCounts {
            images: sum(|image| usize::from(!image.manifests.is_empty())),
            tags: sum(|image| image.tags.len()),
            manifests: sum(|image| image.manifests.len()),
            blobs: blobs.len() as u64,
        };
        assert_eq!(store.inner.index.counts().unwrap(), counts);
    }

    async fn check_image(&self, image: &Image, expected: &Expected, fresh: bool) {
        let anything = !expected.manifests.is_empty() || !expected.blobs.is_empty();
        assert_eq!(image.exists().await.unwrap(), anything);
        for (number, (document, _)) in self.documents.iter().enumerate() {
            let found = image.manifest(&document.digest).await.unwrap();
            assert_eq!(found.as_ref(), expected.manifests.contains(&number).then_some(document));
            let about = self.documents.iter().enumerate().filter(|(number, (_, contents))| {
                let subject = contents.subject.as_ref();
                expected.manifests.contains(number) && subject.is_some_and(|subject| subject.digest == document.digest)
            });
            let mut referrers: Vec<Descriptor> = about
                .map(|(_, (about, contents))| about.as_referrer(contents))
                .collect();
            referrers.sort_by_key(|referrer| referrer.digest.to_string());
            assert_eq!(image.referrers(&document.digest).await.unwrap(), referrers);
        }
        let tags: Vec<&str> = expected.tags.keys().map(|number| TAGS[*number]).collect();
        assert_eq!(image.tags(&Page::default()).await.unwrap().0, tags);
        for number in 0..TAGS.len() {
            let meanings = image.history(&tag(number)).await.unwrap();
            let meant = expected.meanings.get(&number).into_iter().flatten().rev();
            let meant: Vec<&Digest> = meant.map(|meant| &self.documents[*meant].0.digest).collect();
            assert_eq!(
                meanings.iter().map(|meaning| &meaning.digest).collect::<Vec<_>>(),
                meant
            );
            let found = image.tag(&tag(number)).await.unwrap();
            let expected = expected.tags.get(&number);
            let digests = (
                found.as_ref().map(|found| &found.digest),
                expected.map(|(meant, _)| &self.documents[*meant].0.digest),
            );
            assert_eq!(digests.0, digests.1);
            if fresh {
                let verified = expected.and_then(|(_, verified)| verified.map(time));
                assert_eq!(found.and_then(|found| found.verified), verified);
            }
        }
        for (number, blob) in self.blobs.iter().enumerate() {
            let size = expected.blobs.contains(&number).then_some(BLOBS[number].len() as u64);
            assert_eq!(image.has_blob(blob).await.unwrap(), size);
        }
    }
}

fn reclaiming() -> Reclaiming {
    let local = LocalRules {
        key: KEYS[1].parse().unwrap(),
        retention: Arc::default(),
        immutable: Arc::default(),
    };
    Reclaiming {
        local: vec![local],
        grace: Duration::ZERO,
    }
}

async fn tidy(store: &Store, keeping: Keeping) {
    store.keep(&KEYS[0].parse().unwrap(), keeping);
    store.tidy().await.unwrap();
}

async fn run(root: &tempfile::TempDir, steps: &[Step]) {
    let mut model = Model::new();
    let mut store = open(root).await;
    // After the index was rebuilt under a running store, memory may know of freshness what the index does not.
    let mut fresh = true;
    for step in steps {
        model.act(&store, step).await;
        match step {
            Step::Restart => {
                store.close().await;
                drop(store);
                store = open(root).await;
            }
            Step::Crash => {
                drop(store);
                store = open(root).await;
                fresh = true;
            }
            Step::Reindex => {
                store.reindex().await.unwrap();
                fresh = false;
            }
            _ => continue,
        }
        model.check(&store, fresh).await;
    }
    model.check(&store, fresh).await;
}

/// D12: 5,000 steps, or at the full size 100,000.
fn cases() -> u32 {
    if is_full() { 5_000 } else { 250 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]
    #[test]
    fn d12_whatever_is_done_the_store_says_what_the_model_says(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(&in_memory(), &steps));
    }
}
