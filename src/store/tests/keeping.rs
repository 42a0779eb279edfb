//! Repositories that can be fetched again: what goes, what stays, and who is never lied to.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use super::super::history::PIN;
use super::images::manifest;
use super::*;
use crate::oci::manifest::Contents;
use crate::oci::media_type::OCI_MANIFEST;
use crate::oci::{Manifest, Tag};

const KIB: u64 = 1024;

fn hub() -> RepositoryKey {
    "docker-hub".parse().unwrap()
}

fn of_hub(store: &Store, name: &str) -> Image {
    store.image(&hub(), &name.parse().unwrap())
}

fn of_local(store: &Store, name: &str) -> Image {
    store.image(&"docker-local".parse().unwrap(), &name.parse().unwrap())
}

fn at_most(max_size: u64) -> Keeping {
    Keeping {
        max_size: Some(max_size),
        unused_after: None,
    }
}

fn unused_after(seconds: u64) -> Keeping {
    Keeping {
        max_size: None,
        unused_after: Some(Duration::from_secs(seconds)),
    }
}

/// A KiB of its own.
fn kib(number: u8) -> Vec<u8> {
    vec![number; 1024]
}

/// What a fetch does.
async fn fetch(store: &Store, name: &str, bytes: &[u8]) -> Digest {
    let room = store.reserve(&hub(), Some(bytes.len() as u64)).await.unwrap();
    let digest = publish(store, bytes).await;
    of_hub(store, name).link_blob(&digest).await.unwrap();
    drop(room);
    digest
}

async fn push(image: &Image, bytes: &[u8]) -> Digest {
    let mut upload = image.begin_upload(None, NOBODY).await.unwrap();
    upload.append(bytes).unwrap();
    let digest = Digest::of(Algorithm::Sha256, bytes);
    upload.finish(&digest).await.unwrap();
    digest
}

async fn has(image: &Image, digests: &[Digest]) -> Vec<bool> {
    let mut has = Vec::new();
    for digest in digests {
        has.push(image.has_blob(digest).await.unwrap().is_some());
    }
    has
}

fn bytes_of_blobs(store: &Store) -> u64 {
    fn below(path: &Path) -> u64 {
        let entries = fs::read_dir(path).unwrap().map(Result::unwrap);
        entries
            .map(|entry| match entry.metadata().unwrap() {
                found if found.is_dir() => below(&entry.path()),
                found => found.len(),
            })
            .sum()
    }
    below(&store.inner.records.layout.blobs())
}

fn shown(store: &Store, series: &str) -> Option<u64> {
    let text = String::from_utf8(store.inner.blobs.metrics.render().unwrap()).unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[tokio::test]
async fn room_is_made_by_what_was_wanted_longest_ago() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    store.keep(&hub(), at_most(5 * KIB));
    let mut digests = Vec::new();
    for number in 0..4 {
        digests.push(fetch(&store, "a", &kib(number)).await);
    }
    of_hub(&store, "b").link_blob(&digests[1]).await.unwrap();
    store.used(&hub(), &digests[..1]);
    let reservation = store.reserve(&hub(), Some(2 * KIB)).await.unwrap();
    // Down to the low mark, and the oldest first, in all images.
    let image = of_hub(&store, "a");
    assert_eq!(bytes_of_blobs(&store), 2 * KIB);
    assert_eq!(
        shown(&store, "entrepot_cache_bytes{repository=\"docker-hub\"}"),
        Some(2 * KIB)
    );
    assert_eq!(
        shown(&store, "entrepot_cache_reserved_bytes{repository=\"docker-hub\"}"),
        Some(2 * KIB)
    );
    assert_eq!(
        shown(&store, "entrepot_cache_limit_bytes{repository=\"docker-hub\"}"),
        Some(5 * KIB)
    );
    let evicted = "entrepot_evicted_blobs_total{reason=\"max_size\",repository=\"docker-hub\"}";
    assert_eq!(shown(&store, evicted), Some(2));
    drop(reservation);
    assert_eq!(has(&image, &digests).await, [true, true, false, false]);
    assert_eq!(has(&of_hub(&store, "b"), &digests[1..2]).await, [true]);
}

