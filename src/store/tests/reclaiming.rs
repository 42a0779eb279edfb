//! What nothing needs goes; whatever anybody was promised stays.

use std::fs;

use super::images::manifest;
use super::*;
use crate::oci::manifest::Contents;
use crate::oci::{Manifest, Tag};

fn local() -> RepositoryKey {
    "docker-local".parse().unwrap()
}

fn image(store: &Store, name: &str) -> Image {
    store.image(&local(), &name.parse().unwrap())
}

fn at_once() -> Reclaiming {
    Reclaiming {
        local: vec![LocalRules {
            key: local(),
            retention: Arc::default(),
            immutable: Arc::default(),
        }],
        grace: Duration::ZERO,
    }
}

async fn pass(store: &Store) -> Reclaimed {
    store.reclaim(at_once()).await.unwrap()
}

async fn push(image: &Image, bytes: &[u8]) -> Digest {
    let mut upload = image.begin_upload(None, NOBODY).await.unwrap();
    upload.append(bytes).unwrap();
    let digest = Digest::of(Algorithm::Sha256, bytes);
    upload.finish(&digest).await.unwrap();
    digest
}

/// A manifest over one layer.
fn over(digest: &Digest, size: usize) -> (Manifest, Contents) {
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let layer = format!(r#"{{"mediaType":"application/octet-stream","digest":"{digest}","size":{size}}}"#);
    let text = format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{layer},"layers":[{layer}]}}"#);
    Manifest::from_push(text.into_bytes().into(), Some(media_type), Algorithm::Sha256).unwrap()
}

fn needing(digest: &Digest) -> Present {
    Present {
        blobs: vec![digest.clone()],
        manifests: Vec::new(),
    }
}

async fn bytes_are_here(store: &Store, digest: &Digest) -> bool {
    store.open_blob(digest).await.unwrap().is_some()
}

#[tokio::test]
async fn what_a_push_left_behind_goes_in_three_passes_and_what_is_needed_stays() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let app = image(&store, "team/app");
    let needed = push(&app, b"needed").await;
    let loose = push(&app, b"loose").await;
    let (document, contents) = over(&needed, 6);
    app.put_manifest(&document, &contents, &["v1".parse().unwrap()], needing(&needed))
        .await
        .unwrap();
    let orphan = publish(&store, b"orphan").await;

    let first = pass(&store).await;
    assert_eq!(
        (first.links, first.blobs, first.waiting),
        (0, 0, 2),
        "seen for the first time"
    );
    assert_eq!(first.waiting_bytes, 5 + 6);
    assert_eq!(store.would_reclaim(at_once()).await.unwrap().blobs, 2);
    let second = pass(&store).await;
    assert_eq!((second.links, second.blobs, second.bytes), (1, 2, 11));
    assert!(app.has_blob(&loose).await.unwrap().is_none());
    assert!(!bytes_are_here(&store, &loose).await && !bytes_are_here(&store, &orphan).await);
    let last = pass(&store).await;
    assert_eq!((last.emptied, last.freed, last.waiting), (2, 11, 0));

    assert_eq!(app.has_blob(&needed).await.unwrap(), Some(6));
    assert!(app.manifest(&document.digest).await.unwrap().is_some());
    app.delete_manifest(&document.digest).await.unwrap();
    for _ in 0..4 {
        pass(&store).await;
    }
    assert!(!bytes_are_here(&store, &needed).await && !bytes_are_here(&store, &document.digest).await);
    assert_eq!(fs::read_dir(root.path().join("trash")).unwrap().count(), 0);
}

#[tokio::test]
async fn whoever_was_told_that_a_blob_is_here_has_its_time_anew() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let (app, other) = (image(&store, "app"), image(&store, "other"));
    let digest = push(&app, b"layer").await;
    for _ in 0..3 {
        pass(&store).await;
        assert_eq!(app.has_blob(&digest).await.unwrap(), Some(5), "a HEAD");
    }
    pass(&store).await;
    other.link_blob(&digest).await.unwrap();
    let after_mount = pass(&store).await;
    assert_eq!(
        (after_mount.links, after_mount.blobs),
        (1, 0),
        "it is of the other image now"
    );
    assert_eq!(other.has_blob(&digest).await.unwrap(), Some(5));
}

#[tokio::test]
async fn a_grace_is_waited_for_and_outlives_an_orderly_restart_only() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    push(&image(&store, "app"), b"layer").await;
    let in_an_hour = Reclaiming {
        grace: Duration::from_secs(3600),
        ..at_once()
    };
    for _ in 0..3 {
        let pass = store.reclaim(in_an_hour.clone()).await.unwrap();
        assert_eq!((pass.links, pass.waiting), (0, 1));
    }
    store.close().await;
    drop(store);
    let notes = root.path().join("reclaim.json");
    assert!(notes.exists());
    let store = open(&root).await;
    assert!(!notes.exists(), "after a crash it would not know of promises");
    assert_eq!(pass(&store).await.links, 1, "it has been seen before");
    drop(store);
    let store = open(&root).await;
    assert_eq!(pass(&store).await.blobs, 0, "seen for the first time since the crash");
}

#[tokio::test]
async fn a_manifest_takes_back_what_it_needs_but_only_for_an_image_that_had_it() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let (app, stranger) = (image(&store, "app"), image(&store, "stranger"));
    let digest = push(&app, b"layer").await;
    pass(&store).await;
    assert_eq!(pass(&store).await.blobs, 1);
    let (document, contents) = over(&digest, 5);
    let refused = stranger.put_manifest(&document, &contents, &[], needing(&digest)).await;
    assert!(matches!(refused, Err(Error::NoSuchBlob(_))), "{refused:?}");
    assert_eq!(stranger.take_back(&digest).await.unwrap(), None);
    app.put_manifest(&document, &contents, &[], needing(&digest))
        .await
        .unwrap();
    assert_eq!(app.has_blob(&digest).await.unwrap(), Some(5));
    for _ in 0..4 {
        pass(&store).await;
    }
    assert_eq!(read(&app.blob(&digest).await.unwrap().unwrap()), b"layer");
}

