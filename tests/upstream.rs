//! What the room `upstream` does on the wire, against a registry that misbehaves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets the unexpected should stop there"
)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use entrepot::config::RemoteConfig;
use entrepot::oci::media_type::{DOCKER_LIST, MANIFEST_TYPES, OCI_INDEX, OCI_MANIFEST};
use entrepot::oci::{Algorithm, Digest, ImageName, Reference};
use entrepot::telemetry::Metrics;
use entrepot::upstream::{Error, Range, Referrers, Upstream};
use support::upstream::{ALWAYS, Act, Gate, Server, behind_tls, credentials, digest, noise, remote};

const LIMIT: u64 = 64 * 1024;

struct Asking {
    upstream: Upstream,
    metrics: Arc<Metrics>,
}

fn asking(config: &RemoteConfig) -> Asking {
    let metrics = Arc::new(Metrics::new().unwrap());
    let key = "remote".parse().unwrap();
    Asking {
        upstream: Upstream::new(&key, config, LIMIT, Arc::clone(&metrics)).unwrap(),
        metrics,
    }
}

impl Asking {
    fn counted(&self, role: &str, code: &str) -> u64 {
        let text = String::from_utf8(self.metrics.render().unwrap()).unwrap();
        let line =
            format!("entrepot_upstream_requests_total{{code=\"{code}\",repository=\"remote\",role=\"{role}\"}} ");
        text.lines()
            .find_map(|found| found.strip_prefix(&line)?.parse().ok())
            .unwrap_or(0)
    }
}

