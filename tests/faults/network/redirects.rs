//! F6: where an upstream may lead us.

use std::time::{Duration, Instant};

use entrepot::upstream::{Error, Range};

use super::asking::{asking, blob, image, manifest};
use crate::support::proxy::Proxy;
use crate::support::tls::{Authority, Wants};
use crate::support::upstream::{ALWAYS, Act, Server, noise, remote};

/// Other names of this machine than the one that the upstream goes by, `127.0.0.1`.
const HERE: [&str; 16] = [
    "127.0.0.2",
    "127.255.255.254",
    "127.2",
    "0x7f000002",
    "2130706434",
    "017700000002",
    "0.0.0.0",
    "0",
    "localhost",
    "LOCALHOST",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[2002:7f00:1::]",
];
/// Neighbours that only we can reach. Asked through a proxy of the test's, so that no packet could leave it.
const NEIGHBOURS: [&str; 12] = [
    "169.254.169.254",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "168.63.129.16",
    "224.0.0.1",
    "255.255.255.255",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[fec0::1]",
    "[::ffff:169.254.169.254]",
];
/// What is no plain web address.
const NO_ADDRESSES: [&str; 8] = [
    "file:///etc/passwd",
    "ftp://127.0.0.1/",
    "gopher://127.0.0.1/",
    "data:text/plain,x",
    "javascript:1",
    "http://",
    "http://[::1",
    "http://127.0.0.1:99999/",
];

/// A listener that hears whoever calls this machine, by whatever name.
async fn canary() -> Server {
    Server::start_at("[::]:0").await
}

#[tokio::test]
async fn f06_no_redirect_leads_to_a_private_address() {
    let (server, canary) = (Server::start().await, canary().await);
    let put = server.put_image("a", "v1", &[noise(1000, 1)]);
    let upstream = asking(&remote(&server));
    for host in HERE {
        server.behave();
        let target = format!("http://{host}:{}/v2/a/blobs/x?signature=hidden", canary.port());
        server.on("* /v2/", ALWAYS, [Act::Redirect(target)]);
        let error = upstream
            .blob(&image("a"), &put.layers[0], Range::from(0), None)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Private { .. }), "{host}: {error}");
        assert!(error.to_string().contains("allow_private"), "{error}");
        assert!(!error.to_string().contains("hidden"), "{error}");
        let error = manifest(&upstream, "a", "v1").await.unwrap_err();
        assert!(matches!(error, Error::Private { .. }), "{host}: {error}");
    }
    assert_eq!(canary.connections(), 0);
    let before = server.asked("* /v2/");
    server.behave();
    assert_eq!(manifest(&upstream, "a", "v1").await, Ok(Some(put.digest)));
    assert_eq!(server.asked("* /v2/") - before, 1, "and nothing is held against it");
}

#[tokio::test]
async fn f06_no_realm_leads_to_a_private_address() {
    let (server, canary) = (Server::start().await, canary().await);
    server.put_image("a", "v1", &[]);
    for host in HERE {
        let upstream = asking(&remote(&server));
        server.demand_bearer_of(&format!("http://{host}:{}/token", canary.port()), &canary);
        let error = manifest(&upstream, "a", "v1").await.unwrap_err();
        assert!(matches!(error, Error::Private { .. }), "{host}: {error}");
    }
    assert_eq!(canary.connections(), 0);
}

#[tokio::test]
async fn f06_a_proxy_is_not_asked_for_private_addresses_either() {
    let (server, canary, proxy) = (Server::start().await, canary().await, Proxy::start().await);
    let put = server.put_image("a", "v1", &[noise(1000, 2)]);
    proxy.knows("registry.test:80", &server.host());
    proxy.takes_others_to(&format!("127.0.0.1:{}", canary.port()));
    let mut config = remote(&server);
    config.url = "http://registry.test".parse().unwrap();
    config.proxy = Some(proxy.config(None));
    let upstream = asking(&config);
    for host in HERE
        .into_iter()
        .filter(|host| !host.eq_ignore_ascii_case("localhost"))
        .chain(NEIGHBOURS)
    {
        for scheme in ["http", "https"] {
            server.behave();
            server.on(
                "* /v2/",
                ALWAYS,
                [Act::Redirect(format!("{scheme}://{host}/latest/meta-data"))],
            );
            let error = upstream
                .blob(&image("a"), &put.layers[0], Range::from(0), None)
                .await
                .unwrap_err();
            assert!(matches!(error, Error::Private { .. }), "{host}: {error}");
        }
    }
    assert_eq!(canary.connections(), 0);
    assert!(proxy.asked().iter().all(|head| head.contains("http://registry.test/")));
    assert!(HERE.len() + NEIGHBOURS.len() + NO_ADDRESSES.len() >= 30);
}

