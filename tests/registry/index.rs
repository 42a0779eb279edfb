//! The index can be lost in any way: the server starts, answers as before, and says so.

use std::path::{Path, PathBuf};

use reqwest::StatusCode;

use crate::support::{OCI_MANIFEST, Registry, expect, image_manifest, temporary};

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
async fn a_lost_or_damaged_index_is_noticed_and_rebuilt() {
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
    let before = answers(&registry, subject.as_str()).await;
    let index = registry.data().join("index");
    registry.stop();

    let untouched = Registry::start_in(&directory, CONFIGURATION);
    assert!(!untouched.metrics().await.contains("entrepot_index_rebuilds_total{"));
    untouched.stop();

    let mut ways: Vec<(&str, Damage)> = vec![
        (
            "deleted",
            Box::new(|index| std::fs::remove_dir_all(index).expect("deleted")),
        ),
        (
            "emptied",
            Box::new(|index| {
                for file in files(index) {
                    std::fs::write(file, "").expect("emptied");
                }
            }),
        ),
        (
            "truncated",
            Box::new(|index| {
                for file in files(index) {
                    let bytes = std::fs::read(&file).expect("a file");
                    std::fs::write(&file, &bytes[..bytes.len() / 2]).expect("truncated");
                }
            }),
        ),
    ];
    for at in [3, 77, 1021, 4099, 70_001] {
        let damage = move |index: &Path| {
            for file in files(index) {
                flip(&file, at);
            }
        };
        ways.push(("flipped", Box::new(damage)));
    }
    for (way, damage) in ways {
        damage(&index);
        let registry = Registry::start_in(&directory, CONFIGURATION);
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
    assert!(
        registry
            .metrics()
            .await
            .contains(r#"entrepot_index_rebuilds_total{reason="unclean"} 1"#)
    );
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
