//! D5: the index of a large store is gone, and nobody waits for the new one.
#![expect(clippy::print_stdout, reason = "how long it took is a figure of docs/guarantees.md")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Instant;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::size::is_full;
use crate::support::{OCI_MANIFEST, Registry, expect, header, image_manifest, sha256, temporary, until};

const CONFIGURATION: &str =
    "server: { listen: '127.0.0.1:0' }\nstorage: { path: data }\nrepositories: { images: { type: local } }\n";
/// Images, and manifests in each; with `ENTREPOT_TESTS=full` 10,000 manifests and 100,000 blobs.
const GATE: (usize, usize) = (20, 20);
const FULL: (usize, usize) = (100, 100);
/// A configuration and layers.
const BLOBS: usize = 10;

/// Writes a tree as `registry:2` would: nobody has time to push all of that.
fn fill(tree: &Path, images: usize, manifests: usize) {
    let write = |path: &str, bytes: &[u8]| {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(path, bytes).expect("written");
    };
    let store = |bytes: &[u8]| {
        let digest = sha256(bytes);
        let hex = digest.hex();
        write(&format!("blobs/sha256/{}/{hex}/data", &hex[..2]), bytes);
        digest
    };
    for image in 0..images {
        let records = format!("repositories/images/team/app-{image}");
        for number in 0..manifests {
            let blobs: Vec<_> = (0..BLOBS)
                .map(|blob| {
                    let digest = store(format!("{image} {number} {blob}").as_bytes());
                    let link = format!("{records}/_layers/sha256/{}/link", digest.hex());
                    write(&link, digest.as_str().as_bytes());
                    (digest, format!("{image} {number} {blob}").len())
                })
                .collect();
            let blobs: Vec<_> = blobs.iter().map(|(digest, length)| (digest, *length)).collect();
            let digest = store(image_manifest(blobs[0], &blobs[1..], "").as_bytes());
            let records = format!("{records}/_manifests");
            for link in [
                format!("revisions/sha256/{}", digest.hex()),
                format!("tags/v{number}/current"),
                format!("tags/v{number}/index/sha256/{}", digest.hex()),
            ] {
                write(&format!("{records}/{link}/link"), digest.as_str().as_bytes());
            }
        }
    }
}

async fn tags(registry: &Registry, image: usize) -> usize {
    let path = format!("/v2/images/team/app-{image}/tags/list");
    let answer = expect(registry.get(&path).send().await.expect("an answer"), StatusCode::OK).await;
    let answer: Value = answer.json().await.expect("JSON");
    answer["tags"].as_array().expect("tags").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d05_while_a_large_index_is_rebuilt_everything_but_collection_goes_on() {
    let (images, manifests) = if is_full() { FULL } else { GATE };
    let directory = temporary();
    let registry = Registry::start_in(&directory, CONFIGURATION);
    let tree = registry.data().join("docker/registry/v2");
    registry.stop();
    fill(&tree, images, manifests);

    let began = Instant::now();
    let registry = Registry::start_in(&directory, CONFIGURATION);
    let ready = expect(registry.get("/readyz").send().await.expect("an answer"), StatusCode::OK).await;
    let ready = ready.text().await.expect("text");
    let mut told = format!("{} manifests: ready in {:?}", images * manifests, began.elapsed());
    let is_rebuilding = ready.contains("rebuilt");
    // By tag, by digest, listed, and pushed: all of it now.
    let path = |reference: &str| format!("/v2/images/team/app-0/manifests/{reference}");
    let answer = registry.get(&path("v1")).header("Accept", OCI_MANIFEST).send().await;
    let answer = expect(answer.expect("an answer"), StatusCode::OK).await;
    let digest = header(&answer, "docker-content-digest").to_owned();
    assert_eq!(sha256(&answer.bytes().await.expect("a body")).as_str(), digest);
    expect(
        registry.get(&path(&digest)).send().await.expect("an answer"),
        StatusCode::OK,
    )
    .await;
    assert_eq!(tags(&registry, images - 1).await, manifests);
    registry
        .push_image("/v2/images/team/app-0", "new", b"pushed meanwhile")
        .await;
    assert_eq!(tags(&registry, 0).await, manifests + 1);
    write!(told, ", listed and pushed to after {:?}", began.elapsed()).expect("written");
    // A collection waits, and finds everything needed.
    let collected = registry.post("/api/v1/gc").json(&json!({})).send().await;
    let collected = expect(collected.expect("an answer"), StatusCode::OK).await;
    let collected = collected.text().await.expect("text");
    until("the index is rebuilt", async || {
        let ready = registry.get("/readyz").send().await.expect("an answer");
        ready.text().await.expect("text") == "ok\n"
    })
    .await;
    write!(
        told,
        ", rebuilt after {:?}; {is_rebuilding}, {collected}",
        began.elapsed()
    )
    .expect("written");
    println!("{told}");
    for line in registry
        .log()
        .lines()
        .filter(|line| line.contains("rebuilt from the disk"))
    {
        println!("{line}");
    }
    assert_eq!(tags(&registry, images - 1).await, manifests);
    assert_eq!(tags(&registry, 0).await, manifests + 1);
    let metrics = registry.metrics().await;
    assert!(metrics.contains("entrepot_index_rebuilds_total{reason="), "{metrics}");
    registry.kill();
}
