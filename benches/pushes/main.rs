//! Pushes into a local repository, beside Distribution: many small blobs over a few connections, and one large blob.
//!
//! `cargo bench --bench pushes` starts each system as a real process over a directory of its own, in `ENTREPOT_BENCH_DIRECTORY`
//! or where temporary files go: that should be a disk, for an acknowledged blob is durable with us. It prints a table; figures
//! are medians, and compare only within one run. `-- --rounds N`, `--only small|large`, `--blobs N` narrow it. It needs
//! Debian's `docker-registry`; where that is not installed there is a dash.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first surprise, and its output is what it is for"
)]

mod connection;
mod system;

use std::time::Instant;

use connection::Connection;
use entrepot::oci::{Algorithm, Digest};
use system::{Kind, System};

/// A small blob: a configuration, a signature, a thin layer.
const SMALL: usize = 10 << 10;
/// How many clients push those.
const CONNECTIONS: usize = 4;
/// A large one.
const LARGE: usize = 256 << 20;
/// Docker sends a layer in one request, a piece at a time.
const PIECE: usize = 64 << 10;

struct Arguments {
    rounds: usize,
    blobs: usize,
    only: Option<String>,
}

impl Arguments {
    fn read() -> Self {
        let mut words = std::env::args().skip(1);
        let mut read = Self {
            rounds: 3,
            blobs: 4000,
            only: None,
        };
        while let Some(word) = words.next() {
            let mut number = || words.next().and_then(|word| word.parse().ok()).expect("a number");
            match word.as_str() {
                "--rounds" => read.rounds = number(),
                "--blobs" => read.blobs = number(),
                "--only" => read.only = words.next(),
                // What cargo itself says to every benchmark.
                "--bench" => {}
                other => panic!("{other} means nothing here: --rounds N, --blobs N, --only small|large"),
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
    // One thread: the servers are to have the rest.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        println!("cores: {}", std::thread::available_parallelism().map_or(0, usize::from));
        if arguments.wants("small") {
            small(&arguments).await;
        }
        if arguments.wants("large") {
            large(&arguments).await;
        }
    });
}

/// A blob that nobody has pushed yet.
fn unlike(number: usize, length: usize) -> Vec<u8> {
    let mut state = number as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

async fn begin(connection: &mut Connection, image: &str) -> String {
    let begun = connection
        .ask("POST", &format!("/v2/{image}/blobs/uploads/"), 0, b"")
        .await;
    assert_eq!(begun.status, 202);
    begun.location.expect("where to go on")
}

fn with_digest(location: &str, digest: &Digest) -> String {
    let sign = if location.contains('?') { '&' } else { '?' };
    format!("{location}{sign}digest={digest}")
}

async fn small(arguments: &Arguments) {
    println!(
        "\n## {} blobs of {} KiB, {CONNECTIONS} connections, into one image; {} rounds\n",
        arguments.blobs,
        SMALL >> 10,
        arguments.rounds
    );
    println!("| | a second | CPU of the server a blob |\n| --- | --- | --- |");
    let mut number = 0;
    let mut kept = Vec::new();
    for kind in Kind::ALL {
        let (mut rates, mut costs) = (Vec::new(), Vec::new());
        for _ in 0..arguments.rounds {
            let Some(system) = System::start(kind).await else { break };
            // Made before, so that nobody waits for a hash.
            let mut shares = Vec::new();
            for _ in 0..CONNECTIONS {
                let mut blobs = Vec::new();
                for _ in 0..arguments.blobs / CONNECTIONS {
                    number += 1;
                    let bytes = unlike(number, SMALL);
                    blobs.push((Digest::of(Algorithm::Sha256, &bytes), bytes));
                }
                shares.push(blobs);
            }
            let (began, before) = (Instant::now(), system.cpu_seconds());
            let pushes = shares.into_iter().map(|blobs| {
                let address = system.address;
                tokio::spawn(async move {
                    let mut connection = Connection::open(address).await;
                    for (digest, bytes) in &blobs {
                        let location = begin(&mut connection, system::IMAGE).await;
                        let path = with_digest(&location, digest);
                        let ended = connection.ask("PUT", &path, bytes.len() as u64, bytes).await;
                        assert_eq!(ended.status, 201);
                    }
                })
            });
            for push in pushes.collect::<Vec<_>>() {
                push.await.unwrap();
            }
            rates.push(arguments.blobs as f64 / began.elapsed().as_secs_f64());
            costs.push((system.cpu_seconds() - before) / arguments.blobs as f64 * 1e6);
            kept.push(system.stop().await);
        }
        if rates.is_empty() {
            println!("| {} | – | – |", kind.name());
        } else {
            println!("| {} | {:.0} | {:.0} µs |", kind.name(), median(rates), median(costs));
        }
    }
}

async fn large(arguments: &Arguments) {
    let bytes = unlike(7, LARGE);
    let began = Instant::now();
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    let hashing = (LARGE >> 20) as f64 / began.elapsed().as_secs_f64();
    println!(
        "\n## One blob of {} MiB as docker streams it; SHA-256 on one core: {hashing:.0} MiB/s; {} rounds\n",
        LARGE >> 20,
        arguments.rounds
    );
    let mut kept = Vec::new();
    println!("| | MiB/s | ÷ SHA-256 | CPU s/GiB |\n| --- | --- | --- | --- |");
    for kind in Kind::ALL {
        let (mut rates, mut costs) = (Vec::new(), Vec::new());
        for _ in 0..arguments.rounds {
            let Some(system) = System::start(kind).await else { break };
            let mut connection = Connection::open(system.address).await;
            let (began, before) = (Instant::now(), system.cpu_seconds());
            let location = begin(&mut connection, system::IMAGE).await;
            connection.ask("PATCH", &location, LARGE as u64, b"").await;
            for piece in bytes.chunks(PIECE) {
                connection.go_on(piece).await;
            }
            let patched = connection.answer().await;
            assert_eq!(patched.status, 202);
            let path = with_digest(&patched.location.expect("where to go on"), &digest);
            assert_eq!(connection.ask("PUT", &path, 0, b"").await.status, 201);
            rates.push((LARGE >> 20) as f64 / began.elapsed().as_secs_f64());
            costs.push((system.cpu_seconds() - before) * 1024.0 / (LARGE >> 20) as f64);
            kept.push(system.stop().await);
        }
        if rates.is_empty() {
            println!("| {} | – | – | – |", kind.name());
        } else {
            let rate = median(rates);
            println!(
                "| {} | {rate:.0} | {:.2} | {:.2} |",
                kind.name(),
                rate / hashing,
                median(costs)
            );
        }
    }
}
