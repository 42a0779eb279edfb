//! S10: frames of HTTP/2 that cost a client nothing.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use crate::binary::Registry;
use crate::raw::{connect, percentile, resident, timings};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;
/// How long each flood lasts. The table's minute is for a machine that has nothing else to do.
const FLOOD: Duration = Duration::from_secs(2);

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

/// Sends what `next` makes until it is sent away or the time is over. How often it was sent away.
async fn flood(address: &str, first: &[u8], mut next: impl FnMut(u32) -> Vec<u8>) -> u32 {
    let end = Instant::now() + FLOOD;
    let mut sent_away = 0;
    while Instant::now() < end {
        let (mut reader, mut writer) = connect(address).await.into_split();
        let reading = tokio::spawn(async move {
            let mut some = vec![0; 16 * 1024];
            while reader.read(&mut some).await.is_ok_and(|read| read > 0) {}
        });
        let mut number = 0_u32;
        let sending = async {
            writer.write_all(PREFACE).await?;
            writer.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
            writer.write_all(first).await?;
            loop {
                let mut many = Vec::new();
                for _ in 0..64 {
                    number = (number + 1) % 0x3fff_ffff;
                    many.extend(next(number));
                }
                writer.write_all(&many).await?;
            }
        };
        let outcome: Result<std::io::Result<()>, _> = timeout(end - Instant::now(), sending).await;
        sent_away += u32::from(outcome.is_ok());
        reading.abort();
    }
    sent_away
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s10_floods_of_frames_cost_little_and_delay_nobody() {
    let registry = Registry::start("repositories: { docker: { type: local } }");
    registry.push_image("/v2/docker/a", "hit", b"layer").await;
    let hit = "/v2/docker/a/manifests/hit";
    let alone = timings(&registry, hit, 100).await;
    let before = resident(&registry);
    let address = registry.address().to_owned();
    let odd = |number: u32| 2 * number - 1;
    let cancel = 8_u32.to_be_bytes();
    let open_put = frame(HEADERS, 4, 1, PUT);
    let open_head = frame(HEADERS, 0, 1, GET);
    let one_window = 1_u32.to_be_bytes();
    let floods = async {
        tokio::join!(
            flood(&address, &[], |number| {
                [
                    frame(HEADERS, 5, odd(number), GET),
                    frame(RESET, 0, odd(number), &cancel),
                ]
                .concat()
            }),
            flood(&address, &open_head, |_| frame(CONTINUATION, 0, 1, &[0; 16])),
            flood(&address, &open_head, |_| frame(CONTINUATION, 0, 1, &[])),
            flood(&address, &open_put, |_| frame(DATA, 0, 1, &[])),
            flood(&address, &[], |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
            flood(&address, &[], |number| frame(
                PING,
                0,
                0,
                &u64::from(number).to_be_bytes()
            )),
            flood(&address, &open_put, |_| frame(WINDOW, 0, 0, &one_window)),
            flood(&address, &[], |number| frame(HEADERS, 5, odd(number), GET)),
        )
    };
    let hits = timings(&registry, hit, 50);
    let (sent_away, beside) = tokio::join!(floods, hits);
    // Each of the first three is told apart from use and ended.
    for (what, times) in [
        ("rapid reset", sent_away.0),
        ("continuations", sent_away.1),
        ("empty continuations", sent_away.2),
    ] {
        assert!(times > 0, "{what} went on: {sent_away:?}");
    }
    let grown = resident(&registry).saturating_sub(before);
    assert!(grown <= 64 << 20, "{grown} bytes more");
    // Eight floods share two processors with the pulls and with the test itself.
    let (alone, beside) = (percentile(&alone, 50), percentile(&beside, 50));
    assert!(
        beside <= 20 * alone + Duration::from_millis(500),
        "{alone:?} alone, {beside:?} beside"
    );
    timings(&registry, hit, 10).await;
    assert!(!registry.log().contains("panicked"), "{}", registry.log());
}
