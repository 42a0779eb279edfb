//! What tags have meant, and pins.

use std::time::SystemTime;

use super::images::manifest;
use super::*;
use crate::oci::manifest::Contents;
use crate::oci::{Manifest, Tag};
use crate::store::history::{PIN, Story};

const HOST: &str = "docker.io";

fn image_of(store: &Store) -> Image {
    store.image(&"hub".parse().unwrap(), &"library/a".parse().unwrap())
}

fn v1() -> Tag {
    "v1".parse().unwrap()
}

async fn push(image: &Image, (manifest, contents): &(Manifest, Contents)) -> Result<(), Error> {
    image
        .put_manifest(manifest, contents, &[v1()], Present::default())
        .await
}

async fn pull(image: &Image, (manifest, contents): &(Manifest, Contents), asked: SystemTime) {
    image
        .put_pulled(manifest, contents, &[v1()], asked, HOST)
        .await
        .unwrap();
}

/// Digest and origin of every meaning, the latest first.
async fn told(image: &Image) -> Vec<(Digest, String)> {
    let meanings = image.history(&v1()).await.unwrap().into_iter();
    meanings.map(|meaning| (meaning.digest, meaning.origin)).collect()
}

fn path(store: &Store) -> PathBuf {
    let Image { place, .. } = image_of(store);
    store.inner.records.layout.history(&place, &v1())
}

#[tokio::test]
async fn a_tag_knows_what_it_has_meant_over_restarts_crashes_and_a_lost_index() {
    let root = tempfile::tempdir().unwrap();
    let (one, two) = (manifest("one", None), manifest("two", None));
    let (first, second) = (one.0.digest.clone(), two.0.digest.clone());
    let began = SystemTime::now() - Duration::from_millis(1);
    let store = open(&root).await;
    let image = image_of(&store);
    assert!(told(&image).await.is_empty());
    push(&image, &one).await.unwrap();
    push(&image, &one).await.unwrap();
    pull(&image, &two, SystemTime::now()).await;
    pull(&image, &two, SystemTime::now()).await;
    pull(&image, &one, SystemTime::now()).await;
    let expected = [
        (first.clone(), HOST.to_owned()),
        (second, HOST.to_owned()),
        (first, "push".to_owned()),
    ];
    assert_eq!(told(&image).await, expected);
    let meanings = image.history(&v1()).await.unwrap();
    assert!(meanings.iter().all(|meaning| meaning.since >= began));
    assert!(meanings[0].verified.is_some_and(|at| at >= began));
    assert_eq!(meanings[2].verified, None, "nobody was asked about a push");
    drop((image, store));

    let store = open(&root).await;
    assert_eq!(told(&image_of(&store)).await, expected, "after a crash");
    store.close().await;
    drop(store);
    std::fs::remove_dir_all(root.path().join("index")).unwrap();
    let store = open(&root).await;
    assert_eq!(told(&image_of(&store)).await, expected, "without the index");
    // A tag that goes takes it along: registry:2 would list what is left of it.
    assert!(image_of(&store).delete_tag(&v1()).await.unwrap());
    assert!(told(&image_of(&store)).await.is_empty());
    assert!(!path(&store).exists());
}

#[tokio::test]
async fn the_last_hundred_meanings_are_kept() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = image_of(&store);
    let both = [manifest("one", None), manifest("two", None)];
    for n in 0..103 {
        push(&image, &both[n % 2]).await.unwrap();
    }
    let told = told(&image).await;
    assert_eq!(told.len(), 100);
    assert_eq!(told[0].0, both[0].0.digest);
}

#[tokio::test]
async fn a_verification_is_written_down_once_an_hour_and_known_at_once() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = image_of(&store);
    let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds);
    pull(&image, &manifest("one", None), at(0)).await;
    let written = || {
        let file: Story = serde_json::from_slice(&std::fs::read(path(&store)).unwrap()).unwrap();
        file.last_verified()
    };
    for (touched, expected) in [(10, 0), (3599, 0), (3600, 3600), (3700, 3600), (7300, 7300)] {
        image.touch_tag(&v1(), at(touched)).await.unwrap();
        assert_eq!(written(), Some(at(expected)));
        let meanings = image.history(&v1()).await.unwrap();
        assert_eq!(meanings[0].verified, Some(at(touched)), "the index knows better");
        assert_eq!(image.tag(&v1()).await.unwrap().unwrap().verified, Some(at(touched)));
    }
}

