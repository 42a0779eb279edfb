//! S11: numbers, lengths and names that only somebody hostile sends.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::{RequestBuilder, StatusCode};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::binary::{OCI_INDEX, OCI_MANIFEST, Registry, expect, sha256};
use crate::raw::{forget_peak, peak, percentile, resident};

const MEGABYTE: u64 = 1 << 20;
/// How soon something is refused.
const AT_ONCE: Duration = Duration::from_millis(100);

async fn series(registry: &Registry) -> usize {
    registry
        .metrics()
        .await
        .lines()
        .filter(|line| !line.starts_with('#'))
        .count()
}

/// A request to whatever listens at this address.
type Ask = Box<dyn Fn(&Registry, &str) -> RequestBuilder>;

fn get(path: &str) -> Ask {
    let path = path.to_owned();
    Box::new(move |registry, address| registry.client.get(format!("http://{address}{path}")))
}

fn push(media_type: &'static str, query: &str, text: String) -> Ask {
    let (path, text) = (format!("/v2/docker/a/manifests/v1{query}"), Bytes::from(text));
    Box::new(move |registry, address| {
        let request = registry.client.put(format!("http://{address}{path}"));
        request.header("content-type", media_type).body(text.clone())
    })
}

/// A server that reads what it is asked, knows nothing, and refuses it: what the machine and the client take.
async fn refuser() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(refuse(BufReader::new(stream)));
        }
    });
    address
}

async fn refuse(mut stream: BufReader<TcpStream>) -> std::io::Result<()> {
    let (mut line, mut length) = (String::new(), 0);
    while stream.read_line(&mut line).await? > 0 {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().expect("a length");
        }
        if line == "\r\n" {
            tokio::io::copy(&mut (&mut stream).take(length), &mut tokio::io::sink()).await?;
            let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await?;
            length = 0;
        }
        line.clear();
    }
    Ok(())
}

/// How long a thread that does nothing else was kept waiting for the processor, in all, so far.
#[derive(Default)]
struct Lag(AtomicU64);

impl Lag {
    const TURN: Duration = Duration::from_millis(1);

    fn start() -> Arc<Self> {
        let lag = Arc::new(Self::default());
        let counted = Arc::downgrade(&lag);
        std::thread::spawn(move || {
            while let Some(lag) = counted.upgrade() {
                let began = Instant::now();
                std::thread::sleep(Self::TURN);
                let late = began.elapsed().saturating_sub(Self::TURN).as_nanos();
                lag.0.fetch_add(u64::try_from(late).expect("short"), Ordering::Relaxed);
            }
        });
        lag
    }

