//! A1: clients that are slow.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::binary::{Registry, sha256, temporary, until};
use crate::lag::Lag;
use crate::raw::{LONG, connect, metric, percentile, timings};
use crate::support::upstream::noise;

/// As long as a client may be slow.
const REAPED: Duration = Duration::from_secs(30);
const SLOW: usize = 500;

#[derive(Clone, Copy, PartialEq)]
enum Slow {
    Silent,
    Head,
    Body,
    Reader,
}

/// A client that is slow in one way until it is cut off.
async fn be_slow(address: String, how: Slow, blob: String, arrived: watch::Sender<usize>) {
    let mut stream = connect(&address).await;
    let begin = match how {
        Slow::Silent => String::new(),
        Slow::Head => "GET /v2/ HTTP/1.1\r\nhost: a\r\nx: ".to_owned(),
        Slow::Body => "PUT /v2/docker/a/manifests/v1 HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n".to_owned(),
        Slow::Reader => format!("GET {blob} HTTP/1.1\r\nhost: a\r\n\r\n"),
    };
    let asked = stream.write_all(begin.as_bytes()).await;
    arrived.send_modify(|arrived| *arrived += 1);
    if asked.is_err() {
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

/// A client of a slow line: a megabyte a second. Its answer's bytes.
async fn be_steady(address: String, blob: String) -> Vec<u8> {
    let mut stream = connect(&address).await;
    let request = format!("GET {blob} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let (mut answer, mut some) = (Vec::new(), vec![0; 100_000]);
    loop {
        let read = stream.read(&mut some).await.expect("goes on");
        if read == 0 {
            return answer;
        }
        answer.extend_from_slice(&some[..read]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A hit every now and then until it is enough: how long each took, sorted.
async fn hits(registry: &Registry, mut enough: impl AsyncFnMut(usize) -> bool) -> Vec<Duration> {
    let mut took = Vec::new();
    while !enough(took.len()).await {
        took.extend(timings(registry, "/v2/docker/a/manifests/hit", 5).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    took.sort();
    took
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
    let digest = registry.push_blob("/v2/docker/a", &content).await;
    let blob = format!("/v2/docker/a/blobs/{digest}");
    registry.push_image("/v2/docker/a", "hit", b"layer").await;
    let alone = hits(&registry, async |count| count >= 200).await;
    // They have a runtime of their own: what is measured is not to wait for them on this side.
    let crowd = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let lag = Lag::watch();
    let arrived = watch::Sender::new(0);
    let began = Instant::now();
    let slow: Vec<_> = (0..SLOW)
        .map(|number| {
            let how = [Slow::Silent, Slow::Head, Slow::Body, Slow::Reader][number % 4];
            let client = be_slow(registry.address().to_owned(), how, blob.clone(), arrived.clone());
            (how, crowd.spawn(client))
        })
        .collect();
    let steady = crowd.spawn(be_steady(registry.address().to_owned(), blob.clone()));
    let _ = arrived.subscribe().wait_for(|arrived| *arrived == SLOW).await;
    until("they are all there", async || {
        metric(&registry, "entrepot_connections").await >= 400.0
    })
    .await;
    // Only the server knows: a slow reader has enough to read for a while after it was cut. Left are who asks here, and
    // who reads steadily.
    let beside = hits(&registry, async |_| {
        let left = metric(&registry, "entrepot_connections").await;
        let lasted = began.elapsed();
        let late = lag.worst();
        assert!(
            lasted <= REAPED + late,
            "{left} are left after {lasted:?}, {late:?} late"
        );
        left <= if steady.is_finished() { 1.0 } else { 2.0 }
    })
    .await;
    let late = lag.worst();
    let (alone, beside) = (percentile(&alone, 99), percentile(&beside, 99));
    // Below what the machine itself is late by there is only noise.
    assert!(
        beside <= 2 * alone + late,
        "{alone:?} alone, {beside:?} beside, {late:?} late"
    );
    let answer = steady.await.expect("whole");
    assert_eq!(sha256(&answer[answer.len() - content.len()..]), digest);
    for (_, client) in slow.into_iter().filter(|(how, _)| *how != Slow::Reader) {
        timeout(LONG, client).await.expect("it notices").expect("no panic");
    }
    crowd.shutdown_background();
}
