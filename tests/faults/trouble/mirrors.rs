//! Mirrors: asked first, believed where they prove themselves, passed over where they fail.

use std::time::{Duration, Instant};

use entrepot::cache::Outcome;
use entrepot::config::RemoteConfig;
use entrepot::upstream::{Error, Range};

use super::super::support::remote::{MIB, image, key, pulling, until};
use super::super::support::upstream::{ALWAYS, Act, Server, credentials, noise, remote};
use super::{asking, manifest, pull};

/// An upstream with these mirrors.
fn mirrored(home: &Server, mirrors: &[&Server]) -> RemoteConfig {
    let mut config = remote(home);
    config.mirrors = mirrors.iter().map(|mirror| mirror.url().parse().unwrap()).collect();
    config
}

#[tokio::test]
async fn mirrors_are_asked_in_their_order_and_only_the_upstream_says_that_something_is_not_there() {
    let (home, first, second) = (Server::start().await, Server::start().await, Server::start().await);
    let bytes = noise(1000, 1);
    for server in [&home, &first, &second] {
        server.put_image("a", "v1", std::slice::from_ref(&bytes));
    }
    let only = home.put_image("only", "v1", std::slice::from_ref(&bytes));
    let upstream = asking(&mirrored(&home, &[&first, &second]));
    assert!(manifest(&upstream, "a", "v1").await.unwrap().is_some());
    assert_eq!((first.seen().len(), second.seen().len(), home.seen().len()), (1, 0, 0));

    // What a mirror does not have, the next one may, and the upstream knows.
    assert_eq!(manifest(&upstream, "only", "v1").await, Ok(Some(only.digest)));
    assert_eq!(manifest(&upstream, "none", "v1").await, Ok(None));
    assert_eq!(home.asked("GET /v2/none/"), 1);
    home.on("* /v2/", 3, [Act::Status(500)]);
    let error = manifest(&upstream, "none", "v1").await.unwrap_err();
    assert_eq!(error, Error::Failing { status: 500 }, "a mirror's 404 is no absence");

    // Blobs too, and their sizes.
    let digest = &only.layers[0];
    assert_eq!(
        upstream.head_blob(&image("only"), digest).await,
        Err(Error::Failing { status: 500 })
    );
    home.behave();
    assert_eq!(upstream.head_blob(&image("only"), digest).await, Ok(Some(1000)));
    let stream = upstream
        .blob(&image("a"), digest, Range::default(), None)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(stream.endpoint(), first.host());
    let stream = upstream
        .blob(&image("only"), digest, Range::default(), None)
        .await
        .unwrap();
    assert_eq!(stream.unwrap().endpoint(), home.host());

    // Lists prove nothing: a mirror is not asked for any.
    let before = first.seen().len();
    assert!(upstream.tags(&image("a")).await.unwrap().is_some());
    upstream.referrers(&image("a"), digest).await.unwrap();
    let lists = first.asked("GET /tags/") + first.asked("GET /referrers/");
    assert_eq!(lists, 0);
    assert!(first.seen().len() <= before + 1);
}

