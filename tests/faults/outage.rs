//! An upstream that is gone, for a day and with all that belongs to it; members that fail while others have something
//! under the same name; and what is remembered of what is not there.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use entrepot::cache::{Blob, Outcome, PullThrough};
use entrepot::config::RemoteConfig;
use entrepot::oci::{Digest, Reference};
use futures_util::future::join_all;

use crate::support::remote::{again, image, key, pulling, reference};
use crate::support::site::{Site, site};
use crate::support::upstream::{ALWAYS, Act, Server, credentials, digest, noise, remote};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What an image's clients ask for, by GET and HEAD, each answered as it must be without an upstream.
async fn assert_served(cache: &PullThrough, name: &str, put: &crate::support::upstream::Image) {
    let name = image(name);
    let by_tag = cache.manifest(&name, &reference("v1")).await.unwrap().expect("the tag");
    assert_eq!(
        (by_tag.value.digest, by_tag.outcome),
        (put.digest.clone(), Outcome::Stale)
    );
    assert!(by_tag.age >= DAY && by_tag.warning.is_some());
    let by_digest = Reference::Digest(put.digest.clone());
    let by_digest = cache.manifest(&name, &by_digest).await.unwrap().expect("the digest");
    assert_eq!(
        (by_digest.value.bytes, by_digest.outcome),
        (put.manifest.clone(), Outcome::Hit)
    );
    for blob in put.layers.iter().chain([&put.config]) {
        let given = cache.blob(&name, blob).await.unwrap().expect("the blob");
        assert!(matches!(given.value, Blob::Stored(_)));
        assert!(cache.blob_size(&name, blob).await.unwrap().is_some());
    }
    assert!(cache.tags(&name).await.unwrap().expect("tags").warning.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f10_a_day_without_the_upstream_its_name_or_its_token_server_is_not_noticed() {
    let (server, tokens) = (Server::start().await, Server::start().await);
    server.demand_bearer(&tokens);
    let put = server.put_image("a", "v1", &[noise(100_000, 1), noise(10, 2)]);
    let config = RemoteConfig {
        token_realms: vec![tokens.host()],
        credentials: vec![credentials()],
        ..remote(&server)
    };
    let remote = pulling(&config).await;
    remote.tag("a", "v1").await.unwrap().expect("the image");
    for blob in put.layers.iter().chain([&put.config]) {
        remote.whole("a", blob).await.unwrap();
    }
    let gone = |url: &str| RemoteConfig {
        url: url.parse().unwrap(),
        ..config.clone()
    };
    for (what, config) in [
        ("the token server is gone", config.clone()),
        ("nothing answers", config.clone()),
        ("nothing listens", config.clone()),
        ("the name is gone", gone("http://gone.invalid:5000")),
    ] {
        match what {
            "the token server is gone" => {
                tokens.stop().await;
                server.revoke_tokens();
            }
            "nothing answers" => server.on("* /", ALWAYS, [Act::Hang]),
            _ => server.stop().await,
        }
        let here = remote.store.image(&key(), &image("a"));
        let yesterday = SystemTime::now() - DAY;
        here.touch_tag(&"v1".parse().unwrap(), yesterday).await.unwrap();
        let cache = again(&config, &remote.store, &remote.metrics);
        // The second stale answer is where others have failed.
        for _ in 0..3 {
            assert_served(&cache, "a", &put).await;
        }
        // From then on nobody waits: not one question more, but for the probe's.
        let began = Instant::now();
        for _ in 0..100 {
            assert_served(&cache, "a", &put).await;
        }
        assert!(
            began.elapsed() < 100 * config.revalidate_timeout / 4,
            "{what}: {:?}",
            began.elapsed()
        );
        // What was never seen is "could not tell", never "not there".
        assert!(cache.manifest(&image("a"), &reference("v2")).await.is_err(), "{what}");
        assert!(cache.blob(&image("a"), &digest(b"never")).await.is_err(), "{what}");
    }
}

fn behind(members: &str, servers: &[(&str, &Server)]) -> String {
    let remote = |(key, server): &(&str, &Server)| {
        format!("  {key}: {{ type: remote, url: '{}', insecure: true }}\n", server.url())
    };
    let remotes: String = servers.iter().map(remote).collect();
    format!(
        "repositories:\n  images: {{ type: local }}\n{remotes}  all: {{ type: virtual, members: [{members}], push_to: images }}\n"
    )
}

#[tokio::test]
async fn f10_a_virtual_repository_serves_the_copy_of_the_member_that_is_gone() {
    let (first, second) = (Server::start().await, Server::start().await);
    let put = first.put_image("a", "v1", &[noise(1000, 3)]);
    let other = second.put_image("a", "v1", &[noise(1000, 4)]);
    assert_ne!(put.digest, other.digest);
    let site = site(
        &behind("images, one, two", &[("one", &first), ("two", &second)]),
        |_, _| {},
    )
    .await;
    let given = site.manifest("all/a", "v1").await.unwrap().expect("the image");
    assert_eq!(given.value.digest, put.digest);
    let layer = site.blob("all/a", &put.layers[0]).await.unwrap().expect("the layer");
    assert_eq!(drained(layer.value).await, 1000);
    first.stop().await;
    let one = site.store.image(&"one".parse().unwrap(), &image("a"));
    one.touch_tag(&"v1".parse().unwrap(), SystemTime::now() - DAY)
        .await
        .unwrap();
    for _ in 0..3 {
        let given = site.manifest("all/a", "v1").await.unwrap().expect("the copy");
        assert_eq!(
            (given.value.digest, given.outcome),
            (put.digest.clone(), Outcome::Stale)
        );
        assert_eq!(given.by.as_str(), "one");
        let given = site
            .manifest("all/a", put.digest.as_str())
            .await
            .unwrap()
            .expect("the copy");
        assert_eq!(given.outcome, Outcome::Hit);
        assert!(site.blob("all/a", &put.layers[0]).await.unwrap().is_some());
        let length = site
            .blob_size("all/a", &put.layers[0])
            .await
            .unwrap()
            .expect("the layer");
        assert_eq!(length.value, 1000);
    }
}

async fn drained(blob: Blob) -> usize {
    match blob {
        Blob::Stored(file) => usize::try_from(file.size).unwrap(),
        Blob::Arriving(mut follower) => crate::support::remote::drain(&mut follower).await.unwrap().len(),
    }
}

/// The ways to fail. None of them says that something is not there.
fn kinds(elsewhere: &Server) -> Vec<(&'static str, Vec<Act>)> {
    let text = |text: &'static str| Act::Body(Bytes::from_static(text.as_bytes()));
    vec![
        ("500", vec![Act::Status(500)]),
        ("502", vec![Act::Status(502)]),
        ("503", vec![Act::Status(503)]),
        ("429", vec![Act::Status(429)]),
        ("401", vec![Act::Status(401)]),
        ("403", vec![Act::Status(403)]),
        ("418", vec![Act::Status(418)]),
        ("a hang", vec![Act::Hang]),
        ("a closed connection", vec![Act::Close]),
        ("a cut body", vec![Act::CutAfter(20)]),
        ("junk", vec![text("<html>welcome to the hotel</html>")]),
        ("another document", vec![text(r#"{"schemaVersion":2,"manifests":[]}"#)]),
        (
            "a redirect to nowhere",
            vec![Act::Redirect(format!("{}/nowhere", elsewhere.url()))],
        ),
        ("nothing that listens", vec![]),
    ]
}

/// How often each way to fail is tried.
const TRIALS: usize = 72;

/// Two members with other images under the same names, and the first fails. Half of its images are cached.
async fn substitutions(kind: &str, acts: Vec<Act>) -> usize {
    let (first, second) = (Server::start().await, Server::start().await);
    let mut ours = Vec::new();
    for (n, seed) in (0..TRIALS).zip(0..) {
        let tag = format!("t{n}");
        ours.push(first.put_image("a", &tag, &[noise(10, seed)]).digest);
        second.put_image("a", &tag, &[noise(11, seed)]);
    }
    let members = "{ repository: one, priority: true }, two";
    let text = behind(members, &[("one", &first), ("two", &second)]).replace(", push_to: images", "");
    let site = site(&text, |_, remote| {
        remote.tag_ttl = Duration::ZERO;
        remote.first_byte_timeout = Duration::from_millis(200);
        remote.revalidate_timeout = Duration::from_millis(200);
        remote.connections = TRIALS;
    })
    .await;
    for (n, digest) in ours.iter().enumerate().take(TRIALS / 2) {
        let began = Instant::now();
        let given = loop {
            // So little patience is not always enough on a busy machine.
            match site.manifest("all/a", &format!("t{n}")).await {
                Err(_) if began.elapsed() < Duration::from_secs(10) => {}
                given => break given.unwrap().expect("it answers"),
            }
        };
        assert_eq!(&given.value.digest, digest);
    }
    if acts.is_empty() {
        first.stop().await;
    } else {
        first.on("* /", ALWAYS, acts);
    }
    let asked = (0..TRIALS).map(|n| {
        let (site, ours) = (&site, &ours);
        async move {
            match site.manifest("all/a", &format!("t{n}")).await {
                Ok(Some(given)) => {
                    assert!(n < TRIALS / 2, "{kind}: nobody has it");
                    given.value.digest != ours[n]
                }
                Ok(None) => panic!("{kind}: an outage is not an absence"),
                Err(_) => {
                    assert!(n >= TRIALS / 2, "{kind}: its own copies are served");
                    false
                }
            }
        }
    });
    let substituted = join_all(asked).await;
    assert_eq!(second.asked("* /v2/a/"), 0, "{kind}: the second member was asked");
    substituted.into_iter().filter(|substituted| *substituted).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f18_no_failure_of_a_member_lets_another_one_answer_in_its_place() {
    let nowhere = Server::start().await;
    nowhere.on("* /", ALWAYS, [Act::Status(500)]);
    let kinds = kinds(&nowhere);
    assert!(kinds.len() >= 12 && kinds.len() * TRIALS >= 1000);
    let all = kinds.into_iter().map(|(kind, acts)| substitutions(kind, acts));
    assert_eq!(join_all(all).await.iter().sum::<usize>(), 0);
}

#[tokio::test]
async fn f18_the_names_of_local_images_never_leave() {
    let server = Server::start().await;
    let theirs = server.put_image("team/app", "v2", &[noise(10, 1)]);
    let site = site(
        &behind("{ repository: images, priority: true }, hub", &[("hub", &server)]),
        |_, _| {},
    )
    .await;
    let pushed = site.push("all/team/app", "v1", "{ }").await.unwrap();
    for n in 0..1000 {
        assert!(site.manifest("all/team/app", "v2").await.unwrap().is_none());
        if n % 50 == 0 {
            let given = site.manifest("all/team/app", "v1").await.unwrap().expect("ours");
            assert_eq!(given.value.digest, pushed);
            assert!(
                site.manifest("all/team/app", theirs.digest.as_str())
                    .await
                    .unwrap()
                    .is_none()
            );
            assert!(site.blob("all/team/app", &theirs.layers[0]).await.unwrap().is_none());
            assert!(
                site.blob_size("all/team/app", &theirs.layers[0])
                    .await
                    .unwrap()
                    .is_none()
            );
            let route = site.route("all/team/app");
            let tags = route.repository.tags(&route.image).await.unwrap().expect("ours");
            assert_eq!(tags.entries, ["v1"]);
            let referrers = route.repository.referrers(&route.image, &pushed).await.unwrap();
            assert!(referrers.entries.is_empty());
        }
    }
    assert_eq!(server.seen().len(), 0);
}

async fn is_there(cache: &PullThrough, tag: &str) -> Option<bool> {
    let answer = cache.manifest(&image("a"), &reference(tag)).await;
    answer.ok().map(|found| found.is_some())
}

#[tokio::test]
async fn f19_only_the_upstreams_own_404_is_remembered() {
    let server = Server::start().await;
    server.put_image("a", "v1", &[noise(10, 1)]);
    let missing = Reference::Digest(digest(b"missing"));
    let remote = pulling(&remote(&server)).await;
    for _ in 0..10 {
        assert_eq!(is_there(&remote.cache, "v9").await, Some(false));
        assert!(remote.cache.manifest(&image("a"), &missing).await.unwrap().is_none());
        let blob = remote.cache.blob_size(&image("a"), &digest(b"missing")).await.unwrap();
        assert!(blob.is_none());
    }
    assert_eq!(server.asked("* /v2/"), 3, "{:?}", server.seen());

    for act in [401, 403, 429, 500, 503]
        .map(Act::Status)
        .into_iter()
        .chain([Act::Close, Act::Hang])
    {
        server.on("* /", ALWAYS, [act]);
        let cache = again(&fast(&server), &remote.store, &remote.metrics);
        assert_eq!(is_there(&cache, "v2").await, None);
        assert!(cache.blob_size(&image("a"), &digest(b"other")).await.is_err());
        server.behave();
        let put = server.put_image("a", "v2", &[noise(10, 2)]);
        server.put_blob("a", &Bytes::from_static(b"other"));
        let found = async || is_there(&cache, "v2").await == Some(true);
        let begin = Instant::now();
        while !found().await {
            assert!(
                begin.elapsed() < Duration::from_secs(10),
                "a failure was remembered as an absence"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(cache.blob_size(&image("a"), &digest(b"other")).await.unwrap().is_some());
        server.remove_manifest("a", "v2");
        server.remove_blob("a", &digest(b"other"));
        remote
            .store
            .image(&key(), &image("a"))
            .delete_manifest(&put.digest)
            .await
            .unwrap();
    }
}

fn fast(server: &Server) -> RemoteConfig {
    RemoteConfig {
        first_byte_timeout: Duration::from_millis(300),
        ..remote(server)
    }
}

#[tokio::test]
async fn f19_an_absence_is_over_when_its_time_is() {
    let server = Server::start().await;
    let config = RemoteConfig {
        negative_ttl: Duration::from_millis(200),
        ..remote(&server)
    };
    let remote = pulling(&config).await;
    assert_eq!(is_there(&remote.cache, "v1").await, Some(false));
    server.put_image("a", "v1", &[noise(10, 1)]);
    let began = Instant::now();
    while is_there(&remote.cache, "v1").await != Some(true) {
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // A tag that is gone upstream is gone here, although there is a copy of what it meant.
    let config = RemoteConfig {
        tag_ttl: Duration::ZERO,
        ..config
    };
    let cache = again(&config, &remote.store, &remote.metrics);
    server.remove_manifest("a", "v1");
    let before = server.asked("* /manifests/");
    for _ in 0..5 {
        assert_eq!(is_there(&cache, "v1").await, Some(false));
    }
    assert!(
        server.asked("* /manifests/") <= before + 2,
        "a HEAD, and a GET to be sure"
    );
}

#[tokio::test]
async fn f19_a_push_and_a_reload_end_an_absence() {
    let server = Server::start().await;
    let mut site = site(&behind("hub, images", &[("hub", &server)]), |_, remote| {
        remote.negative_ttl = Duration::from_secs(3600);
    })
    .await;
    let found = async |site: &Site, name: &str| site.manifest(name, "v1").await.unwrap().map(|given| given.by);
    for name in ["all/a", "all/b"] {
        assert_eq!(found(&site, name).await, None);
        assert_eq!(found(&site, name).await, None);
    }
    let asked = |name: &str| server.asked(&format!("* /v2/{name}/"));
    assert_eq!((asked("a"), asked("b")), (1, 1));
    // What is pushed here is found at once, and what the upstream had said about the image counts no more.
    site.push("all/a", "v1", "{ }").await.unwrap();
    assert_eq!(found(&site, "all/a").await.expect("pushed").as_str(), "images");
    assert_eq!((asked("a"), asked("b")), (2, 1));
    assert_eq!(found(&site, "all/b").await, None);
    assert_eq!(asked("b"), 1);
    let theirs: Digest = server.put_image("b", "v1", &[]).digest;
    assert_eq!(found(&site, "all/b").await, None, "it is remembered");
    site.reload();
    assert_eq!(found(&site, "all/b").await.expect("it is there now").as_str(), "hub");
    let given = site.manifest("all/b", "v1").await.unwrap().expect("it is there");
    assert_eq!(given.value.digest, theirs);
}
