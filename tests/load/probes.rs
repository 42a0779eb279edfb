//! A8: what probes say in trouble. Of a runtime that is blocked, `blocked.rs` tells.

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use reqwest::StatusCode;

use crate::binary::{Registry, expect, sha256, temporary, until};
use crate::raw::metric;
use crate::support::upstream::{ALWAYS, Act, Server, noise};

async fn status(registry: &Registry, url: &str) -> Option<u16> {
    let response = registry.client.get(url).send().await.ok()?;
    Some(response.status().as_u16())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a08_an_upstream_that_is_down_makes_nobody_restart_us() {
    let upstream = Server::start().await;
    upstream.on("* /v2/", ALWAYS, [Act::Close]);
    let silent = Server::start().await;
    silent.on("* /v2/", ALWAYS, [Act::Hang]);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("bound");
    let registry = Registry::start(&format!(
        "repositories:\n  down: {{ type: remote, url: '{}', insecure: true }}\n\
         \x20 silent: {{ type: remote, url: '{}', insecure: true }}\n\
         \x20 gone: {{ type: remote, url: 'http://{nobody}', insecure: true }}\n",
        upstream.url(),
        silent.url()
    ));
    let probes = async |what: &str| {
        for probe in ["/livez", "/readyz", "/healthz"] {
            assert_eq!(
                status(&registry, &registry.url(probe)).await,
                Some(200),
                "{probe}: {what}"
            );
        }
    };
    for _ in 0..6 {
        for key in ["down", "gone"] {
            let response = registry.get(&format!("/v2/{key}/a/manifests/v1")).send().await;
            expect(response.expect("an answer"), StatusCode::SERVICE_UNAVAILABLE).await;
        }
    }
    probes("upstreams that are gone").await;
    let waiting = join_all((0..30).map(async |number| {
        let path = format!("/v2/silent/a{number}/manifests/v1");
        status(&registry, &registry.url(&path)).await
    }));
    let asked = async {
        until("they wait", async || {
            metric(&registry, "registry_http_in_flight_requests{handler=\"manifest\"}").await >= 16.0
        })
        .await;
        probes("an upstream that says nothing").await;
        silent.behave();
    };
    tokio::select! {
        _ = waiting => panic!("they wait for an upstream that says nothing"),
        () = asked => {}
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
    for (probe, says) in [("/livez", "ok\n"), ("/readyz", "ok for pulls; pushes are refused: ")] {
        let response = registry.get(probe).send().await.expect("an answer");
        let text = expect(response, StatusCode::OK).await.text().await.expect("text");
        assert!(text.starts_with(says), "{probe}: {text}");
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

/// What is read of the tree while the index is rebuilt stands still at a pipe that nobody writes to.
#[tokio::test]
async fn a08_while_the_index_is_rebuilt_what_is_here_is_served_and_pushes_go_on() {
    let directory = temporary();
    let configuration =
        "server: { listen: '127.0.0.1:0' }\nstorage: { path: data }\nrepositories: { docker: { type: local } }";
    let registry = Registry::start_in(&directory, configuration);
    let manifest = registry.push_image("/v2/docker/app", "v1", b"layer").await;
    let held = registry.push_blob("/v2/docker/held", b"held").await;
    let data = registry.data();
    registry.stop();
    std::fs::remove_dir_all(data.join("index")).expect("deleted");
    let image = data.join("docker/registry/v2/repositories/docker/held");
    let pipe = image.join("_layers/sha256").join(held.hex()).join("link");
    std::fs::remove_file(&pipe).expect("deleted");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("it runs").success());

    let registry = Registry::start_in(&directory, configuration);
    assert_eq!(status(&registry, &registry.url("/livez")).await, Some(200));
    let ready = registry.get("/readyz").send().await.expect("an answer");
    let ready = expect(ready, StatusCode::OK).await;
    let text = ready.text().await.expect("text");
    assert!(text.starts_with("ok; the index is being rebuilt"), "{text}");
    for path in [
        "manifests/v1".to_owned(),
        format!("manifests/{manifest}"),
        format!("blobs/{}", sha256(b"layer")),
        "tags/list".to_owned(),
    ] {
        let url = registry.url(&format!("/v2/docker/app/{path}"));
        assert_eq!(status(&registry, &url).await, Some(200), "{path}");
    }
    let later = registry.push_image("/v2/docker/app", "v2", b"pushed meanwhile").await;
    let tags = registry
        .get("/v2/docker/app/tags/list")
        .send()
        .await
        .expect("an answer");
    let tags: serde_json::Value = tags.json().await.expect("JSON");
    assert_eq!(tags["tags"], serde_json::json!(["v1", "v2"]));
    // Opening it waits until it is being read, and that is what holds everything up.
    let written = tokio::task::spawn_blocking(move || std::fs::write(pipe, held.to_string()));
    written.await.expect("it is written").expect("it is read");
    until("the index is rebuilt", async || {
        let ready = registry.get("/readyz").send().await.expect("an answer");
        ready.text().await.expect("text") == "ok\n"
    })
    .await;
    let url = registry.url(&format!("/v2/docker/app/manifests/{later}"));
    assert_eq!(status(&registry, &url).await, Some(200));
    assert!(metric(&registry, "entrepot_index_rebuilds_total{reason=\"missing\"}").await >= 1.0);
}
