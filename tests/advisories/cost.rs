//! What one request, or one answer, could be made to cost.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use entrepot::cache::Outcome;
use reqwest::StatusCode;

use crate::binary::{OCI_MANIFEST, Registry, expect, refused};
use crate::support::remote::pulling;
use crate::support::upstream::{ALWAYS, Act, Server, noise, remote};
use crate::{in_front_of, raw};

const LOCAL: &str = "repositories: { images: { type: local } }";

/// The resident memory of a process, in KiB.
fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// distribution allocated a list of as many names as `n` said.
#[tokio::test]
async fn cve_2023_2253_a_page_of_any_size_costs_what_there_is() {
    let registry = Registry::start(LOCAL);
    registry.push_image("/v2/images/app", "v1", b"content").await;
    let before = memory(registry.process());
    for n in [
        "1000000000",
        "9223372036854775808",
        "18446744073709551616",
        "-1",
        "1e9",
        "",
    ] {
        for path in ["/v2/_catalog", "/v2/images/app/tags/list"] {
            let response = registry.get(&format!("{path}?n={n}")).send().await.unwrap();
            assert!(response.status() == 200 || response.status() == 400, "{path}?n={n}");
            assert!(response.bytes().await.unwrap().len() < 1000);
        }
    }
    let after = memory(registry.process());
    assert!(after < before + 16 * 1024, "{before} KiB, then {after} KiB");
}

