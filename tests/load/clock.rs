//! A9: clocks that are wrong, and clocks that are put right. libfaketime (Debian's `faketime`) lies to the real binary about
//! the time of day, and leaves the time since it began as it is.

mod tokens;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Response, StatusCode};
use tempfile::TempDir;

use crate::binary::{Registry, entrepot, expect, header, sha256, temporary};
use crate::support::upstream::{Server, noise};

fn library() -> PathBuf {
    let folders = [
        "/usr/lib/x86_64-linux-gnu/faketime",
        "/usr/lib/aarch64-linux-gnu/faketime",
    ];
    let mut files = folders
        .iter()
        .map(|folder| Path::new(folder).join("libfaketimeMT.so.1"));
    let found = files.find(|file| file.exists());
    found.expect("libfaketimeMT.so.1 is not here: `apt-get install faketime` installs what row A9 is shown with")
}

/// A registry under a clock that says what a file says.
struct Faked {
    registry: Registry,
    directory: Arc<TempDir>,
}

impl Faked {
    fn start(directory: &Arc<TempDir>, time: &str, configuration: &str) -> Self {
        let file = directory.path().join("repositories.yml");
        std::fs::write(&file, configuration).expect("written");
        set(directory, time);
        let mut command: Command = entrepot(&["serve", "-c"]);
        command
            .arg(&file)
            .env("LD_PRELOAD", library())
            .env("FAKETIME_TIMESTAMP_FILE", directory.path().join("time"))
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1");
        Self {
            registry: Registry::started_by(directory, &mut command),
            directory: Arc::clone(directory),
        }
    }

    fn set(&self, time: &str) {
        set(&self.directory, time);
    }

    async fn get(&self, path: &str, status: StatusCode) -> Response {
        expect(self.registry.get(path).send().await.expect("an answer"), status).await
    }

    /// Where an upload goes on that is begun now.
    async fn upload(&self) -> String {
        let begun = self.registry.post("/v2/docker/a/blobs/uploads/").send().await;
        let begun = expect(begun.expect("an answer"), StatusCode::ACCEPTED).await;
        header(&begun, "location").to_owned()
    }

    /// An image can be pushed and pulled.
    async fn works(&self, tag: &str) {
        let pushed = self.registry.push_image("/v2/docker/a", tag, tag.as_bytes()).await;
        let path = format!("/v2/docker/a/manifests/{tag}");
        let response = self.get(&path, StatusCode::OK).await;
        assert_eq!(header(&response, "docker-content-digest"), pushed.as_str());
    }

    fn stop(self) {
        assert!(!self.registry.log().contains("panicked"), "{}", self.registry.log());
        self.registry.stop();
    }
}

fn set(directory: &Arc<TempDir>, time: &str) {
    let beside = directory.path().join("time.new");
    std::fs::write(&beside, format!("{time}\n")).expect("written");
    std::fs::rename(beside, directory.path().join("time")).expect("renamed");
}

/// A local repository, and two remotes whose times are all shorter than the hour by which the clock jumps.
fn configuration(upstream: &Server) -> String {
    let remote = format!("type: remote, url: '{}', insecure: true", upstream.url());
    format!(
        "server: {{ listen: '127.0.0.1:0', limits: {{ upload_idle: 20s }} }}\nstorage: {{ path: data }}\nrepositories:\n  \
         docker: {{ type: local }}\n  \
         cache: {{ {remote}, tag_ttl: 30m, negative_ttl: 30m, cache: {{ unused_after: 20m }} }}\n  \
         held: {{ {remote}, tag_ttl: 0s, hold: 30m }}\n"
    )
}

#[tokio::test]
async fn a09_a_clock_that_jumps_expires_nothing_and_stops_nothing() {
    let upstream = Server::start().await;
    let image = upstream.put_image("app", "v1", &[noise(10_000, 9)]);
    let faked = Faked::start(&temporary(), "+0", &configuration(&upstream));
    faked.works("before").await;
    faked.get("/v2/cache/app/manifests/v1", StatusCode::OK).await;
    faked.get("/v2/held/app/manifests/v1", StatusCode::OK).await;
    faked.get("/v2/cache/app/manifests/none", StatusCode::NOT_FOUND).await;
    let layer = format!("/v2/cache/app/blobs/{}", image.layers[0]);
    faked.get(&layer, StatusCode::OK).await;
    // A move that is seen now is followed in half an hour of real time, whatever the clock says.
    upstream.put_image("app", "v1", &[noise(10_000, 10)]);
    faked.get("/v2/held/app/manifests/v1", StatusCode::OK).await;
    let location = faked.upload().await;
    let of_tag = upstream.asked("HEAD /v2/app/manifests/v1") + upstream.asked("GET /v2/app/manifests/v1");
    let of_none = upstream.asked("* /v2/app/manifests/none");
    for (number, time) in ["+1h", "-1h", "+36500d", "+0"].into_iter().enumerate() {
        faked.set(time);
        faked.works(&format!("v{number}")).await;
        for path in ["/v2/cache/app/manifests/v1", layer.as_str()] {
            let response = faked.get(path, StatusCode::OK).await;
            assert_eq!(header(&response, "x-cache"), "HIT", "{time}: {path}");
        }
        faked.get("/v2/cache/app/manifests/none", StatusCode::NOT_FOUND).await;
        let held = faked.get("/v2/held/app/manifests/v1", StatusCode::OK).await;
        assert_eq!(header(&held, "docker-content-digest"), image.digest.as_str(), "{time}");
        faked.get(&location, StatusCode::NO_CONTENT).await;
    }
    // Four times the remote that asks every time, and nobody else.
    let asked = upstream.asked("HEAD /v2/app/manifests/v1") + upstream.asked("GET /v2/app/manifests/v1");
    assert_eq!(asked, of_tag + 4, "{:?}", upstream.seen());
    assert_eq!(upstream.asked("* /v2/app/manifests/none"), of_none);
    let request = faked
        .registry
        .put(&format!("{location}?digest={}", sha256(b"late")))
        .body("late");
    expect(request.send().await.expect("an answer"), StatusCode::CREATED).await;
    faked.stop();
}

