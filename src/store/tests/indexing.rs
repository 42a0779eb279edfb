//! The index is believed only when it can be, and answers the same however it came about.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use super::images::manifest;
use super::*;
use crate::oci::{Page, Tag};

/// Everything that the index answers, as text.
async fn answers(store: &Store) -> String {
    let mut text = format!("{:?}\n", store.inner.index.counts().unwrap());
    for key in ["docker-local", "docker-hub"] {
        let key = key.parse().unwrap();
        for name in store.images(&key).await.unwrap() {
            let image = store.image(&key, &name);
            let tags = image.tags(&Page::default()).await.unwrap();
            writeln!(text, "{key} {name} {tags:?}").unwrap();
            for n in 0..3 {
                let (subject, _) = manifest(&n.to_string(), None);
                writeln!(text, "{:?}", image.referrers(&subject.digest).await.unwrap()).unwrap();
            }
        }
    }
    for n in 0..3 {
        let blob = Digest::of(Algorithm::Sha256, &[n]);
        writeln!(text, "{:?}", store.find_blob_owners(&blob).await.unwrap()).unwrap();
    }
    text
}

/// Why the index should be rebuilt, and what is done to it.
type Damage<'a> = (&'a str, &'a dyn Fn());

/// A store with a little of everything.
async fn fill(store: &Store) {
    for n in 0..3_u8 {
        publish(store, &[n]).await;
    }
    for (key, name) in [
        ("docker-local", "a"),
        ("docker-local", "a/b"),
        ("docker-hub", "a"),
        ("docker-hub", "gone"),
    ] {
        let image = store.image(&key.parse().unwrap(), &name.parse().unwrap());
        for n in 0..3_u8 {
            let (one, of_one) = manifest(&n.to_string(), None);
            let (about, of_about) = manifest(&format!("about {n}"), Some(&one.digest));
            let tags: [Tag; 2] = ["latest".parse().unwrap(), format!("v{n}").parse().unwrap()];
            image
                .put_manifest(&one, &of_one, &tags, Present::default())
                .await
                .unwrap();
            image
                .put_manifest(&about, &of_about, &[], Present::default())
                .await
                .unwrap();
            image.link_blob(&Digest::of(Algorithm::Sha256, &[n])).await.unwrap();
            if name == "gone" {
                image.delete_manifest(&one.digest).await.unwrap();
                image.delete_manifest(&about.digest).await.unwrap();
            }
        }
        let (two, _) = manifest("1", None);
        image.delete_manifest(&two.digest).await.unwrap();
        image.delete_tag(&"v0".parse().unwrap()).await.unwrap();
        image.unlink_blob(&Digest::of(Algorithm::Sha256, &[2])).await.unwrap();
    }
}

/// Opens the store: what it answers, and why its index was rebuilt, if it was.
async fn reopened(root: &tempfile::TempDir) -> (Store, String, Vec<String>) {
    let metrics = Arc::new(Metrics::new().unwrap());
    let store = Store::open(options(root), Arc::clone(&metrics)).await.unwrap();
    store.inner.indexed().await;
    let shown = String::from_utf8(metrics.render().unwrap()).unwrap();
    let reasons = shown
        .lines()
        .filter_map(|line| line.strip_prefix("entrepot_index_rebuilds_total{reason=\""))
        .map(|rest| rest.replace("\"}", ""))
        .collect();
    let answers = answers(&store).await;
    (store, answers, reasons)
}

async fn close(store: Store) {
    store.close().await;
    drop(store);
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, &target).unwrap();
    }
}

#[tokio::test]
async fn an_index_that_was_closed_is_believed_and_one_that_was_not_is_rebuilt() {
    let root = tempfile::tempdir().unwrap();
    let (store, _, reasons) = reopened(&root).await;
    assert!(reasons.is_empty(), "a new store has nothing to rebuild");
    fill(&store).await;
    let expected = answers(&store).await;
    assert!(
        expected.contains("docker-local a/b ([\"latest\", \"v2\"], false)"),
        "{expected}"
    );
    close(store).await;
    for _ in 0..2 {
        let (store, found, reasons) = reopened(&root).await;
        assert_eq!((&found, reasons), (&expected, vec![]));
        close(store).await;
    }
    let (store, ..) = reopened(&root).await;
    drop(store);
    let (store, found, reasons) = reopened(&root).await;
    assert_eq!((&found, reasons), (&expected, vec!["unclean 1".to_owned()]));
    assert_eq!(store.reindex().await.unwrap(), store.inner.index.counts().unwrap());
    assert_eq!(answers(&store).await, expected);
    close(store).await;
    let (_store, found, reasons) = reopened(&root).await;
    assert_eq!((found, reasons), (expected, vec![]));
}

