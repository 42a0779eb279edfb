//! What was acknowledged, remembered where no crash of the server reaches it.
//!
//! A change that was answered with success holds from then on. One that got no answer, or a failure, may have happened
//! or not. Of changes of one thing that overlapped, either may be the last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use entrepot::oci::Digest;

/// A thing that a client can be told to be there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Tag(String, String),
    Manifest(String, Digest),
    Blob(String, Digest),
}

impl Key {
    pub(crate) fn image(&self) -> &str {
        match self {
            Self::Tag(image, _) | Self::Manifest(image, _) | Self::Blob(image, _) => image,
        }
    }
}

/// What a thing is: the digest it has or means, or nothing.
pub(crate) type State = Option<Digest>;

#[derive(Clone, Debug)]
struct Change {
    to: State,
    began: u64,
    /// When its answer came, whatever it was. Without one, it may have been the last thing to happen.
    ended: Option<u64>,
    acknowledged: bool,
    /// When it was asked for, by the clock.
    asked: Instant,
}

/// Changes that have begun together.
#[derive(Debug)]
#[must_use]
pub(crate) struct Ticket {
    keys: Vec<Key>,
    began: u64,
}

#[derive(Default)]
struct Records {
    clock: u64,
    changes: BTreeMap<Key, Vec<Change>>,
    touched: BTreeSet<Key>,
    acknowledged: u64,
}

impl Records {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn possible(&self, key: &Key) -> Vec<State> {
        let changes = self.changes.get(key).map(Vec::as_slice).unwrap_or_default();
        let last = changes.iter().filter(|change| change.acknowledged);
        let last = last.map(|change| change.began).max().unwrap_or(0);
        let mut possible: Vec<State> = changes
            .iter()
            .filter(|change| change.ended.is_none_or(|ended| ended >= last))
            .map(|change| change.to.clone())
            .collect();
        if last == 0 {
            possible.push(None);
        }
        possible
    }
}

#[derive(Default)]
pub(crate) struct Oracle(Mutex<Records>);

