//! What the store cannot keep is passed on to those who asked for it.

use std::process::Command;

use entrepot::cache::Outcome;
use futures_util::future::join_all;
use reqwest::StatusCode;

use super::restart::configuration;
use crate::binary::{Registry, expect, temporary};
use crate::support::remote::{MIB, drain, pulling};
use crate::support::upstream::{ALWAYS, Act, Server, noise, pattern, remote};

/// The registry over a file system of its own of so many MiB; none where that is not allowed.
fn start_on_small_disk(upstream: &str, mib: u64) -> Option<Registry> {
    let directory = temporary();
    let (data, file) = (directory.path().join("data"), directory.path().join("repositories.yml"));
    std::fs::create_dir(&data).expect("a directory");
    std::fs::write(&file, configuration(upstream)).expect("a configuration file");
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-ec", script, "sh"]);
        command
    };
    if !unshare("true").status().is_ok_and(|status| status.success()) {
        return None;
    }
    let script = format!("mount -t tmpfs -o size={mib}m none \"$1\"; exec \"$2\" serve -c \"$3\"");
    let mut command = unshare(&script);
    command.arg(&data).arg(env!("CARGO_BIN_EXE_entrepot")).arg(&file);
    Some(Registry::started_by(&directory, &mut command))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_fills_the_disk_reaches_everybody_all_the_same() {
    const SIZE: u64 = 64 << 20;
    let server = Server::start().await;
    let digest = server.put_pattern("a", SIZE);
    let small = noise(MIB, 1);
    let small_digest = server.put_blob("a", &small);
    let Some(registry) = start_on_small_disk(&server.url(), 24) else {
        assert!(std::env::var_os("CI").is_none(), "CI can mount what it likes");
        return;
    };
    server.on("GET /blobs/", ALWAYS, [Act::Rate(100_000_000)]);
    for _ in 0..2 {
        let pulls = (0..4).map(|client| {
            let range = (client == 3).then(|| format!("bytes={}-{}", 30 << 20, (50 << 20) - 1));
            let mut request = registry.get(&format!("/v2/a/blobs/{digest}"));
            if let Some(range) = &range {
                request = request.header("range", range);
            }
            async move {
                let bytes = request
                    .send()
                    .await
                    .expect("an answer")
                    .bytes()
                    .await
                    .expect("a whole body");
                match range {
                    Some(_) => assert!(bytes == pattern(30 << 20, 50 << 20)),
                    None => assert!(bytes == pattern(0, SIZE)),
                }
            }
        });
        join_all(pulls).await;
        let metrics = registry.metrics().await;
        assert!(
            metrics.contains("entrepot_unkept_fetches_total{repository=\"hub\"}"),
            "{metrics}"
        );
    }
    // What fits is kept: nothing of the other one lies in its way.
    for expected in ["MISS", "HIT"] {
        let response = registry
            .get(&format!("/v2/a/blobs/{small_digest}"))
            .send()
            .await
            .expect("an answer");
        let response = expect(response, StatusCode::OK).await;
        assert_eq!(response.headers()["x-cache"], expected);
        assert!(response.bytes().await.expect("a body") == small);
    }
}

#[tokio::test]
async fn a_store_that_takes_nothing_is_passed_by() {
    let server = Server::start().await;
    let blob = noise(4 * MIB, 2);
    let digest = server.put_blob("a", &blob);
    let tiny = noise(1000, 3);
    let tiny_digest = server.put_blob("a", &tiny);
    let remote = pulling(&remote(&server)).await;
    std::fs::remove_dir(remote.directory.path().join("spool")).unwrap();
    let (outcome, bytes) = remote.whole("a", &digest).await.unwrap();
    assert_eq!(outcome, Outcome::Miss);
    assert!(bytes == blob);
    assert!(remote.whole("a", &tiny_digest).await.unwrap().1 == tiny);
    let mut part = remote.arriving("a", &digest).await;
    part.narrow(1_000_000, 3_000_000);
    assert!(drain(&mut part).await.unwrap() == blob[1_000_000..3_000_000]);
    let mut tail = remote.arriving("a", &digest).await;
    tail.narrow(4_000_000, u64::MAX);
    assert!(drain(&mut tail).await.unwrap() == blob[4_000_000..]);
    assert_eq!(
        remote.counted("entrepot_unkept_fetches_total{repository=\"remote\"}"),
        4
    );

    // Broken off, it is taken up again; wrong, it has no end.
    server.on("GET /blobs/", 2, [Act::CutAfter(MIB)]);
    server.on("GET /blobs/", 1, [Act::IgnoreRange]);
    assert!(remote.whole("a", &digest).await.unwrap().1 == blob);
    server.behave();
    let mut wrong = blob.to_vec();
    wrong[4 * MIB - 1] ^= 1;
    server.on("GET /blobs/", ALWAYS, [Act::Body(wrong.into())]);
    let mut follower = remote.arriving("a", &digest).await;
    let mut given = 0;
    let error = loop {
        match follower.next_chunk().await {
            Ok(Some(chunk)) => given += chunk.len(),
            Ok(None) => panic!("a wrong blob came to an end"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("digest"), "{error}");
    assert!(given <= 4 * MIB - 64 * 1024, "{given}");
    server.behave();
    server.on("GET /blobs/", 1, [Act::Body(noise(1000, 4))]);
    assert!(remote.blob("a", &tiny_digest).await.is_err(), "told in so many words");

    std::fs::create_dir(remote.directory.path().join("spool")).unwrap();
    server.behave();
    assert_eq!(remote.whole("a", &digest).await.unwrap().0, Outcome::Miss);
    assert_eq!(remote.whole("a", &digest).await.unwrap().0, Outcome::Hit);
}
