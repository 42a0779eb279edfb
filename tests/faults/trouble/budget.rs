//! Against a registry that counts as Docker Hub does: the GET of a manifest is a pull, a HEAD is none.

use std::time::Duration;

use entrepot::cache::Outcome;
use entrepot::config::{Login, RemoteConfig};
use entrepot::upstream::Error;

use super::super::support::remote::{Remote, again, pulling};
use super::super::support::upstream::{Act, Server, login, noise, remote};
use super::{asking, manifest, pull};

const IMAGES: usize = 50;

fn users(names: &[(&str, &str)]) -> Vec<Login> {
    names
        .iter()
        .map(|(username, password)| login(username, password))
        .collect()
}

/// A remote that has every image already.
async fn warmed(server: &Server, config: &RemoteConfig) -> Remote {
    let remote = pulling(config).await;
    for number in 0..IMAGES {
        server.put_image(&format!("a{number}"), "v1", &[noise(10, number as u64)]);
        let (outcome, ..) = pull(&remote, &format!("a{number}"), "v1").await;
        assert_eq!(outcome, Outcome::Miss);
    }
    remote
}

/// The same over the same store, as if a tag's time were over.
fn later(remote: Remote, config: &RemoteConfig) -> Remote {
    let config = RemoteConfig {
        tag_ttl: Duration::ZERO,
        ..config.clone()
    };
    Remote {
        cache: again(&config, &remote.store, &remote.metrics),
        ..remote
    }
}

#[tokio::test]
async fn a_thousand_pulls_of_what_is_here_cost_nothing() {
    let server = Server::start().await;
    server.count_pulls(100);
    let config = remote(&server);
    let remote = warmed(&server, &config).await;
    assert_eq!(server.pulls(), IMAGES as u64);

    let before = server.seen().len();
    for turn in 0..1000 {
        let (outcome, ..) = pull(&remote, &format!("a{}", turn % IMAGES), "v1").await;
        assert_eq!(outcome, Outcome::Hit);
    }
    assert_eq!(server.seen().len(), before, "within its time, nobody is asked");

    let remote = later(remote, &config);
    for turn in 0..1000 {
        let (outcome, ..) = pull(&remote, &format!("a{}", turn % IMAGES), "v1").await;
        assert_eq!(outcome, Outcome::Revalidated);
    }
    assert_eq!(server.pulls(), IMAGES as u64);
    assert_eq!(server.asked("GET /v2/"), IMAGES, "after it, by HEAD");
    let gauge = |what: &str| {
        remote.counted(&format!(
            "entrepot_upstream_ratelimit_{what}{{credential=\"anonymous\",repository=\"remote\"}}"
        ))
    };
    assert_eq!((gauge("limit"), gauge("remaining")), (100, 50));
}

#[tokio::test]
async fn with_nothing_left_what_is_here_goes_on_being_served() {
    let server = Server::start().await;
    server.count_pulls(IMAGES as u64);
    let config = remote(&server);
    let remote = later(warmed(&server, &config).await, &config);
    // One of them moves while nothing is left.
    let moved = server.put_image("a7", "v1", &[noise(10, 1000)]);
    for _ in 0..3 {
        for number in 0..IMAGES {
            let (outcome, digest, warning) = pull(&remote, &format!("a{number}"), "v1").await;
            if number == 7 {
                assert_eq!(outcome, Outcome::Stale);
                assert_ne!(digest, moved.digest);
                let warning = warning.unwrap();
                assert!(
                    warning.contains("has moved") && warning.contains("0 more pulls"),
                    "{warning}"
                );
            } else {
                assert_eq!(outcome, Outcome::Revalidated);
            }
        }
    }
    assert_eq!(server.asked("GET /v2/"), IMAGES, "nothing was tried in vain");
    // What is not here costs a try, and then none for a while; what is here notices nothing of it.
    server.put_image("cold", "v1", &[]);
    for number in 0..IMAGES {
        let error = remote.tag("cold", "v1").await.unwrap_err();
        assert!(matches!(error.upstream(), Some(Error::RateLimited { .. })), "{error}");
        pull(&remote, &format!("a{number}"), "v1").await;
    }
    assert!(server.asked("GET /v2/cold/") <= 3);
}

#[tokio::test]
async fn a_cold_image_with_nothing_left_is_a_429_that_says_when_and_asks_once() {
    let server = Server::start().await;
    server.count_pulls(1);
    let remote = pulling(&remote(&server)).await;
    let here = server.put_image("here", "v1", &[]);
    server.put_image("cold", "v1", &[]);
    server.put_image("other", "v1", &[]);
    pull(&remote, "here", "v1").await;
    server.on("GET /v2/cold/", 1, [Act::Header("Retry-After", "30".to_owned())]);
    for name in ["cold", "other", "cold", "other"] {
        let error = remote.tag(name, "v1").await.unwrap_err();
        let Some(Error::RateLimited { retry_after }) = error.upstream() else {
            panic!("{error}")
        };
        assert!(
            retry_after.is_some_and(|wait| wait <= Duration::from_secs(30)),
            "{retry_after:?}"
        );
    }
    assert_eq!(server.asked("GET /v2/cold/") + server.asked("GET /v2/other/"), 1);
    let counted = "entrepot_upstream_rate_limited_total{credential=\"anonymous\",repository=\"remote\"}";
    assert_eq!(remote.counted(counted), 1);
    let (outcome, digest, _) = pull(&remote, "here", "v1").await;
    assert_eq!((outcome, digest), (Outcome::Hit, here.digest));
}

