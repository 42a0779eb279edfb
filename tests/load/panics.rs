//! A10: panics where they hurt, in the real binary: as it is built for tests, it panics in the places that a file names
//! (`src/mishap.rs`).

use std::path::PathBuf;

use futures_util::future::join_all;
use reqwest::{Response, StatusCode};

use crate::binary::{Registry, entrepot, expect, header, sha256, temporary, until};
use crate::raw::metric;
use crate::support::upstream::{Server, noise};

/// More than there are places for requests, and so for fetches and pushes: one that was lost each time would be missed.
const TIMES: usize = 20;
const PLACES: usize = 8;

struct Prone {
    registry: Registry,
    file: PathBuf,
    upstream: Server,
}

impl Prone {
    async fn start() -> Self {
        let (directory, upstream) = (temporary(), Server::start().await);
        let configuration = format!(
            "server: {{ listen: '127.0.0.1:0', limits: {{ connections: {PLACES} }} }}\nstorage: {{ path: data, gc: {{ every: forever, grace: 1ms }} }}\nrepositories:\n  \
             docker: {{ type: local }}\n  cache: {{ type: remote, url: '{}', insecure: true }}\n",
            upstream.url()
        );
        let (file, mishaps) = (
            directory.path().join("repositories.yml"),
            directory.path().join("mishaps"),
        );
        std::fs::write(&file, configuration).expect("written");
        let mut command = entrepot(&["serve", "-c"]);
        command.arg(&file).env("ENTREPOT_MISHAPS", &mishaps);
        Self {
            registry: Registry::started_by(&directory, &mut command),
            file: mishaps,
            upstream,
        }
    }

    /// From now on it panics there.
    fn panic_in(&self, place: &str) {
        std::fs::write(&self.file, place).expect("written");
    }

    /// From now on it does not; and of what there was, nothing is left: no request, no fetch, no connection, no lock that cannot be
    /// taken. It is the same process still.
    async fn is_well_again(&self, place: &str) {
        let log = self.registry.log();
        assert!(
            log.contains(&format!("a mishap in {place}, as told")),
            "it never came to it"
        );
        std::fs::write(&self.file, "").expect("written");
        until("all is given back", async || {
            let metrics = self.registry.metrics().await;
            let open = metrics.lines().filter(|line| {
                line.starts_with("registry_http_in_flight_requests{") || line.starts_with("entrepot_fetches{")
            });
            open.filter_map(|line| line.rsplit_once(' '))
                .all(|(_, count)| count == "0")
        })
        .await;
        // The one that asks, and those that the client keeps open: none of those that broke.
        assert!(metric(&self.registry, "entrepot_connections").await <= 4.0);
        for path in ["/livez", "/readyz"] {
            expect(self.get(path).await.expect("an answer"), StatusCode::OK).await;
        }
        assert!(!log.to_lowercase().contains("poison"), "{log}");
    }

    async fn get(&self, path: &str) -> reqwest::Result<Response> {
        self.registry.get(path).send().await
    }

    /// Whether somebody got all of a body, with a status that says so.
    async fn has_whole(&self, path: &str) -> bool {
        match self.get(path).await {
            Ok(response) if response.status() == StatusCode::OK => response.bytes().await.is_ok(),
            Ok(response) => {
                assert!(response.status().is_server_error(), "{}", response.status());
                false
            }
            Err(_) => false,
        }
    }
}

#[tokio::test]
async fn a10_a_panic_in_a_handler_is_that_requests_end() {
    let prone = Prone::start().await;
    prone.registry.push_image("/v2/docker/a", "v1", b"layer").await;
    let path = "/v2/docker/a/manifests/v1";
    prone.panic_in("handler");
    for _ in 0..TIMES {
        assert!(!prone.has_whole(path).await);
    }
    prone.is_well_again("handler").await;
    assert!(prone.has_whole(path).await);
    prone.registry.push_image("/v2/docker/a", "v2", b"other").await;
    assert!(prone.registry.stop().success());
}

