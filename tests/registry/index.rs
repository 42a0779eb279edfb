//! The index can be lost in any way: the server starts, answers as before, and says so.

use std::path::{Path, PathBuf};

use reqwest::StatusCode;

use crate::size::is_full;
use crate::support::{OCI_MANIFEST, Registry, expect, image_manifest, temporary, until};

const CONFIGURATION: &str =
    "server: { listen: '127.0.0.1:0' }\nstorage: { path: data }\nrepositories: { images: { type: local } }\n";

/// A way to damage the index below a directory.
type Damage = Box<dyn Fn(&Path)>;

/// All that the index is asked for.
async fn answers(registry: &Registry, subject: &str) -> Vec<String> {
    let mut answers = Vec::new();
    for path in [
        "/images/v2/_catalog".to_owned(),
        "/v2/images/app/tags/list".to_owned(),
        "/v2/images/team/tool/tags/list".to_owned(),
        format!("/v2/images/app/referrers/{subject}"),
    ] {
        let response = registry.get(&path).send().await.expect("an answer");
        let response = expect(response, StatusCode::OK).await;
        answers.push(response.text().await.expect("a body"));
    }
    answers
}

fn files(directory: &Path) -> Vec<PathBuf> {
    crate::support::tree(directory)
        .iter()
        .map(|file| directory.join(file))
        .collect()
}

/// A file with one bit turned over, in its middle or where `at` says.
fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).expect("a file");
    if !bytes.is_empty() {
        let at = at % bytes.len();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(file, bytes).expect("written");
    }
}

#[tokio::test]
async fn d05_a_lost_or_damaged_index_is_noticed_and_rebuilt() {
    let directory = temporary();
    let registry = Registry::start_in(&directory, CONFIGURATION);
    let subject = registry.push_image("/v2/images/app", "v1", b"content").await;
    for number in 0..20 {
        registry
            .push_image("/v2/images/team/tool", &format!("v{number}"), &[number])
            .await;
    }
    let config = registry.push_blob("/v2/images/app", b"{}").await;
    let extra = format!(r#","subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":1}}"#);
    let referrer = image_manifest((&config, 2), &[], &extra);
    registry
        .push_manifest("/v2/images/app", "signature", OCI_MANIFEST, referrer.as_bytes())
        .await;
    let index = registry.data().join("index");
    registry.stop();

    let untouched = Registry::start_in(&directory, CONFIGURATION);
    assert!(!untouched.metrics().await.contains("entrepot_index_rebuilds_total{"));
    untouched.stop();

    // What a copy from an earlier time is: sound, and of another moment.
    let older = temporary();
    copy(&registry_of(&directory), older.path());
    let registry = Registry::start_in(&directory, CONFIGURATION);
    registry.push_image("/v2/images/app", "v2", b"later").await;
    let before = answers(&registry, subject.as_str()).await;
    registry.stop();
    for (way, damage) in ways(older.path()) {
        damage(&index);
        let registry = Registry::start_in(&directory, CONFIGURATION);
        assert_eq!(
            answers(&registry, subject.as_str()).await,
            before,
            "{way}: from the tree"
        );
        until("the index is rebuilt", async || {
            let ready = registry.get("/readyz").send().await.expect("an answer");
            ready.text().await.expect("text") == "ok\n"
        })
        .await;
        assert_eq!(answers(&registry, subject.as_str()).await, before, "{way}");
        let metrics = registry.metrics().await;
        assert!(
            metrics.contains("entrepot_index_rebuilds_total{reason="),
            "{way}: not counted"
        );
        assert!(registry.log().contains("index"), "{way}: not logged");
        registry.stop();
    }
}

fn registry_of(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("data")
}

/// Copies the index and what vouches for it.
fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let name = file.strip_prefix(from).expect("below");
        if name.starts_with("index") || name == Path::new("index.stamp") {
            let target = to.join(name);
            std::fs::create_dir_all(target.parent().expect("a directory")).expect("made");
            std::fs::copy(&file, target).expect("copied");
        }
    }
}

/// Twenty ways to lose an index, or at the full size two hundred.
fn ways(older: &Path) -> Vec<(String, Damage)> {
    let several = if is_full() { 98 } else { 8 };
    let older = older.to_owned();
    let mut ways: Vec<(String, Damage)> = vec![
        (
            "deleted".to_owned(),
            Box::new(|index| std::fs::remove_dir_all(index).expect("deleted")),
        ),
        (
            "emptied".to_owned(),
            Box::new(|index| {
                for file in files(index) {
                    std::fs::write(file, "").expect("emptied");
                }
            }),
        ),
        (
            "an older copy".to_owned(),
            Box::new(move |index| {
                std::fs::remove_dir_all(index).expect("deleted");
                copy(&older, index.parent().expect("the store"));
            }),
        ),
        (
            "of the next version".to_owned(),
            Box::new(|index| {
                let stamp = index.with_file_name("index.stamp");
                let text = std::fs::read_to_string(&stamp).expect("a stamp");
                let next = text.replace(r#""format":2"#, r#""format":3"#);
                assert_ne!(text, next);
                std::fs::write(stamp, next).expect("written");
            }),
        ),
    ];
    for k in 0..several {
        // Of one file after the other, or of all.
        let truncate = move |index: &Path| {
            let files = files(index);
            let one = k % (files.len() + 1);
            for (number, file) in files.iter().enumerate() {
                if one == number || one == files.len() {
                    let bytes = std::fs::read(file).expect("a file");
                    let keep = bytes.len() * k / several;
                    std::fs::write(file, &bytes[..keep]).expect("truncated");
                }
            }
        };
        ways.push((format!("truncated at {k} of {several}"), Box::new(truncate)));
        let at = 3 + k * 7919;
        let flip_one = move |index: &Path| {
            let files: Vec<PathBuf> = files(index)
                .into_iter()
                .filter(|file| file.metadata().is_ok_and(|found| found.len() > 0))
                .collect();
            flip(&files[k % files.len()], at);
        };
        ways.push((format!("bit {at} flipped"), Box::new(flip_one)));
    }
    ways
}

#[tokio::test]
async fn after_a_crash_everything_acknowledged_is_listed() {
    let directory = temporary();
    let registry = Registry::start_in(&directory, CONFIGURATION);
    let subject = registry.push_image("/v2/images/app", "v1", b"content").await;
    registry.push_image("/v2/images/team/tool", "v1", b"tool").await;
    let before = answers(&registry, subject.as_str()).await;
    registry.kill();
    let registry = Registry::start_in(&directory, CONFIGURATION);
    assert_eq!(answers(&registry, subject.as_str()).await, before);
    until("the index is rebuilt", async || {
        let metrics = registry.metrics().await;
        metrics.contains(r#"entrepot_index_rebuilds_total{reason="unclean"} 1"#)
    })
    .await;
}

#[tokio::test]
async fn the_index_of_a_stopped_store_is_rebuilt_on_request_and_that_of_a_running_one_is_not() {
    let directory = temporary();
    let registry = Registry::start_in(&directory, CONFIGURATION);
    registry.push_image("/v2/images/app", "v1", b"content").await;
    let file = directory.path().join("repositories.yml");
    let reindex = || {
        crate::support::entrepot(&["reindex", "-c"])
            .arg(&file)
            .output()
            .expect("it runs")
    };
    let output = reindex();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("in use"), "{output:?}");
    registry.stop();
    let output = reindex();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("tags 1"), "{output:?}");
}