#[tokio::test]
async fn a_mirror_that_fails_is_passed_over_and_comes_back_when_it_is_well() {
    let (home, mirror) = (Server::start().await, Server::start().await);
    let put = home.put_image("a", "v1", &[]);
    mirror.put_image("a", "v1", &[]);
    for acts in [
        vec![Act::Status(500)],
        vec![Act::Status(503), Act::Header("Retry-After", "1".to_owned())],
        vec![Act::Close],
        vec![Act::Status(429)],
        vec![Act::Status(401)],
        vec![Act::Status(403)],
        vec![Act::Redirect("ftp://x/".to_owned())],
    ] {
        let upstream = asking(&mirrored(&home, &[&mirror]));
        let is_refusal = matches!(acts[0], Act::Status(401 | 403) | Act::Redirect(_));
        mirror.behave();
        mirror.on("* /v2/", ALWAYS, acts);
        let (before, begin) = (mirror.asked("* /v2/"), Instant::now());
        for _ in 0..10 {
            assert_eq!(manifest(&upstream, "a", "v1").await, Ok(Some(put.digest.clone())));
        }
        let asked = mirror.asked("* /v2/") - before;
        if !is_refusal && begin.elapsed() < Duration::from_millis(400) {
            assert_eq!(asked, 1);
        }
        mirror.behave();
        let begin = Instant::now();
        let asked = home.asked("* /v2/");
        let mut served = mirror.asked("* /v2/");
        while home.asked("* /v2/") - asked != mirror.asked("* /v2/") - served {
            served = mirror.asked("* /v2/");
        }
        loop {
            let before = home.asked("* /v2/");
            manifest(&upstream, "a", "v1").await.unwrap();
            if home.asked("* /v2/") == before {
                break;
            }
            assert!(begin.elapsed() < Duration::from_secs(10), "it is never asked again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // One that is not there at all.
    mirror.stop().await;
    let upstream = asking(&mirrored(&home, &[&mirror]));
    assert_eq!(manifest(&upstream, "a", "v1").await, Ok(Some(put.digest.clone())));
    // One that hangs leaves the others their part of the time.
    mirror.resume().await;
    mirror.on("* /v2/", ALWAYS, [Act::Hang]);
    let upstream = asking(&mirrored(&home, &[&mirror, &mirror]));
    let begin = Instant::now();
    assert_eq!(manifest(&upstream, "a", "v1").await, Ok(Some(put.digest)));
    assert!(begin.elapsed() < Duration::from_millis(1900));
}

#[tokio::test]
async fn a_mirror_that_lies_is_not_believed_and_not_asked_for_a_while() {
    let (home, mirror) = (Server::start().await, Server::start().await);
    let bytes = noise(MIB, 2);
    let put = home.put_image("a", "v1", std::slice::from_ref(&bytes));
    mirror.put_image("a", "v1", std::slice::from_ref(&bytes));
    let other = mirror.put_image("b", "v1", &[]);
    let config = mirrored(&home, &[&mirror]);

    let upstream = asking(&config);
    let swapped = [Act::Body(other.manifest.clone()), Act::Without("Docker-Content-Digest")];
    mirror.on("GET /manifests/sha256:", 1, swapped);
    assert_eq!(
        manifest(&upstream, "a", put.digest.as_str()).await,
        Ok(Some(put.digest.clone()))
    );
    assert_eq!((mirror.seen().len(), home.seen().len()), (1, 1));
    for _ in 0..3 {
        assert!(manifest(&upstream, "a", "v1").await.unwrap().is_some());
    }
    assert_eq!(mirror.seen().len(), 1, "not asked for a while");

    // Wrong bytes of a blob show at its end only: nothing is kept, and the next one gets the upstream's.
    let remote = pulling(&config).await;
    let mut wrong = bytes.to_vec();
    wrong[MIB / 2] ^= 1;
    mirror.on("GET /blobs/", ALWAYS, [Act::Body(wrong.into())]);
    assert!(remote.whole("a", &put.layers[0]).await.is_err());
    remote.assert_nothing_kept(&put.layers[0]).await;
    assert!(remote.whole("a", &put.layers[0]).await.unwrap().1 == bytes);
    assert_eq!((mirror.asked("GET /blobs/"), home.asked("GET /blobs/")), (1, 1));
}

#[tokio::test]
async fn a_mirror_that_lags_gives_what_a_tag_meant_there_and_never_half_of_it() {
    let (home, mirror) = (Server::start().await, Server::start().await);
    let old = mirror.put_image("a", "v1", &[noise(10, 3)]);
    home.put_image("a", "v1", &[noise(10, 3)]);
    let new = home.put_image("a", "v1", &[noise(10, 4)]);
    let mut config = mirrored(&home, &[&mirror]);
    config.tag_ttl = Duration::ZERO;
    let remote = pulling(&config).await;
    let (outcome, digest, _) = pull(&remote, "a", "v1").await;
    assert_eq!(
        (outcome, &digest),
        (Outcome::Miss, &old.digest),
        "it is trusted for tags"
    );
    // It knows the new one by its digest alone: what it does not have comes from the upstream.
    mirror.on(
        "HEAD /manifests/v1",
        ALWAYS,
        [Act::Header("Docker-Content-Digest", new.digest.to_string())],
    );
    let (outcome, digest, _) = pull(&remote, "a", "v1").await;
    assert_eq!((outcome, &digest), (Outcome::Miss, &new.digest));
    assert_eq!(home.asked(&format!("GET /manifests/{}", new.digest)), 1);
    // Without the mirror, the upstream's word counts.
    mirror.stop().await;
    let (outcome, digest, _) = pull(&remote, "a", "v1").await;
    assert_eq!((outcome, &digest), (Outcome::Revalidated, &new.digest));
}

#[tokio::test]
async fn a_blob_begun_at_one_is_finished_at_another_and_nobody_notices() {
    let (home, mirror) = (Server::start().await, Server::start().await);
    let bytes = noise(4 * MIB, 5);
    for server in [&home, &mirror] {
        server.put_blob("a", &bytes);
    }
    let digest = super::super::support::upstream::digest(&bytes);
    mirror.on("GET /blobs/", ALWAYS, [Act::CutAfter(3 * MIB)]);
    let remote = pulling(&mirrored(&home, &[&mirror])).await;
    let (outcome, got) = remote.whole("a", &digest).await.unwrap();
    assert_eq!(outcome, Outcome::Miss);
    assert!(got == bytes);
    assert_eq!((mirror.asked("GET /blobs/"), home.asked("GET /blobs/")), (1, 1));
    let rest = home.seen().pop().unwrap();
    assert_eq!(rest.status, 206, "only what was missing");
    let fetched = remote.counted("entrepot_upstream_bytes_total{repository=\"remote\"}");
    assert!(fetched <= bytes.len() as u64 * 105 / 100, "{fetched}");

    // And one that breaks off at the upstream goes on at a mirror that is well again.
    let bytes = noise(4 * MIB, 6);
    for server in [&home, &mirror] {
        server.behave();
        server.put_blob("b", &bytes);
    }
    let digest = super::super::support::upstream::digest(&bytes);
    mirror.on("GET /v2/b/blobs/", 1, [Act::Status(404)]);
    home.on("GET /v2/b/blobs/", ALWAYS, [Act::CutAfter(MIB)]);
    let upstream = asking(&mirrored(&home, &[&mirror]));
    drop(upstream);
    let remote = pulling(&mirrored(&home, &[&mirror])).await;
    assert!(remote.whole("b", &digest).await.unwrap().1 == bytes);
    assert_eq!(home.asked("GET /v2/b/blobs/"), 1);
    assert_eq!(mirror.asked("GET /v2/b/blobs/"), 2);
}

#[tokio::test]
async fn a_mirror_sees_no_credentials_and_gets_an_anonymous_token_of_its_own() {
    let (home, mirror) = (Server::start().await, Server::start().await);
    for server in [&home, &mirror] {
        server.put_image("a", "v1", &[]);
        server.demand_bearer(server);
    }
    let mut config = mirrored(&home, &[&mirror]);
    config.credentials = vec![credentials()];
    // Not even if its token endpoint may see them on the upstream's behalf.
    config.token_realms = vec![mirror.host()];
    let upstream = asking(&config);
    assert!(manifest(&upstream, "a", "v1").await.unwrap().is_some());
    assert_eq!(mirror.asked("GET /token"), 1);
    assert!(home.seen().is_empty());
    for seen in mirror.seen() {
        let text = format!("{seen:?}");
        assert!(
            !text.contains("YWRhOmxvdmVsYWNl") && !text.contains("lovelace"),
            "{text}"
        );
    }
    // One that wants user and password is passed over; the upstream is shown them.
    mirror.demand_basic("ada", "lovelace");
    home.demand_basic("ada", "lovelace");
    let upstream = asking(&config);
    assert!(manifest(&upstream, "a", "v1").await.unwrap().is_some());
    assert!(mirror.seen().iter().all(|seen| !format!("{seen:?}").contains("Basic")));
}

#[tokio::test]
async fn a_mirrors_path_is_a_prefix_and_its_failures_are_not_the_remotes() {
    let (home, mirror) = (Server::start().await, Server::start().await);
    let put = mirror.put_image("hub/library/alpine", "v1", &[]);
    home.put_image("library/alpine", "v1", &[]);
    let mut config = remote(&home);
    config.mirrors = vec![format!("{}/hub", mirror.url()).parse().unwrap()];
    config.tag_ttl = Duration::ZERO;
    let remote = pulling(&config).await;
    pull(&remote, "library/alpine", "v1").await;
    assert_eq!(mirror.asked("GET /v2/hub/library/alpine/manifests/v1"), 1);
    // The upstream serves: nobody hears of a mirror that does not.
    mirror.on("* /v2/", ALWAYS, [Act::Status(500)]);
    home.put_manifest_as(
        "library/alpine",
        "v1",
        &put.manifest,
        entrepot::oci::media_type::OCI_MANIFEST,
    );
    for _ in 0..5 {
        let (outcome, _, warning) = pull(&remote, "library/alpine", "v1").await;
        assert_eq!((outcome, warning), (Outcome::Revalidated, None));
    }
    until("the mirror's failures are counted", || {
        let series = format!(
            "entrepot_upstream_breaker_opened_total{{repository=\"{}\",role=\"registry\"}}",
            key()
        );
        remote.counted(&series) >= 1
    })
    .await;
}
