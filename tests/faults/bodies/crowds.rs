//! F14, F15, F16: many clients for one blob.

use std::sync::Arc;
use std::time::{Duration, Instant};

use entrepot::cache::{Follower, Outcome};
use futures_util::future::join_all;

use crate::support::remote::{MIB, Remote, drain, pulling, until};
use crate::support::upstream::{ALWAYS, Act, Gate, Server, noise, pattern, remote};

const SIZE: u64 = 64 << 20;

/// How a pull of a pattern ended: whether it was whole, and how many bytes came.
async fn pull(remote: &Remote, digest: &entrepot::oci::Digest) -> (bool, u64) {
    let Ok(blob) = remote.blob("a", digest).await else {
        return (false, 0);
    };
    let entrepot::cache::Blob::Arriving(mut follower) = blob.expect("it is not denied").value else {
        return (true, SIZE);
    };
    let mut at = 0;
    loop {
        match follower.next_chunk().await {
            Ok(Some(chunk)) => {
                let end = at + chunk.len() as u64;
                // Each a little of it: comparing all would be most of the work.
                assert!(chunk[..16] == pattern(at, at + 16), "other bytes at {at}");
                at = end;
            }
            Ok(None) => return (at == SIZE, at),
            Err(_) => return (false, at),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f14_two_hundred_cold_clients_cost_one_fetch_and_share_its_end() {
    let server = Server::start().await;
    let digest = server.put_pattern("a", SIZE);
    for percent in [None, Some(0), Some(50), Some(99)] {
        let remote = Arc::new(pulling(&remote(&server)).await);
        server.behave();
        let gate = Gate::new();
        let at = usize::try_from(SIZE).unwrap() / 100 * percent.unwrap_or(10);
        let mut acts = vec![Act::HoldAfter(at, gate.clone())];
        if percent.is_some() {
            acts.push(Act::CutAfter(at));
            server.on("GET /blobs/", 1, acts);
            server.on("GET /blobs/", ALWAYS, [Act::Status(403)]);
        } else {
            // It breaks off twice, and nobody notices.
            acts.push(Act::CutAfter(at + MIB));
            server.on("GET /blobs/", 1, acts);
            server.on("GET /blobs/", 1, [Act::ResetAfter(10 * MIB)]);
        }
        let before = server.asked("GET /blobs/");
        let clients: Vec<_> = (0..200)
            .map(|_| {
                let (remote, digest) = (Arc::clone(&remote), digest.clone());
                tokio::spawn(async move { pull(&remote, &digest).await })
            })
            .collect();
        until("all have come", || {
            remote.counted("entrepot_coalesced_requests_total{repository=\"remote\"}") == 199
        })
        .await;
        gate.open();
        let begin = Instant::now();
        let ends = join_all(clients).await;
        let took = begin.elapsed();
        let asked = server.asked("GET /blobs/") - before;
        if percent.is_some() {
            assert!(ends.iter().all(|end| !end.as_ref().unwrap().0), "{percent:?}");
            assert!(took < Duration::from_secs(20), "{percent:?}: {took:?}");
            assert_eq!(asked, 2, "{percent:?}: once, and once more to take it up");
            server.behave();
            assert_eq!(pull(&remote, &digest).await, (true, SIZE), "{percent:?}: the next one");
        } else {
            assert!(ends.iter().all(|end| *end.as_ref().unwrap() == (true, SIZE)));
            assert_eq!(asked, 3, "one fetch, taken up twice");
            let fetched = remote.counted("entrepot_upstream_bytes_total{repository=\"remote\"}");
            assert!(fetched * 100 <= SIZE * 105, "{fetched}");
        }
        until("nothing is left under way", || {
            remote.counted("entrepot_fetches{repository=\"remote\"}") == 0
        })
        .await;
        assert_eq!(remote.whole("a", &digest).await.unwrap().0, Outcome::Hit);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_the_first_client_leaves_and_nobody_notices() {
    let server = Server::start().await;
    for parts in [1, 4] {
        let blob = noise(20 * MIB, 15 + parts as u64);
        let digest = server.put_blob("a", &blob);
        server.behave();
        server.on("GET /blobs/", ALWAYS, [Act::Rate(40_000_000)]);
        let mut config = remote(&server);
        config.fetch_parts = parts;
        let remote = pulling(&config).await;
        let mut first = remote.arriving("a", &digest).await;
        let mut second = remote.arriving("a", &digest).await;
        let mut read = 0;
        while read < 2 * MIB {
            read += first.next_chunk().await.unwrap().expect("a chunk").len();
        }
        drop(first);
        assert!(drain(&mut second).await.unwrap() == blob);
        let fetched = remote.counted("entrepot_upstream_bytes_total{repository=\"remote\"}");
        assert!(fetched * 100 <= blob.len() as u64 * 105, "{fetched}");
        assert_eq!(remote.whole("a", &digest).await.unwrap().0, Outcome::Hit);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_a_slow_client_holds_up_nobody() {
    let server = Server::start().await;
    // Upstream is what takes the time, the same for all.
    server.on("GET /blobs/", ALWAYS, [Act::Rate(20_000_000)]);
    let mut found = Vec::new();
    // Other tests may be at work beside one half of the comparison and not beside the other: there is a second chance.
    while !found
        .iter()
        .any(|(crowded, alone): &(Duration, Duration)| *crowded < alone.mul_f64(1.5))
    {
        assert!(found.len() < 5, "beside a slow client, and alone: {found:?}");
        let seed = 60 + found.len() as u64;
        let (solo, shared) = (noise(32 * MIB, seed), noise(32 * MIB, seed + 100));
        let (solo_digest, digest) = (server.put_blob("a", &solo), server.put_blob("a", &shared));
        let remote = Arc::new(pulling(&remote(&server)).await);
        let begin = Instant::now();
        assert!(remote.whole("a", &solo_digest).await.unwrap().1 == solo);
        let alone = begin.elapsed();

        let begin = Instant::now();
        let slow = tokio::spawn(read_slowly(remote.arriving("a", &digest).await));
        let fast = (0..9).map(|_| {
            let (remote, digest) = (Arc::clone(&remote), digest.clone());
            tokio::spawn(async move { remote.whole("a", &digest).await.unwrap().1.len() })
        });
        for read in join_all(fast).await {
            assert_eq!(read.unwrap(), 32 * MIB);
        }
        found.push((begin.elapsed(), alone));
        assert!(!slow.is_finished());
        slow.abort();
    }
}

/// A hundred kilobytes a second, for as long as the test takes.
async fn read_slowly(mut follower: Follower) {
    while let Some(chunk) = follower.next_chunk().await.unwrap() {
        tokio::time::sleep(Duration::from_millis(chunk.len() as u64 / 100)).await;
    }
}