#[tokio::test]
async fn what_cannot_be_read_is_not_taken_for_unneeded() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let app = image(&store, "app");
    let digest = push(&app, b"layer").await;
    let (document, contents) = over(&digest, 5);
    app.put_manifest(&document, &contents, &[], needing(&digest))
        .await
        .unwrap();
    let file = store.inner.records.layout.blob(&document.digest);
    fs::write(&file, vec![b'x'; document.bytes.len()]).unwrap();
    for _ in 0..4 {
        let pass = pass(&store).await;
        assert_eq!((pass.links, pass.blobs, pass.unclear.len()), (0, 0, 1), "{pass:?}");
    }
    std::os::unix::fs::symlink(
        "/nowhere",
        root.path().join("docker/registry/v2/repositories/elsewhere"),
    )
    .unwrap();
    let failed = store.reclaim(at_once()).await;
    assert!(failed.unwrap_err().to_string().contains("symbolic link"));
}

#[tokio::test]
async fn what_remotes_keep_and_who_reads_are_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let hub = store.image(&"docker-hub".parse().unwrap(), &"library/alpine".parse().unwrap());
    let kept = publish(&store, b"kept").await;
    hub.link_blob(&kept).await.unwrap();
    let read_by = publish(&store, b"read").await;
    let reader = store.open_blob(&read_by).await.unwrap().unwrap();
    for _ in 0..4 {
        pass(&store).await;
    }
    assert!(bytes_are_here(&store, &kept).await && bytes_are_here(&store, &read_by).await);
    drop(reader);
    pass(&store).await;
    assert!(!bytes_are_here(&store, &read_by).await);
}

/// A manifest that is long in writing: passes condemn its blobs, and read the tree, while it is not there yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_manifest_needs_stays_while_it_is_being_written() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let done = Arc::new(AtomicBool::new(false));
    let passing = tokio::spawn({
        let (store, done) = (store.clone(), Arc::clone(&done));
        async move {
            while !done.load(Ordering::Acquire) {
                pass(&store).await;
            }
        }
    });
    let tags: Vec<Tag> = (0..100).map(|number| format!("t{number}").parse().unwrap()).collect();
    for round in 0..4_u8 {
        let app = image(&store, &format!("app{round}"));
        let bytes = [round; 50];
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        let (document, contents) = over(&digest, bytes.len());
        loop {
            push(&app, &bytes).await;
            match app.put_manifest(&document, &contents, &tags, needing(&digest)).await {
                Ok(()) => break,
                Err(Error::NoSuchBlob(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        // Three more passes would have taken what they had condemned.
        for _ in 0..3 {
            pass(&store).await;
        }
        let blob = app.blob(&digest).await.unwrap();
        assert_eq!(read(&blob.expect("the manifest needs it")), bytes);
    }
    done.store(true, Ordering::Release);
    passing.await.unwrap();
}

/// Pushes while passes without any grace run all the time: a push may be told to send a blob again, and is then never
/// lied to.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_acknowledged_is_never_reclaimed() {
    let memory = std::path::Path::new("/dev/shm");
    let root = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    let root = root.unwrap();
    let store = open(&root).await;
    let reclaiming = tokio::spawn({
        let store = store.clone();
        async move {
            let mut reclaimed = 0;
            while reclaimed < 50 || !image(&store, "end").exists().await.unwrap() {
                reclaimed += pass(&store).await.blobs;
            }
        }
    });
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..3_u8 {
        let store = store.clone();
        tasks.spawn(async move {
            for round in 0..60_u8 {
                let app = image(&store, &format!("{task}-{}", round % 7));
                let bytes = vec![round % 5; 100];
                let (document, contents) = over(&Digest::of(Algorithm::Sha256, &bytes), bytes.len());
                let tag: Tag = format!("t{round}").parse().unwrap();
                loop {
                    let digest = push(&app, &bytes).await;
                    match app
                        .put_manifest(&document, &contents, std::slice::from_ref(&tag), needing(&digest))
                        .await
                    {
                        Ok(()) => break,
                        Err(Error::NoSuchBlob(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                let blob = app.blob(&Digest::of(Algorithm::Sha256, &bytes)).await.unwrap();
                assert_eq!(read(&blob.expect("it is needed")), bytes);
                if round % 3 == 0 {
                    app.delete_manifest(&document.digest).await.unwrap();
                    push(&app, &[task, round]).await;
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    push(&image(&store, "end"), b"end").await;
    tokio::time::timeout(Duration::from_secs(60), reclaiming)
        .await
        .unwrap()
        .unwrap();
    let (document, contents) = manifest("anything", None);
    image(&store, "end")
        .put_manifest(&document, &contents, &[], Present::default())
        .await
        .unwrap();
    for task in 0..3_u8 {
        for round in (0..60_u8).filter(|round| round % 3 != 0) {
            let bytes = vec![round % 5; 100];
            let app = image(&store, &format!("{task}-{}", round % 7));
            let tag = app.tag(&format!("t{round}").parse().unwrap()).await.unwrap();
            if let Some(tag) = tag {
                assert!(app.manifest(&tag.digest).await.unwrap().is_some());
                let blob = app.blob(&Digest::of(Algorithm::Sha256, &bytes)).await.unwrap();
                assert_eq!(read(&blob.expect("its tag means a manifest that needs it")), bytes);
            }
        }
    }
}
