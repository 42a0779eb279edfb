//! Blobs, manifests and tags of images.

use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;

use super::*;
use crate::oci::manifest::Contents;
use crate::oci::media_type::{DOCKER_MANIFEST, OCI_MANIFEST};
use crate::oci::{Manifest, Page, Tag};

pub(in crate::store) fn manifest(name: &str, subject: Option<&Digest>) -> (Manifest, Contents) {
    let nothing = Digest::of(Algorithm::Sha256, b"");
    let subject = subject.map_or_else(String::new, |subject| {
        format!(r#","subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":2}}"#)
    });
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","artifactType":"test/{name}","config":{{"mediaType":"a/b","digest":"{nothing}","size":0}},"layers":[]{subject}}}"#
    );
    Manifest::from_push(Bytes::from(text), None, Algorithm::Sha256).unwrap()
}

fn image_of(store: &Store, name: &str) -> Image {
    store.image(&"docker-local".parse().unwrap(), &name.parse().unwrap())
}

fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

async fn all_tags(image: &Image) -> Vec<String> {
    image.tags(&Page::default()).await.unwrap().0
}

/// Every file below the registry's tree that holds no times, with its contents, and what is no link as `…`.
fn tree(root: &Path) -> String {
    let mut lines = Vec::new();
    let mut open = vec![root.join("docker")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if !path.ends_with("entrepot-session") && !path.ends_with("history") {
            let contents = std::fs::read_to_string(&path).unwrap();
            let contents = if path.ends_with("data") { "…" } else { &contents };
            lines.push(format!("{} {contents:?}", path.strip_prefix(root).unwrap().display()));
        }
    }
    lines.sort();
    lines.join("\n")
}

#[tokio::test]
async fn what_is_put_is_found_again() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = image_of(&store, "team/app");
    let (pushed, contents) = manifest("one", None);
    assert!(!image.exists().await.unwrap());
    assert_eq!(image.manifest(&pushed.digest).await.unwrap(), None);
    image
        .put_manifest(&pushed, &contents, &[tag("v1"), tag("latest")], Present::default())
        .await
        .unwrap();
    assert!(image.exists().await.unwrap());
    for _ in 0..2 {
        assert_eq!(image.manifest(&pushed.digest).await.unwrap().as_ref(), Some(&pushed));
        let record = image.tag(&tag("v1")).await.unwrap().unwrap();
        assert_eq!((&record.digest, record.verified), (&pushed.digest, None));
    }
    assert_eq!(image.tag(&tag("v2")).await.unwrap(), None);
    assert_eq!(all_tags(&image).await, ["latest", "v1"]);
    assert_eq!(
        store.images(&"docker-local".parse().unwrap()).await.unwrap(),
        ["team/app".parse().unwrap()]
    );
    assert!(store.images(&"docker".parse().unwrap()).await.unwrap().is_empty());
    let other = image_of(&store, "team");
    assert!(!other.exists().await.unwrap());
    assert_eq!(
        other.manifest(&pushed.digest).await.unwrap(),
        None,
        "a manifest belongs to its image"
    );
    assert!(store.open_blob(&pushed.digest).await.unwrap().is_some());
}

#[tokio::test]
async fn the_tree_is_what_registry_2_writes() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let layer = publish(&store, b"layer").await;
    for name in ["a", "a/b"] {
        image_of(&store, name).link_blob(&layer).await.unwrap();
    }
    let (pushed, contents) = manifest("one", None);
    image_of(&store, "a/b")
        .put_manifest(&pushed, &contents, &[tag("v1")], Present::default())
        .await
        .unwrap();
    insta::assert_snapshot!(tree(root.path()));
    store.close().await;
    drop(store);
    // What registry:2 would read of it, read by us, with the line ends that people's editors leave.
    for file in ["_layers", "_manifests/tags/v1/current"] {
        let path = root
            .path()
            .join("docker/registry/v2/repositories/docker-local/a/b")
            .join(file);
        let link = if file == "_layers" {
            path.join("sha256").join(layer.hex()).join("link")
        } else {
            path.join("link")
        };
        let text = std::fs::read_to_string(&link).unwrap();
        std::fs::write(&link, text + "\n").unwrap();
    }
    std::fs::create_dir(root.path().join("copy")).unwrap();
    std::fs::rename(root.path().join("docker"), root.path().join("copy/docker")).unwrap();
    let copy = Options {
        path: root.path().join("copy"),
        ..options(&root)
    };
    let store = Store::open(copy, Arc::new(Metrics::new().unwrap())).await.unwrap();
    let image = image_of(&store, "a/b");
    assert_eq!(image.tag(&tag("v1")).await.unwrap().unwrap().digest, pushed.digest);
    assert_eq!(image.manifest(&pushed.digest).await.unwrap(), Some(pushed));
    assert_eq!(image.has_blob(&layer).await.unwrap(), Some(5));
    assert_eq!(all_tags(&image).await, ["v1"]);
}