/// Housekeeping comes round once a minute, so this takes one.
#[tokio::test]
async fn a09_what_is_wanted_outlives_housekeeping_under_a_clock_that_jumps() {
    let upstream = Server::start().await;
    let image = upstream.put_image("app", "v1", &[noise(10_000, 9)]);
    let faked = Faked::start(&temporary(), "+0", &configuration(&upstream));
    let layer = format!("/v2/cache/app/blobs/{}", image.layers[0]);
    faked.get("/v2/cache/app/manifests/v1", StatusCode::OK).await;
    faked.get(&layer, StatusCode::OK).await;
    let (alive, left) = (faked.upload().await, faked.upload().await);
    faked.set("+25h");
    // What nobody goes on with goes: that is how one sees that it has been looked for.
    let mut rounds = tokio::time::interval(Duration::from_secs(2));
    let mut sent = String::new();
    while faked.registry.metrics().await.contains("entrepot_uploads 2\n") {
        assert!(sent.len() < 60, "an upload that was left stays");
        let request = faked.registry.patch(&alive).body("a");
        expect(request.send().await.expect("an answer"), StatusCode::ACCEPTED).await;
        sent.push('a');
        rounds.tick().await;
    }
    faked.get(&left, StatusCode::NOT_FOUND).await;
    let request = faked
        .registry
        .put(&format!("{alive}?digest={}", sha256(sent.as_bytes())));
    expect(request.send().await.expect("an answer"), StatusCode::CREATED).await;
    // What was wanted a minute ago was not wanted for a day only if one asks the clock.
    let response = faked.get(&layer, StatusCode::OK).await;
    assert_eq!(header(&response, "x-cache"), "HIT");
    faked.stop();
}

#[tokio::test]
async fn a09_what_a_wrong_clock_wrote_is_served_by_a_right_one_and_the_other_way_round() {
    let upstream = Server::start().await;
    let image = upstream.put_image("app", "v1", &[noise(10_000, 9)]);
    let configuration = configuration(&upstream);
    let directory = temporary();
    let layer = format!("/v2/cache/app/blobs/{}", image.layers[0]);
    let mut tags = Vec::new();
    let times = ["+0", "@1970-01-02 00:00:00", "@2106-01-01 00:00:00", "+0"];
    for (number, time) in times.into_iter().enumerate() {
        let faked = Faked::start(&directory, time, &configuration);
        for repository in ["cache", "held"] {
            faked
                .get(&format!("/v2/{repository}/app/manifests/v1"), StatusCode::OK)
                .await;
        }
        tags.push(format!("at{number}"));
        faked.works(&tags[number]).await;
        for tag in &tags {
            faked
                .get(&format!("/v2/docker/a/manifests/{tag}"), StatusCode::OK)
                .await;
        }
        let response = faked.get(&layer, StatusCode::OK).await;
        assert!(number == 0 || header(&response, "x-cache") == "HIT", "{time}");
        faked.stop();
    }
}

#[tokio::test]
async fn a09_a_move_that_a_wrong_clock_saw_is_held_for_its_time() {
    for time in ["@1970-01-02 00:00:00", "@2106-01-01 00:00:00"] {
        let upstream = Server::start().await;
        let image = upstream.put_image("app", "v1", &[noise(10_000, 9)]);
        let (configuration, directory) = (configuration(&upstream), temporary());
        for (number, time) in [time, time, "+0", "+0"].into_iter().enumerate() {
            let faked = Faked::start(&directory, time, &configuration);
            let held = faked.get("/v2/held/app/manifests/v1", StatusCode::OK).await;
            assert_eq!(
                header(&held, "docker-content-digest"),
                image.digest.as_str(),
                "{number}: {time}"
            );
            let has_moved = header(&held, "warning").contains("has moved this tag");
            assert_eq!(has_moved, number > 0, "{number}: {time}");
            upstream.put_image("app", "v1", &[noise(10_000, 10)]);
            faked.stop();
        }
    }
}
