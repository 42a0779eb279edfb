//! Row D6: bits that turn over on the disk while nobody looks.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::verifying::{blob_in, key, manifest_of, put, what};
use super::*;

/// Turns one bit over in the bytes of a digest.
fn rot(layout: &Layout, digest: &Digest, number: usize) {
    let path = layout.blob(digest);
    let mut bytes = fs::read(&path).unwrap();
    let at = number * 37 % bytes.len();
    bytes[at] ^= 1 << (number % 8);
    fs::write(path, bytes).unwrap();
}

async fn push(image: &Image, bytes: &[u8]) -> Digest {
    let mut upload = image.begin_upload(None, NOBODY).await.unwrap();
    upload.append(bytes).unwrap();
    let digest = Digest::of(Algorithm::Sha256, bytes);
    upload.finish(&digest).await.unwrap();
    digest
}

#[tokio::test]
async fn d06_what_has_rotted_is_right_again_once_it_is_pushed_or_fetched_again() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = store.image(&key("local"), &"app".parse().unwrap());
    // More than is compared at once.
    let bytes = vec![7; (256 << 10) + 9];
    let digest = push(&image, &bytes).await;
    let layout = &store.inner.records.layout;
    let file = || fs::metadata(layout.blob(&digest)).unwrap().ino();
    let sound = file();
    push(&image, &bytes).await;
    publish(&store, &bytes).await;
    assert_eq!(file(), sound, "what is right is left alone");
    // In the first piece that is compared, and in the last.
    for number in [0, 35_426] {
        for is_pushed in [true, false] {
            rot(layout, &digest, number);
            let reader = image.blob(&digest).await.unwrap().unwrap();
            if is_pushed {
                push(&image, &bytes).await;
            } else {
                publish(&store, &bytes).await;
            }
            assert_eq!(read(&image.blob(&digest).await.unwrap().unwrap()), bytes);
            assert_ne!(read(&reader), bytes, "who had it open reads on in what he has");
            assert_eq!(spooled(&store), 0);
        }
    }
    let metrics = String::from_utf8(store.inner.blobs.metrics.render().unwrap()).unwrap();
    assert!(metrics.contains("entrepot_damaged_content_total 4\n"), "{metrics}");
    assert_eq!(store.verify(what(Repair::Nothing)).await.unwrap().findings, []);
}

/// Row D6: 100 blobs and 20 manifests with one bit turned over, half of them of a remote.
#[tokio::test]
async fn d06_what_has_rotted_is_put_aside_and_what_was_fetched_is_fetched_again() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let (mut blobs, mut manifests) = (Vec::new(), Vec::new());
    let config = publish(&store, b"config").await;
    for number in 0..20_u32 {
        let repository = if number % 2 == 0 { "local" } else { "hub" };
        let image = store.image(&key(repository), &format!("app{number}").parse().unwrap());
        image.link_blob(&config).await.unwrap();
        let mut layers = Vec::new();
        for layer in 0..5 {
            let bytes = format!("{number:04} {layer} {}", "x".repeat(1000));
            layers.push((blob_in(&store, &image, bytes.as_bytes()).await, bytes));
        }
        let sizes: Vec<(&Digest, u64)> = layers.iter().map(|(digest, b)| (digest, b.len() as u64)).collect();
        let pushed = manifest_of(&config, &sizes, true);
        put(&image, &pushed, "v1").await;
        manifests.push((image.place, pushed));
        blobs.extend(layers);
    }
    store.close().await;
    drop(store);
    let layout = Layout::new(root.path());
    let rotten = blobs.iter().map(|(digest, _)| digest);
    let rotten: Vec<&Digest> = rotten.chain(manifests.iter().map(|(_, (m, _))| &m.digest)).collect();
    for (number, digest) in rotten.iter().enumerate() {
        rot(&layout, digest, number);
    }

    let store = open(&root).await;
    let done = store.verify(what(Repair::Content)).await.unwrap();
    let aside = done.findings.iter();
    let aside = aside.filter(|finding| finding.outcome == Outcome::Quarantined);
    assert_eq!(aside.count(), 120, "{:#?}", done.findings);
    for digest in &rotten {
        assert!(!layout.blob(digest).exists() && !bytes_are_here(&store, digest).await);
    }
    for (place, (document, contents)) in &manifests {
        let image = store.image(&place.repository, &place.image);
        assert!(image.manifest(&document.digest).await.unwrap().is_none());
        assert_eq!(
            image.tag(&"v1".parse().unwrap()).await.unwrap().is_none(),
            place.repository == key("hub"),
            "what is fetched is asked for again, what was pushed is remembered"
        );
        // As a fetch does it, or a push.
        for descriptor in &contents.layers {
            let (digest, bytes) = blobs.iter().find(|(digest, _)| *digest == descriptor.digest).unwrap();
            assert_eq!(image.has_blob(digest).await.unwrap(), None);
            assert_eq!(blob_in(&store, &image, bytes.as_bytes()).await, *digest);
        }
        put(&image, &(document.clone(), contents.clone()), "v1").await;
        assert!(image.manifest(&document.digest).await.unwrap().is_some());
    }
    assert_eq!(store.verify(what(Repair::Nothing)).await.unwrap().findings, []);
}

async fn bytes_are_here(store: &Store, digest: &Digest) -> bool {
    store.open_blob(digest).await.unwrap().is_some()
}