#[tokio::test]
async fn an_index_that_is_not_the_one_we_closed_is_found_out() {
    let root = tempfile::tempdir().unwrap();
    let (index, stamp) = (root.path().join("index"), root.path().join("index.stamp"));
    let (old_index, old_stamp) = (root.path().join("old"), root.path().join("old.stamp"));
    let (store, ..) = reopened(&root).await;
    let (pushed, contents) = manifest("early", None);
    let early = |store: &Store| store.image(&"docker-local".parse().unwrap(), &"early".parse().unwrap());
    early(&store)
        .put_manifest(&pushed, &contents, &[], Present::default())
        .await
        .unwrap();
    close(store).await;
    copy(&index, &old_index);
    fs::copy(&stamp, &old_stamp).unwrap();
    let (store, ..) = reopened(&root).await;
    fill(&store).await;
    early(&store).delete_manifest(&pushed.digest).await.unwrap();
    let expected = answers(&store).await;
    close(store).await;

    let truncate = |name: &str, to: u64| {
        let path = index.join("sled").join(name);
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() * to / 100).unwrap();
    };
    let rewrite = |from: &str, to: &str| {
        let text = fs::read_to_string(&stamp).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&stamp, text.replacen(from, to, 1)).unwrap();
    };
    let damages: [Damage<'_>; 13] = [
        ("missing", &|| fs::remove_dir_all(&index).unwrap()),
        ("missing", &|| fs::remove_dir_all(index.join("sled")).unwrap()),
        ("missing", &|| {
            fs::remove_dir_all(index.join("sled")).unwrap();
            fs::create_dir(index.join("sled")).unwrap();
        }),
        ("missing", &|| {
            fs::remove_dir_all(&index).unwrap();
            fs::remove_file(&stamp).unwrap();
        }),
        ("unclean", &|| fs::remove_file(&stamp).unwrap()),
        ("damaged", &|| fs::write(&stamp, "").unwrap()),
        ("damaged", &|| truncate("db", 0)),
        ("damaged", &|| truncate("db", 50)),
        ("damaged", &|| truncate("db", 99)),
        ("damaged", &|| fs::remove_file(index.join("sled/conf")).unwrap()),
        ("outdated", &|| copy(&old_index, &index)),
        ("outdated", &|| {
            copy(&old_index, &index);
            fs::copy(&old_stamp, &stamp).unwrap();
        }),
        ("outdated", &|| rewrite("\"format\":2", "\"format\":3")),
    ];
    for (number, (reason, damage)) in damages.into_iter().enumerate() {
        damage();
        let (store, found, reasons) = reopened(&root).await;
        assert_eq!(reasons, [format!("{reason} 1")], "{number}");
        assert_eq!(found, expected, "{number}");
        close(store).await;
    }
    let aside = fs::read_dir(root.path()).unwrap();
    let aside = aside.filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .file_name()
            .to_str()
            .unwrap()
            .starts_with("index.broken-")
    });
    assert_eq!(aside.count(), 1);
}

/// As if a directory had been changed at that time: the clock of a filesystem has coarse ticks.
fn changed_at(directory: &Path, time: SystemTime) {
    File::open(directory).unwrap().set_modified(time).unwrap();
}

#[tokio::test]
async fn what_happened_to_the_tree_behind_our_back_is_found_out() {
    let root = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let (store, ..) = reopened(&other).await;
    fill(&store).await;
    let expected = answers(&store).await;
    close(store).await;
    // Another tree in place of ours, with times from long before.
    close(reopened(&root).await.0).await;
    fs::remove_dir_all(root.path().join("docker")).unwrap();
    fs::rename(other.path().join("docker"), root.path().join("docker")).unwrap();
    let (store, found, reasons) = reopened(&root).await;
    assert_eq!((&found, reasons), (&expected, vec!["outdated 1".to_owned()]));
    close(store).await;

    let soon = SystemTime::now() + Duration::from_secs(60);
    let layout = Layout::new(root.path());
    let place = |image: &str| Place {
        repository: "docker-local".parse().unwrap(),
        image: image.parse().unwrap(),
    };
    let tags = layout.tags(&place("a"));
    // A tag more, as registry:2 would make it.
    let (document, _) = manifest("0", None);
    fs::create_dir_all(tags.join("more/current")).unwrap();
    fs::write(tags.join("more/current/link"), document.digest.as_str()).unwrap();
    changed_at(&tags, soon);
    let (store, found, reasons) = reopened(&root).await;
    assert!(
        found.contains(r#"docker-local a (["latest", "more", "v2"], false)"#),
        "{found}"
    );
    assert_eq!(reasons, ["outdated 1"]);
    close(store).await;
    // A tag less.
    fs::remove_dir_all(tags.join("more")).unwrap();
    changed_at(&tags, soon);
    let (store, found, reasons) = reopened(&root).await;
    assert_eq!((&found, reasons), (&expected, vec!["outdated 1".to_owned()]));
    changed_at(&tags, SystemTime::UNIX_EPOCH);
    close(store).await;
    // An image less.
    fs::remove_dir_all(layout.image(&place("a/b"))).unwrap();
    changed_at(&layout.image(&place("a")), soon);
    let (_store, found, reasons) = reopened(&root).await;
    assert!(!found.contains("docker-local a/b"), "{found}");
    assert_eq!(reasons, ["outdated 1"]);
}

#[tokio::test]
async fn a_flipped_bit_anywhere_in_the_index_is_found_out() {
    let root = tempfile::tempdir().unwrap();
    let (store, ..) = reopened(&root).await;
    fill(&store).await;
    let expected = answers(&store).await;
    close(store).await;
    // A generator of our own, so that every run flips the same bits.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for number in 0..50 {
        let mut files = files(&root.path().join("index"));
        files.push(root.path().join("index.stamp"));
        files.retain(|path| fs::metadata(path).unwrap().len() > 0);
        let path = &files[usize::try_from(next(files.len() as u64)).unwrap()];
        let mut contents = fs::read(path).unwrap();
        let at = usize::try_from(next(contents.len() as u64)).unwrap();
        contents[at] ^= 1 << next(8);
        fs::write(path, contents).unwrap();
        let (store, found, reasons) = reopened(&root).await;
        assert_eq!(found, expected, "{number}: bit in byte {at} of {}", path.display());
        // A bit of a session's or a version's number makes it another one's.
        let told = matches!(&reasons[..], [reason] if reason == "damaged 1" || reason == "outdated 1");
        assert!(told, "{number}: {reasons:?} for byte {at} of {}", path.display());
        close(store).await;
    }
}