fn image(name: &str) -> ImageName {
    name.parse().unwrap()
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

async fn manifest(upstream: &Upstream, name: &str, what: &str) -> Result<Option<Digest>, Error> {
    let answer = upstream.manifest(&image(name), &reference(what)).await?;
    Ok(answer.map(|(manifest, _)| manifest.digest))
}

async fn whole_blob(upstream: &Upstream, name: &str, digest: &Digest, from: u64) -> Result<Vec<u8>, Error> {
    let mut stream = upstream
        .blob(&image(name), digest, Range::from(from), None)
        .await?
        .expect("the blob");
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[tokio::test]
async fn manifests_and_blobs_come_as_they_are_and_are_asked_for_in_one_way() {
    let server = Server::start().await;
    let put = server.put_image("team/app", "v1", &[noise(100_000, 1)]);
    let Asking { upstream, metrics } = asking(&remote(&server));

    let (manifest, contents) = upstream
        .manifest(&image("team/app"), &reference("v1"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(manifest.bytes, put.manifest);
    assert_eq!(manifest.digest, put.digest);
    assert_eq!(contents.layers.len(), 1);
    let by_digest = upstream
        .manifest(&image("team/app"), &Reference::Digest(put.digest.clone()))
        .await
        .unwrap();
    assert_eq!(by_digest.map(|(manifest, _)| manifest), Some(manifest));

    let head = upstream
        .head_manifest(&image("team/app"), &reference("v1"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(head.digest.as_ref(), Some(&put.digest));
    assert_eq!(head.size, Some(put.manifest.len() as u64));
    assert_eq!(head.media_type.unwrap().as_str(), OCI_MANIFEST);

    let size = upstream.head_blob(&image("team/app"), &put.layers[0]).await.unwrap();
    assert_eq!(size, Some(100_000));
    let blob = whole_blob(&upstream, "team/app", &put.layers[0], 0).await.unwrap();
    assert_eq!(digest(&blob), put.layers[0]);
    let rest = whole_blob(&upstream, "team/app", &put.layers[0], 60_000).await.unwrap();
    assert_eq!(rest, blob[60_000..]);

    for seen in server.seen() {
        assert_eq!(seen.header("accept-encoding"), Some("identity"));
        assert!(seen.header("user-agent").unwrap().starts_with("entrepot/"));
        if seen.target.contains("/manifests/") {
            for media_type in MANIFEST_TYPES {
                assert!(seen.header("accept").unwrap().contains(media_type));
            }
        }
    }
    assert_eq!(server.connections(), 1, "one after the other, they share a connection");
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    assert!(
        text.contains(r#"registry_proxy_pulled_bytes_total{type="blob"} 140000"#),
        "{text}"
    );
}

#[tokio::test]
async fn only_a_404_means_that_it_is_not_there() {
    let server = Server::start().await;
    let upstream = asking(&remote(&server)).upstream;
    let blob = digest(b"missing");
    assert_eq!(manifest(&upstream, "a", "v1").await, Ok(None));
    assert_eq!(upstream.head_manifest(&image("a"), &reference("v1")).await, Ok(None));
    assert_eq!(upstream.head_blob(&image("a"), &blob).await, Ok(None));
    assert!(
        upstream
            .blob(&image("a"), &blob, Range::default(), None)
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(upstream.tags(&image("a")).await, Ok(None));

    for (status, error) in [
        (400, Error::Unexpected { status: 400 }),
        (401, Error::Refused { status: 401 }),
        (403, Error::Refused { status: 403 }),
        (410, Error::Unexpected { status: 410 }),
        (429, Error::RateLimited { retry_after: None }),
        (500, Error::Failing { status: 500 }),
        (503, Error::Failing { status: 503 }),
        (204, Error::Unexpected { status: 204 }),
    ] {
        server.behave();
        server.on("* /v2/", ALWAYS, [Act::Status(status)]);
        // One that has not failed before: whoever fails often is not asked.
        let fresh = || asking(&remote(&server)).upstream;
        assert_eq!(manifest(&fresh(), "a", "v1").await, Err(error.clone()));
        assert_eq!(fresh().head_blob(&image("a"), &blob).await, Err(error.clone()));
        assert_eq!(
            fresh().blob(&image("a"), &blob, Range::default(), None).await.err(),
            Some(error.clone())
        );
        assert_eq!(fresh().tags(&image("a")).await, Err(error));
    }
    server.behave();
    server.on(
        "* /v2/",
        ALWAYS,
        [Act::Status(429), Act::Header("Retry-After", "17".to_owned())],
    );
    let error = manifest(&upstream, "a", "v1").await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(17)));
}

#[tokio::test]
async fn what_passes_is_tried_again_and_what_does_not_is_not() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[]);
    let fresh = || asking(&remote(&server)).upstream;

    server.on("GET /v2/", 1, [Act::Status(503)]);
    server.on("GET /v2/", 1, [Act::Close]);
    assert_eq!(manifest(&fresh(), "a", "v1").await, Ok(Some(put.digest)));
    assert_eq!(server.asked("GET /manifests/"), 3);

    let wait = |seconds: &str| Act::Header("Retry-After", seconds.to_owned());
    for (acts, requests) in [
        (vec![Act::Status(502)], 3),
        (vec![Act::Status(500)], 1),
        (vec![Act::Status(429)], 1),
        // As long as it says, if that is soon.
        (vec![Act::Status(503), wait("1")], 2),
        (vec![Act::Status(503), wait("30")], 1),
    ] {
        server.behave();
        server.on("GET /v2/", ALWAYS, acts);
        let before = server.asked("GET /manifests/");
        assert!(manifest(&fresh(), "a", "v1").await.is_err());
        assert_eq!(server.asked("GET /manifests/") - before, requests);
    }

    server.behave();
    server.stop().await;
    let upstream = fresh();
    assert!(matches!(
        manifest(&upstream, "a", "v1").await,
        Err(Error::Unreachable(_))
    ));
    let begin = Instant::now();
    let head = upstream.head_manifest(&image("a"), &reference("v1")).await;
    assert!(matches!(head, Err(Error::Unreachable(_))), "{head:?}");
    assert!(
        begin.elapsed() < Duration::from_millis(50),
        "who has a copy does not wait for a second attempt"
    );
}

#[tokio::test]
async fn silence_has_an_end() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[noise(100_000, 2)]);
    let mut config = remote(&server);
    config.first_byte_timeout = Duration::from_millis(300);
    config.idle_timeout = Duration::from_millis(200);
    let asking = asking(&config);
    let upstream = &asking.upstream;

    server.on("GET /manifests/", ALWAYS, [Act::Hang]);
    let begin = Instant::now();
    let error = manifest(upstream, "a", "v1").await.unwrap_err();
    assert!(matches!(error, Error::Timeout(_)), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(2));
    assert_eq!(asking.counted("registry", "error"), 1);

    let gate = Gate::new();
    server.on("GET /blobs/", 1, [Act::HoldAfter(50_000, gate.clone())]);
    let error = whole_blob(upstream, "a", &put.layers[0], 0).await.unwrap_err();
    assert!(matches!(error, Error::Timeout(_)), "{error}");

    // A byte now and then is no silence, and still too little.
    server.on("GET /blobs/", 1, [Act::Trickle(1, Duration::from_millis(20))]);
    let begin = Instant::now();
    let error = whole_blob(upstream, "a", &put.layers[0], 0).await.unwrap_err();
    assert!(matches!(error, Error::Slow { .. }), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_body_that_is_not_whole_is_an_error() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[noise(100_000, 3)]);
    let upstream = asking(&remote(&server)).upstream;
    let blob = &put.layers[0];

    server.on("GET /blobs/", 1, [Act::CutAfter(30_000)]);
    let error = whole_blob(&upstream, "a", blob, 0).await.unwrap_err();
    assert!(matches!(error, Error::Broken(_)) && error.is_interruption(), "{error}");

    server.on(
        "GET /blobs/",
        1,
        [Act::Header("Content-Range", "bytes 5-99999/100000".to_owned())],
    );
    let error = whole_blob(&upstream, "a", blob, 10).await.unwrap_err();
    assert!(matches!(error, Error::Lies(_)), "{error}");

    server.on("GET /blobs/", 1, [Act::Header("Content-Encoding", "gzip".to_owned())]);
    let error = whole_blob(&upstream, "a", blob, 0).await.unwrap_err();
    assert!(matches!(error, Error::Lies(_)), "{error}");

    // Without ranges, the whole comes, and says so.
    server.on("GET /blobs/", 1, [Act::IgnoreRange]);
    let stream = upstream
        .blob(&image("a"), blob, Range::from(10), None)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((stream.start(), stream.total()), (0, Some(100_000)));
    drop(stream);

    // Without a length, the end is the end: what is missing shows in the digest, which is not this room's.
    server.on("GET /blobs/", 1, [Act::Unmeasured]);
    let stream = upstream
        .blob(&image("a"), blob, Range::default(), None)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(stream.total(), None);
    drop(stream);

    // A HEAD without a length: the blob itself is asked.
    server.on("HEAD /blobs/", 1, [Act::Without("Content-Length")]);
    assert_eq!(upstream.head_blob(&image("a"), blob).await, Ok(Some(100_000)));
}

#[tokio::test]
async fn manifests_that_lie_are_not_believed() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[]);
    let other = server.put_image("b", "v1", &[]);
    let upstream = asking(&remote(&server)).upstream;
    let by_digest = put.digest.to_string();
    let lie = Act::Header("Docker-Content-Digest", other.digest.to_string());

    server.on("GET /manifests/", 2, [lie]);
    assert!(matches!(manifest(&upstream, "a", "v1").await, Err(Error::Lies(_))));
    assert!(matches!(
        manifest(&upstream, "a", &by_digest).await,
        Err(Error::Lies(_))
    ));

    let ambiguous = String::from_utf8(put.manifest.to_vec())
        .unwrap()
        .replacen('{', r#"{"manifests":[],"#, 1);
    for acts in [
        vec![Act::Body(other.manifest.clone()), Act::Without("Docker-Content-Digest")],
        vec![
            Act::Body(Bytes::from_static(b"<html>")),
            Act::Header("Content-Type", "text/html".to_owned()),
        ],
        vec![Act::Body(ambiguous.into()), Act::Without("Docker-Content-Digest")],
        vec![Act::Header("Content-Type", DOCKER_LIST.to_owned())],
        vec![Act::Header("Content-Encoding", "gzip".to_owned())],
    ] {
        server.behave();
        server.on("GET /manifests/", ALWAYS, acts);
        let error = manifest(&upstream, "a", &by_digest).await.unwrap_err();
        assert!(matches!(error, Error::Lies(_)), "{error}");
    }

    server.behave();
    server.on("GET /manifests/", 1, [Act::Body(noise(100_000, 4))]);
    let too_large = manifest(&upstream, "a", "v1").await;
    assert_eq!(too_large, Err(Error::TooLarge { limit: LIMIT }));
    server.on("GET /manifests/", 1, [Act::Body(noise(100_000, 4)), Act::Unmeasured]);
    let too_large = manifest(&upstream, "a", "v1").await;
    assert_eq!(too_large, Err(Error::TooLarge { limit: LIMIT }));
    server.on("GET /manifests/", 1, [Act::CutAfter(10)]);
    assert!(matches!(manifest(&upstream, "a", "v1").await, Err(Error::Broken(_))));

    // No digest, or one that nobody can compute: the bytes' own.
    server.on("GET /manifests/", 1, [Act::Without("Docker-Content-Digest")]);
    assert_eq!(manifest(&upstream, "a", "v1").await, Ok(Some(put.digest.clone())));
    server.on("HEAD /manifests/", 1, [Act::Without("Docker-Content-Digest")]);
    let head = upstream
        .head_manifest(&image("a"), &reference("v1"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(head.digest, None);
}

#[tokio::test]
async fn sha512_is_checked_as_sha512() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[]);
    let long = Digest::of(Algorithm::Sha512, &put.manifest);
    server.put_manifest_as("a", long.as_str(), &put.manifest, OCI_MANIFEST);
    let upstream = asking(&remote(&server)).upstream;
    // The server announces the sha256, as Distribution does: not a lie, and not what was asked for.
    assert_eq!(manifest(&upstream, "a", long.as_str()).await, Ok(Some(long.clone())));
    server.on("GET /v1", 1, [Act::Header("Docker-Content-Digest", long.to_string())]);
    assert_eq!(manifest(&upstream, "a", "v1").await, Ok(Some(long.clone())));
    server.on(
        "GET /manifests/",
        1,
        [Act::Body(Bytes::from(put.manifest.to_vec().repeat(2)))],
    );
    assert!(matches!(
        manifest(&upstream, "a", long.as_str()).await,
        Err(Error::Lies(_))
    ));
}

#[tokio::test]
async fn a_token_is_fetched_once_and_shown_until_it_is_refused() {
    let (server, tokens) = (Server::start().await, Server::start().await);
    let put = server.put_image("team/app", "v1", &[]);
    server.demand_bearer(&tokens);
    tokens.on("GET /token", 1, [Act::Delay(Duration::from_millis(100))]);
    let asking = asking(&remote(&server));
    let upstream = &asking.upstream;

    let together = (0..5).map(|_| manifest(upstream, "team/app", "v1"));
    for answer in futures_util::future::join_all(together).await {
        assert_eq!(answer, Ok(Some(put.digest.clone())));
    }
    assert_eq!(tokens.asked("GET /token"), 1, "one fetch for all who wait");
    let token = &tokens.seen()[0];
    assert!(token.target.contains("kept=yes"), "{}", token.target);
    assert!(token.target.contains("service=test"), "{}", token.target);
    assert!(
        token.target.contains("scope=repository%3Ateam%2Fapp%3Apull"),
        "{}",
        token.target
    );
    assert_eq!(token.header("authorization"), None);

    let before = server.asked("GET /manifests/");
    assert_eq!(manifest(upstream, "team/app", "v1").await, Ok(Some(put.digest.clone())));
    assert_eq!(
        server.asked("GET /manifests/") - before,
        1,
        "the token comes along without being asked for"
    );

    tokens.revoke_tokens();
    tokens.name_tokens("access_token");
    assert_eq!(manifest(upstream, "team/app", "v1").await, Ok(Some(put.digest)));
    assert_eq!(tokens.asked("GET /token"), 2);
    assert_eq!(asking.counted("token", "200"), 2);
}

#[tokio::test]
async fn a_broken_token_endpoint_is_asked_twice_at_most_and_never_means_not_there() {
    let (server, tokens) = (Server::start().await, Server::start().await);
    let put = server.put_image("a", "v1", &[]);
    server.demand_bearer(&tokens);
    let mut config = remote(&server);
    config.first_byte_timeout = Duration::from_millis(500);
    for acts in [
        vec![Act::Status(401)],
        vec![Act::Status(403)],
        vec![Act::Status(404)],
        vec![Act::Status(429)],
        vec![Act::Status(500)],
        vec![Act::Status(503)],
        vec![Act::Close],
        vec![Act::Hang],
        vec![Act::Body(Bytes::from_static(b"<html>"))],
        vec![Act::Body(Bytes::from_static(b"{}"))],
        vec![Act::Body(Bytes::from_static(b"{\"token\":\"\"}"))],
        // A token that the registry does not know.
        vec![Act::Body(Bytes::from_static(
            b"{\"token\":\"wrong\",\"expires_in\":-1}",
        ))],
        vec![Act::Body(noise(100_000, 5))],
        vec![Act::Redirect(format!("{}/token", tokens.url()))],
        vec![Act::CutAfter(3)],
    ] {
        let upstream = asking(&config).upstream;
        tokens.behave();
        tokens.on("GET /token", ALWAYS, acts.clone());
        let is_redirect = matches!(acts[0], Act::Redirect(_));
        let before = tokens.asked("GET /token");
        let begin = Instant::now();
        let answer = manifest(&upstream, "a", "v1").await;
        assert!(answer.is_err(), "{answer:?}");
        assert!(begin.elapsed() < Duration::from_secs(2));
        let calls = tokens.asked("GET /token") - before;
        assert!(calls <= 2 || is_redirect, "{calls} calls");

        tokens.behave();
        let answer = manifest(&upstream, "a", "v1").await;
        assert_eq!(answer, Ok(Some(put.digest.clone())), "well again at the next request");
    }
}

#[tokio::test]
async fn basic_is_shown_unasked_once_it_was_asked_for() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[]);
    server.demand_basic("ada", "lovelace");
    let anonymous = asking(&remote(&server)).upstream;
    assert_eq!(
        manifest(&anonymous, "a", "v1").await,
        Err(Error::Refused { status: 401 })
    );

    let mut config = remote(&server);
    config.credentials = vec![credentials()];
    let upstream = asking(&config).upstream;
    let before = server.asked("GET /manifests/");
    assert_eq!(manifest(&upstream, "a", "v1").await, Ok(Some(put.digest.clone())));
    assert_eq!(server.asked("GET /manifests/") - before, 2);
    assert_eq!(manifest(&upstream, "a", "v1").await, Ok(Some(put.digest)));
    assert_eq!(server.asked("GET /manifests/") - before, 3);

    server.demand_basic("ada", "changed");
    assert_eq!(
        manifest(&upstream, "a", "v1").await,
        Err(Error::Refused { status: 401 })
    );
    assert_eq!(server.asked("GET /manifests/") - before, 4);
}

