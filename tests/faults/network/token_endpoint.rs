//! F8: a token endpoint that fails, in front of a registry that is well. What is here is served, what is not here is
//! never said not to exist, and nobody has to restart anything.

use std::time::{Duration, Instant};

use bytes::Bytes;
use entrepot::cache::Outcome;

use crate::support::remote::{Remote, pulling};
use crate::support::upstream::{ALWAYS, Act, Image, Server, credentials, noise, remote};

/// Nothing here takes longer: the time for the first byte, with a wide margin.
const PATIENCE: Duration = Duration::from_secs(20);

struct Stage {
    server: Server,
    tokens: Server,
    kept: Image,
    missing: Image,
    remote: Remote,
}

/// A remote that has `kept`, by tag past its time, and not `missing`; every token so far is void.
async fn stage() -> Stage {
    let (server, tokens) = (Server::start().await, Server::start().await);
    let kept = server.put_image("kept", "v1", &[noise(1000, 1)]);
    let missing = server.put_image("missing", "v1", &[noise(1000, 2)]);
    server.demand_bearer(&tokens);
    let mut config = remote(&server);
    config.tag_ttl = Duration::ZERO;
    config.first_byte_timeout = Duration::from_secs(4);
    config.idle_timeout = Duration::from_secs(2);
    config.revalidate_timeout = Duration::from_secs(4);
    config.credentials = vec![credentials()];
    config.token_realms = vec![tokens.host()];
    let remote = pulling(&config).await;
    assert!(remote.tag("kept", "v1").await.unwrap().is_some());
    remote.whole("kept", &kept.layers[0]).await.unwrap();
    tokens.revoke_tokens();
    Stage {
        server,
        tokens,
        kept,
        missing,
        remote,
    }
}

impl Stage {
    /// That everything that is here is served, whatever the endpoint does.
    async fn assert_served(&self, case: &str, outcomes: &[Outcome]) {
        for _ in 0..3 {
            let manifest = self.remote.tag("kept", "v1").await.unwrap().expect(case);
            assert_eq!(manifest.value.digest, self.kept.digest, "{case}");
            assert!(outcomes.contains(&manifest.outcome), "{case}: {:?}", manifest.outcome);
        }
        let by_digest = self.remote.tag("kept", self.kept.digest.as_str()).await.unwrap();
        assert_eq!(by_digest.expect(case).outcome, Outcome::Hit);
        let (outcome, _) = self.remote.whole("kept", &self.kept.layers[0]).await.unwrap();
        assert_eq!(outcome, Outcome::Hit, "{case}");
    }

    /// That something that is not here costs two tokens at most, and is not said to be nowhere.
    async fn assert_not_told(&self, case: &str) {
        let before = self.tokens.asked("GET /token");
        let begin = Instant::now();
        let answer = self.remote.tag("missing", "v1").await;
        assert!(answer.is_err(), "{case}: {answer:?}");
        assert!(begin.elapsed() < PATIENCE, "{case}");
        let calls = self.tokens.asked("GET /token") - before;
        assert!(calls <= 2, "{case}: {calls} calls");
        let shown = format!("{}", answer.unwrap_err());
        assert!(!shown.contains("secret") && !shown.contains("lovelace"), "{shown}");
    }

    /// That the first question after the repair is answered.
    async fn assert_recovers(&self, case: &str) {
        self.tokens.behave();
        self.server.behave();
        let answer = self.remote.tag("missing", "v1").await;
        assert_eq!(answer.unwrap().expect(case).value.digest, self.missing.digest, "{case}");
        let whole = self.remote.whole("missing", &self.missing.layers[0]).await;
        assert_eq!(whole.unwrap().1.len(), 1000, "{case}");
        let manifest = self.remote.tag("kept", "v1").await.unwrap().expect(case);
        assert_ne!(manifest.outcome, Outcome::Stale, "{case}: it answers again");
    }
}

fn body(text: &str) -> Act {
    Act::Body(Bytes::copy_from_slice(text.as_bytes()))
}

