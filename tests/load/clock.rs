//! A9: clocks that are wrong, and clocks that are put right. libfaketime (Debian's `faketime`) lies to the real binary about
//! the time of day; where it is not installed, there is nothing to test with.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use reqwest::StatusCode;
use tempfile::TempDir;

use crate::binary::{Registry, entrepot, expect, header, sha256, temporary};
use crate::support::upstream::{Server, noise};

fn library() -> Option<PathBuf> {
    let folders = [
        "/usr/lib/x86_64-linux-gnu/faketime",
        "/usr/lib/aarch64-linux-gnu/faketime",
    ];
    let mut files = folders
        .iter()
        .map(|folder| Path::new(folder).join("libfaketimeMT.so.1"));
    files.find(|file| file.exists())
}

/// The binary under a clock that says what this file says.
fn start(directory: &Arc<TempDir>, library: &Path, time: &str, configuration: &str) -> Registry {
    let file = directory.path().join("repositories.yml");
    std::fs::write(&file, configuration).expect("written");
    set(directory, time);
    let mut command: Command = entrepot(&["serve", "-c"]);
    command
        .arg(&file)
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", directory.path().join("time"))
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    Registry::started_by(directory, &mut command)
}

fn set(directory: &Arc<TempDir>, time: &str) {
    let beside = directory.path().join("time.new");
    std::fs::write(&beside, format!("{time}\n")).expect("written");
    std::fs::rename(beside, directory.path().join("time")).expect("renamed");
}

async fn works(registry: &Registry, tag: &str) {
    let pushed = registry.push_image("/v2/docker/a", tag, tag.as_bytes()).await;
    let response = registry
        .get(&format!("/v2/docker/a/manifests/{tag}"))
        .send()
        .await
        .expect("an answer");
    let response = expect(response, StatusCode::OK).await;
    assert_eq!(header(&response, "docker-content-digest"), pushed.as_str());
}

#[tokio::test]
async fn a09_a_clock_that_jumps_expires_nothing_and_stops_nothing() {
    let Some(library) = library() else { return };
    let upstream = Server::start().await;
    let image = upstream.put_image("app", "v1", &[noise(10_000, 9)]);
    let configuration = format!(
        "server: {{ listen: '127.0.0.1:0' }}\nstorage: {{ path: data }}\nrepositories:\n  docker: {{ type: local }}\n  \
         cache: {{ type: remote, url: '{}', insecure: true }}\n",
        upstream.url()
    );
    let directory = temporary();
    let registry = start(&directory, &library, "+0", &configuration);
    works(&registry, "before").await;
    let response = registry
        .get("/v2/cache/app/manifests/v1")
        .send()
        .await
        .expect("an answer");
    expect(response, StatusCode::OK).await;
    let layer = format!("/v2/cache/app/blobs/{}", image.layers[0]);
    expect(registry.get(&layer).send().await.expect("an answer"), StatusCode::OK).await;
    // An upload that is under way while the clock jumps.
    let begun = registry
        .post("/v2/docker/a/blobs/uploads/")
        .send()
        .await
        .expect("an answer");
    let location = header(&begun, "location").to_owned();
    for (number, time) in ["+1h", "-1h", "+0"].into_iter().enumerate() {
        set(&directory, time);
        works(&registry, &format!("v{number}")).await;
        let response = registry
            .get("/v2/cache/app/manifests/v1")
            .send()
            .await
            .expect("an answer");
        expect(response, StatusCode::OK).await;
        let response = expect(registry.get(&layer).send().await.expect("an answer"), StatusCode::OK).await;
        assert_eq!(header(&response, "x-cache"), "HIT", "{time}");
        let response = registry.get(&location).send().await.expect("an answer");
        expect(response, StatusCode::NO_CONTENT).await;
    }
    let digest = sha256(b"late");
    let request = registry.put(&format!("{location}?digest={digest}"));
    expect(
        request.body("late").send().await.expect("an answer"),
        StatusCode::CREATED,
    )
    .await;
    assert!(!registry.log().contains("panicked"), "{}", registry.log());
    registry.stop();
    for time in ["@1970-01-02 00:00:00", "@2106-01-01 00:00:00"] {
        let registry = start(&directory, &library, time, &configuration);
        works(&registry, &format!("at{}", &time[1..5])).await;
        // What was here before is here still, and its upstream is not gone either.
        for path in ["/v2/docker/a/manifests/before", "/v2/cache/app/manifests/v1", &layer] {
            let response = registry.get(path).send().await.expect("an answer");
            expect(response, StatusCode::OK).await;
        }
        assert!(!registry.log().contains("panicked"), "{}", registry.log());
        registry.stop();
    }
}
