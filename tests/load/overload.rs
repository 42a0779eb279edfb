//! A4: ten times as much as there is room for.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Client;
use tokio::time::Instant;

use crate::binary::{Registry, client, header, temporary};
use crate::raw::metric;
use crate::support::upstream::{ALWAYS, Act, Server};

/// Hits for a while, by four clients that keep their connections: how many.
async fn hits(registry: &Registry, client: &Client, lasting: Duration) -> usize {
    let end = Instant::now() + lasting;
    let url = registry.url("/v2/docker/a/manifests/hit");
    let one = async || {
        let mut count = 0;
        while Instant::now() < end {
            let response = client.get(&url).send().await.expect("an answer");
            assert_eq!(response.status(), 200, "a hit");
            response.bytes().await.expect("whole");
            count += 1;
        }
        count
    };
    join_all((0..4).map(|_| one())).await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a04_misses_are_refused_before_hits_are() {
    const ROOM: u32 = 64;
    let upstream = Server::start().await;
    upstream.on("* /v2/", ALWAYS, [Act::Hang]);
    let registry = Registry::start_in(
        &temporary(),
        &format!(
            "server: {{ listen: '127.0.0.1:0', limits: {{ connections: {ROOM} }} }}\nstorage: {{ path: data }}\n\
             repositories:\n  docker: {{ type: local }}\n  slow: {{ type: remote, url: '{}', insecure: true }}\n",
            upstream.url()
        ),
    );
    registry.push_image("/v2/docker/a", "hit", b"layer").await;
    let keeping = client();
    let alone = hits(&registry, &keeping, Duration::from_secs(2)).await;
    let done = AtomicBool::new(false);
    let refused = AtomicUsize::new(0);
    let miss = async |number: u32| {
        let mut turn = 0;
        while !done.load(Ordering::Relaxed) {
            turn += 1;
            let path = format!("/v2/slow/image{number}-{turn}/manifests/v1");
            let Ok(response) = registry.get(&path).send().await else {
                continue;
            };
            if response.status() != 503 {
                continue;
            }
            let after: u64 = header(&response, "retry-after").parse().expect("when to come back");
            assert!((1..=60).contains(&after), "{after}");
            let text = response.text().await.unwrap_or_default();
            if text.contains("being fetched") {
                refused.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep(Duration::from_secs(after)).await;
        }
    };
    let misses = join_all((0..10 * ROOM).map(miss));
    let measured = async {
        while refused.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let beside = hits(&registry, &keeping, Duration::from_secs(4)).await / 2;
        let held = metric(&registry, "registry_http_in_flight_requests{handler=\"manifest\"}").await;
        done.store(true, Ordering::Relaxed);
        upstream.behave();
        (beside, held)
    };
    let began = Instant::now();
    let ((beside, held), ()) = tokio::join!(measured, async {
        tokio::select! {
            _ = misses => {}
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
        }
    });
    assert!(refused.load(Ordering::Relaxed) > 0 && began.elapsed() < Duration::from_secs(120));
    assert!(held <= f64::from(ROOM / 2 + 8), "{held} misses hold what there is");
    // Hits share the processors with six hundred clients that ask, are refused, and ask again.
    assert!(beside * 4 >= alone, "{alone} hits alone, {beside} beside");
    assert!(metric(&registry, "entrepot_shed_requests_total{class=\"miss\"}").await >= 1.0);
    let again = hits(&registry, &keeping, Duration::from_secs(2)).await;
    assert!(again * 2 >= alone, "{alone} hits before, {again} after");
}