#[tokio::test]
async fn f08_a_token_endpoint_that_fails_costs_nobody_what_is_here() {
    let large = Bytes::from([br#"{"token":""#.as_slice(), &vec![b'x'; 10 << 20], br#""}"#].concat());
    let cases: Vec<(&str, Vec<Act>)> = vec![
        ("401 for ever", vec![Act::Status(401)]),
        (
            "401 that asks for a token",
            vec![
                Act::Status(401),
                Act::Header("WWW-Authenticate", "Bearer realm=\"http://127.0.0.1:1/\"".to_owned()),
            ],
        ),
        ("403", vec![Act::Status(403)]),
        ("404", vec![Act::Status(404)]),
        ("429", vec![Act::Status(429)]),
        ("500", vec![Act::Status(500)]),
        ("503", vec![Act::Status(503)]),
        ("no answer", vec![Act::Hang]),
        ("a closed door", vec![Act::Close]),
        (
            "a page",
            vec![
                body("<html>sorry</html>"),
                Act::Header("Content-Type", "text/html".to_owned()),
            ],
        ),
        ("nothing", vec![body("")]),
        ("no token", vec![body(r#"{"expires_in":300}"#)]),
        ("a token of no text", vec![body(r#"{"token":{"a":1}}"#)]),
        (
            "a token that is no header",
            vec![body("{\"token\":\"a\\r\\nX: secret\"}")],
        ),
        (
            "a token that nobody knows",
            vec![body(r#"{"token":"unknown","expires_in":300}"#)],
        ),
        (
            "a token that is over",
            vec![body(r#"{"token":"expired","expires_in":-1}"#)],
        ),
        ("ten megabytes", vec![Act::Body(large.clone())]),
        ("ten megabytes, unannounced", vec![Act::Body(large), Act::Unmeasured]),
        ("too slow to begin", vec![Act::Delay(Duration::from_secs(20))]),
        ("too slow to end", vec![Act::Trickle(1, Duration::from_millis(100))]),
        ("half a token", vec![Act::CutAfter(10)]),
        (
            "another encoding",
            vec![Act::Header("Content-Encoding", "gzip".to_owned())],
        ),
    ];
    let cases = cases.into_iter().map(async |(case, acts)| {
        let stage = stage().await;
        stage.tokens.on("GET /token", ALWAYS, acts);
        stage.assert_not_told(case).await;
        stage.assert_served(case, &[Outcome::Stale]).await;
        stage.assert_recovers(case).await;
    });
    futures_util::future::join_all(cases).await;
}

#[tokio::test]
async fn f08_a_registry_that_takes_no_token_is_asked_for_two_at_most() {
    let stage = stage().await;
    let challenge = format!(
        "Bearer realm=\"{}/token?kept=yes\",service=\"test\"",
        stage.tokens.url()
    );
    let refuse = [Act::Status(401), Act::Header("WWW-Authenticate", challenge)];
    stage.server.on("* /v2/", ALWAYS, refuse);
    let before = stage.server.asked("* /v2/");
    stage.assert_not_told("401 for ever").await;
    assert!(stage.server.asked("* /v2/") - before <= 4);
    stage.assert_served("401 for ever", &[Outcome::Stale]).await;
    stage.assert_recovers("401 for ever").await;

    // One that asks for another one each time.
    let refuse = (0..20).map(|number| {
        let challenge = format!("Bearer realm=\"{}/token?number={number}\"", stage.tokens.url());
        [Act::Status(401), Act::Header("WWW-Authenticate", challenge)]
    });
    let server = &stage.server;
    refuse.for_each(|acts| server.on("* /v2/another/", 1, acts));
    let before = stage.tokens.asked("GET /token");
    assert!(stage.remote.tag("another", "v1").await.is_err());
    assert!(stage.tokens.asked("GET /token") - before <= 2);
}

#[tokio::test]
async fn f08_whatever_a_token_says_about_its_life_it_is_used_within_reason() {
    for life in [
        "0",
        "-1",
        "1e18",
        "\"string\"",
        "null",
        "\"300\"",
        "1e400",
        "0.5",
        "[]",
        "{}",
        "true",
        "18446744073709551616",
    ] {
        let stage = stage().await;
        stage.tokens.allow_token("same");
        let token = body(&format!(r#"{{"token":"same","expires_in":{life}}}"#));
        stage.tokens.on("GET /token", ALWAYS, [token]);
        let before = stage.tokens.asked("GET /token");
        let answer = stage.remote.tag("missing", "v1").await;
        if life == "1e400" {
            // No number of JSON's: no token.
            assert!(answer.is_err());
        } else {
            assert!(answer.unwrap().is_some(), "{life}");
            let whole = stage.remote.whole("missing", &stage.missing.layers[0]).await;
            assert!(whole.is_ok(), "{life}");
            assert_eq!(
                stage.tokens.asked("GET /token") - before,
                1,
                "{life}: one token for an image"
            );
            stage
                .assert_served(life, &[Outcome::Hit, Outcome::Revalidated, Outcome::Miss])
                .await;
            // It is refused before its time: another one is fetched, once.
            stage.tokens.revoke_tokens();
            stage.tokens.behave();
            let before = stage.tokens.asked("GET /token");
            assert!(stage.remote.tag("kept", "v1").await.unwrap().is_some());
            assert!(stage.tokens.asked("GET /token") - before <= 2, "{life}");
        }
    }
}
