//! A5: a stop in the middle of transfers.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use reqwest::Body;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::binary::{Registry, client, sha256, temporary, until};
use crate::lag::Lag;
use crate::raw::connect;
use crate::support::upstream::noise;

/// Pulls, and as many pushes.
const TRANSFERS: usize = 50;
const ROUNDS: usize = 10;
/// How soon whoever asks is told to go elsewhere.
const RED: Duration = Duration::from_millis(100);
/// How long after the drain the process may still be there.
const ENDING: Duration = Duration::from_secs(1);

/// A registry in which many are in the middle of something.
struct Busy {
    registry: Registry,
    /// Where metrics are, and probes while it stops.
    beside: String,
    content: Bytes,
    /// They go on when this is true.
    go: watch::Sender<bool>,
    begun: watch::Sender<usize>,
}

impl Busy {
    fn start(directory: &Arc<TempDir>, drain: Duration, more: &str) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let beside = free.local_addr().expect("bound").to_string();
        drop(free);
        let configuration = format!(
            "server: {{ listen: '127.0.0.1:0', metrics: '{beside}', drain: {}s }}\nstorage: {{ path: data }}\n\
             repositories: {{ docker: {{ type: local }} }}\n{more}",
            drain.as_secs()
        );
        Self {
            registry: Registry::start_in(directory, &configuration),
            beside,
            // Longer than what the kernel takes off our hands.
            content: noise(12 << 20, 5),
            go: watch::Sender::new(false),
            begun: watch::Sender::new(0),
        }
    }

    async fn told_to_go_on(&self) {
        self.begun.send_modify(|begun| *begun += 1);
        let _ = self.go.subscribe().wait_for(|go| *go).await;
    }

    /// A pull that pauses after its beginning. Whether all of it came.
    async fn pull(&self, path: &str) -> bool {
        let response = self.registry.get(path).send().await.expect("an answer");
        let mut pieces = response.bytes_stream();
        let mut rest = &self.content[..];
        while let Some(piece) = pieces.next().await {
            let Ok(piece) = piece else { return false };
            if rest.len() == self.content.len() {
                self.told_to_go_on().await;
            }
            rest = rest.strip_prefix(&piece[..]).expect("the right bytes");
        }
        rest.is_empty()
    }

    /// A push that pauses in its middle. Whether it was taken.
    async fn push(&self, number: u64) -> bool {
        let bytes = noise(100_000, number);
        let digest = sha256(&bytes);
        let (first, rest) = (bytes.slice(..50_000), bytes.slice(50_000..));
        let (begun, mut go) = (self.begun.clone(), self.go.subscribe());
        let halves = futures_util::stream::once(async move { Ok::<_, std::io::Error>(first) }).chain(
            futures_util::stream::once(async move {
                begun.send_modify(|begun| *begun += 1);
                let _ = go.wait_for(|go| *go).await;
                Ok(rest)
            }),
        );
        let request = self
            .registry
            .post(&format!("/v2/docker/a/blobs/uploads/?digest={digest}"));
        let response = request.body(Body::wrap_stream(halves)).send().await;
        response.is_ok_and(|response| response.status() == 201)
    }

    async fn pull_and_push(&self, path: &str, round: usize) -> (Vec<bool>, Vec<bool>) {
        let numbers = (0..TRANSFERS).map(|number| (1000 * round + number) as u64);
        tokio::join!(
            join_all((0..TRANSFERS).map(|_| self.pull(path))),
            join_all(numbers.map(|number| self.push(number)))
        )
    }

    /// Waits until every transfer is in its middle, here and there.
    async fn in_the_middle(&self) {
        let _ = self.begun.subscribe().wait_for(|begun| *begun == 2 * TRANSFERS).await;
        let uploads = format!("\nentrepot_uploads {TRANSFERS}\n");
        until("all are under way", async || {
            let response = self
                .registry
                .client
                .get(format!("http://{}/metrics", self.beside))
                .send()
                .await;
            let text = response.expect("metrics").text().await.expect("text");
            text.contains(&uploads)
        })
        .await;
    }

    fn process(&self) -> Pid {
        let number = i32::try_from(self.registry.process()).expect("a number");
        Pid::from_raw(number).expect("a process")
    }

    /// SIGTERM, from now on.
    fn terminate(&self) -> Instant {
        let now = Instant::now();
        kill_process(self.process(), Signal::TERM).expect("it is there");
        now
    }

    /// Waits until the process has ended, and leaves it to be asked how.
    async fn ended(&self) {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        until("it has ended", async || {
            waitid(WaitId::Pid(self.process()), look).expect("a child").is_some()
        })
        .await;
    }

    /// Waits until `/readyz` is red, and nobody is let in any more who could ask for more.
    async fn red(&self) {
        let (client, ready) = (client(), format!("http://{}/readyz", self.beside));
        until("it is not ready", async || {
            let response = client.get(&ready).send().await.expect("an answer");
            response.status() == 503 && std::net::TcpStream::connect(self.registry.address()).is_err()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a05_a_stop_breaks_no_transfer() {
    let drain = Duration::from_secs(20);
    let directory = temporary();
    for round in 0..ROUNDS {
        let busy = Busy::start(&directory, drain, "");
        let digest = busy.registry.push_blob("/v2/docker/a", &busy.content).await;
        let path = format!("/v2/docker/a/blobs/{digest}");
        let lag = Lag::watch();
        let stop = async {
            busy.in_the_middle().await;
            let late = Lag::watch();
            let signalled = busy.terminate();
            busy.red().await;
            let (red, late) = (signalled.elapsed(), late.worst());
            assert!(red <= RED + late, "red after {red:?}, {late:?} late");
            busy.go.send_replace(true);
            busy.ended().await;
            let ended = signalled.elapsed();
            assert!(ended <= drain + ENDING + lag.worst(), "ended after {ended:?}");
        };
        let ((pulls, pushes), ()) = tokio::join!(busy.pull_and_push(&path, round), stop);
        assert!(pulls.iter().chain(&pushes).all(|whole| *whole), "{pulls:?} {pushes:?}");
        let mut registry = busy.registry;
        let status = registry.wait();
        assert_eq!(status.code(), Some(0), "round {round}: {}", registry.log());
    }
}

/// Whoever does not go on is cut after the drain, and whatever else is stuck then does not keep the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a05_a_stop_has_an_end_whoever_hangs() {
    let drain = Duration::from_secs(2);
    let directory = temporary();
    // Somebody who was to read the audit, and does not.
    let pipe = directory.path().join("audit");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let reader = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&pipe)
        .expect("a pipe");
    let busy = Busy::start(&directory, drain, "audit: { to: audit, pulls: true }\n");
    let digest = busy.registry.push_blob("/v2/docker/a", &busy.content).await;
    let path = format!("/v2/docker/a/blobs/{digest}");
    let small = busy.registry.push_blob("/v2/docker/a", b"small").await;
    for _ in 0..600 {
        let response = busy.registry.get(&format!("/v2/docker/a/blobs/{small}")).send().await;
        assert_eq!(response.expect("an answer").text().await.expect("text"), "small");
    }
    // And somebody who asks for metrics, more than the kernel keeps, and reads none.
    let mut scraper = connect(&busy.beside).await;
    let asking = "GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n".repeat(500);
    scraper.write_all(asking.as_bytes()).await.expect("sent");
    let stop = async {
        busy.in_the_middle().await;
        let lag = Lag::watch();
        let signalled = busy.terminate();
        busy.ended().await;
        let (ended, late) = (signalled.elapsed(), lag.worst());
        busy.go.send_replace(true);
        (ended, late)
    };
    let ((pulls, pushes), (ended, late)) = tokio::join!(busy.pull_and_push(&path, 0), stop);
    let mut registry = busy.registry;
    let status = registry.wait();
    assert_eq!(status.code(), Some(0), "{}", registry.log());
    assert!(ended <= drain + ENDING + late, "ended after {ended:?}, {late:?} late");
    assert!(ended >= drain, "they had their time: {ended:?}");
    assert!(
        !pulls.contains(&true) && !pushes.contains(&true),
        "{pulls:?} {pushes:?}"
    );
    drop((reader, scraper));
}