#[tokio::test]
async fn the_reserve_is_for_what_is_not_here_at_all() {
    let server = Server::start().await;
    server.count_pulls(IMAGES as u64 + 10);
    let mut config = remote(&server);
    config.reserve = 10;
    let remote = later(warmed(&server, &config).await, &config);
    let moved = server.put_image("a3", "v1", &[noise(10, 1001)]);
    let (outcome, digest, warning) = pull(&remote, "a3", "v1").await;
    // The first question of a process tells what is left.
    assert_eq!(outcome, Outcome::Stale, "{warning:?}");
    assert_ne!(digest, moved.digest);
    server.put_image("cold", "v1", &[]);
    let (outcome, ..) = pull(&remote, "cold", "v1").await;
    assert_eq!(outcome, Outcome::Miss, "that is what it is for");
    assert_eq!(server.pulls(), IMAGES as u64 + 1);
}

#[tokio::test]
async fn several_credentials_pay_in_turn() {
    let (server, tokens) = (Server::start().await, Server::start().await);
    server.count_pulls(3);
    server.demand_bearer(&tokens);
    let mut config = remote(&server);
    config.credentials = users(&[("ada", "lovelace"), ("bob", "babbage")]);
    config.token_realms = vec![tokens.host()];
    for number in 0..8 {
        server.put_image(&format!("a{number}"), "v1", &[]);
    }
    let upstream = asking(&config);
    let mut left = Vec::new();
    for number in 0..6 {
        let found = manifest(&upstream, &format!("a{number}"), "v1").await;
        assert!(found.unwrap().is_some(), "{number}");
        left.push(upstream.budget().map(|budget| budget.remaining));
    }
    // As long as one is not counted yet, there is nothing to be sparing with.
    assert_eq!(left, [None, None, None, Some(2), Some(1), Some(0)]);
    let refused = server.seen().iter().filter(|seen| seen.status == 429).count();
    assert_eq!(refused, 0, "what is known to be used up is not tried");
    assert_eq!(
        tokens.asked("GET /token"),
        6,
        "a token for an image and a credential, and no other's"
    );

    // Both are used up: each is tried once, and then neither for a while.
    assert!(matches!(
        manifest(&upstream, "a6", "v1").await,
        Err(Error::RateLimited { .. })
    ));
    let refused = || server.seen().iter().filter(|seen| seen.status == 429).count();
    assert_eq!(refused(), 2);
    for _ in 0..5 {
        let error = manifest(&upstream, "a7", "v1").await.unwrap_err();
        assert!(matches!(error, Error::RateLimited { retry_after: Some(_) }), "{error}");
    }
    assert_eq!(refused(), 2);

    // Nobody had said that the first one is used up: the second one pays in the same question.
    let upstream = asking(&config);
    server.count_pulls(0);
    let error = manifest(&upstream, "a0", "v1").await.unwrap_err();
    assert!(matches!(error, Error::RateLimited { .. }));
    assert_eq!(refused(), 4);
    server.count_pulls(5);
    let upstream = asking(&config);
    server.on("GET /v2/a1/", 1, [Act::Delay(Duration::ZERO)]);
    server.on("GET /v2/a1/", 1, [Act::Status(429)]);
    assert!(manifest(&upstream, "a1", "v1").await.unwrap().is_some());
}

#[tokio::test]
async fn a_credential_that_is_refused_makes_room_for_the_next() {
    let server = Server::start().await;
    server.put_image("a", "v1", &[]);
    server.put_image("b", "v1", &[]);
    server.demand_any_basic(&[("bob", "babbage")]);
    let mut config = remote(&server);
    config.credentials = users(&[("ada", "wrong"), ("bob", "babbage")]);
    let upstream = asking(&config);
    assert!(manifest(&upstream, "a", "v1").await.unwrap().is_some());
    let before = server.seen().len();
    assert!(manifest(&upstream, "b", "v1").await.unwrap().is_some());
    assert_eq!(
        server.seen().len() - before,
        1,
        "the one that works is shown first from then on"
    );

    // The same where a token endpoint refuses it.
    let (server, tokens) = (Server::start().await, Server::start().await);
    server.put_image("a", "v1", &[]);
    server.demand_bearer(&tokens);
    tokens.on("GET /token", 1, [Act::Status(401)]);
    config.url = server.url().parse().unwrap();
    config.token_realms = vec![tokens.host()];
    let upstream = asking(&config);
    assert!(manifest(&upstream, "a", "v1").await.unwrap().is_some());
    let shown: Vec<_> = tokens
        .seen()
        .iter()
        .map(|seen| seen.header("authorization").unwrap().to_owned())
        .collect();
    assert_eq!(shown.len(), 2);
    assert_ne!(shown[0], shown[1]);
}
