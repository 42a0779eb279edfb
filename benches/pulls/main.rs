//! Pulls through a remote, beside Distribution and nginx: cold ones, many at once, and while the upstream is in trouble.
//!
//! `cargo bench --bench pulls` starts each system as a real process on a loopback address, in front of an upstream that
//! this program is itself: 50 ms away, 20 MB/s a connection, 125 MB/s in all, with a token server. It prints a table;
//! figures are medians, and compare only within one run. `-- --rounds N` and `-- --only WORD` narrow it. It needs Debian's
//! `docker-registry` and `nginx-light`; what is not installed has a dash.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first surprise, and its output is what it is for"
)]

mod client;
mod system;
mod trouble;
mod upstream;

use std::time::Duration;

use client::{Pulled, get};
use system::{Kind, System, blob, manifest};
use upstream::Upstream;

const MIB: usize = 1 << 20;
/// The layer that is pulled.
const LAYER: usize = 64 * MIB;
/// How many pull it at once.
const CROWD: usize = 50;

struct Arguments {
    rounds: usize,
    only: Option<String>,
}

impl Arguments {
    fn read() -> Self {
        let mut words = std::env::args().skip(1);
        let mut read = Self { rounds: 3, only: None };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--rounds" => {
                    read.rounds = words
                        .next()
                        .and_then(|word| word.parse().ok())
                        .expect("--rounds NUMBER");
                }
                "--only" => read.only = words.next(),
                // What cargo itself says to every benchmark.
                "--bench" => {}
                other => panic!("{other} means nothing here: --rounds NUMBER, --only cold|crowd|trouble"),
            }
        }
        read
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == part)
    }
}

fn main() {
    let arguments = Arguments::read();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        println!("cores: {}", std::thread::available_parallelism().map_or(0, usize::from));
        if arguments.wants("cold") {
            cold(arguments.rounds).await;
        }
        if arguments.wants("crowd") {
            crowd(arguments.rounds).await;
        }
        if arguments.wants("trouble") {
            trouble::table().await;
        }
    });
}

/// The middle one.
fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A new layer, and a manifest that the systems have seen: what a pull does before it comes to layers.
async fn prepared(upstream: &Upstream, system: Option<&System>, seed: u64) -> upstream::Image {
    let image = upstream.put_image(&format!("v{seed}"), LAYER, seed);
    if let Some(system) = system {
        let pulled = get(system.address, &manifest(&image.tag), &[]).await;
        assert_eq!(pulled.status, 200, "{}: {}", system.name(), pulled.text());
    }
    image
}

/// The layer, straight from the upstream, by a client that has its token.
async fn direct(upstream: &Upstream, image: &upstream::Image) -> Pulled {
    let pulled = get(
        upstream.address,
        &blob(&image.layer),
        &[("Authorization", upstream::AUTHORIZATION)],
    )
    .await;
    assert!(pulled.is_whole(LAYER), "direct: {pulled:?}");
    pulled
}

async fn cold(rounds: usize) {
    let upstream = Upstream::start(upstream::Link::FAR).await;
    let mut base = Vec::new();
    for round in 0..rounds {
        let image = prepared(&upstream, None, round as u64).await;
        base.push(direct(&upstream, &image).await);
    }
    let whole = median(base.iter().map(|pulled| pulled.total.as_secs_f64()).collect());
    let first = median(base.iter().map(|pulled| milliseconds(pulled.first_byte)).collect());
    println!("\n## Cold pull of one layer of 64 MiB; 50 ms, 20 MB/s a connection, 125 MB/s in all; {rounds} rounds\n");
    println!("| | whole ÷ direct | first byte | bytes fetched ÷ layer |\n| --- | --- | --- | --- |");
    println!("| direct | 1.00 ({whole:.2} s) | {first:.0} ms | 1.0 |");
    for kind in Kind::ALL {
        let Some(system) = System::start(kind, &upstream).await else {
            println!("| {} | – | – | – |", kind.name());
            continue;
        };
        let (mut wholes, mut firsts, mut fetched) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            let before = upstream.sent();
            let image = prepared(&upstream, Some(&system), 1000 * (kind as u64 + 1) + round as u64).await;
            let pulled = get(system.address, &blob(&image.layer), &[]).await;
            assert!(pulled.is_whole(LAYER), "{}: {pulled:?}", system.name());
            wholes.push(pulled.total.as_secs_f64() / whole);
            firsts.push(milliseconds(pulled.first_byte));
            upstream.quiet().await;
            fetched.push((upstream.sent() - before) as f64 / LAYER as f64);
        }
        println!(
            "| {} | {:.2} | {:.0} ms | {:.1} |",
            system.name(),
            median(wholes),
            median(firsts),
            median(fetched)
        );
        system.stop().await;
    }
}

async fn crowd(rounds: usize) {
    let upstream = Upstream::start(upstream::Link::FAR).await;
    let image = prepared(&upstream, None, 1).await;
    let whole = direct(&upstream, &image).await.total.as_secs_f64();
    println!("\n## {CROWD} cold clients, one layer of 64 MiB; the same upstream; {rounds} rounds\n");
    println!(
        "| | bytes fetched ÷ layer | median first byte | all done ÷ one direct pull | broken off | most resident |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for kind in Kind::ALL {
        let Some(system) = System::start(kind, &upstream).await else {
            println!("| {} | – | – | – | – | – |", kind.name());
            continue;
        };
        let (mut fetched, mut firsts, mut dones, mut broken) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for round in 0..rounds {
            let before = upstream.sent();
            let image = prepared(&upstream, Some(&system), 1000 * (kind as u64 + 1) + round as u64).await;
            let begin = tokio::time::Instant::now();
            let path = blob(&image.layer);
            let clients = (0..CROWD).map(|_| {
                let (address, path) = (system.address, path.clone());
                tokio::spawn(async move { get(address, &path, &[]).await })
            });
            let pulled: Vec<Pulled> = futures_util::future::join_all(clients)
                .await
                .into_iter()
                .map(Result::unwrap)
                .collect();
            dones.push(begin.elapsed().as_secs_f64() / whole);
            broken += pulled.iter().filter(|one| !one.is_whole(LAYER)).count();
            firsts.push(median(pulled.iter().map(|one| milliseconds(one.first_byte)).collect()));
            upstream.quiet().await;
            fetched.push((upstream.sent() - before) as f64 / LAYER as f64);
        }
        println!(
            "| {} | {:.1} | {:.0} ms | {:.2} | {broken} of {} | {} MiB |",
            system.name(),
            median(fetched),
            median(firsts),
            median(dones),
            CROWD * rounds,
            system.most_resident_mib()
        );
        system.stop().await;
    }
}
