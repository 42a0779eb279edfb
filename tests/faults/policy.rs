//! What an operator has said about a remote holds whatever the upstream does: which images it is for, and whether it
//! is asked at all.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use entrepot::cache::{Error, Outcome};
use entrepot::config::{RemoteConfig, WarmConfig, WarmImage};
use entrepot::oci::{Digest, Reference};

use crate::support::remote::{again, image, key, pulling, reference};
use crate::support::site::site;
use crate::support::upstream::{ALWAYS, Act, Server, digest, noise, remote};

#[tokio::test]
async fn what_is_not_included_is_never_asked_for_and_never_served() {
    let server = Server::start().await;
    let inside = server.put_image("library/alpine", "v1", &[noise(10, 1)]);
    let outside = server.put_image("secret/app", "v1", &[noise(10, 2)]);
    server.put_image("library/x-nightly", "v1", &[noise(10, 3)]);
    let open = pulling(&remote(&server)).await;
    // From before it was excluded.
    open.tag("secret/app", "v1").await.unwrap().expect("the image");
    open.whole("secret/app", &outside.layers[0]).await.unwrap();
    let asked = server.asked("* /v2/secret/");
    let config = RemoteConfig {
        include: vec!["library/**".parse().unwrap()],
        exclude: vec!["library/*-nightly".parse().unwrap()],
        ..remote(&server)
    };
    let cache = again(&config, &open.store, &open.metrics);
    for name in ["secret/app", "library/x-nightly"] {
        let name = image(name);
        let by_digest = Reference::Digest(outside.digest.clone());
        for reference in [&reference("v1"), &by_digest] {
            assert!(cache.manifest(&name, reference).await.unwrap().is_none());
            assert!(cache.cached_manifest(&name, reference).await.unwrap().is_none());
        }
        assert!(cache.blob(&name, &outside.layers[0]).await.unwrap().is_none());
        assert!(cache.cached_blob(&name, &outside.layers[0]).await.unwrap().is_none());
        assert!(cache.blob_size(&name, &outside.layers[0]).await.unwrap().is_none());
        assert!(cache.tags(&name).await.unwrap().is_none());
        assert!(cache.referrers(&name, &outside.digest).await.unwrap().is_none());
        assert!(!cache.holds(&name).await.unwrap());
    }
    assert_eq!(server.asked("* /v2/secret/"), asked, "its name left");
    assert_eq!(server.asked("* -nightly/"), 0, "its name left");
    let given = cache
        .manifest(&image("library/alpine"), &reference("v1"))
        .await
        .unwrap();
    assert_eq!(given.expect("included").value.digest, inside.digest);
}

#[tokio::test]
async fn a_virtual_repository_moves_on_from_a_member_that_is_not_for_an_image() {
    let (first, second) = (Server::start().await, Server::start().await);
    first.put_image("team/app", "v1", &[noise(10, 1)]);
    let theirs = second.put_image("team/app", "v1", &[noise(10, 2)]);
    let text = format!(
        "repositories:\n  one: {{ type: remote, url: '{}', insecure: true }}\n  two: {{ type: remote, url: '{}', insecure: true }}\n  all: {{ type: virtual, members: [{{ repository: one, priority: true }}, two] }}\n",
        first.url(),
        second.url()
    );
    let site = site(&text, |key, remote| {
        if key == "one" {
            remote.exclude = vec!["team/**".parse().unwrap()];
        }
    })
    .await;
    let given = site
        .manifest("all/team/app", "v1")
        .await
        .unwrap()
        .expect("the second one's");
    assert_eq!((given.by.as_str(), given.value.digest), ("two", theirs.digest));
    // Not even while the first one is gone: it is certainly not there.
    first.stop().await;
    assert!(site.manifest("all/team/app", "v2").await.unwrap().is_none());
    assert_eq!(first.seen().len(), 0);
    assert_eq!(
        site.repositories
            .get(&"one".parse::<entrepot::oci::RepositoryKey>().unwrap())
            .unwrap()
            .images()
            .await
            .unwrap()
            .entries
            .len(),
        0
    );
}

