//! Manifests that are deleted while a pass over the store looks at their image.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::records::Listed;
use super::images::manifest;
use super::*;
use crate::config::RetentionRule;

fn local() -> RepositoryKey {
    "docker-local".parse().unwrap()
}

/// Manifests without a tag go after this.
fn after(after: Duration) -> Reclaiming {
    Reclaiming {
        local: vec![LocalRules {
            key: local(),
            retention: vec![RetentionRule::Untagged { after }].into(),
            immutable: Arc::default(),
        }],
        grace: Duration::from_secs(3600),
    }
}

async fn put(image: &Image, name: &str) -> Digest {
    let (document, contents) = manifest(name, None);
    image
        .put_manifest(&document, &contents, &[], Present::default())
        .await
        .unwrap();
    document.digest
}

#[tokio::test]
async fn what_is_gone_is_told_from_what_cannot_be_read() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = store.image(&local(), &"app".parse().unwrap());
    let digest = put(&image, "one").await;
    let records = &store.inner.records;
    assert!(matches!(
        records.listed(&image.place, &digest).unwrap(),
        Listed::Says(_)
    ));
    fs::write(records.layout.blob(&digest), "no manifest").unwrap();
    assert_eq!(records.listed(&image.place, &digest).unwrap(), Listed::Unreadable);
    image.delete_manifest(&digest).await.unwrap();
    assert_eq!(records.listed(&image.place, &digest).unwrap(), Listed::Gone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_goes_meanwhile_keeps_nothing_from_being_told() {
    let root = in_memory();
    let store = open(&root).await;
    let image = store.image(&local(), &"app".parse().unwrap());
    let stays = put(&image, "stays").await;
    store.reclaim(after(Duration::from_secs(3600))).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let coming_and_going = tokio::spawn({
        let (image, over) = (image.clone(), Arc::clone(&over));
        async move {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                let digest = put(&image, &format!("goes{}", rounds % 20)).await;
                image.delete_manifest(&digest).await.unwrap();
                rounds += 1;
            }
            rounds
        }
    });
    let stays = format!("docker-local/app@{stays}");
    for _ in 0..400 {
        let foreseen = store.would_reclaim(after(Duration::ZERO)).await.unwrap();
        assert_eq!(foreseen.unclear, [""; 0]);
        assert!(foreseen.expired.contains(&stays), "{:?}", foreseen.expired);
    }
    over.store(true, Ordering::Relaxed);
    assert!(coming_and_going.await.unwrap() > 0);
}
