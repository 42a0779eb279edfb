//! F12: bodies that are compressed although they were to be sent as they are, and bodies that do not end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use entrepot::upstream;

use crate::support::remote::{Remote, image, pulling, reference};
use crate::support::upstream::{ALWAYS, Act, Server, noise, remote};

/// What may be taken of a body that is not wanted: buffers of ours and of the system.
const TAKEN: u64 = 16 << 20;

fn is_lie<T>(answer: &Result<T, entrepot::cache::Error>) -> bool {
    let error = answer.as_ref().err().and_then(|error| error.upstream());
    matches!(error, Some(upstream::Error::Lies(_)))
}

async fn tagless(server: &Server) -> Remote {
    let mut config = remote(server);
    config.first_byte_timeout = Duration::from_secs(1);
    pulling(&config).await
}

#[tokio::test]
async fn f12_what_is_compressed_is_not_taken_for_what_it_holds() {
    let server = Server::start().await;
    let bytes = noise(10_000, 1);
    let put = server.put_image("a", "v1", std::slice::from_ref(&bytes));
    let blob = &put.layers[0];
    for encoding in [
        "gzip",
        "br",
        "zstd",
        "deflate",
        "x-gzip",
        "compress",
        "gzip, identity",
        "GZIP",
        "aes128gcm",
    ] {
        let remote = tagless(&server).await;
        let says = Act::Header("Content-Encoding", encoding.to_owned());
        server.on("GET /v2/", ALWAYS, [says]);
        assert!(is_lie(&remote.blob("a", blob).await), "{encoding}");
        assert!(is_lie(&remote.tag("a", "v1").await), "{encoding}");
        assert!(is_lie(&remote.cache.tags(&image("a")).await), "{encoding}");
        remote.assert_nothing_kept(blob).await;
        let kept = remote
            .cache
            .cached_manifest(&image("a"), &reference("v1"))
            .await
            .unwrap();
        assert!(kept.is_none());
        server.behave();
        let (_, whole) = remote.whole("a", blob).await.unwrap();
        assert!(whole == bytes, "{encoding}: well again");
    }
    // The second of two headers counts as much as the first.
    let remote = tagless(&server).await;
    let head =
        "HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Encoding: gzip\r\nContent-Length: 10000\r\n\r\n";
    let raw = [head.as_bytes(), &bytes[..]].concat();
    server.on("GET /blobs/", 1, [Act::Raw(raw.into())]);
    assert!(is_lie(&remote.blob("a", blob).await));
    // What says that it is as it is, is.
    for says in ["identity", "Identity", ""] {
        let remote = tagless(&server).await;
        server.on("GET /blobs/", 1, [Act::Header("Content-Encoding", says.to_owned())]);
        assert!(remote.whole("a", blob).await.unwrap().1 == bytes, "{says}");
    }
    for seen in server.seen() {
        assert_eq!(seen.header("accept-encoding"), Some("identity"));
        assert_eq!(seen.header("te"), None);
    }
}

#[tokio::test]
async fn f12_a_bomb_is_put_down_before_it_is_large() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[noise(10_000, 2)]);
    let blob = &put.layers[0];
    let zeros = Bytes::from(vec![0; 64 * 1024]);
    let letters = Bytes::from(vec![b'x'; 64 * 1024]);
    let head = |fields: &str| Bytes::from(format!("HTTP/1.1 200 OK\r\n{fields}\r\n"));
    let chunk = Bytes::from([b"10000\r\n".as_slice(), &zeros, b"\r\n"].concat());
    let json = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n";
    for (case, first, again) in [
        ("gzip, without an end", head("Content-Encoding: gzip\r\n"), &zeros),
        (
            "gzip, in chunks without an end",
            head("Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"),
            &chunk,
        ),
        (
            "zstd, and a length beyond all",
            head("Content-Encoding: zstd\r\nContent-Length: 9000000000000000000\r\n"),
            &zeros,
        ),
    ] {
        let remote = tagless(&server).await;
        server.behave();
        server.on("GET /v2/", ALWAYS, [Act::Flood(first, again.clone())]);
        let before = server.flooded();
        assert!(is_lie(&remote.blob("a", blob).await), "{case}");
        assert!(is_lie(&remote.tag("a", "v1").await), "{case}");
        remote.assert_nothing_kept(blob).await;
        let taken = server.flooded() - before;
        assert!(taken < TAKEN, "{case}: {taken}");
    }
    // Without a word of compression: a manifest and a token have a longest, whatever is announced.
    for fields in [
        String::new(),
        format!("{json}Transfer-Encoding: chunked\r\n"),
        json.to_owned(),
    ] {
        let is_chunked = fields.contains("chunked");
        let remote = tagless(&server).await;
        server.behave();
        let again = if is_chunked { &chunk } else { &letters };
        server.on("GET /manifests/", ALWAYS, [Act::Flood(head(&fields), again.clone())]);
        let (before, begin) = (server.flooded(), Instant::now());
        let error = remote.tag("a", "v1").await.unwrap_err();
        let error = error.upstream().cloned();
        assert!(matches!(error, Some(upstream::Error::TooLarge { .. })), "{error:?}");
        assert!(server.flooded() - before < TAKEN, "{fields}");
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
    server.behave();
    server.demand_bearer(&server);
    let remote = tagless(&server).await;
    server.on("GET /token", ALWAYS, [Act::Flood(head(""), letters)]);
    let before = server.flooded();
    assert!(remote.tag("a", "v1").await.is_err());
    assert!(server.flooded() - before < TAKEN);
    server.behave();
    assert!(remote.tag("a", "v1").await.unwrap().is_some());
}
