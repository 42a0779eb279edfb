//! A2: more clients than there are descriptors.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use entrepot::oci::Digest;
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::binary::{Registry, client, expect, sha256, temporary, until};
use crate::lag::Lag;
use crate::raw::{LONG, connect};
use crate::support::upstream::noise;

/// How soon after a crowd has left all is well again.
const WELL: Duration = Duration::from_secs(1);
const CROWD: usize = 1000;

struct Narrow {
    registry: Registry,
    digest: Digest,
    path: String,
}

/// A registry of 256 descriptors with a blob in it.
async fn narrow(directory: &Arc<TempDir>) -> Narrow {
    let file = directory.path().join("repositories.yml");
    std::fs::write(
        &file,
        "server: { listen: '127.0.0.1:0' }\nstorage: { path: data, min_free: 0% }\nrepositories: { docker: { type: local } }",
    )
    .expect("written");
    let mut command = Command::new("prlimit");
    command
        .args(["--nofile=256:256", env!("CARGO_BIN_EXE_entrepot"), "serve", "-c"])
        .arg(&file);
    let registry = Registry::started_by(directory, &mut command);
    let digest = registry.push_blob("/v2/docker/a", &noise(300_000, 2)).await;
    let path = format!("/v2/docker/a/blobs/{digest}");
    Narrow { registry, digest, path }
}

impl Narrow {
    fn request(&self) -> String {
        format!("GET {} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", self.path)
    }

    /// The crowd has left: somebody who comes now is served within a second, and beside them whoever else comes.
    async fn is_well(&self) {
        let lag = Lag::watch();
        let began = Instant::now();
        let served = join_all((0..8).map(|_| async {
            let response = client().get(self.registry.url(&self.path)).send().await;
            let response = expect(response.expect("an answer"), reqwest::StatusCode::OK).await;
            assert_eq!(sha256(&response.bytes().await.expect("whole")), self.digest);
            began.elapsed()
        }))
        .await;
        let (slowest, late) = (served.into_iter().max().unwrap_or_default(), lag.worst());
        assert!(slowest <= WELL + late, "well after {slowest:?}, {late:?} late");
        assert!(!self.registry.log().contains("panicked"), "{}", self.registry.log());
    }

    fn descriptors(&self) -> usize {
        let directory = format!("/proc/{}/fd", self.registry.process());
        std::fs::read_dir(directory).expect("descriptors").count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a02_few_descriptors_and_many_connections() {
    let narrow = narrow(&temporary()).await;
    let (address, request) = (narrow.registry.address(), narrow.request());
    let clients = join_all((0..CROWD).map(|number| {
        let request = &request;
        async move {
            let mut stream = TcpStream::connect(address).await.ok()?;
            // Every third says nothing, for as long as it is let.
            if number % 3 == 0 {
                let _ = timeout(LONG, stream.read(&mut [0; 16])).await;
                return None;
            }
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = Vec::new();
            timeout(LONG, stream.read_to_end(&mut answer)).await.ok()?.ok()?;
            Some(answer)
        }
    }))
    .await;
    let mut whole = 0;
    for answer in clients.into_iter().flatten() {
        let text = String::from_utf8_lossy(&answer);
        let status = text.get(9..12).unwrap_or_default();
        assert!(
            ["200", "503"].contains(&status),
            "{}",
            text.lines().next().unwrap_or_default()
        );
        if status == "200" {
            let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
            let body = &answer[end.expect("a head") + 4..];
            assert_eq!(sha256(body), narrow.digest, "{} bytes", body.len());
            whole += 1;
        }
    }
    assert!(whole >= 600, "only {whole} of 667");
    narrow.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a02_a_crowd_that_leaves_at_once_leaves_nothing_behind() {
    let narrow = narrow(&temporary()).await;
    let quiet = narrow.descriptors();
    let request = narrow.request();
    let crowd = join_all((0..CROWD).map(|number| {
        let request = &request;
        let address = narrow.registry.address();
        async move {
            let mut stream = connect(address).await;
            // Half of them ask, and read nothing.
            if number % 2 == 0 {
                stream.write_all(request.as_bytes()).await.expect("sent");
            }
            stream
        }
    }))
    .await;
    until("there is no room left", async || narrow.descriptors() >= quiet + 48).await;
    assert_eq!(crowd.len(), CROWD);
    drop(crowd);
    narrow.is_well().await;
    until("all is given back", async || narrow.descriptors() <= quiet + 16).await;
}
