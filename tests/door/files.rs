//! Files as bodies: whatever way they leave, what arrives is what lies on disk, or the connection is cut.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use axum::{Router, routing};
use entrepot::http::sendfile::FileBody;
use entrepot::http::serve::Patience;
use entrepot::http::tls::Tls;
use futures_util::future::join_all;
use http::Request;
use http::request::Parts;
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::support::{LONG, PATIENT, Site, connector, issue, shake};

const SIZE: usize = 6 * 1024 * 1024 + 123;
/// Offsets and lengths: the edges of what is sent or read at once, and of the file.
const RANGES: &[(usize, usize)] = &[
    (0, SIZE),
    (0, 1),
    (SIZE - 1, 1),
    (1, 2 * 1024 * 1024),
    (4096, 4 * 1024 * 1024),
    (2 * 1024 * 1024 - 1, 2),
    (3, 256 * 1024),
    (5, 256 * 1024 + 1),
    (7, 0),
    (1_234_567, 3_000_001),
];

struct Blob {
    file: File,
    content: Vec<u8>,
}

fn blob() -> Blob {
    let mut state = 1_u64;
    let content: Vec<u8> = (0..SIZE)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .collect();
    let mut file = tempfile::tempfile().expect("file");
    file.write_all(&content).expect("written");
    Blob { file, content }
}

fn sum(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// What is asked for as `/file/WAY/FROM/LENGTH`.
struct Wanted {
    way: String,
    from: u64,
    length: u64,
}

impl Wanted {
    fn of(request: &Parts) -> Self {
        let mut words = request.uri.path().split('/').skip(2);
        let mut next = || words.next().expect("a word");
        Self {
            way: next().to_owned(),
            from: next().parse().expect("a number"),
            length: next().parse().expect("a number"),
        }
    }
}

fn serve(file: &Arc<File>, wanted: &Wanted) -> Response {
    let body = FileBody::new(Arc::clone(file), wanted.from, wanted.length);
    let copied = |frame: http_body::Frame<Bytes>| frame.map_data(|bytes| Bytes::from(bytes.to_vec()));
    let body = match wanted.way.as_str() {
        "body" => Body::new(body),
        "stream" => Body::from_stream(body.into_data_stream()),
        "copies" => Body::new(body.map_frame(copied)),
        "begins" => Body::new(body.map_frame(|frame| frame.map_data(|mut bytes| bytes.split_to(bytes.len() / 2)))),
        other => panic!("no such way: {other}"),
    };
    let mut response = Response::new(body);
    if wanted.way != "stream" {
        response.headers_mut().insert("content-length", wanted.length.into());
    }
    response
}

async fn open(file: &File, tls: Option<Tls>) -> Site {
    let file = Arc::new(file.try_clone().expect("duplicated"));
    let collected = Arc::clone(&file);
    let router = Router::new()
        .route(
            "/file/{*wanted}",
            routing::get(async move |request: Parts| serve(&file, &Wanted::of(&request))),
        )
        .route(
            "/collected/{*wanted}",
            routing::get(async move |request: Parts| {
                let body = serve(&collected, &Wanted::of(&request)).into_body();
                body.collect().await.expect("read").to_bytes()
            }),
        );
    // Those who stall here do it for as long as the others take, which is not what is measured.
    let patience = Patience {
        stall: 20 * LONG,
        ..PATIENT
    };
    Site::open_with(100, patience, tls, router).await
}

fn request(method: &str, path: &str, way: &str, (from, length): (usize, usize), version: &str) -> String {
    format!("{method} {path}/{way}/{from}/{length} HTTP/{version}\r\nhost: a\r\n\r\n")
}

/// Reads one answer off the connection: its head, and its body, which must have a length unless it is chunked.
async fn read(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>, head_only: bool) -> (String, Vec<u8>) {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        assert!(stream.read_buf(buffer).await.expect("read") > 0, "cut within a head");
    };
    let head = String::from_utf8(buffer.drain(..end).collect())
        .expect("text")
        .to_ascii_lowercase();
    let mut body = Vec::new();
    if head_only {
        return (head, body);
    }
    if let Some((_, length)) = head.split_once("content-length: ") {
        let length: usize = length
            .lines()
            .next()
            .and_then(|length| length.parse().ok())
            .expect("a number");
        while buffer.len() < length {
            assert!(stream.read_buf(buffer).await.expect("read") > 0, "cut within a body");
        }
        let rest = buffer.split_off(length);
        return (head, std::mem::replace(buffer, rest));
    }
    loop {
        let line = loop {
            if let Some(end) = buffer.windows(2).position(|window| window == b"\r\n") {
                break buffer.drain(..end + 2).collect::<Vec<_>>();
            }
            assert!(stream.read_buf(buffer).await.expect("read") > 0, "cut within a body");
        };
        let size = usize::from_str_radix(std::str::from_utf8(&line).expect("text").trim(), 16).expect("a size");
        while buffer.len() < size + 2 {
            assert!(stream.read_buf(buffer).await.expect("read") > 0, "cut within a body");
        }
        body.extend(buffer.drain(..size + 2).take(size));
        if size == 0 {
            return (head, body);
        }
    }
}