/// distribution read a manifest of any length.
#[tokio::test]
async fn cve_2017_11468_a_manifest_longer_than_allowed_is_not_read() {
    let registry = Registry::start(LOCAL);
    let before = memory(registry.process());
    let request = registry
        .put("/v2/images/app/manifests/v1")
        .header("content-type", OCI_MANIFEST);
    let response = request.body(vec![b' '; (4 << 20) + 1]).send().await.unwrap();
    assert_eq!(refused(response, StatusCode::PAYLOAD_TOO_LARGE).await, "SIZE_INVALID");
    // Announced, it is not even begun.
    let head = format!(
        "PUT /v2/images/app/manifests/v1 HTTP/1.1\r\nHost: x\r\nContent-Type: {OCI_MANIFEST}\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n"
    );
    let answer = raw(registry.address(), head.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let after = memory(registry.process());
    assert!(after < before + 24 * 1024, "{before} KiB, then {after} KiB");
}

/// axum had no limit where no length was announced.
#[tokio::test]
async fn rustsec_2022_0055_a_body_without_a_length_has_a_limit() {
    let registry = Registry::start(LOCAL);
    let chunk = Bytes::from(vec![b' '; 64 * 1024]);
    for path in ["/v2/images/app/manifests/v1", "/api/v1/tags/pin", "/api/v1/prefetch"] {
        let chunk = chunk.clone();
        let endless = futures_util::stream::iter((0..2000).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
        let method = if path.starts_with("/v2") {
            reqwest::Method::PUT
        } else {
            reqwest::Method::POST
        };
        let request = registry.client.request(method, registry.url(path));
        let request = request
            .header("content-type", OCI_MANIFEST)
            .body(reqwest::Body::wrap_stream(endless));
        // The connection may be closed while there is still something to send.
        if let Ok(response) = request.send().await {
            assert!(response.status().is_client_error(), "{path}: {}", response.status());
        }
    }
    assert!(memory(registry.process()) < 200 * 1024);
    expect(registry.get("/readyz").send().await.unwrap(), StatusCode::OK).await;
}

/// cosign followed a list of attestations without end.
#[tokio::test]
async fn cve_2023_46737_a_list_without_end_ends() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[]);
    let endless = Link::default();
    for _ in 0..150 {
        server.on("GET /tags/", 1, [Act::Header("Link", endless.next("tags/list"))]);
        server.on(
            "GET /referrers/",
            1,
            [
                Act::Status(200),
                Act::Body(r#"{"manifests":[]}"#.into()),
                Act::Header("Content-Type", "application/vnd.oci.image.index.v1+json".to_owned()),
                Act::Header("Link", endless.next("referrers/x")),
            ],
        );
    }
    let remote = pulling(&remote(&server)).await;
    let _ = remote.cache.tags(&"a".parse().unwrap()).await;
    let listed = remote.cache.referrers(&"a".parse().unwrap(), &put.digest).await;
    let warning = listed.unwrap().unwrap().warning;
    assert!(warning.is_some_and(|text| text.contains("the rest is missing")));
    let (tags, referrers) = (server.asked("GET /tags/"), server.asked("GET /referrers/"));
    assert!((2..=101).contains(&tags), "{tags} pages of tags");
    assert!((2..=101).contains(&referrers), "{referrers} pages of referrers");
}

#[derive(Default)]
struct Link(std::cell::Cell<u32>);

impl Link {
    fn next(&self, what: &str) -> String {
        self.0.set(self.0.get() + 1);
        format!("</v2/a/{what}?page={}>; rel=\"next\"", self.0.get())
    }
}

/// sigstore kept a series for every path that was ever asked for.
#[tokio::test]
async fn cve_2026_49835_names_that_are_asked_for_make_no_series() {
    let server = Server::start().await;
    let registry = in_front_of(&server, "");
    for path in [
        "/v2/hub/a/tags/list",
        "/v2/hub/a/manifests/v1",
        "/v2/nokey/tags/list",
        "/nothing",
    ] {
        registry.get(path).send().await.unwrap();
    }
    let count = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    let before = count(&registry.metrics().await);
    for number in 0..300 {
        let mut name = String::new();
        write!(name, "n{number}").unwrap();
        for path in [
            format!("/v2/hub/{name}/tags/list"),
            format!("/v2/hub/{name}/manifests/{name}"),
            format!("/v2/{name}/tags/list"),
            format!("/{name}"),
            format!("/v2/_catalog?ns={name}.example"),
        ] {
            registry.get(&path).send().await.unwrap();
        }
        let method = reqwest::Method::from_bytes(format!("M{number}").as_bytes()).unwrap();
        registry
            .client
            .request(method, registry.url("/v2/"))
            .send()
            .await
            .unwrap();
    }
    let text = registry.metrics().await;
    assert!(!text.contains("n299"), "a name is a label");
    let after = count(&text);
    assert!(after < before + 100, "{before} series, then {after}");
}

/// object_store and angos gave a body a time in which to end, whatever its length.
#[tokio::test]
async fn artifact_keeper_3222_a_body_that_takes_long_but_moves_is_not_cut() {
    let server = Server::start().await;
    let layer = noise(60_000, 1);
    let put = server.put_image("a", "v1", std::slice::from_ref(&layer));
    let mut config = remote(&server);
    config.first_byte_timeout = Duration::from_millis(500);
    config.idle_timeout = Duration::from_millis(500);
    config.connect_timeout = Duration::from_millis(500);
    server.on("GET /blobs/", ALWAYS, [Act::Trickle(1000, Duration::from_millis(30))]);
    let remote = pulling(&config).await;
    let began = Instant::now();
    assert_eq!(remote.whole("a", &put.layers[0]).await.unwrap().1, layer);
    assert!(
        began.elapsed() > Duration::from_millis(1500),
        "longer than all of these together"
    );
    assert_eq!(server.asked("GET /blobs/"), 1, "in one go");
}

/// serde_json's limit of depth has to stay on wherever a stranger's JSON is read.
#[tokio::test]
async fn rustsec_2026_0009_what_nests_without_end_breaks_nothing() {
    let deep = Bytes::from("[".repeat(500_000));
    let registry = Registry::start(LOCAL);
    let request = registry
        .put("/v2/images/app/manifests/v1")
        .header("content-type", OCI_MANIFEST);
    let response = request.body(deep.clone()).send().await.unwrap();
    assert_eq!(refused(response, StatusCode::BAD_REQUEST).await, "MANIFEST_INVALID");
    let response = registry
        .post("/api/v1/tags/pin")
        .body(deep.clone())
        .send()
        .await
        .unwrap();
    assert!(response.status().is_client_error());

    let server = Server::start().await;
    server.put_image("a", "v1", &[]);
    server.demand_bearer(&server);
    for pattern in ["GET /token", "GET /manifests/", "GET /tags/"] {
        server.behave();
        server.on(pattern, ALWAYS, [Act::Status(200), Act::Body(deep.clone())]);
        let remote = pulling(&remote(&server)).await;
        let manifest = remote.tag("a", "v1").await;
        assert_eq!(manifest.is_err(), pattern != "GET /tags/", "{pattern}");
        let tags = remote.cache.tags(&"a".parse().unwrap()).await;
        let whole = tags.ok().flatten().is_some_and(|tags| tags.outcome != Outcome::Stale);
        assert_eq!(whole, pattern == "GET /manifests/", "{pattern}");
    }
    expect(registry.get("/readyz").send().await.unwrap(), StatusCode::OK).await;
}
