//! What a remote does between a registry that misbehaves and a real store.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets the unexpected should stop there"
)]

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use entrepot::cache::{Cached, Error, Outcome};
use entrepot::config::RemoteConfig;
use entrepot::oci::media_type::{OCI_INDEX, OCI_MANIFEST};
use entrepot::oci::{Descriptor, Digest};
use entrepot::upstream;
use futures_util::future::join_all;
use support::remote::{MIB, Remote, again, drain, image, key, pulling, reference, until};
use support::upstream::{ALWAYS, Act, Gate, Server, digest, noise, remote};

/// A remote that does not remember what is not there: here every question is to be asked.
fn forgetful(server: &Server) -> RemoteConfig {
    RemoteConfig {
        negative_ttl: Duration::ZERO,
        ..remote(server)
    }
}

fn is_lie(error: &Error) -> bool {
    matches!(error.upstream(), Some(upstream::Error::Lies(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_who_want_a_blob_at_once_cost_one_fetch_and_none_waits_for_its_end() {
    let server = Server::start().await;
    let blob = noise(4 * MIB, 1);
    let digest = server.put_blob("a", &blob);
    let gate = Gate::new();
    server.on("GET /blobs/", ALWAYS, [Act::HoldAfter(2 * MIB, gate.clone())]);
    let remote = Arc::new(pulling(&remote(&server)).await);

    let started = Arc::new(tokio::sync::Semaphore::new(0));
    let clients = (0..50).map(|_| {
        let (remote, digest, started) = (Arc::clone(&remote), digest.clone(), Arc::clone(&started));
        tokio::spawn(async move {
            let mut follower = remote.arriving("a", &digest).await;
            assert_eq!(follower.total(), Some(4 * MIB as u64));
            let mut bytes = follower.next_chunk().await.unwrap().expect("a first chunk").to_vec();
            started.add_permits(1);
            bytes.extend(drain(&mut follower).await.unwrap());
            bytes
        })
    });
    let clients: Vec<_> = clients.collect();
    // The second half comes only after every client has read something.
    drop(started.acquire_many(50).await.unwrap());
    gate.open();
    for bytes in join_all(clients).await {
        assert!(bytes.unwrap() == blob);
    }
    assert_eq!(server.asked("GET /blobs/"), 1);
    assert_eq!(
        remote.counted("entrepot_coalesced_requests_total{repository=\"remote\"}"),
        49
    );
    assert_eq!(
        remote.counted("entrepot_upstream_bytes_total{repository=\"remote\"}"),
        4 * MIB as u64
    );
    let (outcome, bytes) = remote.whole("a", &digest).await.unwrap();
    assert_eq!(outcome, Outcome::Hit);
    assert!(bytes == blob);
    assert_eq!(server.asked("* /v2/"), 1);
}

#[tokio::test]
async fn who_leaves_takes_nothing_along() {
    let server = Server::start().await;
    let blob = noise(2 * MIB, 2);
    let digest = server.put_blob("a", &blob);
    let gate = Gate::new();
    server.on("GET /blobs/", ALWAYS, [Act::HoldAfter(MIB / 2, gate.clone())]);
    let remote = pulling(&remote(&server)).await;
    let mut first = remote.arriving("a", &digest).await;
    first.next_chunk().await.unwrap().expect("a chunk");
    drop(first);
    gate.open();
    let mut second = remote.arriving("a", &digest).await;
    assert!(drain(&mut second).await.unwrap() == blob);
    assert_eq!(
        server.asked("GET /blobs/"),
        1,
        "the second joined the fetch of the first"
    );

    // And with nobody left at all.
    let digest = server.put_blob("a", &noise(MIB, 3));
    drop(remote.arriving("a", &digest).await);
    until("the fill is done", || {
        remote.counted("entrepot_fetches{repository=\"remote\"}") == 0
    })
    .await;
    let (outcome, _) = remote.whole("a", &digest).await.unwrap();
    assert_eq!(outcome, Outcome::Hit);
}

#[tokio::test]
async fn wrong_bytes_never_come_to_an_end_and_are_not_kept() {
    let server = Server::start().await;
    let right = noise(MIB, 4);
    let digest = server.put_blob("a", &right);
    let remote = pulling(&remote(&server)).await;
    let flipped = |at: usize| {
        let mut bytes = right.to_vec();
        bytes[at] ^= 1;
        Act::Body(bytes.into())
    };
    let longer = Bytes::from([&right[..], b"!"].concat());
    for acts in [
        vec![flipped(0)],
        vec![flipped(MIB / 2)],
        vec![flipped(MIB - 1)],
        vec![Act::Body(right.slice(..MIB - 1))],
        vec![Act::Body(longer.clone())],
        vec![Act::Body(longer), Act::Unmeasured],
        vec![Act::Unmeasured, Act::CutAfter(MIB / 2)],
        vec![Act::Body(noise(MIB, 5))],
    ] {
        server.behave();
        server.on("GET /blobs/", ALWAYS, acts);
        let mut follower = remote.arriving("a", &digest).await;
        let mut bytes = 0;
        let error = loop {
            match follower.next_chunk().await {
                Ok(Some(chunk)) => bytes += chunk.len(),
                Ok(None) => panic!("a wrong blob came to an end"),
                Err(error) => break error,
            }
        };
        assert!(is_lie(&error), "{error}");
        assert!(bytes <= MIB + 1 - 64 * 1024, "{bytes} bytes were given away");
        remote.assert_nothing_kept(&digest).await;
    }
    server.behave();
    let (outcome, bytes) = remote.whole("a", &digest).await.unwrap();
    assert_eq!(outcome, Outcome::Miss, "the next one begins anew");
    assert!(bytes == right);
}

#[tokio::test]
async fn what_can_be_told_before_the_first_byte_is_told_as_what_it_is() {
    let server = Server::start().await;
    let small = server.put_blob("a", &noise(1000, 6));
    let large = server.put_blob("a", &noise(MIB, 7));
    let remote = pulling(&remote(&server)).await;
    let missing = digest(b"missing");
    assert!(remote.blob("a", &missing).await.unwrap().is_none());

    // Small ones wait for their digest anyway.
    server.on("GET /blobs/", 1, [Act::Body(noise(1000, 8))]);
    assert!(is_lie(&remote.blob("a", &small).await.unwrap_err()));
    server.on("GET /blobs/", 1, [Act::Body(Bytes::new())]);
    assert!(is_lie(&remote.blob("a", &large).await.unwrap_err()));
    for (act, expected) in [
        (Act::Status(403), upstream::Error::Refused { status: 403 }),
        (Act::Status(500), upstream::Error::Failing { status: 500 }),
    ] {
        server.on("GET /blobs/", 1, [act]);
        let error = remote.blob("a", &large).await.unwrap_err();
        assert_eq!(error.upstream(), Some(&expected));
        assert!(error.to_string().contains(&server.host()), "{error}");
    }
    remote.assert_nothing_kept(&large).await;

    // Nothing is right for the digest of nothing.
    let nothing = server.put_blob("a", &Bytes::new());
    assert_eq!(remote.whole("a", &nothing).await.unwrap(), (Outcome::Miss, Vec::new()));
    assert_eq!(remote.whole("a", &nothing).await.unwrap(), (Outcome::Hit, Vec::new()));

    // Who was asked too often is left alone for a while.
    server.on("GET /blobs/", 1, [Act::Status(429)]);
    let error = remote.blob("a", &large).await.unwrap_err();
    assert_eq!(
        error.upstream(),
        Some(&upstream::Error::RateLimited { retry_after: None })
    );
    let error = remote.blob("a", &large).await.unwrap_err();
    assert!(
        error.upstream().and_then(upstream::Error::retry_after).is_some(),
        "{error}"
    );
}

#[tokio::test]
async fn a_cut_in_the_middle_is_mended_without_the_client() {
    let server = Server::start().await;
    let remote = pulling(&remote(&server)).await;
    let fetched = || remote.counted("entrepot_upstream_bytes_total{repository=\"remote\"}");
    for (seed, cuts, acts, most) in [
        (10, 1, vec![Act::CutAfter(2 * MIB)], 105),
        (11, 7, vec![Act::CutAfter(MIB / 2)], 105),
        // Without ranges it has to come once more, and still nobody notices.
        (12, 2, vec![Act::CutAfter(2 * MIB), Act::IgnoreRange], 210),
    ] {
        let blob = noise(4 * MIB, seed);
        let digest = server.put_blob("a", &blob);
        server.behave();
        if cuts == 2 {
            server.on("GET /blobs/", 1, acts);
            server.on("GET /blobs/", 1, [Act::IgnoreRange]);
        } else {
            server.on("GET /blobs/", cuts, acts);
        }
        let before = fetched();
        let (outcome, bytes) = remote.whole("a", &digest).await.unwrap();
        assert_eq!(outcome, Outcome::Miss);
        assert!(bytes == blob);
        let percent = (fetched() - before) * 100 / blob.len() as u64;
        assert!(percent <= most, "{percent} %");
        assert_eq!(remote.whole("a", &digest).await.unwrap().0, Outcome::Hit);
    }
    let resumed = server.seen().into_iter().filter(|seen| seen.status == 206).count();
    assert_eq!(resumed, 1 + 7);

    // One that does not get any further has an end.
    let blob = noise(MIB, 13);
    let digest = server.put_blob("a", &blob);
    server.behave();
    server.on("GET /blobs/", ALWAYS, [Act::CutAfter(0)]);
    let before = server.asked("GET /blobs/");
    let error = remote.whole("a", &digest).await.unwrap_err();
    assert!(matches!(error.upstream(), Some(upstream::Error::Broken(_))), "{error}");
    assert_eq!(server.asked("GET /blobs/") - before, 6);
    remote.assert_nothing_kept(&digest).await;
}

#[tokio::test]
async fn a_failure_reaches_all_who_wait_and_leaves_the_place_free() {
    let server = Server::start().await;
    let blob = noise(2 * MIB, 14);
    let digest = server.put_blob("a", &blob);
    let gate = Gate::new();
    let mut wrong = blob.to_vec();
    wrong[MIB + 1] ^= 1;
    server.on(
        "GET /blobs/",
        1,
        [Act::Body(wrong.into()), Act::HoldAfter(MIB, gate.clone())],
    );
    let remote = pulling(&remote(&server)).await;
    let mut followers = Vec::new();
    for _ in 0..20 {
        followers.push(remote.arriving("a", &digest).await);
    }
    gate.open();
    let begin = Instant::now();
    let ends = join_all(followers.iter_mut().map(drain)).await;
    assert!(ends.iter().all(|end| end.as_ref().is_err_and(is_lie)));
    assert!(begin.elapsed() < Duration::from_secs(1));
    let (_, bytes) = remote.whole("a", &digest).await.unwrap();
    assert!(bytes == blob);
    assert_eq!(server.asked("GET /blobs/"), 2);
}

#[tokio::test]
async fn a_part_can_be_read_while_the_whole_arrives() {
    let server = Server::start().await;
    let blob = noise(MIB, 15);
    let digest = server.put_blob("a", &blob);
    let gate = Gate::new();
    server.on("GET /blobs/", 1, [Act::HoldAfter(MIB / 2, gate.clone())]);
    let remote = pulling(&remote(&server)).await;
    let mut part = remote.arriving("a", &digest).await;
    part.narrow(1000, 200_000);
    assert!(drain(&mut part).await.unwrap() == blob[1000..200_000]);
    let mut tail = remote.arriving("a", &digest).await;
    tail.narrow(MIB as u64 - 10, u64::MAX);
    gate.open();
    assert!(drain(&mut tail).await.unwrap() == blob[MIB - 10..]);
}

#[tokio::test]
async fn lengths_that_differ_from_the_manifests_are_not_fetched() {
    let server = Server::start().await;
    let layer = noise(MIB, 16);
    let put = server.put_image("a", "v1", std::slice::from_ref(&layer));
    let remote = pulling(&remote(&server)).await;
    remote.tag("a", "v1").await.unwrap().unwrap();
    server.on("GET /blobs/", 1, [Act::Body(noise(3 * MIB, 17))]);
    assert!(is_lie(&remote.blob("a", &put.layers[0]).await.unwrap_err()));
    // Without a length: no more than the manifest says is taken.
    server.on("GET /blobs/", 1, [Act::Body(noise(3 * MIB, 17)), Act::Unmeasured]);
    assert!(is_lie(&remote.whole("a", &put.layers[0]).await.unwrap_err()));
    let fetched = remote.counted("entrepot_upstream_bytes_total{repository=\"remote\"}");
    assert!(fetched < 2 * MIB as u64, "{fetched}");
    // And then the manifest's length is the blob's.
    server.on("GET /blobs/", 1, [Act::Unmeasured]);
    assert_eq!(remote.arriving("a", &put.layers[0]).await.total(), Some(MIB as u64));
}

#[tokio::test]
async fn what_another_image_brought_is_not_given_away() {
    let server = Server::start().await;
    let blob = noise(MIB, 18);
    let digest = server.put_blob("private", &blob);
    let remote = pulling(&forgetful(&server)).await;
    remote.whole("private", &digest).await.unwrap();

    assert!(remote.blob("public", &digest).await.unwrap().is_none());
    server.on("HEAD /v2/public/", 3, [Act::Status(503)]);
    assert!(
        remote.blob("public", &digest).await.is_err(),
        "who could not tell says so"
    );
    server.on("HEAD /v2/public/", 1, [Act::Status(403)]);
    assert!(remote.blob("public", &digest).await.is_err());
    server.put_blob("public", &blob);
    server.on("HEAD /v2/public/", 1, [Act::Header("Content-Length", "7".to_owned())]);
    assert!(is_lie(&remote.blob("public", &digest).await.unwrap_err()));
    let (outcome, bytes) = remote.whole("public", &digest).await.unwrap();
    assert_eq!(outcome, Outcome::Hit);
    assert!(bytes == blob);
    assert_eq!(server.asked("GET /blobs/"), 1, "content is fetched once");

    server.stop().await;
    assert_eq!(remote.whole("public", &digest).await.unwrap().0, Outcome::Hit);
    let size = remote
        .cache
        .blob_size(&image("public"), &digest)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((size.value, size.outcome), (MIB as u64, Outcome::Hit));
    assert!(remote.cache.blob_size(&image("third"), &digest).await.is_err());
}

#[tokio::test]
async fn a_fetch_under_way_is_joined_by_another_image_only_with_upstreams_leave() {
    let server = Server::start().await;
    let blob = noise(MIB, 19);
    let digest = server.put_blob("a", &blob);
    let gate = Gate::new();
    server.on("GET /v2/a/blobs/", 1, [Act::HoldAfter(MIB / 2, gate.clone())]);
    let remote = pulling(&forgetful(&server)).await;
    let mut first = remote.arriving("a", &digest).await;

    assert!(remote.blob("b", &digest).await.unwrap().is_none());
    server.put_blob("b", &blob);
    let mut second = remote.arriving("b", &digest).await;
    gate.open();
    assert!(drain(&mut first).await.unwrap() == blob);
    assert!(drain(&mut second).await.unwrap() == blob);
    assert_eq!(server.asked("GET /blobs/"), 1);
    let heads = server.asked("HEAD /blobs/");
    assert_eq!(remote.whole("b", &digest).await.unwrap().0, Outcome::Hit);
    assert_eq!(server.asked("HEAD /blobs/"), heads, "it is linked in both");

    // A fetch that comes to nothing for one image says nothing about another.
    let other = server.put_blob("b", &noise(MIB, 20));
    server.on(
        "GET /v2/a/blobs/",
        1,
        [Act::Delay(Duration::from_millis(200)), Act::Status(404)],
    );
    let (name, name_b) = (image("a"), image("b"));
    let (absent, present) = tokio::join!(remote.cache.blob(&name, &other), remote.cache.blob(&name_b, &other));
    assert!(absent.unwrap().is_none());
    assert!(present.unwrap().is_some());
}

/// A remote whose tags are never fresh.
fn impatient(server: &Server) -> RemoteConfig {
    let mut config = remote(server);
    config.tag_ttl = Duration::ZERO;
    config
}

#[tokio::test]
async fn a_tag_is_asked_for_when_its_time_is_over_and_by_head() {
    let server = Server::start().await;
    let first = server.put_image("a", "v1", &[noise(10, 21)]);
    let remote_fresh = pulling(&remote(&server)).await;
    let pulled = remote_fresh.tag("a", "v1").await.unwrap().unwrap();
    assert_eq!((pulled.outcome, &pulled.value.digest), (Outcome::Miss, &first.digest));
    let pulled = remote_fresh.tag("a", "v1").await.unwrap().unwrap();
    assert_eq!(pulled.outcome, Outcome::Hit);
    assert_eq!(pulled.value.bytes, first.manifest);
    assert_eq!(server.asked("* /v2/"), 1, "a fresh tag is not asked for");
    let by_digest = reference(first.digest.as_str());
    let pulled = remote_fresh
        .cache
        .manifest(&image("a"), &by_digest)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(pulled.outcome, Outcome::Hit);
    assert_eq!(server.asked("* /v2/"), 1, "a digest neither");

    let Remote {
        store,
        metrics,
        directory,
        ..
    } = remote_fresh;
    let remote = Remote {
        cache: again(
            &RemoteConfig {
                negative_ttl: Duration::ZERO,
                ..impatient(&server)
            },
            &store,
            &metrics,
        ),
        store,
        metrics,
        directory,
    };
    let pulled = remote.tag("a", "v1").await.unwrap().unwrap();
    assert_eq!((pulled.outcome, pulled.warning), (Outcome::Revalidated, None));
    assert_eq!(server.asked("HEAD /manifests/v1"), 1);
    assert_eq!(
        server.asked("GET /manifests/"),
        1,
        "nothing is fetched that did not change"
    );

    let second = server.put_image("a", "v1", &[noise(10, 22)]);
    let pulled = remote.tag("a", "v1").await.unwrap().unwrap();
    assert_eq!((pulled.outcome, &pulled.value.digest), (Outcome::Miss, &second.digest));
    assert_eq!(server.asked(&format!("GET /manifests/{}", second.digest)), 1);

    // Registries that say less to a HEAD.
    for acts in [
        vec![Act::Without("Docker-Content-Digest")],
        vec![Act::Status(403)],
        vec![Act::Status(404)],
        vec![Act::Status(405)],
    ] {
        server.on("HEAD /manifests/", 1, acts);
        let pulled = remote.tag("a", "v1").await.unwrap().unwrap();
        assert_eq!(
            (pulled.outcome, &pulled.value.digest),
            (Outcome::Revalidated, &second.digest)
        );
    }
    // One whose HEAD promises what its GET does not have.
    server.on(
        "HEAD /manifests/",
        1,
        [Act::Header("Docker-Content-Digest", digest(b"x").to_string())],
    );
    let pulled = remote.tag("a", "v1").await.unwrap().unwrap();
    assert_eq!(
        (pulled.outcome, &pulled.value.digest),
        (Outcome::Revalidated, &second.digest)
    );

    server.remove_manifest("a", "v1");
    assert!(remote.tag("a", "v1").await.unwrap().is_none(), "gone is gone");
    let by_digest = remote
        .cache
        .manifest(&image("a"), &reference(second.digest.as_str()))
        .await;
    assert_eq!(by_digest.unwrap().unwrap().outcome, Outcome::Hit);
    server.stop().await;
    let stale = remote.tag("a", "v1").await.unwrap().unwrap();
    assert_eq!(
        stale.outcome,
        Outcome::Stale,
        "only upstream can say that a tag is gone"
    );
}

#[tokio::test]
async fn those_who_want_a_tag_at_once_ask_once() {
    let server = Server::start().await;
    server.put_image("a", "v1", &[]);
    server.on("* /manifests/", ALWAYS, [Act::Delay(Duration::from_millis(100))]);
    let remote = pulling(&impatient(&server)).await;
    let all = join_all((0..20).map(|_| remote.tag("a", "v1"))).await;
    assert!(all.into_iter().all(|one| one.unwrap().is_some()));
    assert_eq!(server.asked("* /v2/"), 1);
    let all = join_all((0..20).map(|_| remote.tag("a", "v1"))).await;
    assert!(
        all.into_iter()
            .all(|one| one.unwrap().unwrap().outcome == Outcome::Revalidated)
    );
    assert_eq!(server.asked("* /v2/"), 2);
}

#[tokio::test]
async fn every_kind_of_failure_serves_what_is_stored_and_denies_nothing() {
    let html = vec![
        Act::Status(200),
        Act::Body(Bytes::from_static(b"<html>")),
        Act::Header("Content-Type", "text/html".to_owned()),
        Act::Without("Docker-Content-Digest"),
    ];
    let lie = Act::Header("Docker-Content-Digest", digest(b"lie").to_string());
    for (what, acts) in [
        ("hangs", vec![Act::Hang]),
        ("closes", vec![Act::Close]),
        ("401", vec![Act::Status(401)]),
        ("403", vec![Act::Status(403)]),
        ("410", vec![Act::Status(410)]),
        (
            "429",
            vec![Act::Status(429), Act::Header("Retry-After", "60".to_owned())],
        ),
        ("500", vec![Act::Status(500)]),
        ("502", vec![Act::Status(502)]),
        ("503", vec![Act::Status(503)]),
        ("html", html),
        ("lies", vec![lie]),
        ("circles", vec![Act::Redirect("/v2/".to_owned())]),
        ("cut", vec![Act::CutAfter(5), Act::Without("Docker-Content-Digest")]),
    ] {
        let server = Server::start().await;
        let put = server.put_image("a", "v1", &[]);
        let remote = pulling(&impatient(&server)).await;
        remote.tag("a", "v1").await.unwrap().unwrap();
        server.on("* /v2/", ALWAYS, acts);
        for _ in 0..2 {
            let begin = Instant::now();
            let stale = remote.tag("a", "v1").await.unwrap().unwrap();
            assert_eq!(stale.outcome, Outcome::Stale, "{what}");
            assert_eq!(stale.value.digest, put.digest, "{what}");
            let warning = stale.warning.expect("a reason");
            assert!(warning.contains(&server.host()), "{what}: {warning}");
            assert!(begin.elapsed() < Duration::from_secs(1), "{what}");
        }
        let by_digest = reference(put.digest.as_str());
        let hit = remote.cache.manifest(&image("a"), &by_digest).await.unwrap().unwrap();
        assert_eq!(hit.outcome, Outcome::Hit);
        if matches!(what, "lies" | "cut") {
            continue;
        }
        // What was never seen is not denied.
        let begin = Instant::now();
        assert!(remote.tag("a", "never").await.is_err(), "{what}");
        assert!(remote.tag("never", "v1").await.is_err(), "{what}");
        assert!(remote.blob("a", &digest(b"never")).await.is_err(), "{what}");
        assert!(begin.elapsed() < Duration::from_secs(8), "{what}");
    }
}

#[tokio::test]
async fn an_upstream_that_refuses_delays_nobody_and_one_that_hangs_only_the_first() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[]);
    server.put_image("b", "v1", &[]);
    let mut config = impatient(&server);
    config.revalidate_timeout = Duration::from_secs(1);
    let remote = pulling(&config).await;
    remote.tag("a", "v1").await.unwrap().unwrap();
    remote.tag("b", "v1").await.unwrap().unwrap();
    let timed = |name: &'static str| {
        let remote = &remote;
        async move {
            let begin = Instant::now();
            let stale = remote.tag(name, "v1").await.unwrap().unwrap();
            assert_eq!(stale.outcome, Outcome::Stale);
            begin.elapsed()
        }
    };
    let back = || async {
        let begin = Instant::now();
        while remote.tag("a", "v1").await.unwrap().unwrap().outcome != Outcome::Revalidated {
            assert!(begin.elapsed() < Duration::from_secs(10), "it never came back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };

    // Far less than the second that an answer is waited for; a machine that builds and tests at once needs some room.
    let at_once = Duration::from_millis(300);
    server.stop().await;
    assert!(timed("a").await < at_once);
    assert!(timed("b").await < at_once);
    server.resume().await;
    back().await;

    server.on("* /v2/", ALWAYS, [Act::Hang]);
    let first = timed("a").await;
    assert!(
        first >= Duration::from_secs(1) && first < Duration::from_secs(2),
        "{first:?}"
    );
    let asked = server.asked("* /v2/");
    for name in ["a", "b", "a", "b"] {
        let next = timed(name).await;
        assert!(next < at_once, "{next:?}");
    }
    assert_eq!(server.asked("* /v2/"), asked, "nobody else asks meanwhile");
    server.behave();
    // Those that hang now go on hanging: it comes back with the first probe after them.
    back().await;
    assert_eq!(
        remote.tag("b", "v1").await.unwrap().unwrap().outcome,
        Outcome::Revalidated
    );

    // What is only slow is answered in the background, and the next one has it.
    let second = server.put_image("a", "v1", &[noise(10, 30)]);
    server.on("HEAD /v2/", 1, [Act::Delay(Duration::from_millis(1500))]);
    let stale = remote.tag("a", "v1").await.unwrap().unwrap();
    assert_eq!((stale.outcome, &stale.value.digest), (Outcome::Stale, &put.digest));
    until("the answer is in", || {
        server.asked(&format!("GET /manifests/{}", second.digest)) == 1
    })
    .await;
    back().await;
    let now = remote.tag("a", "v1").await.unwrap().unwrap();
    assert_eq!(now.value.digest, second.digest);
}

#[tokio::test]
async fn a_copy_that_is_too_old_is_none() {
    let server = Server::start().await;
    server.put_image("a", "v1", &[]);
    let mut config = impatient(&server);
    config.stale_if_error = Some(Duration::from_secs(2));
    let remote = pulling(&config).await;
    remote.tag("a", "v1").await.unwrap().unwrap();
    server.on("* /v2/", ALWAYS, [Act::Status(500)]);
    assert_eq!(remote.tag("a", "v1").await.unwrap().unwrap().outcome, Outcome::Stale);
    let begin = Instant::now();
    while remote.tag("a", "v1").await.is_ok() {
        assert!(begin.elapsed() < Duration::from_secs(5), "it is served for ever");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Who asks only for what is stored gets it, with its age.
    let cached = remote.cache.cached_manifest(&image("a"), &reference("v1")).await;
    let cached = cached.unwrap().unwrap();
    assert_eq!(cached.outcome, Outcome::Stale);
    assert!(cached.age >= Duration::from_secs(2));
    server.behave();
    assert_eq!(
        remote.tag("a", "v1").await.unwrap().unwrap().outcome,
        Outcome::Revalidated
    );
}

#[tokio::test]
async fn lists_are_upstreams_or_what_is_stored_with_a_warning() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[]);
    server.put_image("a", "v2", &[]);
    let remote = pulling(&remote(&server)).await;
    let tags = || async { remote.cache.tags(&image("a")).await };
    let count = |answer: Cached<Vec<_>>| (answer.value.len(), answer.warning.is_some());
    assert_eq!(tags().await.unwrap().map(count), Some((2, false)));
    assert!(remote.cache.tags(&image("none")).await.unwrap().is_none());

    let signature = Bytes::from(format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","artifactType":"x/sig","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{}","size":2}},"layers":[],"subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":{}}}}}"#,
        digest(b"{}"),
        put.digest,
        put.manifest.len()
    ));
    let signature = server.put_manifest("a", None, &signature, OCI_MANIFEST);
    let referrers = || async {
        let answer = remote.cache.referrers(&image("a"), &put.digest).await?;
        Ok::<_, Error>(answer.map(|answer| (answer.value.len(), answer.warning.is_some())))
    };
    assert_eq!(referrers().await.unwrap(), Some((0, false)));
    remote.tag("a", "v1").await.unwrap().unwrap();
    remote.tag("a", signature.as_str()).await.unwrap().unwrap();
    assert_eq!(referrers().await.unwrap(), Some((1, false)), "what is stored counts");
    let entry = |digest: &Digest| format!(r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":3}}"#);
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{},{}]}}"#,
        entry(&signature),
        entry(&digest(b"other"))
    );
    server.put_referrers("a", &put.digest, &index.into());
    assert_eq!(referrers().await.unwrap(), Some((2, false)), "and nothing counts twice");

    server.on("* /v2/", ALWAYS, [Act::Status(500)]);
    assert_eq!(tags().await.unwrap().map(count), Some((1, true)));
    assert_eq!(referrers().await.unwrap(), Some((1, true)));
    assert!(remote.cache.tags(&image("none")).await.is_err());
    let only_blob = remote.store.image(&key(), &image("only-blob"));
    let blob = server.put_blob("only-blob", &noise(10, 40));
    server.behave();
    remote.whole("only-blob", &blob).await.unwrap();
    assert!(only_blob.has_blob(&blob).await.unwrap().is_some());
    server.on("* /v2/", ALWAYS, [Act::Status(500)]);
    let untold = remote.cache.tags(&image("only-blob")).await;
    assert!(untold.is_err(), "no tag is known, which is not the same as none");
    let unknown = remote.cache.referrers(&image("none"), &put.digest).await;
    assert!(unknown.is_err(), "nobody knows whether there are any");
    assert!(remote.cache.holds(&image("a")).await.unwrap());
    assert!(!remote.cache.holds(&image("none")).await.unwrap());
}

