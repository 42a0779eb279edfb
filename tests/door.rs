//! The front door, from outside: what clients may do to it, and what must go on all the same.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test that meets the unexpected should stop there"
)]

#[path = "door/files.rs"]
mod files;
#[path = "door/support.rs"]
mod support;
#[path = "door/tls.rs"]
mod tls;

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use entrepot::config::TlsConfig;
use entrepot::http::serve::{Error, Patience};
use entrepot::http::tls::Tls;
use futures_util::future::join_all;
use http::Request;
use support::{GET, LONG, PATIENT, Site, answer, ask, at, connector, issue, shake, until_closed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const SHORT: Duration = Duration::from_millis(400);
const HASTY: Patience = Patience { head: SHORT, ..PATIENT };

#[tokio::test]
async fn who_says_nothing_is_sent_away() {
    let site = Site::open(10, HASTY, None).await;
    let waited = until_closed(&mut site.connect().await).await;
    assert!(waited >= SHORT / 2 && waited < LONG / 2, "{waited:?}");
}

#[tokio::test]
async fn a_head_in_drops_is_not_waited_for() {
    let site = Site::open(10, HASTY, None).await;
    let mut again = site.connect().await;
    ask(&mut again, GET).await.expect("served");
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for (stream, words) in [
        (site.connect().await, "GET / HTTP/1.1\r\nhost: a\r\nx-drops: "),
        (site.connect().await, preface),
        (again, "GET"),
    ] {
        let (mut reader, mut writer) = stream.into_split();
        let words = words.to_owned();
        let drip = tokio::spawn(async move {
            for byte in words.bytes().chain(std::iter::repeat(b'x')) {
                if writer.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(SHORT / 20).await;
            }
        });
        let waited = until_closed(&mut reader).await;
        assert!(waited < LONG / 2, "{waited:?}");
        drip.abort();
    }
}

#[tokio::test]
async fn between_requests_there_is_more_time() {
    let idle = 3 * SHORT;
    let site = Site::open(10, Patience { idle, ..HASTY }, None).await;
    let mut stream = site.connect().await;
    for _ in 0..2 {
        assert!(ask(&mut stream, GET).await.expect("served").ends_with("hello"));
    }
    let waited = until_closed(&mut stream).await;
    assert!(waited >= idle / 2 && waited < LONG / 2, "{waited:?}");
}

#[tokio::test]
async fn versions_and_sizes_of_http() {
    let site = Site::open(10, PATIENT, None).await;
    let mut old = site.connect().await;
    let text = ask(&mut old, b"GET / HTTP/1.0\r\n\r\n").await.expect("served");
    assert!(text.starts_with("HTTP/1.0 200 OK"), "{text}");
    until_closed(&mut old).await;

    for (headers, length, status) in [
        (60, 10, "200"),
        (80, 10, "431"),
        (3, 9_000, "200"),
        (4, 9_000, "431"),
        (1, 300_000, "431"),
    ] {
        let mut request = b"GET / HTTP/1.1\r\nhost: a\r\n".to_vec();
        for number in 0..headers {
            request.extend(format!("x-{number}: {}\r\n", "x".repeat(length)).bytes());
        }
        request.extend(b"\r\n");
        let text = ask(&mut site.connect().await, &request).await.expect("served");
        assert_eq!(&text[9..12], status, "{headers} of {length}");
    }
}

#[tokio::test]
async fn bodies_that_stall_are_cut() {
    let site = Site::open(
        10,
        Patience {
            stall: 2 * SHORT,
            ..PATIENT
        },
        None,
    )
    .await;
    // A client that sends, slowly but always.
    let mut slow = site.connect().await;
    slow.write_all(b"PUT /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 40\r\n\r\n")
        .await
        .expect("sent");
    for _ in 0..40 {
        tokio::time::sleep(SHORT / 8).await;
        slow.write_all(b"x").await.expect("sent");
    }
    assert!(answer(&mut slow).await.expect("served").ends_with("40"));
    // One that stops.
    let mut stream = site.connect().await;
    let text = ask(
        &mut stream,
        b"PUT /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 40\r\n\r\nabc",
    )
    .await
    .expect("served");
    assert!(
        text.starts_with("HTTP/1.1 408") && text.contains("the client sent nothing for"),
        "{text}"
    );
    until_closed(&mut stream).await;
}

#[tokio::test]
async fn who_reads_nothing_is_cut_and_who_reads_slowly_is_not() {
    let stall = Duration::from_secs(2);
    let site = Site::open(10, Patience { stall, ..PATIENT }, None).await;
    let mut slow = site.connect().await;
    slow.write_all(b"GET /zeros HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .expect("sent");
    let mut silent = site.connect().await;
    silent
        .write_all(b"GET /zeros HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .expect("sent");
    site.until_open(2).await;
    let read = tokio::spawn(async move {
        let mut buffer = vec![0; 16 * 1024];
        for _ in 0..40 {
            tokio::time::sleep(stall / 20).await;
            slow.read_exact(&mut buffer).await.expect("goes on");
        }
        slow
    });
    site.until_open(1).await;
    let slow = timeout(LONG, read).await.expect("in time").expect("goes on");
    drop(slow);
    site.until_open(0).await;
    drop(silent);
}

#[tokio::test]
async fn an_http2_client_that_opens_no_window_is_cut() {
    let stall = Duration::from_secs(1);
    let site = Site::open(10, Patience { stall, ..PATIENT }, None).await;
    let (client, connection) = h2::client::handshake(site.connect().await).await.expect("handshake");
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await.expect("ready");
    let request = Request::get("http://a/").body(()).expect("request");
    let (hello, _) = client.send_request(request, true).expect("sent");
    assert_eq!(hello.await.expect("served").status(), 200);
    let request = Request::get("http://a/zeros").body(()).expect("request");
    let (zeros, _) = client.send_request(request, true).expect("sent");
    let held = zeros.await.expect("served");
    let ended = timeout(LONG, connection).await.expect("cut in time");
    drop((ended, held));
    site.until_open(0).await;
}

#[tokio::test]
async fn a_refusal_reaches_who_is_still_sending() {
    let site = Site::open(10, PATIENT, None).await;
    for _ in 0..10 {
        let mut stream = site.connect().await;
        stream
            .write_all(b"PUT /refuse HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n")
            .await
            .expect("sent");
        for _ in 0..512 {
            // A reset now could overtake the answer on a longer road.
            stream.write_all(&[0; 8 * 1024]).await.expect("taken and thrown away");
        }
        let text = timeout(LONG, answer(&mut stream))
            .await
            .expect("in time")
            .expect("not a reset");
        assert!(text.starts_with("HTTP/1.1 403"), "{text}");
    }
}

#[tokio::test]
async fn s14_a_stalled_handshake_holds_up_nobody() {
    let folder = tempfile::tempdir().expect("folder");
    let files = issue(folder.path(), "a");
    let site = Site::open(10, HASTY, Some(Tls::load(&files).expect("loads"))).await;
    let mut silent = site.connect().await;
    let mut half = site.connect().await;
    half.write_all(&[22, 3, 1, 2, 0]).await.expect("sent");
    site.until_open(2).await;
    let mut stream = shake(&connector(&[files], &[b"http/1.1"]), site.connect().await)
        .await
        .expect("shakes");
    let text = ask(&mut stream, b"GET /peer HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .expect("served");
    assert!(text.contains("secure: true"), "{text}");
    let (first, second) = tokio::join!(until_closed(&mut silent), until_closed(&mut half));
    assert!(first < LONG / 2 && second < LONG / 2);
    // Nor is plain HTTP ever answered there.
    assert_eq!(
        ask(&mut site.connect().await, GET)
            .await
            .filter(|text| text.contains("200 OK")),
        None
    );
}

#[tokio::test]
async fn http2_over_tls() {
    let folder = tempfile::tempdir().expect("folder");
    let files = issue(folder.path(), "a");
    let site = Site::open(10, PATIENT, Some(Tls::load(&files).expect("loads"))).await;
    let stream = shake(&connector(&[files], &[b"h2", b"http/1.1"]), site.connect().await)
        .await
        .expect("shakes");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (client, connection) = h2::client::handshake(stream).await.expect("handshake");
    tokio::spawn(connection);
    let mut client = client.ready().await.expect("ready");
    // A panic ends its own stream only.
    for (path, status) in [("/", Some(200)), ("/panic", None), ("/", Some(200))] {
        let request = Request::get(format!("https://localhost{path}"))
            .body(())
            .expect("request");
        let (response, _) = client.send_request(request, true).expect("sent");
        assert_eq!(
            response.await.ok().map(|response| response.status().as_u16()),
            status,
            "{path}"
        );
    }
}

#[tokio::test]
async fn s14_certificates_change_a_hundred_times_under_load() {
    let folder = tempfile::tempdir().expect("folder");
    let files: Vec<TlsConfig> = (0..20)
        .map(|number| issue(folder.path(), &number.to_string()))
        .collect();
    let tls = Tls::load(&files[0]).expect("loads");
    let site = Site::open(64, PATIENT, Some(tls.clone())).await;
    let connector = connector(&files, &[b"http/1.1"]);
    let done = AtomicBool::new(false);
    let client = async || {
        let mut served = 0;
        while !done.load(Ordering::Relaxed) {
            let mut stream = shake(&connector, site.connect().await).await.expect("shakes");
            ask(&mut stream, GET).await.expect("served");
            served += 1;
        }
        served
    };
    let swap = async {
        let absent = TlsConfig {
            cert: "absent.crt".into(),
            key: "absent.key".into(),
            client_ca: None,
        };
        for files in files.iter().cycle().take(100) {
            tls.replace(files).expect("good");
            assert!(tls.replace(&absent).is_err());
            let stream = shake(&connector, site.connect().await).await.expect("shakes");
            let shown = stream.get_ref().1.peer_certificates().expect("shown")[0].to_vec();
            let expected = std::fs::read(&files.cert).expect("read");
            let expected =
                <rustls_pki_types::CertificateDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(&expected);
            assert_eq!(shown, expected.expect("PEM").to_vec());
        }
        done.store(true, Ordering::Relaxed);
    };
    let (served, ()) = tokio::join!(join_all((0..4).map(|_| client())), swap);
    assert!(served.iter().all(|&served| served > 0), "{served:?}");
}

#[tokio::test]
async fn at_the_limit_others_wait_their_turn() {
    let site = Site::open(2, PATIENT, None).await;
    let (mut first, mut second) = (site.connect().await, site.connect().await);
    ask(&mut first, GET).await.expect("served");
    ask(&mut second, GET).await.expect("served");
    let mut third = site.connect().await;
    third.write_all(GET).await.expect("sent");
    assert!(
        timeout(SHORT, answer(&mut third)).await.is_err(),
        "served beyond the limit"
    );
    drop(first);
    assert!(timeout(LONG, answer(&mut third)).await.expect("in time").is_some());
    ask(&mut second, GET).await.expect("still served");
}

#[tokio::test]
async fn a10_a_panic_ends_its_own_connection_only() {
    let site = Site::open(1, PATIENT, None).await;
    for _ in 0..3 {
        assert_eq!(
            ask(&mut site.connect().await, b"GET /panic HTTP/1.1\r\nhost: a\r\n\r\n").await,
            None
        );
    }
    // With a limit of one, none of the slots was lost either.
    ask(&mut site.connect().await, GET).await.expect("served");
    site.until_open(0).await;
}

async fn begin_transfer(site: &Site) -> TcpStream {
    let mut stream = site.connect().await;
    stream
        .write_all(b"GET /gate HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .expect("sent");
    let mut text = Vec::new();
    while !text.ends_with(b"half\r\n") {
        assert!(stream.read_buf(&mut text).await.expect("read") > 0);
    }
    stream
}

async fn end_transfer(site: &Site, mut stream: TcpStream) -> Vec<u8> {
    site.gate.add_permits(1);
    let mut rest = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut rest)).await.expect("in time");
    rest
}

#[tokio::test]
async fn a_drain_ends_what_runs_and_begins_nothing() {
    let site = Site::open(10, PATIENT, None).await;
    let mut idle = site.connect().await;
    ask(&mut idle, GET).await.expect("served");
    let mut silent = site.connect().await;
    let running = begin_transfer(&site).await;
    let door = site.door.clone();
    let drained = tokio::spawn(async move { door.drain(LONG).await });
    let (first, second) = tokio::join!(until_closed(&mut idle), until_closed(&mut silent));
    assert!(first < LONG / 4 && second < LONG / 4);
    let refused = TcpStream::connect(site.address).await.expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert!(matches!(
        site.door.listen(&[at("127.0.0.1:0")], None).await,
        Err(Error::Stopping)
    ));
    assert_eq!(end_transfer(&site, running).await, b"4\r\nhalf\r\n0\r\n\r\n");
    assert!(drained.await.expect("ends"));
}

#[tokio::test]
async fn a_drain_has_an_end() {
    let site = Site::open(10, PATIENT, None).await;
    let running = begin_transfer(&site).await;
    assert!(!site.door.drain(SHORT).await);
    site.until_open(0).await;
    assert_eq!(end_transfer(&site, running).await, b"");
}

#[tokio::test]
async fn addresses_change_while_transfers_run() {
    let site = Site::open(10, PATIENT, None).await;
    let running = begin_transfer(&site).await;
    let mut there = at("127.0.0.2:0");
    there.repository = Some("docker".parse().expect("key"));
    // Kept, with the port it got, as long as it is configured; then gone.
    let both = site
        .door
        .listen(&[at("127.0.0.1:0"), there.clone()], None)
        .await
        .expect("listens");
    assert_eq!(both[0], site.address);
    ask(&mut site.connect().await, GET).await.expect("served");
    let one = site.door.listen(&[there], None).await.expect("listens");
    assert_eq!(one, both[1..]);
    TcpStream::connect(site.address).await.expect_err("refused");
    let mut stream = TcpStream::connect(one[0]).await.expect("connects");
    let text = ask(&mut stream, b"GET /peer HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .expect("served");
    assert!(
        text.contains("repository: Some(docker)") && text.contains("secure: false"),
        "{text}"
    );
    assert!(text.contains("address: 127.0.0.1:"), "{text}");
    site.gate.add_permits(1);
    let mut rest = [0; 14];
    let mut running = running;
    timeout(LONG, running.read_exact(&mut rest))
        .await
        .expect("in time")
        .expect("the rest");
    assert_eq!(&rest, b"4\r\nhalf\r\n0\r\n\r\n");
}

#[tokio::test]
async fn an_address_that_cannot_be_had_changes_nothing() {
    let site = Site::open(10, PATIENT, None).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let wanted = [at("127.0.0.2:0"), at(&taken.local_addr().expect("address").to_string())];
    let error = site.door.listen(&wanted, None).await.expect_err("in use");
    assert!(error.to_string().contains(&wanted[1].address.to_string()), "{error}");
    ask(&mut site.connect().await, GET).await.expect("served");
    let everywhere = at(&format!("0.0.0.0:{}", site.address.port()));
    let error = site
        .door
        .listen(&[everywhere], None)
        .await
        .expect_err("our own")
        .to_string();
    assert!(
        error.contains("cannot listen on 0.0.0.0:") && error.contains("by this server"),
        "{error}"
    );
    ask(&mut site.connect().await, GET).await.expect("served");
}