#[tokio::test]
async fn a_blob_is_read_only_in_images_that_have_it() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let (image, other) = (image_of(&store, "a"), image_of(&store, "b"));
    let absent = Digest::of(Algorithm::Sha256, b"layer");
    assert!(matches!(image.link_blob(&absent).await, Err(Error::NoSuchBlob(_))));
    let layer = publish(&store, b"layer").await;
    assert_eq!(image.has_blob(&layer).await.unwrap(), None);
    assert!(store.find_blob_owners(&layer).await.unwrap().is_empty());
    image.link_blob(&layer).await.unwrap();
    assert_eq!(image.has_blob(&layer).await.unwrap(), Some(5));
    assert_eq!(read(&image.blob(&layer).await.unwrap().unwrap()), b"layer");
    assert!(other.blob(&layer).await.unwrap().is_none());
    let owner = ("docker-local".parse().unwrap(), "a".parse().unwrap());
    assert_eq!(store.find_blob_owners(&layer).await.unwrap(), [owner]);
    assert!(image.exists().await.unwrap(), "it is on its way");
    assert!(
        store.images(&"docker-local".parse().unwrap()).await.unwrap().is_empty(),
        "but blobs alone are no image"
    );
    assert!(image.unlink_blob(&layer).await.unwrap());
    assert!(!image.unlink_blob(&layer).await.unwrap());
    assert_eq!(image.has_blob(&layer).await.unwrap(), None);
    assert!(store.find_blob_owners(&layer).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_type_that_the_document_does_not_say_is_kept_beside_it() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let text = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"a/b","digest":"{}","size":0}},"layers":[]}}"#,
        Digest::of(Algorithm::Sha256, b"")
    );
    let push = |content_type: Option<&str>| {
        Manifest::from_push(Bytes::from(text.clone()), content_type, Algorithm::Sha256).unwrap()
    };
    let image = image_of(&store, "a");
    for (content_type, expected) in [(Some(DOCKER_MANIFEST), DOCKER_MANIFEST), (None, OCI_MANIFEST)] {
        let (pushed, contents) = push(content_type);
        image
            .put_manifest(&pushed, &contents, &[], Present::default())
            .await
            .unwrap();
        let read = image.manifest(&pushed.digest).await.unwrap().unwrap();
        assert_eq!(read.media_type.as_str(), expected);
        assert_eq!(tree(root.path()).contains("media-type"), expected == DOCKER_MANIFEST);
    }
}

#[tokio::test]
async fn a_tag_moves_is_touched_and_goes() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = image_of(&store, "a");
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    image.touch_tag(&tag("v1"), now).await.unwrap();
    assert_eq!(image.tag(&tag("v1")).await.unwrap(), None);
    let ((one, of_one), (two, of_two)) = (manifest("one", None), manifest("two", None));
    image
        .put_manifest(&one, &of_one, &[tag("v1"), tag("keep")], Present::default())
        .await
        .unwrap();
    image.touch_tag(&tag("v1"), now).await.unwrap();
    assert_eq!(image.tag(&tag("v1")).await.unwrap().unwrap().verified, Some(now));
    store.inner.hot.tags.invalidate_all();
    assert_eq!(
        image.tag(&tag("v1")).await.unwrap().unwrap().verified,
        Some(now),
        "from the index"
    );
    image
        .put_manifest(&two, &of_two, &[tag("v1")], Present::default())
        .await
        .unwrap();
    let moved = TagRecord {
        digest: two.digest.clone(),
        verified: None,
        pinned: false,
        moves: Arc::default(),
    };
    assert_eq!(image.tag(&tag("v1")).await.unwrap(), Some(moved));
    assert!(image.delete_tag(&tag("v1")).await.unwrap());
    assert!(!image.delete_tag(&tag("v1")).await.unwrap());
    assert_eq!(image.tag(&tag("v1")).await.unwrap(), None);
    assert_eq!(all_tags(&image).await, ["keep"]);
    assert!(
        image.manifest(&two.digest).await.unwrap().is_some(),
        "a tag goes, what it meant stays"
    );
    assert!(!tree(root.path()).contains("tags/v1/"));
}

