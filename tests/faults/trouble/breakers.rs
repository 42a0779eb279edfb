//! F17: who fails too often is left alone, and asked again in time, whatever becomes of the one who tries. The
//! schedules themselves are in `src/upstream/breaker.rs`.

use std::time::{Duration, Instant};

use entrepot::cache::Outcome;
use entrepot::oci::Digest;
use entrepot::upstream::{Error, Upstream};
use futures_util::future::join_all;

use super::super::support::remote::pulling;
use super::super::support::upstream::{ALWAYS, Act, Gate, Server, remote};
use super::{asking, manifest};

/// Fails until it is not asked any more.
async fn open(upstream: &Upstream) -> Duration {
    let begin = Instant::now();
    loop {
        assert!(begin.elapsed() < Duration::from_secs(30), "it is asked for ever");
        if let Err(Error::Open { retry_after, .. }) = manifest(upstream, "a", "v1").await {
            return retry_after;
        }
    }
}

/// Asks until it answers.
async fn back(upstream: &Upstream, digest: &Digest) -> Duration {
    let begin = Instant::now();
    loop {
        match manifest(upstream, "a", "v1").await {
            Ok(found) => {
                assert_eq!(found.as_ref(), Some(digest));
                return begin.elapsed();
            }
            Err(error) => assert!(begin.elapsed() < Duration::from_secs(20), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn f17_who_fails_is_left_alone_and_one_at_a_time_finds_out_that_it_is_well() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[]);
    let upstream = asking(&remote(&server));
    server.on("* /v2/", ALWAYS, [Act::Status(500)]);
    let wait = open(&upstream).await;
    assert!(wait <= Duration::from_secs(1), "{wait:?}");
    assert_eq!(server.asked("* /v2/"), 5);
    let error = manifest(&upstream, "a", "v1").await.unwrap_err();
    assert!(error.to_string().contains("500"), "what failed is named: {error}");
    assert!(error.is_outage() && error.retry_after().is_some());
    assert_eq!(server.asked("* /v2/"), 5, "our own refusal is no question");

    // Twenty come when it may be asked again: one asks, and the others are not let through by it.
    tokio::time::sleep(wait).await;
    server.behave();
    let gate = Gate::new();
    server.on("* /v2/", 1, [Act::HoldAfter(0, gate.clone())]);
    server.on("* /v2/", ALWAYS, [Act::Status(500)]);
    let probe = tokio::spawn({
        let upstream = upstream.clone();
        async move { manifest(&upstream, "a", "v1").await }
    });
    while server.asked("* /v2/") == 5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Its headers are in, so all is well; what comes of the body is another matter.
    gate.open();
    assert_eq!(probe.await.unwrap(), Ok(Some(put.digest.clone())));
    server.behave();
    let all = join_all((0..20).map(|_| manifest(&upstream, "a", "v1"))).await;
    assert!(all.into_iter().all(|one| one == Ok(Some(put.digest.clone()))));
}

#[tokio::test]
async fn f17_a_probe_that_is_given_up_or_dies_is_replaced() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[]);
    let mut config = remote(&server);
    config.first_byte_timeout = Duration::from_secs(1);
    let upstream = asking(&config);
    server.on("* /v2/", 5, [Act::Status(500)]);
    server.on("* /v2/", ALWAYS, [Act::Hang]);
    let wait = open(&upstream).await;
    tokio::time::sleep(wait).await;
    // Given up, three times over: each time the next one may try.
    for _ in 0..3 {
        let asked = server.asked("* /v2/");
        let one = manifest(&upstream, "a", "v1");
        assert!(tokio::time::timeout(Duration::from_millis(200), one).await.is_err());
        assert_eq!(server.asked("* /v2/"), asked + 1);
    }
    // And one whose task is ended from outside.
    let task = tokio::spawn({
        let upstream = upstream.clone();
        async move { manifest(&upstream, "a", "v1").await }
    });
    let asked = server.asked("* /v2/");
    while server.asked("* /v2/") == asked {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // While it is out, nobody else is let through.
    let all = join_all((0..20).map(|_| manifest(&upstream, "a", "v1"))).await;
    assert!(all.iter().all(|one| matches!(one, Err(Error::Open { .. }))), "{all:?}");
    assert_eq!(server.asked("* /v2/"), asked + 1);
    task.abort();
    let _ = task.await;
    server.behave();
    assert_eq!(manifest(&upstream, "a", "v1").await, Ok(Some(put.digest)));
}

#[tokio::test]
async fn f17_a_token_endpoint_or_a_content_host_that_is_down_is_a_trouble_of_its_own() {
    let (server, tokens, content) = (Server::start().await, Server::start().await, Server::start().await);
    let put = server.put_image("a", "v1", &[super::super::support::upstream::noise(10, 1)]);
    let upstream = asking(&remote(&server));
    content.stop().await;
    let target = format!("{}/blob?signature=hidden", content.url());
    server.on("GET /blobs/", ALWAYS, [Act::Redirect(target)]);
    let name = super::image("a");
    let mut last = None;
    for _ in 0..4 {
        last = upstream
            .blob(&name, &put.layers[0], entrepot::upstream::Range::default(), None)
            .await
            .err();
    }
    let last = last.unwrap();
    assert!(matches!(last, Error::Open { .. }), "{last}");
    assert!(last.to_string().contains("the host of its content"), "{last}");
    assert!(!last.to_string().contains("hidden"), "{last}");
    assert_eq!(
        manifest(&upstream, "a", "v1").await,
        Ok(Some(put.digest.clone())),
        "manifests go on"
    );

    server.demand_bearer(&tokens);
    tokens.on("GET /token", ALWAYS, [Act::Status(500)]);
    open(&upstream).await;
    let error = manifest(&upstream, "a", "v1").await.unwrap_err();
    assert!(error.to_string().contains("its token endpoint"), "{error}");
    assert_eq!(tokens.asked("GET /token"), 5);
    tokens.behave();
    let took = back(&upstream, &put.digest).await;
    assert!(took < Duration::from_secs(3), "one window and no more: {took:?}");
}

#[tokio::test]
async fn f17_cached_tags_are_served_at_once_and_the_one_behind_them_finds_the_end() {
    let server = Server::start().await;
    server.put_image("a", "v1", &[]);
    let mut config = remote(&server);
    config.tag_ttl = Duration::ZERO;
    config.first_byte_timeout = Duration::from_millis(300);
    let remote = pulling(&config).await;
    remote.tag("a", "v1").await.unwrap().unwrap();
    server.on("* /v2/", ALWAYS, [Act::Hang]);
    // Those who have no copy wait, and find out that nobody else need.
    for number in 0..6 {
        assert!(remote.tag(&format!("cold{number}"), "v1").await.is_err());
    }
    for _ in 0..20 {
        let begin = Instant::now();
        let answer = remote.tag("a", "v1").await.unwrap().unwrap();
        assert_eq!(answer.outcome, Outcome::Stale);
        assert!(begin.elapsed() < Duration::from_millis(250));
    }
    let hung = server.asked("* /v2/");
    assert!(hung <= 8, "{hung}");
    server.behave();
    // Nobody but the probe behind asks: clients are served what is there meanwhile.
    let begin = Instant::now();
    loop {
        let answer = remote.tag("a", "v1").await.unwrap().unwrap();
        match answer.outcome {
            Outcome::Revalidated => break,
            outcome => assert_eq!(outcome, Outcome::Stale),
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "it never came back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
