//! What goes by rule, and what a quota refuses.

use super::super::history::PIN;
use super::images::manifest;
use super::*;
use crate::config::RetentionRule;
use crate::oci::{Manifest, Page, Tag};

fn local() -> RepositoryKey {
    "docker-local".parse().unwrap()
}

fn image(store: &Store, name: &str) -> Image {
    store.image(&local(), &name.parse().unwrap())
}

fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

async fn put(image: &Image, content: &str, subject: Option<&Manifest>, tags: &[&str]) -> Manifest {
    let (document, contents) = manifest(content, subject.map(|subject| &subject.digest));
    let tags: Vec<Tag> = tags.iter().map(|name| tag(name)).collect();
    image
        .put_manifest(&document, &contents, &tags, Present::default())
        .await
        .unwrap();
    document
}

fn by(rules: Vec<RetentionRule>) -> Reclaiming {
    Reclaiming {
        local: vec![LocalRules {
            key: local(),
            retention: rules.into(),
            immutable: vec!["dev-keep*".parse().unwrap()].into(),
        }],
        grace: Duration::from_secs(3600),
    }
}

fn tags(matching: &str, keep_last: Option<usize>, older_than: Option<Duration>) -> RetentionRule {
    RetentionRule::Tags {
        matching: matching.parse().unwrap(),
        keep_last,
        older_than,
    }
}

async fn tags_of(image: &Image) -> Vec<String> {
    image.tags(&Page::default()).await.unwrap().0
}

#[tokio::test]
async fn the_newest_tags_stay_in_each_image_and_what_is_held_stays_anyway() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let (one, other) = (image(&store, "one"), image(&store, "team/other"));
    for number in 0..5 {
        put(&one, &number.to_string(), None, &[&format!("dev-{number}")]).await;
    }
    put(&one, "first", None, &["v1"]).await;
    put(&one, "held", None, &["dev-keep"]).await;
    put(&other, "only", None, &["dev-1"]).await;
    let pinned = one.tag(&tag("dev-0")).await.unwrap().unwrap().digest;
    one.pin(&tag("dev-0"), &pinned, PIN).await.unwrap();
    let rules = by(vec![
        tags("dev-*", Some(3), None),
        tags("*", None, Some(Duration::from_secs(3600))),
    ]);
    let expected = ["docker-local/one:dev-2", "docker-local/one:dev-1"];
    assert_eq!(store.would_reclaim(rules.clone()).await.unwrap().expired, expected);
    assert_eq!(tags_of(&one).await.len(), 7, "only told");
    let odd = root.path().join("docker/registry/v2/repositories/elsewhere");
    std::os::unix::fs::symlink("/nowhere", &odd).unwrap();
    assert!(store.reclaim(rules.clone()).await.is_err());
    assert_eq!(
        tags_of(&one).await.len(),
        7,
        "who is not told what went has lost nothing"
    );
    std::fs::remove_file(odd).unwrap();
    assert_eq!(store.reclaim(rules.clone()).await.unwrap().expired, expected);
    assert_eq!(tags_of(&one).await, ["dev-0", "dev-3", "dev-4", "dev-keep", "v1"]);
    assert_eq!(tags_of(&other).await, ["dev-1"]);
    assert!(store.reclaim(rules).await.unwrap().expired.is_empty());
}

#[tokio::test]
async fn what_no_tag_leads_to_goes_after_its_time_and_what_one_leads_to_stays() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let app = image(&store, "app");
    let old = put(&app, "old", None, &["latest"]).await;
    let of_old = put(&app, "signature-of-old", Some(&old), &[]).await;
    let new = put(&app, "new", None, &["latest"]).await;
    let of_new = put(&app, "signature-of-new", Some(&new), &[]).await;
    let child = put(&app, "child", None, &[]).await;
    let media_type = "application/vnd.oci.image.index.v1+json";
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[{{"mediaType":"{}","digest":"{}","size":{}}}]}}"#,
        child.media_type.as_str(),
        child.digest,
        child.bytes.len()
    );
    let (index, contents) = Manifest::from_push(text.into_bytes().into(), Some(media_type), Algorithm::Sha256).unwrap();
    app.put_manifest(&index, &contents, &[tag("all")], Present::default())
        .await
        .unwrap();

    let later = by(vec![RetentionRule::Untagged {
        after: Duration::from_secs(3600),
    }]);
    let now = by(vec![RetentionRule::Untagged {
        after: Duration::from_millis(1),
    }]);
    assert!(
        store.would_reclaim(now.clone()).await.unwrap().expired.is_empty(),
        "nobody has seen it yet"
    );
    assert!(store.reclaim(later.clone()).await.unwrap().expired.is_empty());
    assert!(store.reclaim(later.clone()).await.unwrap().expired.is_empty());
    let mut expired = store.reclaim(now.clone()).await.unwrap().expired;
    let mut expected = [&old, &of_old].map(|gone| format!("docker-local/app@{}", gone.digest));
    expired.sort();
    expected.sort();
    assert_eq!(expired, expected);
    for (document, stays) in [
        (&old, false),
        (&of_old, false),
        (&new, true),
        (&of_new, true),
        (&child, true),
        (&index, true),
    ] {
        assert_eq!(
            app.manifest(&document.digest).await.unwrap().is_some(),
            stays,
            "{}",
            document.digest
        );
    }
    // What has lost its tag and got it back begins anew.
    app.delete_tag(&tag("all")).await.unwrap();
    store.reclaim(later.clone()).await.unwrap();
    app.put_manifest(&index, &contents, &[tag("all")], Present::default())
        .await
        .unwrap();
    store.reclaim(later.clone()).await.unwrap();
    app.delete_tag(&tag("all")).await.unwrap();
    assert!(
        store.reclaim(now).await.unwrap().expired.is_empty(),
        "it is seen without a tag for the first time again"
    );
}