#[tokio::test]
async fn a_deleted_manifest_takes_its_tags_along() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = image_of(&store, "a");
    let ((one, of_one), (two, of_two)) = (manifest("one", None), manifest("two", None));
    image
        .put_manifest(&one, &of_one, &[tag("v1"), tag("v2")], Present::default())
        .await
        .unwrap();
    image
        .put_manifest(&two, &of_two, &[tag("v2")], Present::default())
        .await
        .unwrap();
    // A tag that the index does not know of goes too.
    let layout = &store.inner.records.layout;
    let unknown = layout.current(&image.place, &tag("unknown"));
    std::fs::create_dir_all(unknown.parent().unwrap()).unwrap();
    std::fs::write(&unknown, one.digest.as_str()).unwrap();
    assert!(image.delete_manifest(&one.digest).await.unwrap());
    assert!(!image.delete_manifest(&one.digest).await.unwrap());
    assert_eq!(image.manifest(&one.digest).await.unwrap(), None);
    for gone in ["v1", "unknown"] {
        assert_eq!(image.tag(&tag(gone)).await.unwrap(), None, "{gone}");
    }
    assert_eq!(all_tags(&image).await, ["v2"]);
    assert!(image.delete_manifest(&two.digest).await.unwrap());
    assert!(!image.exists().await.unwrap());
    assert!(store.images(&"docker-local".parse().unwrap()).await.unwrap().is_empty());
}

#[tokio::test]
async fn referrers_are_listed_whole_however_long_their_annotations_are() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = image_of(&store, "a");
    let (subject, _) = manifest("subject", None);
    let (short, of_short) = manifest("short", Some(&subject.digest));
    let note = format!(
        r#"{{"annotations":{{"note":"{}"}},"schemaVersion""#,
        "x".repeat(100_000)
    );
    let long = String::from_utf8(short.bytes.to_vec())
        .unwrap()
        .replacen(r#"{"schemaVersion""#, &note, 1);
    let (long, of_long) = Manifest::from_push(Bytes::from(long), None, Algorithm::Sha256).unwrap();
    image
        .put_manifest(&short, &of_short, &[], Present::default())
        .await
        .unwrap();
    image
        .put_manifest(&long, &of_long, &[], Present::default())
        .await
        .unwrap();
    let mut expected = vec![short.as_referrer(&of_short), long.as_referrer(&of_long)];
    expected.sort_by_key(|referrer| referrer.digest.to_string());
    assert_eq!(image.referrers(&subject.digest).await.unwrap(), expected);
    let without_index = rebuild::referrers(&store.inner.records, &image.place, &subject.digest);
    assert_eq!(without_index.unwrap(), expected);
    assert!(image.referrers(&short.digest).await.unwrap().is_empty());
    assert!(image.delete_manifest(&long.digest).await.unwrap());
    assert_eq!(
        image.referrers(&subject.digest).await.unwrap(),
        [short.as_referrer(&of_short)]
    );
}

#[tokio::test]
async fn tags_come_in_pages_in_the_order_of_their_bytes() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let (pushed, contents) = manifest("one", None);
    let tags: Vec<Tag> = ["b", "a", "B", "_1", "1.0", "1-0", "10"].map(tag).into();
    for name in ["a", "a/b", "a-b"] {
        image_of(&store, name)
            .put_manifest(&pushed, &contents, &tags, Present::default())
            .await
            .unwrap();
    }
    let image = image_of(&store, "a");
    let mut sorted: Vec<String> = tags.iter().map(Tag::to_string).collect();
    sorted.sort_unstable();
    for n in 0..9 {
        let mut got = Vec::new();
        let mut page = Page { n: Some(n), last: None };
        loop {
            let (part, more) = image.tags(&page).await.unwrap();
            assert_eq!(
                rebuild::tags(&store.inner.records, &image.place, &page).unwrap(),
                (part.clone(), more)
            );
            assert!(part.len() <= n);
            page.last = part.last().cloned();
            got.extend(part);
            if !more {
                break;
            }
        }
        assert_eq!(got, if n == 0 { &[][..] } else { &sorted[..] }, "{n}");
    }
    let images: Vec<String> = store
        .images(&"docker-local".parse().unwrap())
        .await
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(images, ["a", "a-b", "a/b"]);
}