impl Oracle {
    fn lock(&self) -> MutexGuard<'_, Records> {
        self.0.lock().expect("not poisoned")
    }

    /// A request is about to be sent that changes these things.
    pub(crate) fn begin(&self, changes: Vec<(Key, State)>) -> Ticket {
        let mut records = self.lock();
        let began = records.tick();
        let keys = changes.iter().map(|(key, _)| key.clone()).collect();
        for (key, to) in changes {
            records.touched.insert(key.clone());
            records.changes.entry(key).or_default().push(Change {
                to,
                began,
                ended: None,
                acknowledged: false,
                asked: Instant::now(),
            });
        }
        Ticket { keys, began }
    }

    /// Its answer has come. A ticket that is dropped instead is a request that was never answered.
    pub(crate) fn end(&self, ticket: Ticket, acknowledged: bool) {
        let mut records = self.lock();
        let now = records.tick();
        records.acknowledged += u64::from(acknowledged);
        for key in ticket.keys {
            let changes = records.changes.get_mut(&key).expect("it has begun");
            for change in changes.iter_mut().filter(|change| change.began == ticket.began) {
                change.ended = Some(now);
                change.acknowledged = acknowledged;
            }
            let last = changes.iter().filter(|change| change.acknowledged);
            let last = last.map(|change| change.began).max().unwrap_or(0);
            changes.retain(|change| change.ended.is_none_or(|ended| ended >= last));
        }
    }

    /// What a thing may be.
    pub(crate) fn possible(&self, key: &Key) -> Vec<State> {
        self.lock().possible(key)
    }

    /// Whether it must be there.
    pub(crate) fn is_certain(&self, key: &Key) -> bool {
        let possible = self.possible(key);
        possible.iter().all(Option::is_some)
    }

    /// Whether it was asked for less than this before a moment, and acknowledged.
    pub(crate) fn is_fresh(&self, key: &Key, age: Duration, at: Instant) -> bool {
        let records = self.lock();
        let changes = records.changes.get(key).map(Vec::as_slice).unwrap_or_default();
        let mut acknowledged = changes.iter().filter(|change| change.acknowledged);
        acknowledged.any(|change| at.saturating_duration_since(change.asked) < age)
    }

    /// It is gone, and that was to be.
    pub(crate) fn forget(&self, key: &Key) {
        let mut records = self.lock();
        records.changes.remove(key);
        records.touched.remove(key);
    }

    /// After a restart it was found to be this, which is what it is from now on; false if it must not be.
    pub(crate) fn settle(&self, key: &Key, found: &State) -> bool {
        let mut records = self.lock();
        if !records.possible(key).contains(found) {
            return false;
        }
        let now = records.tick();
        let settled = Change {
            to: found.clone(),
            began: now,
            ended: Some(now),
            acknowledged: true,
            asked: Instant::now(),
        };
        records.changes.insert(key.clone(), vec![settled]);
        records.touched.remove(key);
        true
    }

    /// What has been changed, or tried to be, since it was settled.
    pub(crate) fn touched(&self) -> Vec<Key> {
        self.lock().touched.iter().cloned().collect()
    }

    /// All there is to know of.
    pub(crate) fn all(&self) -> Vec<Key> {
        self.lock().changes.keys().cloned().collect()
    }

    /// The manifests that an image must have.
    pub(crate) fn manifests(&self, image: &str) -> Vec<Digest> {
        let records = self.lock();
        let of_image = records.changes.keys().filter(|key| key.image() == image);
        let certain = of_image.filter(|key| records.possible(key).iter().all(Option::is_some));
        certain
            .filter_map(|key| match key {
                Key::Manifest(_, digest) => Some(digest.clone()),
                _ => None,
            })
            .collect()
    }

    /// The tags of an image that may mean a manifest.
    pub(crate) fn meaning(&self, image: &str, digest: &Digest) -> Vec<Key> {
        let records = self.lock();
        let from = Key::Tag(image.to_owned(), String::new());
        let tags = records.changes.range(from..).map(|(key, _)| key);
        let tags = tags.take_while(|key| matches!(key, Key::Tag(of, _) if of == image));
        tags.filter(|key| records.possible(key).contains(&Some(digest.clone())))
            .cloned()
            .collect()
    }

    /// How many requests were acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.lock().acknowledged
    }
}

#[test]
fn the_oracle_tells_what_must_be_from_what_may_be() {
    let oracle = Oracle::default();
    let digest = |text: &str| Some(crate::binary::sha256(text.as_bytes()));
    let key = Key::Tag("a".to_owned(), "v1".to_owned());
    let set = |to: &State| oracle.begin(vec![(key.clone(), to.clone())]);
    let (one, two, three) = (digest("one"), digest("two"), digest("three"));
    oracle.end(set(&one), true);
    assert_eq!(oracle.possible(&key), std::slice::from_ref(&one));
    // Failed: it may have happened, until something that came later is acknowledged.
    oracle.end(set(&two), false);
    assert_eq!(oracle.possible(&key), [one.clone(), two.clone()]);
    oracle.end(set(&three), true);
    assert_eq!(oracle.possible(&key), std::slice::from_ref(&three));
    // At once: either.
    let (first, second) = (set(&one), set(&two));
    oracle.end(second, true);
    oracle.end(first, true);
    assert_eq!(oracle.possible(&key), [one, two.clone()]);
    // Never answered: it may happen at any time.
    let _never = set(&None);
    oracle.end(set(&three), true);
    assert_eq!(oracle.possible(&key), [None, three.clone()]);
    assert!(!oracle.is_certain(&key));
    assert!(!oracle.settle(&key, &two), "it was replaced");
    assert!(oracle.settle(&key, &three) && !oracle.settle(&key, &None));
    assert!(oracle.is_certain(&key) && oracle.touched().is_empty());
    let unheard = Key::Tag("a".to_owned(), "v2".to_owned());
    assert_eq!(oracle.possible(&unheard), [None]);
}