#[tokio::test]
async fn f06_loops_downgrades_and_what_is_no_address_end_at_once() {
    let (server, canary, authority) = (Server::start().await, canary().await, Authority::new());
    let put = server.put_image("a", "v1", &[noise(1000, 3)]);
    let digest = &put.layers[0];
    let mut config = remote(&server);
    let upstream = asking(&config);
    let user = format!("http://u:p@127.0.0.1:{}/", canary.port());
    let circle = format!("{}/v2/a/blobs/circle", server.url());
    let targets = NO_ADDRESSES.into_iter().map(str::to_owned);
    for target in targets.chain([user, circle]) {
        server.behave();
        server.on("GET /blobs/", ALWAYS, [Act::Redirect(target.clone())]);
        let (before, begin) = (server.asked("GET /blobs/"), Instant::now());
        let error = upstream
            .blob(&image("a"), digest, Range::from(0), None)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Lies(_)), "{target}: {error}");
        assert!(server.asked("GET /blobs/") - before <= 6, "{target}");
        assert!(begin.elapsed() < Duration::from_secs(2));
    }
    // Five hops are followed, the sixth is not.
    for (hops, arrives) in [(5, true), (6, false)] {
        server.behave();
        for hop in (1..=hops).rev() {
            let to = format!("{}/v2/a/blobs/{digest}?hop={}", server.url(), hop - 1);
            let at = if hop == hops {
                "GET /blobs/".to_owned()
            } else {
                format!("GET hop={hop}")
            };
            server.on(&at, 1, [Act::Redirect(to)]);
        }
        let came = blob(&upstream, "a", digest).await;
        assert_eq!(came.is_ok(), arrives, "{hops} hops");
    }
    // Out of TLS, to whichever host.
    let front = authority.front(&server, "127.0.0.1", Wants::Nothing).await;
    config.url = front.url("127.0.0.1");
    config.ca = Some(authority.pem());
    let upstream = asking(&config);
    server.behave();
    server.on(
        "GET /blobs/",
        ALWAYS,
        [Act::Redirect(format!("http://127.0.0.1:{}/", canary.port()))],
    );
    let error = upstream
        .blob(&image("a"), digest, Range::from(0), None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("from https to http"), "{error}");
    assert_eq!(canary.connections(), 0);
}

#[tokio::test]
async fn f06_what_is_allowed_still_works() {
    let (server, content) = (Server::start().await, Server::start_at("127.0.0.3:0").await);
    let own = Server::start().await;
    let bytes = noise(1000, 4);
    let put = server.put_image("a", "v1", std::slice::from_ref(&bytes));
    let mut config = remote(&server);
    for other in [&content, &own] {
        other.put_blob("a", &bytes);
    }
    let at = |other: &Server| Act::Redirect(format!("{}/v2/a/blobs/{}", other.url(), put.layers[0]));
    // Its own host at another port.
    server.on("GET /blobs/", 1, [at(&own)]);
    assert!(blob(&asking(&config), "a", &put.layers[0]).await.unwrap() == bytes);

    server.on("GET /blobs/", ALWAYS, [at(&content)]);
    let error = asking(&config)
        .blob(&image("a"), &put.layers[0], Range::from(0), None)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Private { .. }), "{error}");
    assert_eq!(content.connections(), 0);
    // An address that the configuration allows, for bytes and for tokens.
    config.allow_private = vec!["127.0.0.3/32".parse().unwrap()];
    server.demand_bearer(&content);
    let upstream = asking(&config);
    assert!(blob(&upstream, "a", &put.layers[0]).await.unwrap() == bytes);

    // A mirror's host is as good as the registry's.
    config.allow_private.clear();
    config.mirrors = vec![content.url().parse().unwrap()];
    assert!(blob(&asking(&config), "a", &put.layers[0]).await.unwrap() == bytes);

    // A name, whose address is looked at when it is looked up.
    config.mirrors.clear();
    config.allow_private = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    server.behave();
    let target = format!("http://localhost:{}/v2/a/blobs/{}", own.port(), put.layers[0]);
    server.on("GET /blobs/", ALWAYS, [Act::Redirect(target)]);
    server.demand_bearer_of(&format!("http://localhost:{}/token", own.port()), &own);
    assert!(blob(&asking(&config), "a", &put.layers[0]).await.unwrap() == bytes);
}
