//! F13: answers that are hardly HTTP, or too much of it. We speak HTTP/1.1 to upstreams and offer nothing else, so what
//! HTTP/2 has to offer (GOAWAY, RST_STREAM, windows that stay shut) is garbage like any other; it is among it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use entrepot::upstream::{Error, Range, Upstream};

use super::asking::{asking, blob, image, manifest};
use crate::support::upstream::{ALWAYS, Act, Image, Server, noise, remote};

/// What may be taken of one flood of headers: buffers of ours and of the system.
const TAKEN: u64 = 16 << 20;
/// For what closes the connection: never waited for, if the machine is not busy with something else.
const PATIENCE: Duration = Duration::from_secs(5);
/// For what only time ends.
const LITTLE: Duration = Duration::from_secs(1);

fn http(text: &str) -> Bytes {
    Bytes::from(text.replace('\n', "\r\n"))
}

/// Answers that are sent as they are; then the connection is closed.
fn answers() -> Vec<(&'static str, Bytes)> {
    let long = "x".repeat(1 << 20);
    let names: Vec<String> = (0..10_000).map(|number| format!("X-{number}: y\n")).collect();
    let (many, set) = (names.concat(), "Set-Cookie: a=b\n".repeat(10_000));
    vec![
        ("nothing", Bytes::new()),
        (
            "a megabyte of one header",
            http(&format!("HTTP/1.1 200 OK\nX: {long}\n\n")),
        ),
        ("a megabyte of a name", http(&format!("HTTP/1.1 200 OK\n{long}: x\n\n"))),
        ("a megabyte of a reason", http(&format!("HTTP/1.1 200 {long}\n\n"))),
        ("ten thousand headers", http(&format!("HTTP/1.1 200 OK\n{many}\n"))),
        ("ten thousand cookies", http(&format!("HTTP/1.1 200 OK\n{set}\n"))),
        ("headers without an end", http("HTTP/1.1 200 OK\nContent-Length: 3\n")),
        ("a thousand times 100", http(&"HTTP/1.1 100 Continue\n\n".repeat(1000))),
        (
            "a thousand times 103",
            http(&"HTTP/1.1 103 Early Hints\nLink: </x>\n\n".repeat(1000)),
        ),
        (
            "another protocol",
            http("HTTP/1.1 101 Switching Protocols\nUpgrade: h2c\nConnection: upgrade\n\n"),
        ),
        (
            "chunks of no number",
            http("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nzz\nabc\n0\n\n"),
        ),
        (
            "a negative chunk",
            http("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n-1\nabc\n0\n\n"),
        ),
        (
            "a chunk beyond all",
            http("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nffffffffffffffffff\nabc\n"),
        ),
        (
            "a chunk that is cut",
            http("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n10\nabc"),
        ),
        (
            "chunks without an end",
            http("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\nabc\n"),
        ),
        (
            "two lengths",
            http("HTTP/1.1 200 OK\nContent-Length: 3\nContent-Length: 4\n\nabcd"),
        ),
        (
            "a length and chunks",
            http("HTTP/1.1 200 OK\nContent-Length: 3\nTransfer-Encoding: chunked\n\n1\na\n0\n\n"),
        ),
        ("a negative length", http("HTTP/1.1 200 OK\nContent-Length: -1\n\nabc")),
        (
            "a length of no number",
            http("HTTP/1.1 200 OK\nContent-Length: many\n\nabc"),
        ),
        (
            "a length beyond all",
            http("HTTP/1.1 200 OK\nContent-Length: 99999999999999999999999\n\nabc"),
        ),
        (
            "another coding",
            http("HTTP/1.1 200 OK\nTransfer-Encoding: gzip\n\nabc"),
        ),
        (
            "a header without a colon",
            http("HTTP/1.1 200 OK\nX\nContent-Length: 3\n\nabc"),
        ),
        (
            "a folded header",
            http("HTTP/1.1 200 OK\nX: a\n b\nContent-Length: 3\n\nabc"),
        ),
        ("a NUL", http("HTTP/1.1 200 OK\nX: a\0b\nContent-Length: 3\n\nabc")),
        (
            "bare line ends",
            Bytes::from_static(b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc"),
        ),
        ("no version", http("200 OK\n\nabc")),
        ("HTTP/0.9", Bytes::from_static(b"<html>hello</html>")),
        ("HTTP/2 in words", http("HTTP/2 200\nContent-Length: 3\n\nabc")),
        ("HTTP/9.9", http("HTTP/9.9 200 OK\nContent-Length: 3\n\nabc")),
        ("a status of two digits", http("HTTP/1.1 20 OK\n\n")),
        ("a status of four digits", http("HTTP/1.1 2000 OK\n\n")),
        ("status 999", http("HTTP/1.1 999 Whatever\nContent-Length: 0\n\n")),
        ("status 000", http("HTTP/1.1 000 Whatever\nContent-Length: 0\n\n")),
        // SETTINGS, then GOAWAY.
        (
            "HTTP/2 that goes away",
            Bytes::from_static(b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0"),
        ),
        (
            "HTTP/2 that resets",
            Bytes::from_static(b"\0\0\0\x04\0\0\0\0\0\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08"),
        ),
        ("a TLS alert", Bytes::from_static(b"\x15\x03\x03\0\x02\x02\x28")),
        ("noise", noise(100_000, 1)),
        ("zeros", Bytes::from(vec![0; 1 << 20])),
    ]
}

/// The first bytes of an answer, and those that follow without an end.
fn floods() -> Vec<(&'static str, Bytes, Bytes)> {
    let chunked = "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n";
    vec![
        ("headers", http("HTTP/1.1 200 OK\n"), http("X-Y: z\n")),
        (
            "one header",
            http("HTTP/1.1 200 OK\nX: "),
            Bytes::from_static(b"xxxxxxxxxxxxxxxx"),
        ),
        (
            "a status line",
            http("HTTP/1.1 200 "),
            Bytes::from_static(b"xxxxxxxxxxxxxxxx"),
        ),
        (
            "words for a chunk",
            http(&format!("{chunked}1;")),
            Bytes::from_static(b"a=b;a=b;a=b;a=b;"),
        ),
        ("trailers", http(&format!("{chunked}0\n")), http("X-Y: z\n")),
        (
            "digits for a chunk",
            http(chunked),
            Bytes::from_static(b"0000000000000000"),
        ),
    ]
}

struct Stage {
    server: Server,
    put: Image,
    upstream: Upstream,
    patience: Duration,
}

async fn stage(patience: Duration) -> Stage {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[noise(1000, 2)]);
    let mut config = remote(&server);
    config.first_byte_timeout = patience;
    config.idle_timeout = patience;
    let upstream = asking(&config);
    Stage {
        server,
        put,
        upstream,
        patience,
    }
}

impl Stage {
    /// Asks for everything, of which nothing may come, nor may any of it be said not to be there.
    async fn assert_nothing_comes(&self, case: &str) {
        let Self { put, upstream, .. } = self;
        let begin = Instant::now();
        let answer = manifest(upstream, "a", "v1").await;
        assert!(answer.is_err(), "{case}: {answer:?}");
        match upstream.blob(&image("a"), &put.layers[0], Range::from(0), None).await {
            Ok(None) => panic!("{case}: an absence"),
            Err(_) => {}
            Ok(Some(mut stream)) => {
                let mut bytes = Vec::new();
                let end = loop {
                    match stream.chunk().await {
                        Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                        Ok(None) => break Ok(()),
                        Err(error) => break Err(error),
                    }
                };
                // A body that is one, however odd its head: its digest is what shows it to be another.
                assert!(end.is_err() || bytes.len() < 1000, "{case}");
            }
        }
        let tags = upstream.tags(&image("a")).await;
        assert!(tags.is_err(), "{case}: {tags:?}");
        // Three questions, of which each may take its time once; and what a busy machine adds.
        assert!(begin.elapsed() < self.patience * 6 + 4 * PATIENCE, "{case}");
    }

    /// The same, as soon as what is left of a flood has run off.
    async fn assert_well_soon(&self, case: &str) {
        self.server.behave();
        let begin = Instant::now();
        while manifest(&self.upstream, "a", "v1").await.is_err() {
            assert!(begin.elapsed() < 10 * PATIENCE, "{case}");
        }
    }

    async fn assert_well(&self, case: &str) {
        self.server.behave();
        let well = loop {
            match manifest(&self.upstream, "a", "v1").await {
                // Whoever fails often is left alone for a moment first.
                Err(Error::Open { retry_after, .. }) => tokio::time::sleep(retry_after).await,
                answer => break answer,
            }
        };
        assert_eq!(well, Ok(Some(self.put.digest.clone())), "{case}");
        assert_eq!(
            blob(&self.upstream, "a", &self.put.layers[0]).await.unwrap().len(),
            1000
        );
    }
}

#[tokio::test]
async fn f13_what_is_no_http_is_an_error_at_once_and_forgotten() {
    let cases = answers().into_iter().map(async |(case, answer)| {
        let stage = stage(PATIENCE).await;
        stage.server.on("GET /v2/", ALWAYS, [Act::Raw(answer)]);
        stage.assert_nothing_comes(case).await;
        stage.assert_well(case).await;
    });
    futures_util::future::join_all(cases).await;
}

#[tokio::test]
async fn f13_floods_of_headers_are_cut_off() {
    let stage = stage(LITTLE).await;
    for (case, first, again) in floods() {
        let again = Bytes::from(again.repeat(1000));
        stage.server.on("GET /v2/", ALWAYS, [Act::Flood(first, again)]);
        let before = stage.server.flooded();
        stage.assert_nothing_comes(case).await;
        let taken = stage.server.flooded() - before;
        // Asked for three things, and for each up to three times.
        assert!(taken < 9 * TAKEN, "{case}: {taken}");
        stage.assert_well_soon(case).await;
    }
    // Answers that promise an answer hold nothing, and come to an end with the time for the first byte.
    for again in ["HTTP/1.1 100 Continue\n\n", "HTTP/1.1 103 Early Hints\nLink: </x>\n\n"] {
        let again = Bytes::from(http(again).repeat(100));
        stage.server.on("GET /v2/", ALWAYS, [Act::Flood(Bytes::new(), again)]);
        stage.assert_nothing_comes("1xx").await;
        stage.assert_well_soon("1xx").await;
    }
}

#[tokio::test]
async fn f13_a_token_endpoint_that_sends_garbage_is_an_error_too() {
    let stage = stage(PATIENCE).await;
    stage.server.demand_bearer(&stage.server);
    for (case, answer) in answers() {
        stage.server.on("GET /token", ALWAYS, [Act::Raw(answer)]);
        let error = manifest(&stage.upstream, "a", "v1").await.unwrap_err();
        assert!(!error.to_string().contains("lost"), "{case}: {error}");
        stage.server.behave();
        stage.assert_well(case).await;
        stage.server.revoke_tokens();
    }
}