/// Every request that a host other than the registry saw, with what must not be in it.
fn assert_saw_no_secret(canary: &Server) {
    for seen in canary.seen() {
        let text = format!("{seen:?}");
        for secret in ["authorization", "lovelace", "YWRhOmxvdmVsYWNl", "secret-token"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[tokio::test]
async fn a_realm_elsewhere_sees_the_credentials_only_if_it_is_listed() {
    let (server, canary) = (Server::start().await, Server::start().await);
    let put = server.put_image("a", "v1", &[]);
    server.demand_bearer(&canary);
    let mut config = remote(&server);
    config.credentials = vec![credentials()];
    let upstream = asking(&config).upstream;
    assert_eq!(manifest(&upstream, "a", "v1").await, Ok(Some(put.digest.clone())));
    assert_eq!(canary.asked("GET /token"), 1, "asked, and anonymously");
    assert_saw_no_secret(&canary);

    config.token_realms = vec![canary.host()];
    let upstream = asking(&config).upstream;
    assert_eq!(manifest(&upstream, "a", "v1").await, Ok(Some(put.digest.clone())));
    let shown = canary.seen().pop().unwrap();
    assert_eq!(shown.header("authorization"), Some("Basic YWRhOmxvdmVsYWNl"));

    // A listed endpoint that redirects does not hand them on.
    let thief = Server::start().await;
    canary.on("GET /token", 1, [Act::Redirect(format!("{}/token", thief.url()))]);
    canary.revoke_tokens();
    let upstream = asking(&config).upstream;
    assert_eq!(
        manifest(&upstream, "a", "v1").await,
        Err(Error::Refused { status: 401 }),
        "the thief's tokens are not the registry's"
    );
    assert!(thief.asked("GET /token") > 0);
    assert_saw_no_secret(&thief);

    // The registry's own address with a user in it is no realm.
    server.demand_bearer_of(&format!("http://x@{}/token", canary.host()), &canary);
    let upstream = asking(&config).upstream;
    assert_eq!(
        manifest(&upstream, "a", "v1").await,
        Err(Error::Refused { status: 401 })
    );
}

#[tokio::test]
async fn redirects_are_followed_without_what_is_for_the_registry() {
    let (server, content) = (Server::start().await, Server::start().await);
    let blob = noise(50_000, 6);
    let put = server.put_image("a", "v1", std::slice::from_ref(&blob));
    content.put_blob("a", &blob);
    server.demand_bearer(&server);
    let mut config = remote(&server);
    config.credentials = vec![credentials()];
    let asking = asking(&config);
    let upstream = &asking.upstream;
    assert_eq!(manifest(upstream, "a", "v1").await, Ok(Some(put.digest)));

    let target = format!("{}/v2/a/blobs/{}?signature=hidden", content.url(), put.layers[0]);
    server.on("GET /blobs/", 2, [Act::Redirect(target)]);
    assert_eq!(whole_blob(upstream, "a", &put.layers[0], 0).await.unwrap(), blob);
    assert_eq!(
        whole_blob(upstream, "a", &put.layers[0], 20_000).await.unwrap(),
        blob[20_000..]
    );
    assert_eq!(asking.counted("content", "200"), 1);
    assert_eq!(asking.counted("content", "206"), 1, "the range goes along");
    assert_saw_no_secret(&content);

    // A host that a redirect leads to may want a token of its own: it gets an anonymous one.
    content.demand_bearer(&content);
    let target = format!("{}/v2/a/blobs/{}", content.url(), put.layers[0]);
    server.on("GET /blobs/", 1, [Act::Redirect(target)]);
    assert_eq!(whole_blob(upstream, "a", &put.layers[0], 0).await.unwrap(), blob);
    for seen in content.seen() {
        assert!(!format!("{seen:?}").contains("YWRhOmxvdmVsYWNl"), "{seen:?}");
    }
}

#[tokio::test]
async fn redirects_to_nowhere_good_are_not_followed() {
    let (server, canary) = (Server::start().await, Server::start().await);
    let blob = server.put_image("a", "v1", &[noise(10, 7)]).layers.remove(0);
    let upstream = asking(&remote(&server)).upstream;
    let user = format!("http://u:p@{}/", canary.host());
    for target in [
        server.url() + "/v2/a/blobs/circle",
        "file:///etc/passwd".to_owned(),
        "ftp://127.0.0.1/".to_owned(),
        "http://".to_owned(),
        user,
    ] {
        server.behave();
        server.on("GET /blobs/", ALWAYS, [Act::Redirect(target.clone())]);
        let before = server.asked("GET /blobs/");
        let error = upstream
            .blob(&image("a"), &blob, Range::default(), None)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Lies(_)), "{target}: {error}");
        assert!(server.asked("GET /blobs/") - before <= 6);
    }
    assert_eq!(canary.connections(), 0);

    // What fails behind a signed address does not print the signature.
    canary.stop().await;
    server.behave();
    let target = format!("{}/x?signature=hidden", canary.url());
    server.on("GET /blobs/", ALWAYS, [Act::Redirect(target)]);
    let error = upstream
        .blob(&image("a"), &blob, Range::default(), None)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error}");
    assert!(!format!("{error} {error:?}").contains("hidden"), "{error:?}");
}

