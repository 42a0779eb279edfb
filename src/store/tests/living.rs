//! Row D8 beside who writes: nothing that is sound is taken for damage, however it changes meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};

use super::verifying::{key, manifest_of, put, what};
use super::*;
use crate::oci::Manifest;

/// A blob in an image; what is put there and not linked yet may be taken for what nothing needs.
async fn blob_in(store: &Store, image: &Image, bytes: &[u8]) -> Digest {
    loop {
        let digest = publish(store, bytes).await;
        match image.link_blob(&digest).await {
            Err(Error::NoSuchBlob(_)) => {}
            linked => {
                linked.unwrap();
                return digest;
            }
        }
    }
}

/// What is put and removed with no regard to who else needs it: that is what a remote does, and who may push in any order.
async fn come_and_go(store: Store, number: u32, is_over: Arc<AtomicBool>) -> u32 {
    let repository = if number.is_multiple_of(2) { "sparse" } else { "hub" };
    let image = store.image(&key(repository), &format!("app{}", number / 2).parse().unwrap());
    let mut rounds = 0;
    while !is_over.load(Ordering::Relaxed) || rounds < 3 {
        let config = blob_in(&store, &image, b"config").await;
        let layer = blob_in(&store, &image, format!("{number} {}", rounds % 7).as_bytes()).await;
        let pushed = manifest_of(&config, &[(&layer, 3)], rounds % 2 == 0);
        let digest = put(&image, &pushed, &format!("v{}", rounds % 3)).await;
        if rounds % 3 == 1 {
            image.delete_manifest(&digest).await.unwrap();
            image.unlink_blob(&layer).await.unwrap_or_default();
        }
        rounds += 1;
    }
    rounds
}

/// An image as it is pushed to where all that it needs has to be there; sent again if some of that is taken away meanwhile.
async fn push(store: &Store, image: &Image, layer: &[u8], tag: &str) -> Manifest {
    loop {
        let config = blob_in(store, image, b"config").await;
        let of_layer = blob_in(store, image, layer).await;
        let (manifest, contents) = manifest_of(&config, &[(&of_layer, layer.len() as u64)], true);
        let present = Present {
            blobs: vec![config, of_layer],
            manifests: Vec::new(),
        };
        let tags = [tag.parse().unwrap()];
        match image.put_manifest(&manifest, &contents, &tags, present).await {
            Err(Error::NoSuchBlob(_)) => {}
            put => {
                put.unwrap();
                return manifest;
            }
        }
    }
}

/// Pushes, moves of tags and deletions in a repository that keeps all that its manifests need. Each layer comes again when it
/// may have been taken away, in the same image or in the other one.
async fn push_strictly(store: Store, number: u32, is_over: Arc<AtomicBool>) -> u32 {
    let image = store.image(&key("strict"), &format!("app{number}").parse().unwrap());
    let mut rounds = 0;
    while !is_over.load(Ordering::Relaxed) || rounds < 3 {
        let layer = format!("layer {}", (rounds + number) % 5);
        let manifest = push(&store, &image, layer.as_bytes(), &format!("v{}", rounds % 3)).await;
        match rounds % 4 {
            1 => drop(image.delete_manifest(&manifest.digest).await.unwrap()),
            2 => drop(image.delete_tag(&"v0".parse().unwrap()).await.unwrap()),
            _ => {}
        }
        rounds += 1;
    }
    rounds
}

/// Gives back what nothing needs in it all the time.
async fn collect(store: Store, is_over: Arc<AtomicBool>) -> u32 {
    let strict = LocalRules {
        key: key("strict"),
        retention: Arc::default(),
        immutable: Arc::default(),
    };
    let what = Reclaiming {
        local: vec![strict],
        grace: Duration::from_millis(1),
    };
    let mut rounds = 0;
    while !is_over.load(Ordering::Relaxed) || rounds < 3 {
        let done = store.reclaim(what.clone()).await.unwrap();
        assert_eq!(done.unclear, [""; 0]);
        rounds += 1;
    }
    rounds
}

#[tokio::test(flavor = "multi_thread")]
async fn d08_beside_a_live_load_nothing_is_found() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let mut load = Vec::new();
    for number in 0..4 {
        load.push(tokio::spawn(come_and_go(store.clone(), number, Arc::clone(&is_over))));
    }
    for number in 0..2 {
        load.push(tokio::spawn(push_strictly(store.clone(), number, Arc::clone(&is_over))));
    }
    load.push(tokio::spawn(collect(store.clone(), Arc::clone(&is_over))));
    for round in 0..15 {
        let mut what = what(if round % 2 == 0 { Repair::Nothing } else { Repair::All });
        what.repositories.insert(key("sparse"), Keeps::Sparse);
        what.repositories.insert(key("strict"), Keeps::Local);
        let done = store.verify(what).await.unwrap();
        assert_eq!(done.findings, [], "round {round}");
    }
    is_over.store(true, Ordering::Relaxed);
    for task in load {
        assert!(task.await.unwrap() >= 3);
    }
}