/// Asks on one connection for every range, in several ways, one after the other and all at once.
async fn ranges_over_http1(stream: impl AsyncRead + AsyncWrite + Unpin, content: &[u8]) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut asked = Vec::new();
    for &range in RANGES {
        for (method, path, way) in [
            ("GET", "/file", "body"),
            ("HEAD", "/file", "body"),
            ("GET", "/file", "stream"),
            ("GET", "/collected", "body"),
        ] {
            asked.push((request(method, path, way, range, "1.1"), method == "HEAD", range));
        }
    }
    let mut buffer = Vec::new();
    for pipelined in [false, true] {
        if pipelined {
            let all: String = asked.iter().map(|(request, ..)| request.as_str()).collect();
            writer.write_all(all.as_bytes()).await.expect("sent");
        }
        for (request, head_only, (from, length)) in &asked {
            if !pipelined {
                writer.write_all(request.as_bytes()).await.expect("sent");
            }
            let (head, body) = timeout(LONG, read(&mut reader, &mut buffer, *head_only))
                .await
                .expect("in time");
            assert!(head.starts_with("http/1.1 200"), "{request} {head}");
            if *head_only {
                assert!(head.contains(&format!("content-length: {length}\r\n")), "{head}");
            } else {
                assert_eq!(sum(&body), sum(&content[*from..from + length]), "{request}");
            }
        }
        assert!(buffer.is_empty());
    }
}

async fn ranges_over_http2(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, content: &[u8]) {
    let (client, connection) = h2::client::handshake(stream).await.expect("handshake");
    tokio::spawn(connection);
    let client = client.ready().await.expect("ready");
    let fetches = RANGES.iter().map(|&(from, length)| {
        let mut client = client.clone();
        async move {
            let uri = format!("https://localhost/file/body/{from}/{length}");
            let (answer, _) = client
                .send_request(Request::get(uri).body(()).expect("request"), true)
                .expect("sent");
            let mut body = answer.await.expect("served").into_body();
            let mut got = Vec::new();
            while let Some(bytes) = body.data().await {
                let bytes = bytes.expect("read");
                body.flow_control().release_capacity(bytes.len()).expect("released");
                got.extend(bytes);
            }
            assert_eq!(sum(&got), sum(&content[from..from + length]));
        }
    });
    timeout(LONG, join_all(fetches)).await.expect("in time");
}

#[tokio::test]
async fn ranges_arrive_whole_in_every_way() {
    let blob = blob();
    let plain = open(&blob.file, None).await;
    ranges_over_http1(plain.connect().await, &blob.content).await;
    ranges_over_http2(plain.connect().await, &blob.content).await;

    let folder = tempfile::tempdir().expect("folder");
    let files = [issue(folder.path(), "a")];
    let secure = open(&blob.file, Some(Tls::load(&files[0]).expect("loads"))).await;
    let stream = shake(&connector(&files, &[b"http/1.1"]), secure.connect().await)
        .await
        .expect("shakes");
    ranges_over_http1(stream, &blob.content).await;
    let stream = shake(&connector(&files, &[b"h2"]), secure.connect().await)
        .await
        .expect("shakes");
    ranges_over_http2(stream, &blob.content).await;
}