#[tokio::test]
async fn manifests_do_not_wait_for_blobs() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[noise(100_000, 8)]);
    let mut config = remote(&server);
    config.connections = 4;
    let upstream = asking(&config).upstream;
    let gate = Gate::new();
    server.on("GET /blobs/", ALWAYS, [Act::HoldAfter(10, gate.clone())]);
    let mut streams = Vec::new();
    for _ in 0..2 {
        streams.push(
            upstream
                .blob(&image("a"), &put.layers[0], Range::default(), None)
                .await
                .unwrap()
                .unwrap(),
        );
    }
    let name = image("a");
    let third = upstream.blob(&name, &put.layers[0], Range::default(), None);
    let mut third = std::pin::pin!(third);
    tokio::select! {
        _ = &mut third => panic!("a third blob got a connection that is kept for manifests"),
        found = manifest(&upstream, "a", "v1") => assert_eq!(found, Ok(Some(put.digest))),
    }
    gate.open();
    drop(streams);
    assert!(third.await.unwrap().is_some(), "its turn comes when a body is done");
}

#[tokio::test]
async fn tags_are_read_page_by_page_from_one_host() {
    let (server, canary) = (Server::start().await, Server::start().await);
    for tag in ["v3", "v1", "v2", "v5", "v4"] {
        server.put_image("a", tag, &[]);
    }
    let upstream = asking(&remote(&server)).upstream;
    let listed = || async { upstream.tags(&image("a")).await };
    let names = |tags: Vec<entrepot::oci::Tag>| tags.iter().map(ToString::to_string).collect::<Vec<_>>();
    let all = ["v1", "v2", "v3", "v4", "v5"];

    assert_eq!(names(listed().await.unwrap().unwrap()), all);
    server.page_tags(2);
    let before = server.asked("GET /tags/list");
    assert_eq!(names(listed().await.unwrap().unwrap()), all);
    assert_eq!(server.asked("GET /tags/list") - before, 3);

    let body = br#"{"name":"a","tags":["ok","not ok","-no","ok",""]}"#;
    server.on(
        "GET /tags/list",
        1,
        [Act::Body(Bytes::from_static(body)), Act::Without("Link")],
    );
    assert_eq!(names(listed().await.unwrap().unwrap()), ["ok"]);
    let body = Bytes::from_static(br#"{"name":"a","tags":null}"#);
    server.on("GET /tags/list", 1, [Act::Body(body), Act::Without("Link")]);
    assert_eq!(listed().await, Ok(Some(Vec::new())));

    let elsewhere = format!("<{}/v2/a/tags/list?x=1>; rel=\"next\"", canary.url());
    let circle = "</v2/a/tags/list?n=1000>; rel=\"next\"".to_owned();
    for link in [elsewhere, circle] {
        server.on("GET /tags/list", 1, [Act::Header("Link", link)]);
        assert!(matches!(listed().await, Err(Error::Lies(_))));
    }
    assert_eq!(canary.connections(), 0);
    server.on("GET next_page=", 1, [Act::Status(404)]);
    assert!(listed().await.is_err(), "half a list is none");
    server.on("GET /tags/list", 1, [Act::Body(Bytes::from_static(b"<html>"))]);
    assert!(matches!(listed().await, Err(Error::Lies(_))));
}

#[tokio::test]
async fn an_upstream_without_referrers_says_so_in_many_ways() {
    let server = Server::start().await;
    let subject = server.put_image("a", "v1", &[]).digest;
    let upstream = asking(&remote(&server)).upstream;
    let found = || async { upstream.referrers(&image("a"), &subject).await };
    let count = |answer: Option<Referrers>| {
        answer.map(|referrers| {
            assert!(!referrers.is_cut);
            referrers.entries.len()
        })
    };
    for refusal in [
        vec![Act::Status(404)],
        vec![Act::Status(400)],
        vec![Act::Status(405)],
        vec![Act::Status(406)],
        vec![Act::Status(501)],
        vec![Act::Status(200), Act::Header("Content-Type", "text/html".to_owned())],
    ] {
        server.on("GET /referrers/", 1, refusal);
        assert_eq!(count(found().await.unwrap()), None);
    }
    for refusal in [Act::Status(500), Act::Status(403)] {
        server.on("GET /referrers/", 1, [refusal]);
        assert!(found().await.is_err());
    }
    server.on("GET /referrers/", 1, [Act::Status(429)]);
    let once = asking(&remote(&server)).upstream;
    assert!(once.referrers(&image("a"), &subject).await.is_err());

    let entry = format!(
        r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":3}}"#,
        digest(b"sig")
    );
    let junk = r#"{"mediaType":"x","digest":"md5:00","size":3}"#;
    let index = Bytes::from(format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{entry},{junk},{entry}]}}"#
    ));
    server.put_referrers("a", &subject, &index);
    assert_eq!(count(found().await.unwrap()), Some(2));

    // Once it has begun a list, nothing says that it has none.
    for refusal in [
        vec![Act::Status(404)],
        vec![Act::Status(400)],
        vec![Act::Header("Content-Type", "text/html".to_owned())],
    ] {
        let next = format!("</v2/a/referrers/{subject}?next_page=2>; rel=\"next\"");
        server.on("GET /referrers/", 1, [Act::Header("Link", next)]);
        server.on("GET next_page=", 1, refusal);
        assert!(found().await.is_err(), "half a list is none");
    }
    // Nor is all of a long one kept: pages of 3 MB, until there are 16 MiB of them.
    let long = r#"{"manifests":[{"mediaType":"x","digest":"md5:00","size":3,"annotations":{"x":""#.to_owned();
    let long = Bytes::from(long + &"x".repeat(3_000_000) + r#""}}]}"#);
    for number in 0..20 {
        let next = format!("</v2/a/referrers/{subject}?page={number}>; rel=\"next\"");
        let acts = [Act::Body(long.clone()), Act::Header("Link", next)];
        server.on("GET /referrers/", 1, acts);
    }
    let before = server.asked("GET /referrers/");
    let metrics = Arc::new(Metrics::new().unwrap());
    let patient = Upstream::new(&"remote".parse().unwrap(), &remote(&server), 4 << 20, metrics).unwrap();
    let found_long = patient.referrers(&image("a"), &subject).await;
    assert!(found_long.unwrap().is_some_and(|referrers| referrers.is_cut));
    assert_eq!(server.asked("GET /referrers/") - before, 6);
    server.behave();

    let null = Bytes::from_static(br#"{"manifests":null}"#);
    server.put_referrers("a", &subject, &null);
    assert_eq!(count(found().await.unwrap()), Some(0));
}

/// Its digest is the one of what was signed, so that the answer looks like a lie unless one knows the format.
#[tokio::test]
async fn docker_schema_1_is_refused_by_its_name() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[]);
    let upstream = asking(&remote(&server)).upstream;
    let signed = r#"{"schemaVersion":1,"name":"a","tag":"v1","architecture":"amd64","fsLayers":[{"blobSum":"sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"}],"history":[{"v1Compatibility":"{}"}],"signatures":[{"header":{"alg":"ES256"},"signature":"x","protected":"x"}]}"#;
    for content_type in [
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/json",
        "text/plain",
    ] {
        let acts = [
            Act::Header("Content-Type", content_type.to_owned()),
            Act::Header("Docker-Content-Digest", digest(b"what was signed").to_string()),
            Act::Body(Bytes::from_static(signed.as_bytes())),
        ];
        for reference in ["v1", put.digest.as_str()] {
            server.on("GET /v2/a/manifests/", 1, acts.clone());
            let error = manifest(&upstream, "a", reference).await.unwrap_err();
            let said = error.to_string();
            assert!(
                said.contains("Docker schema 1") && said.contains("pushed again"),
                "{said}"
            );
        }
    }
}