async fn push(image: &Image, bytes: &[u8]) -> Result<Digest, Error> {
    let mut upload = image.begin_upload(None, NOBODY).await?;
    upload.append(bytes)?;
    let digest = Digest::of(Algorithm::Sha256, bytes);
    upload.finish(&digest).await?;
    Ok(digest)
}

fn is_over(result: &Result<Digest, Error>) -> bool {
    matches!(result, Err(Error::OverQuota { .. }))
}

#[tokio::test]
async fn a_quota_counts_each_blob_once_and_refuses_what_is_too_much() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    store.release(&local(), Some(3000));
    let (one, other) = (image(&store, "one"), image(&store, "other"));
    let first = push(&one, &[1; 1000]).await.unwrap();
    let second = push(&one, &[2; 1500]).await.unwrap();
    assert!(is_over(&push(&one, &[3; 501]).await));
    assert_eq!(
        one.has_blob(&Digest::of(Algorithm::Sha256, &[3; 501])).await.unwrap(),
        None
    );
    push(&other, &[1; 1000]).await.expect("it is here already");
    push(&one, &[4; 500]).await.unwrap();
    assert!(is_over(&push(&other, b"x").await), "not even begun");
    assert!(matches!(
        other.begin_upload(None, NOBODY).await,
        Err(Error::OverQuota { used: 3000, .. })
    ));
    other.link_blob(&second).await.expect("a mount of what is here");
    let foreign = publish(&store, &[9; 10]).await;
    assert!(matches!(other.link_blob(&foreign).await, Err(Error::OverQuota { .. })));
    // Deleted in one image, and still in the other.
    one.unlink_blob(&first).await.unwrap();
    assert!(is_over(&push(&one, b"x").await));
    other.unlink_blob(&first).await.unwrap();
    push(&one, &[5; 1000]).await.unwrap();

    let series = |store: &Store| {
        let text = String::from_utf8(store.inner.blobs.metrics.render().unwrap()).unwrap();
        text.lines()
            .filter(|line| line.starts_with("entrepot_quota"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        series(&store),
        [
            r#"entrepot_quota_bytes{repository="docker-local"} 3000"#,
            r#"entrepot_quota_used_bytes{repository="docker-local"} 3000"#
        ]
    );
    // What is there counts after a restart, and nothing is evicted for it.
    store.close().await;
    drop((one, other, store));
    let store = open(&root).await;
    store.release(&local(), Some(10));
    store.tidy().await.unwrap();
    assert!(is_over(&push(&image(&store, "one"), b"x").await));
    assert_eq!(image(&store, "other").has_blob(&second).await.unwrap(), Some(1500));
    store.release(&local(), None);
    push(&image(&store, "one"), b"x").await.unwrap();
    assert!(series(&store).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_quota_holds_when_many_push_at_once() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(
        Options {
            uploads: 100,
            ..options(&root)
        },
        Arc::new(Metrics::new().unwrap()),
    )
    .await
    .unwrap();
    store.release(&local(), Some(1000));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..30_u8 {
        let image = image(&store, "app");
        tasks.spawn(async move { push(&image, &[number; 100]).await });
    }
    let mut taken = 0;
    while let Some(done) = tasks.join_next().await {
        match done.unwrap() {
            Ok(_) => taken += 1,
            Err(Error::OverQuota { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(taken, 10);
}
