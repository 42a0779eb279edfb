//! A blob that a restart of ours broke off is gone on with where it was, and what is missing here is fetched again.

use std::fs::File;

use crate::binary::{Registry, expect, temporary};
use crate::support::remote::{MIB, drain, pulling, until};
use crate::support::upstream::{ALWAYS, Act, Gate, Server, noise, pattern, remote};
use entrepot::cache::Outcome;
use reqwest::StatusCode;

pub(super) fn configuration(upstream: &str) -> String {
    format!(
        "server: {{ listen: '127.0.0.1:0', drain: 1s }}\nstorage: {{ path: data }}\n\
         repositories: {{ hub: {{ type: remote, url: '{upstream}', insecure: true }} }}\ndefault: hub\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_is_gone_on_with_after_a_kill_and_after_a_restart() {
    const SIZE: u64 = 64 << 20;
    let server = Server::start().await;
    let digest = server.put_pattern("a", SIZE);
    for is_killed in [true, false] {
        let directory = temporary();
        let gate = Gate::new();
        server.behave();
        server.on("GET /blobs/", 1, [Act::HoldAfter(24 * MIB, gate.clone())]);
        server.on("GET /blobs/", ALWAYS, [Act::Status(403)]);
        let registry = Registry::start_in(&directory, &configuration(&server.url()));
        let path = format!("/v2/a/blobs/{digest}");
        let response = registry.get(&path).send().await.expect("an answer");
        let mut response = expect(response, StatusCode::OK).await;
        let mut read = 0;
        while read < 23 * MIB {
            read += response.chunk().await.unwrap().expect("a chunk").len();
        }
        drop(response);
        let registry = if is_killed {
            registry.kill();
            Registry::start_in(&directory, &configuration(&server.url()))
        } else {
            registry.restart()
        };
        server.behave();
        let before = server.seen().len();
        let response = registry.get(&path).send().await.expect("an answer");
        let bytes = expect(response, StatusCode::OK).await.bytes().await.expect("a body");
        assert!(bytes == pattern(0, SIZE), "killed: {is_killed}");
        let seen = server.seen();
        let from: u64 = seen[before]
            .header("range")
            .and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok())
            .expect("a range");
        assert!(from >= 22 << 20, "{from}");
        let response = registry.get(&path).send().await.expect("an answer");
        assert_eq!(response.headers()["x-cache"], "HIT");
        drop(registry);
        gate.open();
    }
}

#[tokio::test]
async fn a_failure_of_the_upstream_leaves_what_has_come() {
    let server = Server::start().await;
    let blob = noise(8 * MIB, 1);
    let digest = server.put_blob("a", &blob);
    let remote = pulling(&remote(&server)).await;
    server.on("GET /blobs/", 1, [Act::CutAfter(5 * MIB)]);
    server.on("GET /blobs/", ALWAYS, [Act::Status(403)]);
    let mut follower = remote.arriving("a", &digest).await;
    assert!(drain(&mut follower).await.is_err());
    server.behave();
    // Another image has no part in it before upstream says so.
    assert!(remote.blob("b", &digest).await.unwrap().is_none());
    // Nor does an upstream that does not have it any more bring it to an end.
    server.on("GET /blobs/", 1, [Act::Status(404)]);
    assert!(remote.blob("a", &digest).await.unwrap().is_none());
    let before = remote.counted("entrepot_upstream_bytes_total{repository=\"remote\"}");
    assert!(remote.whole("a", &digest).await.unwrap().1 == blob);
    let fetched = remote.counted("entrepot_upstream_bytes_total{repository=\"remote\"}") - before;
    // The last note may be a MiB old, and some.
    assert!((3 << 20..=9 << 19).contains(&fetched), "{fetched}");

    // Without ranges, all of it comes again; and one that is another length now is begun anew.
    for (seed, act) in [(40, Act::IgnoreRange), (41, Act::Status(416))] {
        let blob = noise(8 * MIB, seed);
        let digest = server.put_blob("a", &blob);
        server.behave();
        server.on("GET /blobs/", 1, [Act::CutAfter(5 * MIB)]);
        server.on("GET /blobs/", 1, [Act::Status(403)]);
        server.on("GET /blobs/", 1, [act]);
        assert!(drain(&mut remote.arriving("a", &digest).await).await.is_err());
        assert!(remote.whole("a", &digest).await.unwrap().1 == blob);
        assert_eq!(remote.whole("a", &digest).await.unwrap().0, Outcome::Hit);
    }
}

#[tokio::test]
async fn a_part_that_turns_out_wrong_is_not_gone_on_with_twice() {
    let server = Server::start().await;
    let blob = noise(8 * MIB, 20);
    let digest = server.put_blob("a", &blob);
    let mut wrong = blob.to_vec();
    wrong[MIB] ^= 1;
    let remote = pulling(&remote(&server)).await;
    server.on("GET /blobs/", 1, [Act::Body(wrong.into()), Act::CutAfter(5 * MIB)]);
    server.on("GET /blobs/", 1, [Act::Status(403)]);
    assert!(drain(&mut remote.arriving("a", &digest).await).await.is_err());
    server.behave();
    let mut second = remote.arriving("a", &digest).await;
    assert!(drain(&mut second).await.is_err(), "its beginning was a lie");
    remote.assert_nothing_kept(&digest).await;
    assert!(remote.whole("a", &digest).await.unwrap().1 == blob);
}

#[tokio::test]
async fn a_blob_whose_file_is_missing_or_empty_is_fetched_again() {
    let server = Server::start().await;
    let blob = noise(2 * MIB, 30);
    let digest = server.put_blob("a", &blob);
    let remote = pulling(&remote(&server)).await;
    remote.whole("a", &digest).await.unwrap();
    let hex = digest.hex();
    let file = remote
        .directory
        .path()
        .join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    for is_missing in [true, false] {
        if is_missing {
            std::fs::remove_file(&file).unwrap();
        } else {
            File::create(&file).unwrap();
        }
        let (outcome, bytes) = remote.whole("a", &digest).await.unwrap();
        assert_eq!(outcome, Outcome::Miss);
        assert!(bytes == blob);
        until("it is kept again", || {
            file.metadata().is_ok_and(|found| found.len() == 2 * MIB as u64)
        })
        .await;
        assert_eq!(remote.whole("a", &digest).await.unwrap().0, Outcome::Hit);
    }
}
