//! F1, F2, F4: bodies that are cut, wrong or without end.

use std::time::Duration;

use bytes::Bytes;
use entrepot::cache::{Blob, Outcome};
use entrepot::config::RemoteConfig;
use entrepot::upstream;

use crate::support::remote::{MIB, Remote, pulling, until};
use crate::support::upstream::{ALWAYS, Act, Server, noise, remote};

/// What a client made of an answer.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Whole(Vec<u8>),
    /// An error instead of an answer, or a body that was cut, after so many bytes, and why.
    Cut(usize, String),
}

async fn pull(remote: &Remote, digest: &entrepot::oci::Digest) -> Seen {
    let blob = match remote.blob("a", digest).await {
        Ok(blob) => blob,
        Err(error) => return Seen::Cut(0, format!("no answer: {error}")),
    };
    let Blob::Arriving(mut follower) = blob.expect("it is not denied").value else {
        panic!("it was kept");
    };
    let mut bytes = Vec::new();
    loop {
        match follower.next_chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => return Seen::Whole(bytes),
            Err(error) => return Seen::Cut(bytes.len(), error.to_string()),
        }
    }
}

fn hasty(server: &Server) -> RemoteConfig {
    RemoteConfig {
        idle_timeout: Duration::from_millis(500),
        ..remote(server)
    }
}

