//! `entrepot verify`, of a running server and of a stopped one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use reqwest::StatusCode;
use serde_json::Value;

use crate::support::{Registry, entrepot, expect, temporary, tree};

const CONFIGURATION: &str = "server: { listen: '127.0.0.1:0' }\nstorage: { path: data, gc: { every: forever } }\n\
                             repositories: { docker: { type: local } }\n";

fn done(output: &Output) -> (Option<i32>, Value) {
    let document = serde_json::from_slice(&output.stdout);
    (
        output.status.code(),
        document.unwrap_or_else(|error| panic!("{error}: {output:?}")),
    )
}

fn verify(arguments: &[&str]) -> (Option<i32>, Value) {
    let mut command = entrepot(&["verify", "--json"]);
    done(&command.args(arguments).output().expect("it runs"))
}

/// Some link of a layer.
fn a_layer_link(data: &Path) -> PathBuf {
    let names = tree(data);
    let link = names
        .iter()
        .find(|name| name.contains("/_layers/") && name.ends_with("/link"));
    data.join(link.expect("a link"))
}

#[tokio::test]
async fn a_running_server_finds_and_mends_what_is_damaged() {
    let registry = Registry::start_in(&temporary(), CONFIGURATION);
    registry.push_image("/v2/docker/app", "v1", b"a layer").await;
    let url = registry.url("");
    let (code, sound) = verify(&["--server", &url]);
    assert_eq!(
        (code, &sound["problems"], &sound["findings"]),
        (Some(0), &0.into(), &serde_json::json!([]))
    );
    let link = a_layer_link(&registry.data());
    let right = fs::read(&link).expect("a link");
    fs::write(&link, "").expect("it can be damaged");
    let (code, found) = verify(&["--server", &url]);
    assert_eq!((code, &found["problems"]), (Some(1), &1.into()), "{found}");
    assert_eq!(found["findings"][0]["defect"], "link-empty");
    assert_eq!(fs::read(&link).expect("a link"), b"");
    let (code, mended) = verify(&["--repair", "--server", &url]);
    assert_eq!((code, &mended["mended"]), (Some(0), &1.into()), "{mended}");
    assert_eq!(fs::read(&link).expect("a link"), right);
    let digest = String::from_utf8(right).expect("text");
    let path = format!("/v2/docker/app/blobs/{digest}");
    expect(registry.get(&path).send().await.expect("an answer"), StatusCode::OK).await;
}

#[tokio::test]
async fn of_a_stopped_store_it_tells_without_a_byte_changed_and_says_what_cannot_be_mended() {
    let registry = Registry::start_in(&temporary(), CONFIGURATION);
    let digest = registry.push_image("/v2/docker/app", "v1", b"a layer").await;
    let directory = std::sync::Arc::clone(&registry.directory);
    let file = directory.path().join("repositories.yml");
    let file = file.to_str().expect("text");
    let in_use = entrepot(&["verify", "--repair", "-c", file]).output().expect("it runs");
    assert_eq!(in_use.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&in_use.stderr).contains("--server URL"),
        "{in_use:?}"
    );
    let data = registry.data();
    registry.stop();
    let manifest = tree(&data)
        .into_iter()
        .find(|name| name.contains(digest.hex()) && name.ends_with("/data"))
        .expect("its bytes");
    let manifest = data.join(manifest);
    let mut bytes = fs::read(&manifest).expect("its bytes");
    bytes[0] ^= 1;
    fs::write(&manifest, &bytes).expect("it can be damaged");
    let (code, found) = verify(&["-c", file]);
    assert_eq!(
        (code, &found["findings"][0]["defect"]),
        (Some(1), &"blob-wrong-bytes".into())
    );
    assert_eq!(fs::read(&manifest).expect("its bytes"), bytes, "not a byte");
    let (code, left) = verify(&["--repair", "-c", file]);
    assert_eq!(
        (code, &left["problems"], &left["mended"]),
        (Some(1), &1.into(), &1.into()),
        "{left}"
    );
    assert!(!manifest.exists());
    let kept = tree(&data)
        .into_iter()
        .find(|name| name.starts_with("quarantine/") && name.ends_with("/data"));
    assert_eq!(fs::read(data.join(kept.expect("it is kept"))).expect("bytes"), bytes);
    let again = entrepot(&["verify", "-c", file]).output().expect("it runs");
    assert_eq!(again.status.code(), Some(1));
    let text = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(text.contains("revision-dangling: found"), "{text}");
}