#[tokio::test]
async fn lists_are_right_even_without_an_index() {
    let root = tempfile::tempdir().unwrap();
    let (store, ..) = reopened(&root).await;
    fill(&store).await;
    let expected = answers(&store).await;
    let lists = |answers: &str| {
        answers
            .lines()
            .skip(1)
            .filter(|line| line.contains("docker-local a") && !line.starts_with('['))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    store.inner.index.doubt("a test said so");
    let key = "docker-local".parse().unwrap();
    for name in store.images(&key).await.unwrap() {
        let tags = store.image(&key, &name).tags(&Page::default()).await.unwrap();
        assert!(lists(&expected).contains(&format!("docker-local {name} {tags:?}")));
    }
    close(store).await;
    let (_store, found, reasons) = reopened(&root).await;
    assert_eq!((found, reasons), (expected, vec!["unclean 1".to_owned()]));
}

#[tokio::test]
async fn damage_in_the_tree_costs_the_index_no_more_than_what_is_damaged() {
    let root = tempfile::tempdir().unwrap();
    let (store, ..) = reopened(&root).await;
    fill(&store).await;
    let layout = store.inner.records.layout.clone();
    let image = store.image(&"docker-local".parse().unwrap(), &"a".parse().unwrap());
    let place = Arc::clone(&image.place);
    let (kept, _) = manifest("0", None);
    let (lost, _) = manifest("2", None);
    drop((image, store));
    fs::write(layout.blob(&lost.digest), "rotten").unwrap();
    fs::write(layout.current(&place, &"latest".parse().unwrap()), "junk").unwrap();
    fs::create_dir_all(layout.repositories().join("Not-A-Key/_manifests")).unwrap();
    fs::create_dir_all(layout.repositories().join("docker-local/Not A Name/_manifests")).unwrap();
    fs::write(layout.repositories().join("docker-local/file"), "").unwrap();
    std::os::unix::fs::symlink(layout.repositories(), layout.repositories().join("docker-local/circle")).unwrap();
    let (store, ..) = reopened(&root).await;
    let image = store.image(&"docker-local".parse().unwrap(), &"a".parse().unwrap());
    assert_eq!(image.tags(&Page::default()).await.unwrap().0, ["v2"]);
    assert!(image.manifest(&kept.digest).await.unwrap().is_some());
    assert_eq!(image.manifest(&lost.digest).await.unwrap(), None);
    assert_eq!(store.images(&"docker-local".parse().unwrap()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_closed_store_reads_but_does_not_write() {
    let root = tempfile::tempdir().unwrap();
    let (store, ..) = reopened(&root).await;
    fill(&store).await;
    store.close().await;
    store.close().await;
    let image = store.image(&"docker-local".parse().unwrap(), &"a".parse().unwrap());
    let (pushed, contents) = manifest("late", None);
    assert!(matches!(
        image.put_manifest(&pushed, &contents, &[], Present::default()).await,
        Err(Error::Closed)
    ));
    assert!(matches!(store.reindex().await, Err(Error::Closed)));
    assert_eq!(image.tags(&Page::default()).await.unwrap().0, ["latest", "v2"]);
}
