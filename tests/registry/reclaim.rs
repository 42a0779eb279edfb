//! `entrepot gc`, of a running server and of a stopped one.

use std::process::Output;

use reqwest::StatusCode;
use serde_json::Value;

use crate::support::{Registry, entrepot, expect, temporary, tree};

const CONFIGURATION: &str = "server: { listen: '127.0.0.1:0' }\nstorage: { path: data, gc: { every: forever, grace: 1ms } }\n\
                             repositories: { docker: { type: local } }\n";

fn done(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn gc(registry: &Registry, arguments: &[&str]) -> Value {
    let mut command = entrepot(&["gc", "--json", "--server", &registry.url("")]);
    done(&command.args(arguments).output().expect("it runs"))
}

#[tokio::test]
async fn what_no_manifest_needs_goes_and_images_stay() {
    let registry = Registry::start_in(&temporary(), CONFIGURATION);
    registry.push_image("/v2/docker/app", "v1", b"needed").await;
    let left = registry.push_blob("/v2/docker/app", b"left behind").await;
    let path = format!("/v2/docker/app/blobs/{left}");
    assert_eq!(gc(&registry, &[])["waiting"], 1);
    let foreseen = gc(&registry, &["--dry-run"]);
    assert_eq!((&foreseen["links"], &foreseen["bytes"]), (&1.into(), &11.into()));
    // A HEAD promises it to whoever asks: its time begins anew.
    expect(registry.head(&path).send().await.expect("an answer"), StatusCode::OK).await;
    assert_eq!(gc(&registry, &[])["links"], 0);
    assert_eq!(gc(&registry, &[])["links"], 1);
    expect(
        registry.head(&path).send().await.expect("an answer"),
        StatusCode::NOT_FOUND,
    )
    .await;
    assert_eq!(gc(&registry, &[])["freed"], 11);
    let response = registry
        .get("/v2/docker/app/manifests/v1")
        .send()
        .await
        .expect("an answer");
    let manifest: Value = expect(response, StatusCode::OK).await.json().await.expect("JSON");
    for layer in manifest["layers"].as_array().expect("layers") {
        let path = format!("/v2/docker/app/blobs/{}", layer["digest"].as_str().expect("a digest"));
        expect(registry.get(&path).send().await.expect("an answer"), StatusCode::OK).await;
    }
    let metrics = registry.metrics().await;
    assert!(metrics.contains("entrepot_gc_freed_bytes_total 11\n"), "{metrics}");
}

#[tokio::test]
async fn of_a_stopped_store_it_tells_without_a_byte_changed_and_then_does_it() {
    let registry = Registry::start_in(&temporary(), CONFIGURATION);
    registry.push_blob("/v2/docker/app", b"left behind").await;
    let directory = std::sync::Arc::clone(&registry.directory);
    let file = directory.path().join("repositories.yml");
    let file = file.to_str().expect("text");
    let in_use = entrepot(&["gc", "-c", file]).output().expect("it runs");
    assert_eq!(in_use.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&in_use.stderr).contains("--server URL"),
        "{in_use:?}"
    );
    gc(&registry, &[]);
    let data = registry.data();
    registry.stop();
    let before = content(&data);
    let foreseen = done(
        &entrepot(&["gc", "--json", "--dry-run", "-c", file])
            .output()
            .expect("it runs"),
    );
    assert_eq!(foreseen["links"], 1);
    assert_eq!(content(&data), before, "not a byte");
    let first = done(&entrepot(&["gc", "--json", "-c", file]).output().expect("it runs"));
    assert_eq!(first["bytes"], 11);
    let second = entrepot(&["gc", "-c", file]).output().expect("it runs");
    assert!(second.status.success(), "{second:?}");
    let text = String::from_utf8_lossy(&second.stdout).into_owned();
    assert!(text.contains("of what was taken away earlier: 1 (11 bytes)"), "{text}");
}

#[tokio::test]
async fn what_a_rule_lets_go_is_told_beforehand_and_audited() {
    let configuration = "server: { listen: '127.0.0.1:0' }\nstorage: { path: data, gc: { every: forever } }\naudit: { to: audit.log }\n\
                         repositories: { docker: { type: local, allow_delete: false, retention: [{ match: 'dev-*', keep_last: 1 }] } }\n";
    let registry = Registry::start_in(&temporary(), configuration);
    for tag in ["dev-1", "dev-2", "v1"] {
        registry.push_image("/v2/docker/team/app", tag, tag.as_bytes()).await;
    }
    let expected = serde_json::json!(["docker/team/app:dev-1"]);
    assert_eq!(gc(&registry, &["--dry-run"])["expired"], expected);
    assert_eq!(gc(&registry, &[])["expired"], expected);
    let response = registry
        .get("/v2/docker/team/app/tags/list")
        .send()
        .await
        .expect("an answer");
    let tags: Value = expect(response, StatusCode::OK).await.json().await.expect("JSON");
    assert_eq!(tags["tags"], serde_json::json!(["dev-2", "v1"]));
    let directory = std::sync::Arc::clone(&registry.directory);
    registry.stop();
    let audit = std::fs::read_to_string(directory.path().join("audit.log")).expect("an audit");
    let line = audit
        .lines()
        .find(|line| line.contains("expire"))
        .expect("a line of it");
    let line: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(
        (&line["reference"], &line["outcome"]),
        (&expected[0], &"allowed".into())
    );
}

/// Every file, with when it was changed and what is in it.
fn content(root: &std::path::Path) -> Vec<(String, std::time::SystemTime, Vec<u8>)> {
    tree(root)
        .into_iter()
        .map(|name| {
            let path = root.join(&name);
            let changed = path.metadata().expect("it is there").modified().expect("a time");
            (name, changed, std::fs::read(path).unwrap_or_default())
        })
        .collect()
}