/// Forty ways for a body to break off: where, how, in which framing, once or always.
fn truncations(size: usize) -> Vec<(String, usize, Vec<Act>)> {
    let mut scripts = Vec::new();
    for times in [1, ALWAYS] {
        for at in [0, 1, 64 * 1024, size / 2, size - 1] {
            for (what, acts) in [
                ("a short body", vec![Act::CutAfter(at)]),
                ("a reset", vec![Act::ResetAfter(at)]),
                ("an aborted chunk", vec![Act::Chunked, Act::CutAfter(at)]),
                ("no length", vec![Act::Unmeasured, Act::CutAfter(at)]),
            ] {
                scripts.push((format!("{what} after {at}, {times} times"), times, acts));
            }
        }
    }
    scripts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_a_truncated_body_is_resumed_or_cut_and_never_kept() {
    const SIZE: usize = 300_000;
    let scripts = truncations(SIZE);
    assert_eq!(scripts.len(), 40);
    let server = Server::start().await;
    let mut tasks = Vec::new();
    for (seed, (what, times, acts)) in scripts.into_iter().enumerate() {
        let blob = noise(SIZE, 1000 + seed as u64);
        let digest = server.put_blob("a", &blob);
        // Nothing hangs here: what takes long is this machine.
        let config = RemoteConfig {
            connect_timeout: Duration::from_secs(20),
            first_byte_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(20),
            ..remote(&server)
        };
        server.on(&format!("GET {digest}"), times, acts);
        tasks.push(tokio::spawn(async move {
            let remote = pulling(&config).await;
            let seen = pull(&remote, &digest).await;
            // Without a length nobody can tell where it should have ended, but for its digest.
            let may_fail = times == ALWAYS || what.starts_with("no length");
            match seen {
                Seen::Whole(bytes) => assert!(bytes == blob, "{what}"),
                Seen::Cut(..) if may_fail => {
                    let kept = remote.store.open_blob(&digest).await.unwrap();
                    assert!(kept.is_none(), "{what}");
                }
                Seen::Cut(after, why) => panic!("{what}: cut after {after}: {why}"),
            }
            (remote, digest, blob, what)
        }));
    }
    let mut left = Vec::new();
    for task in tasks {
        left.push(task.await.unwrap());
    }
    server.behave();
    for (remote, digest, blob, what) in left {
        let (_, bytes) = remote.whole("a", &digest).await.unwrap();
        assert!(bytes == blob, "{what}: the next request");
        until("no fetch is under way", || {
            remote.counted("entrepot_fetches{repository=\"remote\"}") == 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f02_wrong_bytes_never_end_cleanly_and_are_never_kept() {
    let server = Server::start().await;
    for size in [1000, MIB, 24 * MIB] {
        let right = noise(size, size as u64);
        let digest = server.put_blob("a", &right);
        let flipped = |at: usize| {
            let mut bytes = right.to_vec();
            bytes[at] ^= 0x80;
            Bytes::from(bytes)
        };
        let swapped = noise(size, 7);
        for (what, body) in [
            ("the first byte", flipped(0)),
            ("a byte in the middle", flipped(size / 2)),
            ("the last byte", flipped(size - 1)),
            ("another blob", swapped),
            ("nothing", Bytes::new()),
            ("one byte less", right.slice(..size - 1)),
        ] {
            // Every connection of it tells the same lie.
            let lie = server.put_blob("lies", &body);
            let at = format!("{}/v2/lies/blobs/{lie}", server.url());
            for parts in [1, 4] {
                let config = RemoteConfig {
                    fetch_parts: parts,
                    ..remote(&server)
                };
                let remote = pulling(&config).await;
                server.behave();
                server.on("GET /v2/a/blobs/", ALWAYS, [Act::Redirect(at.clone())]);
                let seen = pull(&remote, &digest).await;
                assert!(
                    matches!(seen, Seen::Cut(after, _) if after < size),
                    "{what} of {size} in {parts} parts"
                );
                remote.assert_nothing_kept(&digest).await;
                server.behave();
                let (outcome, bytes) = remote.whole("a", &digest).await.unwrap();
                assert_eq!(outcome, Outcome::Miss);
                assert!(bytes == right);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_what_has_no_end_is_stopped_where_it_should_have_ended() {
    let server = Server::start().await;
    let layer = noise(MIB, 4);
    let put = server.put_image("a", "v1", std::slice::from_ref(&layer));
    let layer_digest = &put.layers[0];
    let endless: [Vec<Act>; 4] = [
        vec![Act::Pattern(10 << 30), Act::Unmeasured],
        vec![Act::Pattern(10 << 30)],
        vec![Act::Pattern(10 << 30), Act::Chunked],
        vec![Act::Body(noise(MIB + 1, 5)), Act::Unmeasured],
    ];
    for acts in endless {
        let remote = pulling(&remote(&server)).await;
        remote.tag("a", "v1").await.unwrap().expect("the manifest");
        server.behave();
        server.on("GET /blobs/", ALWAYS, acts);
        assert!(matches!(pull(&remote, layer_digest).await, Seen::Cut(..)));
        let fetched = remote.counted("entrepot_upstream_bytes_total{repository=\"remote\"}");
        assert!(fetched <= 2 * MIB as u64, "{fetched} bytes of one MiB");
        remote.assert_nothing_kept(layer_digest).await;
    }
    // A length that is a lie: too long, and too short.
    for length in [MIB + 1000, MIB - 1000] {
        let remote = pulling(&hasty(&server)).await;
        server.behave();
        server.on(
            "GET /blobs/",
            ALWAYS,
            [Act::Header("Content-Length", length.to_string())],
        );
        assert!(matches!(pull(&remote, layer_digest).await, Seen::Cut(..)));
        assert!(remote.store.open_blob(layer_digest).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn f04_a_manifest_without_end_is_stopped_at_its_limit() {
    let server = Server::start().await;
    let remote = pulling(&remote(&server)).await;
    for acts in [
        vec![Act::Pattern(10 << 30)],
        vec![Act::Pattern(10 << 30), Act::Unmeasured],
        vec![Act::Pattern(10 << 30), Act::Chunked],
    ] {
        server.behave();
        server.put_image("a", "v1", &[]);
        server.on("GET /manifests/", ALWAYS, acts);
        let before = remote.counted("entrepot_upstream_bytes_total{repository=\"remote\"}");
        let error = remote.tag("a", "v1").await.unwrap_err();
        assert_eq!(
            error.upstream(),
            Some(&upstream::Error::TooLarge { limit: 4 << 20 }),
            "{error}"
        );
        assert_eq!(
            remote.counted("entrepot_upstream_bytes_total{repository=\"remote\"}"),
            before
        );
    }
}
