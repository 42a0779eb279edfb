//! The layers of a manifest begin to arrive when it is asked for.

use std::time::Duration;

use bytes::Bytes;
use entrepot::cache::{Blob, Outcome};
use entrepot::config::RemoteConfig;
use entrepot::oci::Manifest;
use entrepot::oci::media_type::{OCI_INDEX, OCI_MANIFEST};

use crate::support::remote::{MIB, Remote, drain, image, pulling, until};
use crate::support::upstream::{ALWAYS, Act, Gate, Server, digest, noise, remote};

fn eager(server: &Server) -> RemoteConfig {
    RemoteConfig {
        prefetch_layers: true,
        connections: 16,
        ..remote(server)
    }
}

async fn pull_manifest(remote: &Remote, name: &str, tag: &str) -> Manifest {
    let manifest = remote.tag(name, tag).await.unwrap().expect("the manifest").value;
    remote.cache.fetch_ahead(&image(name), &manifest);
    manifest
}

#[tokio::test]
async fn what_a_manifest_refers_to_is_here_before_it_is_asked_for() {
    let server = Server::start().await;
    let layers: Vec<Bytes> = (0..5).map(|seed| noise(MIB, seed)).collect();
    let put = server.put_image("a", "v1", &layers);
    let remote = pulling(&eager(&server)).await;
    pull_manifest(&remote, "a", "v1").await;
    let here = remote.store.image(&"remote".parse().unwrap(), &image("a"));
    for digest in put.layers.iter().chain([&put.config]) {
        while here.has_blob(digest).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let order: Vec<String> = server
        .seen()
        .iter()
        .filter_map(|seen| Some(seen.target.rsplit_once("/blobs/")?.1.to_owned()))
        .collect();
    assert_eq!(order.len(), 6);
    assert!(
        order[..3].contains(&put.config.to_string()),
        "the configuration is first"
    );
    for digest in &put.layers {
        assert_eq!(remote.whole("a", digest).await.unwrap().0, Outcome::Hit);
    }
    pull_manifest(&remote, "a", "v1").await;
    assert_eq!(server.asked("GET /blobs/"), 6, "once each");

    // Neither what an index lists, nor what lies elsewhere; and nothing where it is switched off.
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":{}}}]}}"#,
        put.digest,
        put.manifest.len()
    );
    server.put_manifest("a", Some("index"), &index.into(), OCI_INDEX);
    pull_manifest(&remote, "a", "index").await;
    let elsewhere = server.put_blob("b", &noise(10, 9));
    let foreign = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"x/y","digest":"{}","size":10}},"layers":[{{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"{elsewhere}","size":10,"urls":["{}/layer"]}}]}}"#,
        server.put_blob("b", &noise(10, 8)),
        server.url(),
    );
    server.put_manifest("b", Some("v1"), &foreign.into(), OCI_MANIFEST);
    pull_manifest(&remote, "b", "v1").await;
    until("its configuration is asked for", || {
        server.asked("GET /v2/b/blobs/") == 1
    })
    .await;
    let lazy = pulling(&super::super::support::upstream::remote(&server)).await;
    pull_manifest(&lazy, "a", "v1").await;
    let before = server.asked("GET /blobs/");
    assert!(lazy.whole("a", &put.layers[0]).await.unwrap().0 == Outcome::Miss);
    assert_eq!(server.asked("GET /blobs/"), before + 1);
    assert_eq!(server.asked(&format!("* {elsewhere}")), 0);
    assert_eq!(server.asked("* /layer"), 0);
}

#[tokio::test]
async fn who_asks_for_a_layer_never_waits_for_what_is_fetched_ahead() {
    let server = Server::start().await;
    let layers: Vec<Bytes> = (0..8).map(|seed| noise(2 * MIB, 20 + seed)).collect();
    let put = server.put_image("a", "v1", &layers);
    let gate = Gate::new();
    server.on("GET /blobs/", 3, [Act::HoldAfter(0, gate.clone())]);
    let remote = pulling(&eager(&server)).await;
    pull_manifest(&remote, "a", "v1").await;
    until("a few are on their way", || server.asked("GET /blobs/") == 3).await;
    // The last one waits behind all others: it is fetched at once all the same.
    let (outcome, bytes) = remote.whole("a", &put.layers[7]).await.unwrap();
    assert_eq!(outcome, Outcome::Miss);
    assert!(bytes == layers[7]);
    assert_eq!(server.asked("GET /blobs/"), 4, "no more than three ahead at once");
    gate.open();
    for (digest, layer) in put.layers.iter().zip(&layers) {
        assert!(remote.whole("a", digest).await.unwrap().1 == *layer);
    }
    assert_eq!(server.asked("GET /blobs/"), 9, "each once, whoever asked first");
}

#[tokio::test]
async fn what_is_fetched_ahead_takes_no_connection_that_a_client_wants() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[noise(4 * MIB, 40), noise(4 * MIB, 41)]);
    let wanted: Vec<_> = (0..2)
        .map(|seed| server.put_blob("b", &noise(MIB, 50 + seed)))
        .collect();
    let gate = Gate::new();
    server.on(
        "GET /v2/a/blobs/",
        ALWAYS,
        [Act::Trickle(64 * 1024, Duration::from_millis(20))],
    );
    server.on("GET /v2/b/blobs/", ALWAYS, [Act::HoldAfter(MIB / 2, gate.clone())]);
    let config = RemoteConfig {
        connections: 2,
        idle_timeout: Duration::from_secs(20),
        ..eager(&server)
    };
    let remote = pulling(&config).await;
    pull_manifest(&remote, "a", "v1").await;
    until("one is on its way", || server.asked("GET /v2/a/blobs/") >= 1).await;
    // Both of two connections: the one that was taken ahead is given back.
    let mut followers = Vec::new();
    for digest in &wanted {
        followers.push(remote.arriving("b", digest).await);
    }
    gate.open();
    for follower in &mut followers {
        assert_eq!(drain(follower).await.unwrap().len(), MIB);
    }
    for digest in &put.layers {
        assert_eq!(remote.whole("a", digest).await.unwrap().1.len(), 4 * MIB);
    }
}

#[tokio::test]
async fn a_failure_ahead_is_nobodys_failure() {
    let server = Server::start().await;
    let layer = noise(MIB, 60);
    let put = server.put_image("a", "v1", std::slice::from_ref(&layer));
    server.on(
        "GET /blobs/",
        2,
        [Act::Delay(Duration::from_millis(100)), Act::Status(500)],
    );
    let remote = pulling(&eager(&server)).await;
    pull_manifest(&remote, "a", "v1").await;
    until("it is under way", || server.asked("GET /blobs/") == 2).await;
    // Joined while it was being asked for, or begun by the client himself.
    let blob = remote.blob("a", &put.layers[0]).await.unwrap().expect("the layer");
    let Blob::Arriving(mut follower) = blob.value else {
        panic!("it is not here yet")
    };
    assert!(drain(&mut follower).await.unwrap() == layer);
    assert_eq!(digest(&layer), put.layers[0]);
}
