//! F9: an upstream that answers 429 or 5xx to everything, for a while.

use std::time::{Duration, Instant};

use entrepot::cache::Outcome;
use entrepot::upstream::Error;

use super::super::support::remote::{image, pulling, reference};
use super::super::support::upstream::{ALWAYS, Act, Server, noise, remote};
use super::{asking, manifest};

const IMAGES: usize = 20;
const ROUNDS: usize = 5;

#[tokio::test]
async fn f09_a_storm_reaches_nobody_who_can_be_served_and_is_not_answered_with_another() {
    let wait = |seconds: &str| Act::Header("Retry-After", seconds.to_owned());
    for acts in [
        vec![Act::Status(429)],
        vec![Act::Status(429), wait("30")],
        vec![Act::Status(500)],
        vec![Act::Status(502)],
        vec![Act::Status(503)],
        vec![Act::Status(503), wait("30")],
    ] {
        let server = Server::start().await;
        let mut config = remote(&server);
        config.tag_ttl = Duration::ZERO;
        let remote = pulling(&config).await;
        for number in 0..IMAGES {
            server.put_image(&format!("a{number}"), "v1", &[noise(10, number as u64)]);
            remote.tag(&format!("a{number}"), "v1").await.unwrap().unwrap();
        }
        let is_429 = matches!(acts[0], Act::Status(429));
        let has_hint = acts.len() > 1;
        server.on("* /v2/", ALWAYS, acts);
        let (before, begin) = (server.seen().len(), Instant::now());
        for _ in 0..ROUNDS {
            for number in 0..IMAGES {
                let stale = remote.tag(&format!("a{number}"), "v1").await.unwrap().unwrap();
                assert_eq!(stale.outcome, Outcome::Stale);
                assert!(stale.warning.is_some());
                let error = remote.tag(&format!("cold{number}"), "v1").await.unwrap_err();
                let error = error.upstream().unwrap();
                match error {
                    Error::RateLimited { .. } => assert!(is_429, "{error}"),
                    Error::Failing { .. } | Error::Open { .. } => assert!(!is_429, "{error}"),
                    _ => panic!("{error}"),
                }
                assert!(error.is_outage());
            }
        }
        assert!(begin.elapsed() < Duration::from_secs(20));
        // Each thing that was wanted at most once in a back-off; and it is told to stay away for the whole storm.
        let calls = server.seen().len() - before;
        assert!(calls <= 2 * IMAGES, "{calls} calls");
        if is_429 && has_hint {
            assert_eq!(calls, 1, "it said when");
        }
        let by_path = |path: &str| {
            server.seen()[before..]
                .iter()
                .filter(|seen| seen.target == path)
                .count()
        };
        if has_hint {
            for seen in &server.seen()[before..] {
                assert_eq!(by_path(&seen.target), 1, "{} more than once", seen.target);
            }
        }
    }
}

#[tokio::test]
async fn f09_failures_are_repeated_for_a_tenth_of_the_questions_at_most() {
    let server = Server::start().await;
    let upstream = asking(&remote(&server));
    // One in five fails each time that it is asked: alone, each of them would be asked three times.
    for number in (0..1000).step_by(5) {
        server.on(&format!("GET /v2/a{number}/"), ALWAYS, [Act::Status(503)]);
    }
    let mut failed = 0;
    for number in 0..1000 {
        match manifest(&upstream, &format!("a{number}"), "v1").await {
            Ok(found) => assert_eq!(found, None),
            Err(Error::Failing { status: 503 }) => failed += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(failed, 200);
    let calls = server.seen().len();
    assert!((1000..=1100).contains(&calls), "{calls} calls for 1000 questions");
}

#[tokio::test]
async fn f09_a_thing_that_is_not_to_be_asked_for_keeps_nothing_else_away() {
    let server = Server::start().await;
    server.put_image("a", "v1", &[]);
    let wait = Act::Header("Retry-After", "30".to_owned());
    server.on("GET /v2/broken/", ALWAYS, [Act::Status(503), wait]);
    let remote = pulling(&remote(&server)).await;
    for _ in 0..20 {
        let answer = remote.cache.manifest(&image("broken"), &reference("v1")).await;
        let error = answer.unwrap_err();
        assert!(error.to_string().contains("503"), "{error}");
    }
    assert_eq!(server.asked("GET /v2/broken/"), 1);
    assert_eq!(remote.tag("a", "v1").await.unwrap().unwrap().outcome, Outcome::Miss);
}