#[tokio::test]
async fn an_answer_to_http_1_0_ends_with_its_connection() {
    let blob = blob();
    let site = open(&blob.file, None).await;
    for way in ["body", "stream"] {
        let mut stream = site.connect().await;
        let range = (1000, SIZE - 1000);
        stream
            .write_all(request("GET", "/file", way, range, "1.0").as_bytes())
            .await
            .expect("sent");
        let mut text = Vec::new();
        timeout(LONG, stream.read_to_end(&mut text))
            .await
            .expect("in time")
            .expect("read");
        let head = text
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .expect("a head")
            + 4;
        assert_eq!(sum(&text[head..]), sum(&blob.content[1000..]), "{way}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_stall_or_vanish_disturb_nobody() {
    let blob = blob();
    let site = open(&blob.file, None).await;
    let wanted = request("GET", "/file", "body", (0, SIZE), "1.1");
    let twice = wanted.repeat(2);
    let stalled = join_all((0..8).map(async |_| {
        let mut stream = site.connect().await;
        stream.write_all(twice.as_bytes()).await.expect("sent");
        stream
    }));
    let mut stalled = stalled.await;
    let vanishing = join_all((0..30).map(async |number| {
        let mut stream = site.connect().await;
        stream.write_all(twice.as_bytes()).await.expect("sent");
        let mut some = vec![0; number * 200_000];
        stream.read_exact(&mut some).await.expect("read");
    }));
    let others = join_all((0..4).map(async |_| {
        let mut stream = site.connect().await;
        let mut buffer = Vec::new();
        for _ in 0..10 {
            stream.write_all(wanted.as_bytes()).await.expect("sent");
            let (_, body) = read(&mut stream, &mut buffer, false).await;
            assert_eq!(sum(&body), sum(&blob.content));
        }
    }));
    timeout(6 * LONG, async { tokio::join!(vanishing, others) })
        .await
        .expect("in time");
    site.until_open(stalled.len()).await;
    for stream in &mut stalled {
        let mut buffer = Vec::new();
        for _ in 0..2 {
            let (_, body) = timeout(LONG, read(stream, &mut buffer, false)).await.expect("in time");
            assert_eq!(sum(&body), sum(&blob.content));
        }
    }
}

/// Everything that arrives until the connection ends, without the head.
async fn body_until_cut(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut text = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut text)).await.expect("in time");
    match text.windows(4).position(|window| window == b"\r\n\r\n") {
        Some(end) => text.split_off(end + 4),
        None => Vec::new(),
    }
}

#[tokio::test]
async fn a_file_cut_short_cuts_its_answer_short() {
    let folder = tempfile::tempdir().expect("folder");
    let files = [issue(folder.path(), "a")];
    for tls in [false, true] {
        let blob = blob();
        // Long enough that most of it cannot be on its way when the file is cut.
        let times = 16;
        for _ in 1..times {
            (&blob.file).write_all(&blob.content).expect("written");
        }
        let (length, kept) = (times * SIZE, (times - 1) * SIZE);
        let asked = request("GET", "/file", "body", (0, length), "1.1");
        let site = open(&blob.file, tls.then(|| Tls::load(&files[0]).expect("loads"))).await;
        let mut stream = site.connect().await;
        let got = if tls {
            let mut stream = shake(&connector(&files, &[b"http/1.1"]), stream).await.expect("shakes");
            stream.write_all(asked.as_bytes()).await.expect("sent");
            stream.read_exact(&mut [0; 1]).await.expect("begins");
            blob.file.set_len(kept as u64).expect("cut");
            body_until_cut(&mut stream).await
        } else {
            stream.write_all(asked.as_bytes()).await.expect("sent");
            stream.read_exact(&mut [0; 1]).await.expect("begins");
            blob.file.set_len(kept as u64).expect("cut");
            body_until_cut(&mut stream).await
        };
        assert!(
            !got.is_empty() && got.len() <= kept,
            "{} of {length}, {kept} kept",
            got.len()
        );
        for chunk in got.chunks(SIZE) {
            assert_eq!(sum(chunk), sum(&blob.content[..chunk.len()]));
        }
    }
}

#[tokio::test]
async fn a_layer_that_copies_or_shortens_what_stands_for_a_file_gets_the_connection_cut() {
    let blob = blob();
    let site = open(&blob.file, None).await;
    for way in ["copies", "begins"] {
        for range in [(0, SIZE), (5, 1000)] {
            let mut stream = site.connect().await;
            stream
                .write_all(request("GET", "/file", way, range, "1.1").as_bytes())
                .await
                .expect("sent");
            assert_eq!(body_until_cut(&mut stream).await, b"", "{way}");
        }
    }
    // Where files are read, layers may do what they like.
    let folder = tempfile::tempdir().expect("folder");
    let files = [issue(folder.path(), "a")];
    let secure = open(&blob.file, Some(Tls::load(&files[0]).expect("loads"))).await;
    let mut stream = shake(&connector(&files, &[b"http/1.1"]), secure.connect().await)
        .await
        .expect("shakes");
    stream
        .write_all(request("GET", "/file", "copies", (0, SIZE), "1.1").as_bytes())
        .await
        .expect("sent");
    let (_, body) = timeout(LONG, read(&mut stream, &mut Vec::new(), false))
        .await
        .expect("in time");
    assert_eq!(sum(&body), sum(&blob.content));
    assert!(site.door.drain(Duration::from_secs(5)).await);
}
