//! A12: nothing that takes long runs where everything else has to wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::binary::Registry;
use crate::support::upstream::noise;

/// The upper end of the bucket that the latest tasks fell into, and how many tasks were measured.
fn latest(metrics: &str) -> (f64, u64) {
    let mut buckets: Vec<(f64, u64)> = metrics
        .lines()
        .filter_map(|line| {
            let rest = line.strip_prefix("entrepot_runtime_lag_seconds_bucket{le=\"")?;
            let (end, count) = rest.split_once("\"} ")?;
            Some((end.parse().unwrap_or(f64::INFINITY), count.parse().ok()?))
        })
        .collect();
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    let all = buckets.last().expect("buckets").1;
    let worst = buckets.iter().find(|(_, count)| *count == all).expect("a bucket").0;
    (worst, all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a12_no_task_waits_for_another_ones_work() {
    let registry = Registry::start("repositories: { docker: { type: local } }");
    // How late a thread of this machine is anyway: nobody can be more punctual.
    let done = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&done);
    let control = std::thread::spawn(move || {
        let mut worst = Duration::ZERO;
        while !ended.load(Ordering::Relaxed) {
            let due = Instant::now() + Duration::from_millis(50);
            std::thread::sleep(Duration::from_millis(50));
            worst = worst.max(due.elapsed());
        }
        worst
    });
    let end = Instant::now() + Duration::from_secs(6);
    let client = async |number: u64| {
        let mut turn = 0;
        while Instant::now() < end {
            turn += 1;
            let content = noise(4 << 20, 100 * number + turn);
            let digest = registry.push_blob(&format!("/v2/docker/image{number}"), &content).await;
            let path = format!("/v2/docker/image{number}/blobs/{digest}");
            let response = registry.get(&path).send().await.expect("an answer");
            assert_eq!(response.bytes().await.expect("whole").len(), content.len());
        }
    };
    join_all((0..4).map(client)).await;
    done.store(true, Ordering::Relaxed);
    let machine = control.join().expect("ends").as_secs_f64();
    let (worst, measured) = latest(&registry.metrics().await);
    assert!(measured >= 4, "{measured}");
    // 50 ms, at a bucket's precision, beside what the machine itself is late by.
    assert!(
        worst <= (10.0 * machine).max(0.5),
        "{worst} s late, the machine itself {machine} s"
    );
}