#[tokio::test]
async fn referrers_are_what_the_api_the_tag_and_the_store_say_together() {
    let server = Server::start().await;
    let subject = server.put_image("a", "v1", &[]).digest;
    let mut config = remote(&server);
    config.tag_ttl = Duration::ZERO;
    config.negative_ttl = Duration::ZERO;
    let remote = pulling(&config).await;
    let referrers = || async {
        let answer = remote.cache.referrers(&image("a"), &subject).await?;
        let said = |answer: Cached<Vec<Descriptor>>| {
            let digests: HashSet<Digest> = answer.value.iter().map(|entry| entry.digest.clone()).collect();
            assert_eq!(digests.len(), answer.value.len(), "each once");
            (digests, answer.warning)
        };
        Ok::<_, Error>(answer.map(said).expect("a remote for it"))
    };
    let index = |of: &[&str]| {
        let entry = |name: &&str| {
            format!(
                r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":3}}"#,
                digest(name.as_bytes())
            )
        };
        let entries: Vec<String> = of.iter().map(entry).collect();
        Bytes::from(format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#,
            entries.join(",")
        ))
    };
    let these = |names: &[&str]| names.iter().map(|name| digest(name.as_bytes())).collect::<HashSet<_>>();
    let stand_in = format!("sha256-{}", subject.hex());

    assert_eq!(referrers().await.unwrap(), (these(&[]), None));
    server.put_manifest_as("a", &stand_in, &index(&["old", "both"]), OCI_INDEX);
    server.put_referrers("a", &subject, &index(&["both", "new"]));
    assert_eq!(referrers().await.unwrap(), (these(&["old", "both", "new"]), None));
    for refusal in [404, 400, 405, 406, 501] {
        server.on("GET /referrers/", 1, [Act::Status(refusal)]);
        assert_eq!(
            referrers().await.unwrap(),
            (these(&["old", "both"]), None),
            "no API: {refusal}"
        );
    }
    // An upstream may have written more into it than is taken in a push.
    let many: Vec<String> = (0..1500).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    server.put_manifest_as("a", &stand_in, &index(&many), OCI_INDEX);
    server.on("GET /referrers/", 1, [Act::Status(404)]);
    assert_eq!(referrers().await.unwrap(), (these(&many), None));
    // A tag that is no index is somebody's image, and lists nothing.
    let put = server.put_image("b", "v1", &[]);
    server.put_manifest_as("a", &stand_in, &put.manifest, OCI_MANIFEST);
    assert_eq!(referrers().await.unwrap(), (these(&["both", "new"]), None));
    server.put_manifest_as("a", &stand_in, &index(&["old", "both"]), OCI_INDEX);

    // One of the two fails: what is known is told, and that it may not be all.
    server.on("GET /referrers/", 1, [Act::Status(403)]);
    let (known, warning) = referrers().await.unwrap();
    assert_eq!((known, warning.is_some()), (these(&["old", "both"]), true));
    server.on("* /manifests/sha256-", 3, [Act::Status(403)]);
    let (known, warning) = referrers().await.unwrap();
    assert!(known.is_superset(&these(&["both", "new"])), "{known:?}");
    assert!(warning.is_some());
    server.behave();

    // Away: what was seen of the tag is still there, and nothing is made up.
    server.on("* /v2/", ALWAYS, [Act::Status(500)]);
    let (known, warning) = referrers().await.unwrap();
    assert_eq!((known, warning.is_some()), (these(&["old", "both"]), true));
    assert!(remote.cache.referrers(&image("a"), &digest(b"another")).await.is_err());
}
