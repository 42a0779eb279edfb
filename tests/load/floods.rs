//! S10: frames of HTTP/2 that cost a client nothing.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::binary::Registry;
use crate::raw::{connect, percentile, resident, timings};
use crate::support::size::is_full;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;
/// How long each flood lasts: as in the gate, and at the full size.
const GATE: Duration = Duration::from_millis(1500);
const FULL: Duration = Duration::from_secs(60);
/// What a pull may take longer beside a flood whatever it takes alone: below it, a time is about which of two processors the
/// system gave to whom, which it does in slices of a few milliseconds.
const NOISE: Duration = Duration::from_millis(10);
/// Of fewer pulls the 99th percentile says nothing.
const ENOUGH: usize = 200;
/// How often a flood may be tried: what else the machine does can hit the pulls beside it and not those apart.
const ROUNDS: usize = 3;
const MEGABYTE: u64 = 1 << 20;

fn length() -> Duration {
    if is_full() { FULL } else { GATE }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// `:method GET, :scheme http, :path /, :authority a` in HPACK.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];
/// The same for `PUT`, of a manifest: whoever sends that is listened to.
const PUT: &[u8] = b"\x02\x03PUT\x86\x04\x1a/v2/docker/a/manifests/new\x41\x01a";

/// Something sent without end, after this. All of it is told apart from use, and ended.
struct Flood {
    what: &'static str,
    first: Vec<u8>,
    next: fn(u32) -> Vec<u8>,
}

fn floods() -> Vec<Flood> {
    let open_put = || frame(HEADERS, 4, 1, PUT);
    let open_head = || frame(HEADERS, 0, 1, GET);
    let flood = |what, first, next| Flood { what, first, next };
    vec![
        flood("rapid reset", vec![], |number| {
            let request = frame(HEADERS, 5, 2 * number - 1, GET);
            [request, frame(RESET, 0, 2 * number - 1, &8_u32.to_be_bytes())].concat()
        }),
        flood("continuations", open_head(), |_| frame(CONTINUATION, 0, 1, &[0; 16])),
        flood("empty continuations", open_head(), |_| frame(CONTINUATION, 0, 1, &[])),
        flood("empty data", open_put(), |_| frame(DATA, 0, 1, &[])),
        flood("data in drops", open_put(), |_| frame(DATA, 0, 1, b" ")),
        flood("padding", open_put(), |_| frame(DATA, 8, 1, &[1, 0])),
        flood("settings", vec![], |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        flood("pings", vec![], |number| {
            frame(PING, 0, 0, &u64::from(number).to_be_bytes())
        }),
        flood("windows", open_put(), |_| frame(WINDOW, 0, 0, &1_u32.to_be_bytes())),
        flood("frames of no known kind", vec![], |_| frame(0xbb, 0, 0, &[])),
        // More at once than may be.
        flood("requests", vec![], |number| frame(HEADERS, 5, 2 * number - 1, GET)),
    ]
}

/// Sends a flood, again and again when it is sent away, and counts how often that was.
async fn send(address: &str, flood: &Flood, sent_away: &AtomicU32) {
    loop {
        let (mut reader, mut writer) = connect(address).await.into_split();
        let reading = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut some = vec![0; 16 * 1024];
            while reader.read(&mut some).await.is_ok_and(|read| read > 0) {}
        }));
        let mut number = 0_u32;
        let sending = async {
            writer.write_all(PREFACE).await?;
            writer.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
            writer.write_all(&flood.first).await?;
            loop {
                let mut many = Vec::new();
                for _ in 0..64 {
                    number = (number + 1) % 0x3fff_ffff;
                    many.extend((flood.next)(number));
                }
                writer.write_all(&many).await?;
            }
        };
        let outcome: std::io::Result<()> = sending.await;
        sent_away.fetch_add(u32::from(outcome.is_err()), Ordering::Relaxed);
        drop(reading);
    }
}

/// The 99th percentile of how long pulls take, for as long as a flood lasts and [`ENOUGH`] of them; and the most memory
/// that there was meanwhile.
async fn pulls(registry: &Registry, path: &str) -> (Duration, u64) {
    let (mut took, mut most) = (Vec::new(), 0);
    let end = Instant::now() + length();
    while Instant::now() < end || took.len() < ENOUGH {
        took.extend(timings(registry, path, 5).await);
        most = most.max(resident(registry));
    }
    took.sort();
    (percentile(&took, 99), most)
}

/// A registry with an image, and how it is asked for.
async fn registry() -> (Registry, &'static str) {
    let registry = Registry::start("repositories: { docker: { type: local } }");
    registry.push_image("/v2/docker/a", "hit", b"layer").await;
    let hit = "/v2/docker/a/manifests/hit";
    timings(&registry, hit, 100).await;
    (registry, hit)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "what was seen, and not only that it was enough")]
async fn s10_floods_of_frames_cost_little_and_delay_nobody() {
    let (registry, hit) = registry().await;
    // The same on the same machine at the same time, but for the flood: what that takes of the processors, it takes of both.
    let (control, _) = self::registry().await;
    let before = resident(&registry);
    let (alone, _) = pulls(&registry, hit).await;
    for flood in floods() {
        let mut told = String::new();
        let mut is_right = false;
        for _ in 0..ROUNDS {
            let sent_away = AtomicU32::new(0);
            let ((beside, most), (apart, _)) = tokio::select! {
                both = async { tokio::join!(pulls(&registry, hit), pulls(&control, hit)) } => both,
                () = send(registry.address(), &flood, &sent_away) => unreachable!("it does not end"),
            };
            let grown = most.saturating_sub(before);
            let sent_away = sent_away.into_inner();
            told = format!(
                "{}: {beside:?} beside it, {apart:?} apart, {alone:?} alone; {grown} bytes more; sent away {sent_away} times",
                flood.what
            );
            assert!(sent_away > 0 && grown <= 64 * MEGABYTE, "{told}");
            is_right = beside <= 2 * alone.max(apart) + NOISE;
            if is_right {
                break;
            }
        }
        println!("{told}");
        assert!(is_right, "{told}");
    }
    timings(&registry, hit, 10).await;
    assert!(!registry.log().contains("panicked"), "{}", registry.log());
}
