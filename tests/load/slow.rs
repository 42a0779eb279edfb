//! A1 and A2: clients that are slow, and more of them than there are descriptors.

use std::process::Command;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::binary::{Registry, sha256, temporary, until};
use crate::raw::{LONG, connect, metric, percentile, timings};
use crate::support::upstream::noise;

/// As long as a client may be slow, and what a busy machine takes to notice.
const REAPED: Duration = Duration::from_secs(30 + 15);

#[derive(Clone, Copy)]
enum Slow {
    Silent,
    Head,
    Body,
    Reader,
}

/// A client that is slow in one way until it is cut off.
async fn be_slow(address: String, how: Slow, blob: String) {
    let mut stream = connect(&address).await;
    let begin = match how {
        Slow::Silent => String::new(),
        Slow::Head => "GET /v2/ HTTP/1.1\r\nhost: a\r\nx: ".to_owned(),
        Slow::Body => "PUT /v2/docker/a/manifests/v1 HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n".to_owned(),
        Slow::Reader => format!("GET {blob} HTTP/1.1\r\nhost: a\r\n\r\n"),
    };
    if stream.write_all(begin.as_bytes()).await.is_err() {
        return;
    }
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let goes_on = match how {
            Slow::Silent => !is_cut(&stream),
            Slow::Reader => stream.read(&mut [0; 512]).await.is_ok_and(|read| read > 0),
            Slow::Head | Slow::Body => stream.write_all(b"x").await.is_ok() && !is_cut(&stream),
        };
        if !goes_on {
            return;
        }
    }
}

/// Whether the other side has closed. What it may have said before is of no interest.
fn is_cut(stream: &TcpStream) -> bool {
    let mut some = [0; 1024];
    match stream.try_read(&mut some) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a01_slow_clients_are_sent_away_and_delay_nobody() {
    let registry = Registry::start_in(
        &temporary(),
        "server: { listen: '127.0.0.1:0', limits: { connections: 520 } }\nstorage: { path: data }\n\
         repositories: { docker: { type: local } }",
    );
    // Longer than what the kernel takes off our hands.
    let content = noise(24 << 20, 1);
    let blob = format!(
        "/v2/docker/a/blobs/{}",
        registry.push_blob("/v2/docker/a", &content).await
    );
    registry.push_image("/v2/docker/a", "hit", b"layer").await;
    let hit = "/v2/docker/a/manifests/hit";
    let alone = timings(&registry, hit, 100).await;
    let began = Instant::now();
    let mut slow = JoinSet::new();
    for number in 0..500 {
        let how = [Slow::Silent, Slow::Head, Slow::Body, Slow::Reader][number % 4];
        slow.spawn(be_slow(registry.address().to_owned(), how, blob.clone()));
    }
    until("they are all there", async || {
        metric(&registry, "entrepot_connections").await >= 400.0
    })
    .await;
    let beside = timings(&registry, hit, 200).await;
    let (alone, beside) = (percentile(&alone, 99), percentile(&beside, 99));
    assert!(
        beside <= 2 * alone + Duration::from_millis(500),
        "{alone:?} alone, {beside:?} beside"
    );
    // Only the server knows: a slow reader has enough to read for a while after it was cut.
    while metric(&registry, "entrepot_connections").await > 2.0 {
        assert!(
            began.elapsed() <= REAPED,
            "{} are left",
            metric(&registry, "entrepot_connections").await
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    slow.abort_all();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a02_few_descriptors_and_many_connections() {
    let directory = temporary();
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
    let registry = Registry::started_by(&directory, &mut command);
    let content = noise(300_000, 2);
    let digest = registry.push_blob("/v2/docker/a", &content).await;
    let path = format!("/v2/docker/a/blobs/{digest}");
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let address = registry.address().to_owned();
    let clients = join_all((0..1000).map(|number| {
        let (address, request) = (address.clone(), request.clone());
        async move {
            let mut stream = TcpStream::connect(&address).await.ok()?;
            // Every third says nothing, for as long as it is let.
            if number % 3 == 0 {
                let _ = tokio::time::timeout(LONG, stream.read(&mut [0; 16])).await;
                return None;
            }
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = Vec::new();
            tokio::time::timeout(LONG, stream.read_to_end(&mut answer))
                .await
                .ok()?
                .ok()?;
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
            let body = answer
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
                .expect("a head")
                + 4;
            assert_eq!(sha256(&answer[body..]), digest, "{} bytes", answer.len() - body);
            whole += 1;
        }
    }
    assert!(whole >= 600, "only {whole} of 667");
    let began = Instant::now();
    let response = registry.get(&path).send().await.expect("an answer");
    assert_eq!(sha256(&response.bytes().await.expect("whole")), digest);
    // A second, and what a busy machine may add to it.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(!registry.log().contains("panicked"), "{}", registry.log());
}