#[tokio::test]
async fn offline_nothing_is_asked_and_what_is_here_is_served() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[noise(1000, 1)]);
    let online = pulling(&remote(&server)).await;
    online.tag("a", "v1").await.unwrap().expect("the image");
    online.whole("a", &put.layers[0]).await.unwrap();
    let config = RemoteConfig {
        offline: true,
        stale_if_error: Some(Duration::from_secs(60)),
        ..remote(&server)
    };
    let asked = server.seen().len();
    let cache = again(&config, &online.store, &online.metrics);
    let (name, v1) = (image("a"), reference("v1"));
    let given = cache.manifest(&name, &v1).await.unwrap().expect("fresh");
    assert_eq!((given.outcome, given.warning), (Outcome::Hit, None));
    let here = online.store.image(&key(), &name);
    let long_ago = SystemTime::now() - Duration::from_secs(365 * 24 * 3600);
    here.touch_tag(&"v1".parse().unwrap(), long_ago).await.unwrap();
    let given = cache.manifest(&name, &v1).await.unwrap().expect("old");
    assert_eq!(
        (given.outcome, given.value.digest),
        (Outcome::Stale, put.digest.clone())
    );
    assert!(given.warning.expect("why").contains("offline"));
    let by_digest = Reference::Digest(put.digest.clone());
    let given = cache
        .manifest(&name, &by_digest)
        .await
        .unwrap()
        .expect("a digest means what it means");
    assert_eq!((given.outcome, given.warning), (Outcome::Hit, None));
    assert!(cache.blob(&name, &put.layers[0]).await.unwrap().is_some());
    let tags = cache.tags(&name).await.unwrap().expect("those that are here");
    assert!(tags.warning.expect("why").contains("offline"));

    let could_not_tell = |error: Error| {
        assert!(matches!(error, Error::Offline { .. }), "{error}");
        assert!(error.to_string().contains("offline"), "{error}");
    };
    let missing = digest(b"missing");
    could_not_tell(cache.manifest(&name, &reference("v2")).await.unwrap_err());
    could_not_tell(
        cache
            .manifest(&name, &Reference::Digest(missing.clone()))
            .await
            .unwrap_err(),
    );
    could_not_tell(cache.manifest(&image("b"), &v1).await.unwrap_err());
    could_not_tell(cache.blob(&name, &put.config).await.unwrap_err());
    could_not_tell(cache.blob(&image("b"), &put.layers[0]).await.unwrap_err());
    could_not_tell(cache.blob_size(&name, &missing).await.unwrap_err());
    could_not_tell(cache.tags(&image("b")).await.unwrap_err());
    could_not_tell(cache.referrers(&name, &put.digest).await.unwrap_err());
    assert_eq!(server.seen().len(), asked);
}

#[tokio::test]
async fn what_is_to_be_warm_is_fetched_before_anybody_asks_and_again() {
    let server = Server::start().await;
    let mut layers = Vec::new();
    for (tag, seed) in ["3.1", "3.2", "2.9", "latest"].into_iter().zip(0..) {
        layers.extend(server.put_image("a", tag, &[noise(1000, seed)]).layers);
    }
    let text = format!(
        "repositories:\n  hub: {{ type: remote, url: '{}', insecure: true }}\n",
        server.url()
    );
    let every = Duration::from_millis(50);
    let site = site(&text, |_, remote| {
        remote.tag_ttl = Duration::ZERO;
        let images = ["3.*", "latest", "never"].map(|tags| WarmImage {
            image: image("a"),
            tags: tags.parse().unwrap(),
        });
        remote.warm = vec![WarmConfig {
            images: images.to_vec(),
            every,
        }];
    })
    .await;
    let remotes: Vec<_> = site.repositories.remotes().cloned().collect();
    assert!(remotes[0].is_kept_warm());
    let warming = tokio::spawn(Arc::clone(&remotes[0]).keep_warm());
    let here = site.store.image(&"hub".parse().unwrap(), &image("a"));
    let wait_for = async |layer: &Digest| {
        let began = Instant::now();
        while here.has_blob(layer).await.unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_secs(10), "it is not fetched");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    for layer in [&layers[0], &layers[1], &layers[3]] {
        wait_for(layer).await;
    }
    assert!(
        here.has_blob(&layers[2]).await.unwrap().is_none(),
        "no pattern names it"
    );
    // What moves is fetched by the next round.
    let moved = server.put_image("a", "3.1", &[noise(1000, 9)]);
    wait_for(&moved.layers[0]).await;
    warming.abort();
}

#[tokio::test]
async fn the_last_pulls_of_a_budget_are_not_for_fetching_ahead() {
    let server = Server::start().await;
    server.put_image("a", "v1", &[noise(10, 1)]);
    server.put_image("b", "v1", &[noise(10, 2)]);
    let said = |name, remaining: u32| Act::Header(name, format!("{remaining};w=21600"));
    server.on(
        "* /manifests/",
        ALWAYS,
        [said("RateLimit-Limit", 100), said("RateLimit-Remaining", 5)],
    );
    let config = RemoteConfig {
        reserve: 20,
        ..remote(&server)
    };
    let remote = pulling(&config).await;
    let ahead = async |name: &str| {
        let (tell, _told) = tokio::sync::mpsc::channel(16);
        let fetched = remote.cache.prefetch(&image(name), &reference("v1"), None, &tell).await;
        fetched.unwrap().expect("an answer")
    };
    // Who waits for it gets it.
    remote.tag("a", "v1").await.unwrap().expect("the image");
    let asked = server.seen().len();
    let fetched = ahead("b").await;
    assert_eq!((fetched.failed, fetched.manifests), (1, 0));
    assert!(fetched.why.expect("why").contains("only 5 more pulls"));
    assert_eq!(ahead("a").await.failed, 2, "its layer and configuration wait");
    assert_eq!(server.seen().len(), asked);
}
