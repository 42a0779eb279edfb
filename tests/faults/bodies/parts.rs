//! One large blob over several connections.

use std::time::{Duration, Instant};

use entrepot::cache::Outcome;
use entrepot::config::RemoteConfig;
use entrepot::upstream;

use crate::support::remote::{MIB, drain, pulling, until};
use crate::support::upstream::{ALWAYS, Act, Gate, Server, noise, pattern, remote};

fn in_parts(server: &Server) -> RemoteConfig {
    RemoteConfig {
        fetch_parts: 4,
        connections: 32,
        ..remote(server)
    }
}

/// How long an upstream takes to answer, and how fast one of its connections is.
const FAR: [Act; 2] = [Act::Delay(Duration::from_millis(50)), Act::Rate(20_000_000)];

fn ranges(server: &Server) -> Vec<String> {
    let seen = server.seen();
    let ranges = seen.iter().filter_map(|seen| seen.header("range").map(str::to_owned));
    ranges.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_blob_comes_in_a_third_of_the_time_and_begins_as_soon() {
    const SIZE: u64 = 64 << 20;
    let server = Server::start().await;
    let digest = server.put_pattern("a", SIZE);
    server.on("GET /blobs/", ALWAYS, FAR);
    let whole = pattern(0, SIZE);
    let mut found = Vec::new();
    // The goal is 0.35; a machine that is busy with other tests gets some room, and a second chance.
    while !found
        .iter()
        .any(|(parts, direct): &(Duration, Duration)| *parts < direct.mul_f64(0.5))
    {
        assert!(found.len() < 5, "in parts, and over one connection: {found:?}");
        let mut took = Vec::new();
        for config in [in_parts(&server), remote(&server)] {
            let before = ranges(&server).len();
            let remote = pulling(&config).await;
            let begin = Instant::now();
            let mut follower = remote.arriving("a", &digest).await;
            let mut bytes = follower.next_chunk().await.unwrap().expect("a chunk").to_vec();
            let first = begin.elapsed();
            assert!(first < Duration::from_secs(2), "{first:?}");
            bytes.extend(drain(&mut follower).await.unwrap());
            took.push(begin.elapsed());
            assert!(bytes == whole);
            let fetched = remote.counted("entrepot_upstream_bytes_total{repository=\"remote\"}");
            assert!(fetched >= SIZE && fetched * 100 <= SIZE * 105, "{fetched}");
            assert_eq!(remote.whole("a", &digest).await.unwrap().0, Outcome::Hit);
            assert_eq!(ranges(&server).len() > before, config.fetch_parts > 1);
        }
        found.push((took[0], took[1]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_without_ranges_is_asked_once_and_sends_one_stream() {
    let server = Server::start().await;
    let wrong = Act::Header("Content-Range", "bytes 0-9/10".to_owned());
    for (seed, act) in [(1, Act::IgnoreRange), (2, Act::Without("Content-Range")), (3, wrong)] {
        server.behave();
        server.on("GET /blobs/", ALWAYS, [Act::Rate(200_000_000)]);
        let remote = pulling(&in_parts(&server)).await;
        let blob = noise(24 * MIB, seed);
        let digest = server.put_blob("a", &blob);
        server.behave();
        // Each of the first connections has begun before any is answered.
        server.on("GET /blobs/", 1, [Act::Rate(50_000_000)]);
        server.on("GET /blobs/", ALWAYS, [act]);
        let before = server.asked("GET /blobs/");
        let (_, bytes) = remote.whole("a", &digest).await.unwrap();
        assert!(bytes == blob);
        let asked = server.asked("GET /blobs/") - before;
        assert!((2..=7).contains(&asked), "{asked}");

        // It is remembered.
        let next = noise(24 * MIB, seed + 10);
        let digest = server.put_blob("a", &next);
        let before = server.asked("GET /blobs/");
        let (_, bytes) = remote.whole("a", &digest).await.unwrap();
        assert!(bytes == next);
        assert_eq!(server.asked("GET /blobs/") - before, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_with_tags_of_their_own_still_send_parts() {
    let server = Server::start().await;
    let blob = noise(40 * MIB, 4);
    let digest = server.put_blob("a", &blob);
    let other = Act::Header("ETag", "\"of another host\"".to_owned());
    server.on("GET /blobs/", 1, [other, Act::Rate(20_000_000)]);
    server.on("GET /blobs/", ALWAYS, [Act::Rate(20_000_000)]);
    let remote = pulling(&in_parts(&server)).await;
    let (_, bytes) = remote.whole("a", &digest).await.unwrap();
    assert!(bytes == blob);
    let parts = server.seen().into_iter().filter(|seen| seen.status == 206).count();
    assert!(parts >= 3, "{parts}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_fails_breaks_off_or_stands_still_is_taken_up_by_another() {
    let server = Server::start().await;
    let gate = Gate::new();
    let failures: Vec<Vec<Act>> = vec![
        vec![Act::Status(503)],
        vec![Act::Close],
        vec![Act::CutAfter(3 * MIB)],
        vec![Act::ResetAfter(MIB)],
        vec![Act::HoldAfter(MIB, gate.clone())],
        vec![Act::Hang],
        vec![Act::Trickle(1000, Duration::from_millis(10))],
    ];
    for (seed, acts) in failures.into_iter().enumerate() {
        let what = seed;
        let blob = noise(40 * MIB, seed as u64);
        let digest = server.put_blob("a", &blob);
        server.behave();
        server.on("GET /blobs/", 1, [Act::Rate(20_000_000)]);
        server.on("GET /blobs/", 1, acts);
        server.on("GET /blobs/", ALWAYS, [Act::Rate(50_000_000)]);
        let config = RemoteConfig {
            idle_timeout: Duration::from_secs(20),
            first_byte_timeout: Duration::from_secs(20),
            ..in_parts(&server)
        };
        let remote = pulling(&config).await;
        let begin = Instant::now();
        let (_, bytes) = remote.whole("a", &digest).await.unwrap();
        assert!(bytes == blob, "{what}");
        assert!(
            begin.elapsed() < Duration::from_secs(15),
            "{what}: {:?}",
            begin.elapsed()
        );
        let fetched = remote.counted("entrepot_upstream_bytes_total{repository=\"remote\"}");
        assert!(fetched * 100 <= blob.len() as u64 * 110, "{what}: {fetched}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_connection_may_break_off_while_others_go_on() {
    let server = Server::start().await;
    let blob = noise(40 * MIB, 30);
    let digest = server.put_blob("a", &blob);
    server.on("GET /blobs/", 1, [Act::Rate(20_000_000), Act::CutAfter(2 * MIB)]);
    server.on("GET /blobs/", ALWAYS, [Act::Rate(20_000_000)]);
    let remote = pulling(&in_parts(&server)).await;
    let mut follower = remote.arriving("a", &digest).await;
    assert!(drain(&mut follower).await.unwrap() == blob);
    let fetched = remote.counted("entrepot_upstream_bytes_total{repository=\"remote\"}");
    assert!(fetched * 100 <= blob.len() as u64 * 105, "{fetched}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_lies_never_becomes_a_blob() {
    let server = Server::start().await;
    let blob = noise(40 * MIB, 31);
    let digest = server.put_blob("a", &blob);
    let mut wrong = blob.to_vec();
    wrong[25 * MIB] ^= 1;
    let remote = pulling(&in_parts(&server)).await;
    server.on(
        "GET /blobs/",
        1,
        [Act::Rate(20_000_000), Act::HoldAfter(12 * MIB, Gate::new())],
    );
    // Whichever of them it is: each sends the part that it is asked for out of other bytes.
    let lies = server.put_blob("b", &wrong.into());
    server.on(
        "GET /v2/a/blobs/",
        ALWAYS,
        [Act::Redirect(format!("{}/v2/b/blobs/{lies}", server.url()))],
    );
    let mut follower = remote.arriving("a", &digest).await;
    let error = drain(&mut follower).await.unwrap_err();
    assert!(matches!(error.upstream(), Some(upstream::Error::Lies(_))), "{error}");
    remote.assert_nothing_kept(&digest).await;
    server.behave();
    assert!(remote.whole("a", &digest).await.unwrap().1 == blob);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_leave_room_for_others_and_give_way_to_them() {
    let server = Server::start().await;
    let blob = noise(60 * MIB, 40);
    let digest = server.put_blob("a", &blob);
    server.on("GET /v2/a/blobs/", ALWAYS, [Act::Rate(10_000_000)]);
    let config = RemoteConfig {
        connections: 6,
        ..in_parts(&server)
    };
    let remote = pulling(&config).await;
    let mut follower = remote.arriving("a", &digest).await;
    until("it comes in parts", || !ranges(&server).is_empty()).await;
    // Half of the four for bodies at most are for parts: no more than three are in use.
    assert!(ranges(&server).len() <= 2, "{:?}", ranges(&server));
    let held: Vec<_> = (0..3)
        .map(|seed| server.put_blob("b", &noise(2 * MIB, 50 + seed)))
        .collect();
    let gate = Gate::new();
    server.on("GET /v2/b/blobs/", ALWAYS, [Act::HoldAfter(MIB, gate.clone())]);
    let begin = Instant::now();
    let mut others = Vec::new();
    for digest in &held {
        others.push(remote.arriving("b", digest).await);
    }
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    // And a manifest has its own.
    server.put_image("c", "v1", &[]);
    assert!(remote.tag("c", "v1").await.unwrap().is_some());
    gate.open();
    for other in &mut others {
        assert_eq!(drain(other).await.unwrap().len(), 2 * MIB);
    }
    assert!(drain(&mut follower).await.unwrap() == blob);
}

#[tokio::test]
async fn small_blobs_and_single_connections_are_not_parted() {
    let server = Server::start().await;
    for (parts, connections, size) in [(4, 32, 8 * MIB), (1, 32, 24 * MIB), (4, 1, 24 * MIB)] {
        let config = RemoteConfig {
            fetch_parts: parts,
            connections,
            ..remote(&server)
        };
        let remote = pulling(&config).await;
        let digest = server.put_blob("a", &noise(size, size as u64));
        let before = server.asked("GET /blobs/");
        remote.whole("a", &digest).await.unwrap();
        assert_eq!(server.asked("GET /blobs/") - before, 1);
    }
}