#[tokio::test]
async fn what_can_never_fit_or_may_not_go_has_no_room() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    store.keep(&hub(), at_most(2 * KIB));
    let refused = store.reserve(&hub(), Some(2 * KIB + 1)).await;
    assert!(matches!(&refused, Err(error @ Error::NoRoom { .. }) if error.is_full()));
    let digests = [fetch(&store, "a", &kib(1)).await, fetch(&store, "a", &kib(2)).await];
    let image = of_hub(&store, "a");
    let readers = [
        image.blob(&digests[0]).await.unwrap().unwrap(),
        store.open_blob(&digests[1]).await.unwrap().unwrap(),
    ];
    let refused = store.reserve(&hub(), Some(1)).await;
    assert!(matches!(refused, Err(Error::NoRoom { .. })), "they are being read");
    assert_eq!(has(&image, &digests).await, [true, true]);
    drop(readers);
    let one = store.reserve(&hub(), Some(KIB)).await.unwrap();
    assert_eq!(bytes_of_blobs(&store), 0, "90 % of two leaves room for none beside it");
    let two = store.reserve(&hub(), Some(KIB)).await.unwrap();
    assert!(matches!(
        store.reserve(&hub(), Some(1)).await,
        Err(Error::NoRoom { .. })
    ));
    drop((one, two));
    // Of a length that nobody knows: as much as there is, and no more.
    let mut unknown = store.reserve(&hub(), None).await.unwrap();
    unknown.grow(2 * KIB).await.unwrap();
    assert!(matches!(unknown.grow(2 * KIB + 1).await, Err(Error::NoRoom { .. })));
    assert_eq!(unknown.size(), 2 * KIB);
    drop(unknown);
    store.reserve(&hub(), Some(2 * KIB)).await.unwrap();
    let other = store.reserve(&"docker".parse().unwrap(), Some(1 << 20)).await;
    assert!(other.is_ok(), "nobody has set a limit there");
}

#[tokio::test]
async fn bytes_that_anybody_else_needs_stay() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    store.keep(&hub(), at_most(9 * KIB));
    let shared = fetch(&store, "a", &kib(1)).await;
    let local = of_local(&store, "app");
    assert_eq!(push(&local, &kib(1)).await, shared);
    // An image that lists another's manifest as its layer.
    let (pushed, contents) = manifest("theirs", None);
    local
        .put_manifest(&pushed, &contents, &[], Present::default())
        .await
        .unwrap();
    let evil = fetch(&store, "evil", &pushed.bytes).await;
    assert_eq!(evil, pushed.digest);
    // In a tree that registry:2 has left, under a name that is none for us.
    let foreign = fetch(&store, "a", &kib(2)).await;
    let links = store
        .inner
        .records
        .layout
        .repositories()
        .join("Not_A_Key!/_layers/sha256");
    fs::create_dir_all(links.join(foreign.hex())).unwrap();
    fs::write(links.join(foreign.hex()).join("link"), foreign.as_str()).unwrap();
    let alone = fetch(&store, "a", &kib(3)).await;
    store.keep(&hub(), at_most(0));
    let tidied = store.tidy().await.unwrap();
    assert_eq!((tidied.blobs, tidied.manifests), (4, 0));
    assert_eq!(
        has(&of_hub(&store, "a"), &[shared.clone(), foreign.clone(), alone.clone()]).await,
        [false; 3]
    );
    assert_eq!(read(&local.blob(&shared).await.unwrap().unwrap()), kib(1));
    store.inner.hot.manifests.invalidate_all();
    assert_eq!(local.manifest(&pushed.digest).await.unwrap(), Some(pushed));
    assert!(store.open_blob(&foreign).await.unwrap().is_some());
    assert!(store.open_blob(&alone).await.unwrap().is_none());
}