    fn so_far(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// The status, and how long it takes to be told, without what a thread had to wait for the processor meanwhile: the median
/// of some times.
async fn timed(registry: &Registry, address: &str, ask: &Ask, lag: &Lag) -> (StatusCode, Duration) {
    let (mut took, mut status) = (Vec::new(), StatusCode::OK);
    for _ in 0..5 {
        let (began, late) = (Instant::now(), lag.so_far());
        let response = ask(registry, address).send().await.expect("an answer");
        status = response.status();
        response.bytes().await.expect("whole");
        let late = lag.so_far().saturating_sub(late);
        took.push(began.elapsed().saturating_sub(late));
    }
    took.sort();
    (status, percentile(&took, 50))
}

fn nested(open: &str, close: &str, levels: usize) -> String {
    let nested = format!("{}1{}", open.repeat(levels), close.repeat(levels));
    format!(r#"{{"schemaVersion":2,"x":{nested}}}"#)
}

fn index(entries: usize) -> String {
    let digest = sha256(b"layer");
    let entry = format!(r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":5}}"#);
    format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        vec![entry; entries].join(",")
    )
}

/// What only somebody hostile asks, and how it is refused; without a status, it may be answered, too.
fn absurd() -> Vec<(String, Ask, Option<StatusCode>)> {
    const WRONG: Option<StatusCode> = Some(StatusCode::BAD_REQUEST);
    let mut all = Vec::new();
    for n in [
        "9223372036854775808",
        "18446744073709551616",
        "-1",
        "1e9",
        "0x10",
        "%00",
    ] {
        for path in ["/v2/docker/a/tags/list", "/v2/_catalog"] {
            all.push((format!("{path}?n={n}"), get(&format!("{path}?n={n}")), None));
        }
    }
    // Deep, within and beyond what is read at all.
    for (open, close, levels) in [("[", "]", 100), ("[", "]", 2_000_000), ("{\"a\":", "}", 300_000)] {
        let ask = push(OCI_MANIFEST, "", nested(open, close, levels));
        all.push((format!("{levels} levels"), ask, WRONG));
    }
    // Long: more than may be sent, and more than is looked up.
    for (entries, status) in [
        (1_000_000, Some(StatusCode::PAYLOAD_TOO_LARGE)),
        (25_000, WRONG),
        (1001, WRONG),
    ] {
        let ask = push(OCI_INDEX, "", index(entries));
        all.push((format!("{entries} entries"), ask, status));
    }
    let annotations: Vec<String> = (0..200_000).map(|number| format!(r#""{number}":"""#)).collect();
    let text = format!(r#"{{"schemaVersion":2,"annotations":{{{}}}}}"#, annotations.join(","));
    all.push(("200,000 annotations".to_owned(), push(OCI_MANIFEST, "", text), WRONG));
    let names: Vec<String> = (0..300_000).map(|number| format!(r#""{number}":0"#)).collect();
    let text = format!("{{{}}}", names.join(","));
    all.push(("300,000 names".to_owned(), push(OCI_MANIFEST, "", text), WRONG));
    for (tags, status) in [
        (2_000, WRONG),
        (6_000, Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)),
    ] {
        let mut query = String::from("?");
        for number in 0..tags {
            let _ = write!(query, "tag=t{number}&");
        }
        all.push((
            format!("{tags} tags"),
            push(OCI_MANIFEST, &query, "{}".to_owned()),
            status,
        ));
    }
    all
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "what was seen, and not only that it was enough")]
async fn s11_numbers_and_depths_that_nobody_means() {
    let registry = Registry::start("repositories: { docker: { type: local } }");
    registry.push_image("/v2/docker/a", "v0", b"layer").await;
    let refuser = refuser().await;
    let address = registry.address().to_owned();
    // The largest number is one, and so is a long name: they are answered like any other.
    let last = "a".repeat(8000);
    for path in [
        "/v2/docker/a/tags/list?n=9223372036854775807".to_owned(),
        format!("/v2/docker/a/tags/list?n=1&last={last}"),
    ] {
        let response = registry.get(&path).send().await.expect("an answer");
        assert!(!response.status().is_server_error(), "{path}: {}", response.status());
    }
    let lag = Lag::start();
    let before = resident(&registry);
    forget_peak(&registry);
    for (what, ask, expected) in absurd() {
        let (status, took) = timed(&registry, &address, &ask, &lag).await;
        let (_, by_itself) = timed(&registry, &refuser, &ask, &lag).await;
        let grown = peak(&registry).saturating_sub(before);
        println!(
            "{what}: {status} in {took:?}, a refusal by itself {by_itself:?}, {} KiB more",
            grown / 1024
        );
        // Of a number that is only large, all is given that there is.
        let is_meant = match expected {
            Some(expected) => status == expected,
            None => status.is_client_error() || status == StatusCode::OK,
        };
        assert!(is_meant, "{what}: {status}");
        assert!(took <= AT_ONCE + by_itself, "{what}: {took:?}, by itself {by_itself:?}");
        assert!(grown <= 16 * MEGABYTE, "{what}: {grown} bytes more");
    }
    let response = registry.get("/v2/docker/a/manifests/v0").send().await;
    expect(response.expect("an answer"), StatusCode::OK).await;
}

#[tokio::test]
async fn s11_whatever_is_asked_for_the_metrics_stay_few() {
    let registry = Registry::start("repositories: { docker: { type: local } }");
    registry.push_image("/v2/docker/a", "v0", b"layer").await;
    let before = series(&registry).await;
    for number in 0..500 {
        for path in [
            format!("/v2/docker/image{number}/manifests/v{number}"),
            format!("/v2/key{number}/image/tags/list"),
            format!("/key{number}/v2/image/manifests/v1"),
            format!("/nothing{number}"),
            format!("/v2/image{number}/manifests/v1?ns=host{number}.example"),
        ] {
            let _ = registry.get(&path).send().await.expect("an answer");
        }
        let method = format!("M{number}").parse::<reqwest::Method>().expect("a method");
        let _ = registry
            .client
            .request(method, registry.url("/v2/"))
            .send()
            .await
            .expect("an answer");
    }
    let after = series(&registry).await;
    assert!(
        after <= before + 300 && after <= 5000,
        "{before} series before, {after} after"
    );
    assert!(!registry.metrics().await.contains("image7"));
}
