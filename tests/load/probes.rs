//! A8: what probes say in trouble. That a blocked runtime is noticed is a test beside `http/pulse.rs`.

use futures_util::StreamExt as _;
use reqwest::StatusCode;

use crate::binary::{Registry, expect, sha256, temporary, until};
use crate::support::upstream::{ALWAYS, Act, Server, noise};

async fn status(registry: &Registry, url: &str) -> Option<u16> {
    let response = registry.client.get(url).send().await.ok()?;
    Some(response.status().as_u16())
}

#[tokio::test]
async fn a08_an_upstream_that_is_down_makes_nobody_restart_us() {
    let upstream = Server::start().await;
    upstream.on("* /v2/", ALWAYS, [Act::Close]);
    let registry = Registry::start(&format!(
        "repositories: {{ down: {{ type: remote, url: '{}', insecure: true }} }}",
        upstream.url()
    ));
    for _ in 0..6 {
        let response = registry.get("/v2/down/a/manifests/v1").send().await.expect("an answer");
        expect(response, StatusCode::SERVICE_UNAVAILABLE).await;
    }
    for probe in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(status(&registry, &registry.url(probe)).await, Some(200), "{probe}");
    }
}

#[tokio::test]
async fn a08_a_full_disk_takes_pushes_away_and_nothing_else() {
    let directory = temporary();
    let configuration =
        "server: { listen: '127.0.0.1:0' }\nstorage: { path: data }\nrepositories: { docker: { type: local } }";
    let registry = Registry::start_in(&directory, configuration);
    registry.push_image("/v2/docker/a", "hit", b"layer").await;
    registry.stop();
    let file = directory.path().join("repositories.yml");
    let mut command = crate::binary::entrepot(&["serve", "-c"]);
    command.arg(&file).env("ENTREPOT__STORAGE__MIN_FREE", "99%");
    let registry = Registry::started_by(&directory, &mut command);
    let digest = sha256(b"more");
    let request = registry.post(&format!("/v2/docker/a/blobs/uploads/?digest={digest}"));
    let response = request.body("more").send().await.expect("an answer");
    expect(response, StatusCode::INSUFFICIENT_STORAGE).await;
    let pull = registry
        .get("/v2/docker/a/manifests/hit")
        .send()
        .await
        .expect("an answer");
    expect(pull, StatusCode::OK).await;
    for probe in ["/livez", "/readyz"] {
        assert_eq!(status(&registry, &registry.url(probe)).await, Some(200), "{probe}");
    }
}

#[tokio::test]
async fn a08_who_is_stopping_lives_and_is_not_ready() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("bound");
    let mut registry = Registry::start_in(
        &temporary(),
        &format!(
            "server: {{ listen: '127.0.0.1:0', metrics: '{free}', drain: 20s }}\nstorage: {{ path: data }}\n\
             repositories: {{ docker: {{ type: local }} }}"
        ),
    );
    let content = noise(24 << 20, 8);
    let digest = registry.push_blob("/v2/docker/a", &content).await;
    let (live, ready) = (format!("http://{free}/livez"), format!("http://{free}/readyz"));
    assert_eq!(
        (status(&registry, &live).await, status(&registry, &ready).await),
        (Some(200), Some(200))
    );
    let pull = registry
        .get(&format!("/v2/docker/a/blobs/{digest}"))
        .send()
        .await
        .expect("an answer");
    let mut pieces = pull.bytes_stream();
    let mut bytes = pieces.next().await.expect("a piece").expect("begins").to_vec();
    registry.signal("-TERM");
    until("it is not ready", async || status(&registry, &ready).await == Some(503)).await;
    assert_eq!(status(&registry, &live).await, Some(200));
    while let Some(piece) = pieces.next().await {
        bytes.extend(piece.expect("goes on"));
    }
    assert_eq!(sha256(&bytes), digest);
    assert!(registry.wait().success());
}