#[tokio::test]
async fn where_the_tree_cannot_be_told_nothing_goes() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    store.keep(&hub(), at_most(KIB));
    let digest = fetch(&store, "a", &kib(1)).await;
    let elsewhere = root.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let link = store.inner.records.layout.repositories().join("docker-local");
    std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
    assert!(matches!(
        store.reserve(&hub(), Some(1)).await,
        Err(Error::NoRoom { .. })
    ));
    assert_eq!(has(&of_hub(&store, "a"), std::slice::from_ref(&digest)).await, [true]);
    fs::remove_file(&link).unwrap();
    // An index that is not sound does not matter.
    store.inner.index.doubt("a test");
    store.reserve(&hub(), Some(1)).await.unwrap();
    assert_eq!(has(&of_hub(&store, "a"), &[digest]).await, [false]);
}

#[tokio::test]
async fn a_repository_that_is_no_remote_any_more_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    store.keep(&hub(), at_most(KIB));
    let digest = fetch(&store, "a", &kib(1)).await;
    store.release(&hub(), None);
    store.reserve(&hub(), Some(9 * KIB)).await.unwrap();
    assert_eq!(store.tidy().await.unwrap(), Tidied::default());
    assert_eq!(has(&of_hub(&store, "a"), &[digest]).await, [true]);
    assert_eq!(shown(&store, "entrepot_cache_bytes{repository=\"docker-hub\"}"), None);
}

#[tokio::test]
async fn the_order_of_use_outlives_a_restart_and_most_of_it_a_crash() {
    let root = tempfile::tempdir().unwrap();
    let old = SystemTime::now() - Duration::from_secs(90 * 24 * 3600);
    let store = open(&root).await;
    let mut digests = Vec::new();
    for number in 0..3 {
        let digest = publish(&store, &kib(number)).await;
        of_hub(&store, "a").link_blob(&digest).await.unwrap();
        let file = File::options()
            .write(true)
            .open(store.inner.blobs.layout.blob(&digest))
            .unwrap();
        file.set_modified(old + Duration::from_secs(u64::from(number))).unwrap();
        digests.push(digest);
    }
    // As a remote takes over what is there.
    store.keep(&hub(), at_most(9 * KIB));
    store.tidy().await.unwrap();
    store.used(&hub(), &digests[..1]);
    store.close().await;
    drop(store);
    let store = open(&root).await;
    store.keep(&hub(), at_most(2 * KIB));
    store.tidy().await.unwrap();
    assert_eq!(
        has(&of_hub(&store, "a"), &digests).await,
        [true, false, false],
        "down to 90 %"
    );
    drop(store);
    let store = open(&root).await;
    store.keep(&hub(), unused_after(24 * 3600));
    assert_eq!(
        store.tidy().await.unwrap().blobs,
        1,
        "after a crash the file's own time counts"
    );
}

#[tokio::test]
async fn what_nobody_wants_goes_after_its_time_and_manifests_after_twice_that() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = of_hub(&store, "a");
    let tags: Vec<Tag> = ["old", "pinned", "index"].map(|tag| tag.parse().unwrap()).into();
    let mut documents: Vec<(Manifest, Contents)> = ["old", "pinned", "child"].map(|note| manifest(note, None)).into();
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":{}}}]}}"#,
        documents[2].0.digest,
        documents[2].0.bytes.len()
    );
    documents.push(Manifest::from_push(index.into(), None, Algorithm::Sha256).unwrap());
    for ((document, contents), tag) in documents.iter().zip([Some(0), Some(1), None, Some(2)]) {
        let tags: Vec<Tag> = tag.iter().map(|number: &usize| tags[*number].clone()).collect();
        image
            .put_manifest(document, contents, &tags, Present::default())
            .await
            .unwrap();
    }
    for (tag, document) in [(&tags[1], &documents[1].0), (&tags[2], &documents[3].0)] {
        assert!(image.pin(tag, &document.digest, PIN).await.unwrap());
    }
    let (layer, wanted) = (publish(&store, &kib(1)).await, publish(&store, &kib(2)).await);
    for digest in [&layer, &wanted] {
        image.link_blob(digest).await.unwrap();
    }
    let written_before = |digest: &Digest, seconds: u64| {
        let file = File::options()
            .write(true)
            .open(store.inner.blobs.layout.blob(digest))
            .unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds))
            .unwrap();
    };
    written_before(&layer, 150);
    for (document, _) in &documents {
        written_before(&document.digest, 150);
    }
    store.keep(&hub(), unused_after(100));
    let tidied = store.tidy().await.unwrap();
    assert_eq!((tidied.blobs, tidied.bytes, tidied.manifests), (1, KIB, 0));
    assert_eq!(has(&image, &[layer, wanted.clone()]).await, [false, true]);
    let evicted = "entrepot_evicted_bytes_total{reason=\"unused\",repository=\"docker-hub\"}";
    assert_eq!(shown(&store, evicted), Some(KIB));
    store.used(&hub(), std::slice::from_ref(&wanted));
    store.keep(&hub(), unused_after(74));
    let tidied = store.tidy().await.unwrap();
    assert_eq!(
        (tidied.blobs, tidied.manifests),
        (0, 1),
        "only the one that no pin speaks for"
    );
    assert!(image.manifest(&documents[0].0.digest).await.unwrap().is_none());
    assert_eq!(image.tag(&tags[0]).await.unwrap(), None);
    for (document, _) in &documents[1..] {
        assert!(image.manifest(&document.digest).await.unwrap().is_some());
    }
    assert_eq!(has(&image, &[wanted]).await, [true]);
}