#[tokio::test]
async fn damaged_records_are_absent_and_counted() {
    let root = tempfile::tempdir().unwrap();
    let metrics = Arc::new(Metrics::new().unwrap());
    let store = Store::open(options(&root), Arc::clone(&metrics)).await.unwrap();
    let image = image_of(&store, "a");
    let layer = publish(&store, b"layer").await;
    let (pushed, contents) = manifest("one", None);
    let layout = &store.inner.records.layout;
    let damage = async |path: &Path, contents_of_file: &[u8], found: &str| {
        image.link_blob(&layer).await.unwrap();
        image
            .put_manifest(&pushed, &contents, &[tag("v1")], Present::default())
            .await
            .unwrap();
        let before = String::from_utf8(metrics.render().unwrap()).unwrap();
        std::fs::write(path, contents_of_file).unwrap();
        let tag = image.tag(&tag("v1")).await.unwrap().is_some();
        let manifest = image.manifest(&pushed.digest).await.unwrap().is_some();
        let blob = image.blob(&layer).await.unwrap().is_some();
        assert_eq!(format!("{tag} {manifest} {blob}"), found, "{}", path.display());
        assert_ne!(before, String::from_utf8(metrics.render().unwrap()).unwrap());
    };
    damage(&layout.current(&image.place, &tag("v1")), b"", "false true true").await;
    damage(
        &layout.revision(&image.place, &pushed.digest),
        b"sha256:abc",
        "true false true",
    )
    .await;
    damage(&layout.layer(&image.place, &layer), &[0; 4096], "true true false").await;
    damage(&layout.blob(&pushed.digest), b"", "true false true").await;
    let mut flipped = pushed.bytes.to_vec();
    flipped[9] ^= 1;
    damage(&layout.blob(&pushed.digest), &flipped, "true false true").await;
    image
        .put_manifest(&pushed, &contents, &[], Present::default())
        .await
        .unwrap();
    assert_eq!(
        image.manifest(&pushed.digest).await.unwrap(),
        Some(pushed),
        "a push repairs it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_never_bring_back_what_writers_have_replaced() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = image_of(&store, "a");
    let manifests: Vec<_> = (0..4).map(|n| manifest(&n.to_string(), None)).collect();
    let reading = {
        let image = image.clone();
        tokio::spawn(async move {
            loop {
                image.tag(&tag("v1")).await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    };
    for (pushed, contents) in manifests.iter().cycle().take(100) {
        image
            .put_manifest(pushed, contents, &[tag("v1")], Present::default())
            .await
            .unwrap();
        assert_eq!(image.tag(&tag("v1")).await.unwrap().unwrap().digest, pushed.digest);
    }
    image.delete_tag(&tag("v1")).await.unwrap();
    assert_eq!(image.tag(&tag("v1")).await.unwrap(), None);
    reading.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_and_deletes_at_once_leave_one_story() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = image_of(&store, "a");
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..32 {
        let image = image.clone();
        tasks.spawn(async move {
            let (pushed, contents) = manifest(&(n % 4).to_string(), None);
            if n % 5 == 0 {
                image.delete_manifest(&pushed.digest).await.unwrap();
            } else {
                image
                    .put_manifest(
                        &pushed,
                        &contents,
                        &[tag("v1"), tag(&format!("t{n}"))],
                        Present::default(),
                    )
                    .await
                    .unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    for name in all_tags(&image).await {
        let record = image.tag(&tag(&name)).await.unwrap().unwrap();
        assert!(
            image.manifest(&record.digest).await.unwrap().is_some(),
            "{name} means nothing"
        );
    }
    let page = Page::default();
    let on_disk = rebuild::tags(&store.inner.records, &image.place, &page).unwrap();
    assert_eq!(image.tags(&page).await.unwrap(), on_disk);
}