#[tokio::test]
async fn what_the_tag_means_is_what_its_link_says() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = image_of(&store);
    let (one, two) = (manifest("one", None), manifest("two", None));
    push(&image, &one).await.unwrap();
    // As an older version leaves it, and as registry:2 does.
    std::fs::remove_file(path(&store)).unwrap();
    assert_eq!(told(&image).await, [(one.0.digest.clone(), "unknown".to_owned())]);
    push(&image, &two).await.unwrap();
    let expected = [
        (two.0.digest.clone(), "push".to_owned()),
        (one.0.digest.clone(), "unknown".to_owned()),
    ];
    assert_eq!(told(&image).await, expected);
    // As a crash between the two leaves it.
    let Image { place, .. } = image_of(&store);
    let link = store.inner.records.layout.current(&place, &v1());
    std::fs::write(link, one.0.digest.as_str()).unwrap();
    let meanings = told(&image).await;
    assert_eq!(meanings[0], (one.0.digest.clone(), "unknown".to_owned()));
    assert_eq!(meanings[1..], expected);
    // What cannot be read stops nobody.
    std::fs::write(path(&store), "{").unwrap();
    assert_eq!(told(&image).await, [(one.0.digest.clone(), "unknown".to_owned())]);
    push(&image, &two).await.unwrap();
    assert_eq!(told(&image).await[0].1, "push");
}

#[tokio::test]
async fn a_pinned_tag_means_what_it_means_until_it_is_unpinned() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = image_of(&store);
    let (one, two) = (manifest("one", None), manifest("two", None));
    let (first, second) = (one.0.digest.clone(), two.0.digest.clone());
    pull(&image, &one, SystemTime::now()).await;
    assert!(!image.pin(&v1(), &second, PIN).await.unwrap(), "it is not here");
    assert!(image.pin(&v1(), &first, PIN).await.unwrap());
    pull(&image, &two, SystemTime::now()).await;
    assert!(matches!(push(&image, &two).await, Err(Error::Pinned(_))));
    push(&image, &one).await.expect("what it means anyway");
    assert!(matches!(image.delete_tag(&v1()).await, Err(Error::Pinned(_))));
    assert!(matches!(image.delete_manifest(&first).await, Err(Error::Pinned(_))));
    assert!(matches!(image.put_back(&v1(), &second).await, Err(Error::Pinned(_))));
    drop((image, store));
    let store = open(&root).await;
    let image = image_of(&store);
    let record = image.tag(&v1()).await.unwrap().unwrap();
    assert!(record.pinned && record.digest == first);
    assert!(
        image.manifest(&second).await.unwrap().is_some(),
        "it came, and is not what the tag means"
    );
    // To something else, and free again.
    assert!(image.pin(&v1(), &second, PIN).await.unwrap());
    assert_eq!(told(&image).await[0], (second.clone(), "pin".to_owned()));
    assert!(image.unpin(&v1()).await.unwrap());
    assert!(!image.unpin(&v1()).await.unwrap());
    let record = image.tag(&v1()).await.unwrap().unwrap();
    assert_eq!((record.pinned, record.verified, record.digest), (false, None, second));
    assert!(image.put_back(&v1(), &first).await.unwrap());
    assert_eq!(told(&image).await[0], (first, "rollback".to_owned()));
    assert!(image.delete_tag(&v1()).await.unwrap());
    assert!(!image.unpin(&v1()).await.unwrap());
}

#[tokio::test]
async fn moves_are_kept_until_the_tag_follows() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = image_of(&store);
    let (one, two) = (manifest("one", None), manifest("two", None));
    pull(&image, &one, SystemTime::now()).await;
    let moves = [Move {
        to: two.0.digest.clone(),
        seen: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
    }];
    image.note_moves(&v1(), &moves).await.unwrap();
    image.touch_tag(&v1(), SystemTime::now()).await.unwrap();
    assert_eq!(*image.tag(&v1()).await.unwrap().unwrap().moves, moves);
    drop((image, store));
    let store = open(&root).await;
    let image = image_of(&store);
    assert_eq!(*image.tag(&v1()).await.unwrap().unwrap().moves, moves, "after a crash");
    pull(&image, &two, SystemTime::now()).await;
    let record = image.tag(&v1()).await.unwrap().unwrap();
    assert!(record.moves.is_empty() && record.digest == two.0.digest);
}