#[tokio::test]
async fn a_file_of_another_length_than_was_published_is_absent_until_it_comes_again() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = of_local(&store, "a");
    let digest = push(&image, &kib(1)).await;
    let path = store.inner.blobs.layout.blob(&digest);
    let damages: [&dyn Fn(); 4] = [
        &|| File::options().write(true).open(&path).unwrap().set_len(100).unwrap(),
        &|| fs::write(&path, [kib(1), kib(1)].concat()).unwrap(),
        &|| fs::write(&path, "").unwrap(),
        &|| fs::remove_file(&path).unwrap(),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        damage();
        for _ in 0..2 {
            assert_eq!(has(&image, std::slice::from_ref(&digest)).await, [false], "{number}");
            assert!(image.blob(&digest).await.unwrap().is_none(), "{number}");
            assert!(store.open_blob(&digest).await.unwrap().is_none(), "{number}");
            assert!(
                matches!(image.link_blob(&digest).await, Err(Error::NoSuchBlob(_))),
                "{number}"
            );
        }
        push(&image, &kib(1)).await;
        assert_eq!(read(&image.blob(&digest).await.unwrap().unwrap()), kib(1), "{number}");
    }
    assert!(shown(&store, "entrepot_damaged_content_total").unwrap() >= 3);
}

#[tokio::test]
async fn after_a_crash_a_manifest_tells_how_long_its_blobs_were_and_the_digest_decides() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = of_local(&store, "a");
    let (whole, cut) = (push(&image, &kib(1)).await, push(&image, &kib(2)).await);
    // It is wrong about the first one, as registry:2 would not notice.
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"a/b","digest":"{whole}","size":7}},"layers":[{{"mediaType":"a/b","digest":"{cut}","size":{KIB}}}]}}"#
    );
    let (document, contents) = Manifest::from_push(text.into(), None, Algorithm::Sha256).unwrap();
    image
        .put_manifest(&document, &contents, &[], Present::default())
        .await
        .unwrap();
    let path = store.inner.blobs.layout.blob(&cut);
    drop((image, store));
    File::options().write(true).open(path).unwrap().set_len(100).unwrap();
    let store = open(&root).await;
    assert_eq!(has(&of_local(&store, "a"), &[whole, cut]).await, [true, false]);
}

