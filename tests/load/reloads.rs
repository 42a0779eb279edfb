//! A6: reloads under load, good ones and bad ones.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::binary::{Registry, temporary, until};
use crate::lag::Lag;
use crate::support::upstream::noise;

const EACH: usize = 100;
/// How soon the metrics tell what came of a reload.
const TOLD: Duration = Duration::from_secs(1);
/// So many reloads are asked for by a signal until one is left to be noticed.
const UNASKED: usize = 7;

fn good(number: usize) -> String {
    format!(
        "server: {{ listen: '127.0.0.1:0', drain: {}s }}\nstorage: {{ path: data }}\n\
         repositories: {{ docker: {{ type: local }}, extra{number}: {{ type: local }} }}\n",
        5 + number % 5
    )
}

/// What nobody should take over, in turn: one that is half written, mistakes, nothing.
fn bad(number: usize) -> String {
    let next = good(number + 1);
    match number % 4 {
        0 => next[..next.len() - 20].to_owned(),
        1 => next.replace("docker: { type: local }", "docker: { type: lokal }"),
        2 => String::new(),
        _ => next.replace("127.0.0.1:0", "nowhere"),
    }
}

/// Puts a new configuration in place in one of the ways that people and orchestrators do it.
fn put(file: &Path, text: &str, number: usize) {
    match number % 3 {
        0 => std::fs::write(file, text).expect("written"),
        1 => {
            let beside = file.with_extension("new");
            std::fs::write(&beside, text).expect("written");
            std::fs::rename(&beside, file).expect("renamed");
        }
        _ => {
            let target = file.with_file_name(format!("version{number}.yml"));
            std::fs::write(&target, text).expect("written");
            let link = file.with_extension("link");
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(&target, &link).expect("linked");
            std::fs::rename(&link, file).expect("renamed");
        }
    }
}

/// What the metrics tell of reloads.
#[derive(Clone, Copy)]
struct Reloads {
    accepted: f64,
    refused: f64,
    successful: bool,
}

impl Reloads {
    async fn of(registry: &Registry) -> Self {
        let text = registry.metrics().await;
        let number = |series: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(series));
            line.map_or(0.0, |number| number.trim().parse().expect("a number"))
        };
        Self {
            accepted: number("entrepot_config_reloads_total{result=\"accepted\"}"),
            refused: number("entrepot_config_reloads_total{result=\"refused\"}"),
            successful: number("entrepot_config_last_reload_successful") > 0.5,
        }
    }
}

/// Puts this configuration in place, and waits until the metrics tell what came of it. How long that took, beyond what
/// the machine was late by.
async fn reload(registry: &Registry, text: &str, is_good: bool, turn: usize) -> Duration {
    let before = Reloads::of(registry).await;
    let lag = Lag::watch();
    put(&registry.directory.path().join("repositories.yml"), text, turn);
    let asked = Instant::now();
    if !turn.is_multiple_of(UNASKED) {
        registry.signal("-HUP");
    }
    until("it has reloaded", async || {
        let now = Reloads::of(registry).await;
        let told = if is_good {
            now.accepted > before.accepted
        } else {
            now.refused > before.refused
        };
        told && now.successful == is_good
    })
    .await;
    asked.elapsed().saturating_sub(lag.worst())
}

/// Requests without a pause until it is done, over one connection or over one each: how many. Not one may fail.
async fn pull(registry: &Registry, done: &AtomicBool, close: bool) -> usize {
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        let mut request = registry.get("/v2/docker/a/manifests/hit");
        if close {
            request = request.header("connection", "close");
        }
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        response.bytes().await.expect("whole");
        count += 1;
    }
    count
}

async fn push(registry: &Registry, done: &AtomicBool) -> usize {
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        registry.push_blob("/v2/docker/a", &noise(100_000, count as u64)).await;
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a06_reloads_under_load_fail_no_request() {
    let registry = Registry::start_in(&temporary(), &good(0));
    registry.push_image("/v2/docker/a", "hit", b"layer").await;
    let done = AtomicBool::new(false);
    let reloads = async {
        for number in 1..=EACH {
            for (is_good, text) in [(true, good(number)), (false, bad(number))] {
                let turn = 2 * number + usize::from(is_good);
                let told = reload(&registry, &text, is_good, turn).await;
                assert!(told <= TOLD, "told after {told:?}: {text}");
                // The old one goes on where the new one is none.
                let path = format!("/v2/extra{number}/none/tags/list");
                let response = registry.get(&path).send().await.expect("an answer");
                let answer = response.text().await.expect("text");
                assert!(answer.contains(&format!("extra{number}")), "{answer}");
            }
        }
        done.store(true, Ordering::Relaxed);
    };
    let (counts, pushes, ()) = tokio::join!(
        join_all((0..4).map(|number| pull(&registry, &done, number % 2 == 0))),
        push(&registry, &done),
        reloads
    );
    assert!(
        counts.iter().all(|count| *count > 0) && pushes > 0,
        "{counts:?} {pushes}"
    );
}