#[tokio::test]
async fn a10_a_panic_in_a_fetch_is_that_fetchs_end() {
    let prone = Prone::start().await;
    let images: Vec<_> = (0..TIMES as u64)
        .map(|number| {
            prone
                .upstream
                .put_image("app", &format!("v{number}"), &[noise(300_000, number)])
        })
        .collect();
    let paths: Vec<String> = images
        .iter()
        .map(|image| format!("/v2/cache/app/blobs/{}", image.layers[0]))
        .collect();
    prone.panic_in("fill");
    for path in &paths {
        // Those who wait for the same are all told.
        let whole = join_all((0..3).map(|_| prone.has_whole(path))).await;
        assert_eq!(whole, [false; 3], "{path}");
    }
    prone.is_well_again("fill").await;
    for (path, image) in paths.iter().zip(&images) {
        let response = expect(prone.get(path).await.expect("an answer"), StatusCode::OK).await;
        assert_eq!(sha256(&response.bytes().await.expect("whole")), image.layers[0]);
        let response = expect(prone.get(path).await.expect("an answer"), StatusCode::OK).await;
        assert_eq!(header(&response, "x-cache"), "HIT");
    }
    assert!(prone.registry.stop().success());
}

#[tokio::test]
async fn a10_a_panic_in_the_disks_work_is_500() {
    let prone = Prone::start().await;
    let layer = prone.registry.push_blob("/v2/docker/a", b"layer").await;
    let path = format!("/v2/docker/a/blobs/{layer}");
    prone.panic_in("disk");
    for _ in 0..TIMES {
        let response = prone.get(&path).await.expect("an answer");
        expect(response, StatusCode::INTERNAL_SERVER_ERROR).await;
        let push = prone.registry.post("/v2/docker/a/blobs/uploads/").send().await;
        expect(push.expect("an answer"), StatusCode::INTERNAL_SERVER_ERROR).await;
    }
    prone.is_well_again("disk").await;
    assert!(prone.has_whole(&path).await);
    prone.registry.push_image("/v2/docker/a", "v1", b"other").await;
    // None that was never told to anybody stays open.
    assert!(metric(&prone.registry, "entrepot_uploads").await < 1.0);
    assert!(prone.registry.stop().success());
}

#[tokio::test]
async fn a10_a_panic_in_the_index_costs_the_index_and_nothing_else() {
    let prone = Prone::start().await;
    prone.registry.push_image("/v2/docker/a", "v0", b"layer").await;
    prone.panic_in("index");
    let mut tags = vec!["v0".to_owned()];
    for number in 1..TIMES {
        let tag = format!("v{number}");
        // The truth is on the disk: what was pushed is acknowledged, there, and listed.
        let pushed = prone.registry.push_image("/v2/docker/a", &tag, tag.as_bytes()).await;
        let response = prone.get(&format!("/v2/docker/a/manifests/{tag}")).await;
        let response = expect(response.expect("an answer"), StatusCode::OK).await;
        assert_eq!(header(&response, "docker-content-digest"), pushed.as_str());
        tags.push(tag);
    }
    tags.sort();
    let listed = async |registry: &Registry| {
        let response = registry.get("/v2/docker/a/tags/list").send().await.expect("an answer");
        let list: serde_json::Value = response.json().await.expect("JSON");
        list["tags"].clone()
    };
    assert_eq!(listed(&prone.registry).await, serde_json::json!(tags));
    prone.is_well_again("index").await;
    assert_eq!(listed(&prone.registry).await, serde_json::json!(tags));
    // The next start makes a new one.
    let registry = prone.registry.restart();
    assert_eq!(listed(&registry).await, serde_json::json!(tags));
    assert!(registry.log().contains("index"), "{}", registry.log());
    assert!(registry.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a10_a_panic_in_a_collection_gives_back_its_locks() {
    let prone = Prone::start().await;
    let left = prone.registry.push_blob("/v2/docker/a", b"left behind").await;
    let collect = async || {
        let request = prone.registry.post("/api/v1/gc");
        request.json(&serde_json::json!({})).send().await.expect("an answer")
    };
    expect(collect().await, StatusCode::OK).await;
    prone.panic_in("gc");
    for _ in 0..TIMES {
        expect(collect().await, StatusCode::INTERNAL_SERVER_ERROR).await;
    }
    prone.is_well_again("gc").await;
    // The image's turn, the blob's lock, and the right to remove are free: each is needed for one of these.
    let path = format!("/v2/docker/a/blobs/{left}");
    prone.registry.push_image("/v2/docker/a", "v1", b"layer").await;
    expect(collect().await, StatusCode::OK).await;
    expect(prone.get(&path).await.expect("an answer"), StatusCode::NOT_FOUND).await;
    prone.registry.push_blob("/v2/docker/a", b"left behind").await;
    assert!(prone.has_whole(&path).await);
    assert!(prone.registry.stop().success());
}