#[tokio::test]
async fn pushes_are_refused_while_too_little_is_free_and_taken_again_after_it() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let digest = push(&of_local(&store, "a"), &kib(1)).await;
    drop(store);
    let full = Options {
        min_free: Share::Percent(100),
        ..options(&root)
    };
    let store = Store::open(full, Arc::new(Metrics::new().unwrap())).await.unwrap();
    let (local, image) = (of_local(&store, "a"), of_hub(&store, "a"));
    let low = |error: Error| matches!(error, Error::LowSpace { .. }) && error.is_full();
    assert!(low(local.begin_upload(None, NOBODY).await.unwrap_err()));
    let (document, contents) = manifest("one", None);
    assert!(low(local
        .put_manifest(&document, &contents, &[], Present::default())
        .await
        .unwrap_err()));
    assert_eq!(
        read(&local.blob(&digest).await.unwrap().unwrap()),
        kib(1),
        "pulls go on"
    );
    store.keep(&hub(), Keeping::default());
    image
        .put_manifest(&document, &contents, &[], Present::default())
        .await
        .unwrap();
    assert!(matches!(
        store.reserve(&hub(), Some(1)).await,
        Err(Error::NoRoom { .. })
    ));
    assert!(shown(&store, "entrepot_disk_free_bytes").unwrap() > 0);
    assert_eq!(
        shown(&store, "entrepot_cache_reserved_bytes{repository=\"docker-hub\"}"),
        Some(0)
    );
    drop((local, image, store));
    let store = open(&root).await;
    push(&of_local(&store, "a"), &kib(2)).await;
}

/// Pushes, mounts and fetches of a few digests, while all that can be fetched again is being evicted all the time: what
/// was acknowledged to a client is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eviction_never_takes_what_was_acknowledged_meanwhile() {
    let memory = Path::new("/dev/shm");
    let root = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    let root = root.unwrap();
    let store = open(&root).await;
    store.keep(&hub(), at_most(0));
    let evicting = tokio::spawn({
        let store = store.clone();
        async move {
            let mut evicted = 0;
            loop {
                evicted += store.tidy().await.unwrap().blobs;
                if evicted >= 100 && store.image(&hub(), &"end".parse().unwrap()).exists().await.unwrap() {
                    return;
                }
            }
        }
    });
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..3_u8 {
        let store = store.clone();
        tasks.spawn(async move {
            for round in 0..100_u8 {
                let local = of_local(&store, &format!("{task}-{round}"));
                let bytes = kib(round % 4);
                let digest = Digest::of(Algorithm::Sha256, &bytes);
                let fetched = publish(&store, &bytes).await;
                // It may be gone before it is linked: nobody was told that it is here.
                let _ = of_hub(&store, "a").link_blob(&fetched).await;
                let opened = store.open_blob(&digest).await.unwrap();
                match opened {
                    Some(_open) if round % 2 == 0 => local.link_blob(&digest).await.unwrap(),
                    _ => drop(push(&local, &bytes).await),
                }
                assert_eq!(read(&local.blob(&digest).await.unwrap().unwrap()), bytes);
                let (document, contents) = manifest(&round.to_string(), None);
                publish(&store, &document.bytes).await;
                let _ = of_hub(&store, "evil").link_blob(&document.digest).await;
                local
                    .put_manifest(&document, &contents, &[], Present::default())
                    .await
                    .unwrap();
                assert!(local.unlink_blob(&digest).await.unwrap());
                store.inner.hot.manifests.invalidate_all();
                assert!(local.manifest(&document.digest).await.unwrap().is_some());
                // Nobody but the remote has the bytes again, and it is about to lose them.
                let _ = of_hub(&store, "a").link_blob(&digest).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let (document, contents) = manifest("end", None);
    of_hub(&store, "end")
        .put_manifest(&document, &contents, &[], Present::default())
        .await
        .unwrap();
    let last = fetch_all(&store).await;
    tokio::time::timeout(Duration::from_secs(60), evicting)
        .await
        .unwrap()
        .unwrap();
    drop(last);
    for round in 0..100 {
        let (document, _) = manifest(&round.to_string(), None);
        for task in 0..3 {
            let local = of_local(&store, &format!("{task}-{round}"));
            assert!(local.manifest(&document.digest).await.unwrap().is_some());
        }
    }
}

/// Something for the evictor to do until it has had its hundred.
async fn fetch_all(store: &Store) -> Vec<Digest> {
    let mut digests = Vec::new();
    for number in 0..=u8::MAX {
        let digest = publish(store, &kib(number)).await;
        if of_hub(store, "b").link_blob(&digest).await.is_ok() {
            digests.push(digest);
        }
    }
    digests
}