#[tokio::test]
async fn tls_is_verified_unless_it_is_said_not_to_be_and_never_left() {
    let (server, canary) = (Server::start().await, Server::start().await);
    let put = server.put_image("a", "v1", &[noise(10, 9)]);
    let (url, _running) = behind_tls(&server).await;
    let mut config = remote(&server);
    config.url = url.parse().unwrap();
    config.credentials = vec![credentials()];
    let error = manifest(&asking(&config).upstream, "a", "v1").await.unwrap_err();
    let Error::Unreachable(why) = &error else {
        panic!("{error}")
    };
    assert!(why.contains("certificate"), "{why}");
    assert_eq!(server.seen().len(), 0);

    config.insecure = true;
    let upstream = asking(&config).upstream;
    assert_eq!(manifest(&upstream, "a", "v1").await, Ok(Some(put.digest)));

    // Even then, the credentials stay where they belong.
    server.demand_bearer(&canary);
    assert_eq!(
        manifest(&upstream, "a", "v1").await.map(|found| found.is_some()),
        Ok(true)
    );
    assert_eq!(canary.asked("GET /token"), 1);
    let thief = Server::start().await;
    server.on("GET /blobs/", 1, [Act::Redirect(thief.url())]);
    assert!(
        upstream
            .blob(&image("a"), &put.layers[0], Range::default(), None)
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(thief.seen().len(), 1);
    assert_saw_no_secret(&canary);
    assert_saw_no_secret(&thief);
}

#[tokio::test]
async fn a_part_is_asked_for_as_one_of_the_same_blob_and_of_the_same_host() {
    let server = Server::start().await;
    let blob = noise(100_000, 50);
    let digest = server.put_blob("a", &blob);
    let upstream = asking(&remote(&server)).upstream;
    let name = image("a");
    let part = Range { from: 10, to: Some(60) };
    let whole = upstream.blob(&name, &digest, Range::default(), None).await.unwrap();
    let validator = whole.unwrap().validator().cloned().expect("a strong one");
    let mut stream = upstream
        .blob(&name, &digest, part, Some(&validator))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((stream.start(), stream.total()), (10, Some(100_000)));
    assert_eq!(stream.chunk().await.unwrap().expect("bytes"), blob.slice(10..60));
    assert_eq!(stream.chunk().await.unwrap(), None);
    let seen = server.seen().pop().unwrap();
    assert_eq!(seen.header("range"), Some("bytes=10-59"));
    assert_eq!(seen.header("if-range"), Some(format!("\"{digest}\"").as_str()));

    // Another host's tag is not shown to the registry, nor the registry's to another host.
    let elsewhere = Server::start().await;
    elsewhere.put_blob("a", &blob);
    server.on(
        "GET /blobs/",
        ALWAYS,
        [Act::Redirect(format!("{}/v2/a/blobs/{digest}", elsewhere.url()))],
    );
    let stream = upstream.blob(&name, &digest, part, Some(&validator)).await.unwrap();
    let foreign = stream.unwrap().validator().cloned().expect("a strong one");
    assert_eq!(elsewhere.seen().pop().unwrap().header("if-range"), None);
    upstream.blob(&name, &digest, part, Some(&foreign)).await.unwrap();
    assert_eq!(server.seen().pop().unwrap().header("if-range"), None);
    assert!(elsewhere.seen().pop().unwrap().header("if-range").is_some());

    // A weak tag vouches for nothing; a part that is not the one asked for is no part.
    server.behave();
    server.on("GET /blobs/", 1, [Act::Header("ETag", "W/\"x\"".to_owned())]);
    let stream = upstream.blob(&name, &digest, part, None).await.unwrap();
    assert_eq!(stream.unwrap().validator(), None);
    server.on(
        "GET /blobs/",
        1,
        [Act::Header("Content-Range", "bytes 10-58/100000".to_owned())],
    );
    let error = upstream.blob(&name, &digest, part, None).await.unwrap_err();
    assert!(matches!(error, Error::Lies(_)), "{error}");
}
