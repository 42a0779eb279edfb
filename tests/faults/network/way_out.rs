//! `proxy`, `ca` and `client_tls`.

use std::time::{Duration, Instant};

use entrepot::config::{ClientTls, ProxyConfig, RemoteConfig, Secret};
use entrepot::upstream::Error;

use super::asking::{asking, blob, manifest, upstream};
use crate::support::proxy::{Mood, Proxy};
use crate::support::tls::{Authority, Wants};
use crate::support::upstream::{ALWAYS, Act, Server, credentials, noise, remote};

/// `through:secret`.
const RIGHT: &str = "Basic dGhyb3VnaDpzZWNyZXQ=";

fn at(server: &Server, url: &str) -> RemoteConfig {
    RemoteConfig {
        url: url.parse().unwrap(),
        ..remote(server)
    }
}

#[tokio::test]
async fn an_https_upstream_is_reached_by_a_tunnel_and_the_proxy_sees_nothing_else() {
    let (server, proxy, authority) = (Server::start().await, Proxy::start().await, Authority::new());
    let bytes = noise(100_000, 1);
    let put = server.put_image("a", "v1", std::slice::from_ref(&bytes));
    let front = authority.front(&server, "registry.test", Wants::Nothing).await;
    proxy.knows("registry.test:443", &format!("127.0.0.1:{}", front.port));
    proxy.demand(RIGHT);
    server.demand_basic("ada", "lovelace");
    let mut config = at(&server, "https://registry.test");
    config.credentials = vec![credentials()];
    config.proxy = Some(proxy.config(Some("secret")));
    config.ca = Some(authority.pem());
    let upstream = asking(&config);
    assert_eq!(manifest(&upstream, "a", "v1").await, Ok(Some(put.digest)));
    assert!(blob(&upstream, "a", &put.layers[0]).await.unwrap() == bytes);
    assert_eq!(proxy.connections(), 1, "a tunnel is used again");
    let asked = proxy.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].starts_with("CONNECT registry.test:443 HTTP/1.1"), "{asked:?}");
    for seen in server.seen() {
        assert_eq!(seen.header("proxy-authorization"), None);
    }
}

#[tokio::test]
async fn an_http_upstream_is_asked_through_the_proxy_and_so_is_where_it_leads() {
    let (server, proxy) = (Server::start().await, Proxy::start().await);
    let bytes = noise(1000, 2);
    let put = server.put_image("a", "v1", std::slice::from_ref(&bytes));
    proxy.knows("registry.test:80", &server.host());
    proxy.knows("content.test:8080", &server.host());
    proxy.demand(RIGHT);
    let mut config = at(&server, "http://registry.test");
    config.proxy = Some(proxy.config(Some("secret")));
    let upstream = asking(&config);
    assert_eq!(manifest(&upstream, "a", "v1").await, Ok(Some(put.digest)));
    let target = format!("http://content.test:8080/v2/a/blobs/{}", put.layers[0]);
    server.on("GET /blobs/", 1, [Act::Redirect(target)]);
    assert!(blob(&upstream, "a", &put.layers[0]).await.unwrap() == bytes);
    assert!(
        proxy
            .asked()
            .iter()
            .any(|head| head.contains("http://content.test:8080/"))
    );
    for seen in server.seen() {
        assert_eq!(seen.header("proxy-authorization"), None);
    }
}

#[tokio::test]
async fn trouble_with_the_proxy_names_the_proxy_and_no_password() {
    let (server, mut proxy) = (Server::start().await, Proxy::start().await);
    proxy.demand(RIGHT);
    for url in ["https://registry.test", "http://registry.test"] {
        let mut config = at(&server, url);
        config.connect_timeout = Duration::from_millis(300);
        config.first_byte_timeout = Duration::from_secs(1);
        config.proxy = Some(proxy.config(Some("wrong-password")));
        let why = async |mood: Mood| {
            // One that has not failed before: whoever fails often is not asked.
            let upstream = asking(&config);
            proxy.be(mood);
            let before = proxy.asked().len();
            let begin = Instant::now();
            let error = manifest(&upstream, "a", "v1").await.unwrap_err();
            assert!(begin.elapsed() < Duration::from_secs(5));
            let text = format!("{error} {error:?}");
            assert!(!text.contains("wrong-password"), "{text}");
            (error, proxy.asked().len() - before)
        };
        let (error, asked) = why(Mood::Well).await;
        assert!(error.to_string().contains("refuses the credentials (407)"), "{error}");
        assert!(error.to_string().contains(&proxy.host()), "{error}");
        assert_eq!(asked, 1, "a wrong password is not shown again and again");

        for (mood, words) in [(Mood::Closes, ""), (Mood::Says("garbage\r\n\r\n"), "")] {
            let (error, _) = why(mood).await;
            assert!(
                matches!(error, Error::Proxy { .. }) && error.is_outage(),
                "{url}: {error}"
            );
            assert!(error.to_string().contains(words) && error.to_string().contains(&proxy.host()));
        }
        let (error, _) = why(Mood::Hangs).await;
        let is_named = error.to_string().contains(&proxy.host());
        // Behind a plain request it is the answer that does not come, whoever holds it back.
        assert!(is_named || matches!(error, Error::Timeout(_)), "{url}: {error}");
        proxy.be(Mood::Well);
    }
    // Without credentials, it says that it wants some.
    let mut config = at(&server, "https://registry.test");
    config.proxy = Some(proxy.config(None));
    let error = manifest(&asking(&config), "a", "v1").await.unwrap_err();
    assert!(error.to_string().contains("wants credentials (407)"), "{error}");

    // A tunnel that it does not open.
    config.proxy = Some(proxy.config(Some("secret")));
    let error = manifest(&asking(&config), "a", "v1").await.unwrap_err();
    assert!(error.to_string().contains("does not open a tunnel"), "{error}");

    proxy.stop().await;
    for url in ["https://registry.test", "http://registry.test"] {
        let mut config = at(&server, url);
        config.proxy = Some(proxy.config(None));
        let error = manifest(&asking(&config), "a", "v1").await.unwrap_err();
        let Error::Proxy { proxy: name, reason } = &error else {
            panic!("{error}")
        };
        assert_eq!(*name, proxy.host());
        assert!(reason.contains("refused"), "{reason}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn what_fails_behind_the_proxy_is_not_the_proxys_fault() {
    let (server, proxy, authority) = (Server::start().await, Proxy::start().await, Authority::new());
    let front = authority.front(&server, "registry.test", Wants::Nothing).await;
    proxy.knows("registry.test:443", &format!("127.0.0.1:{}", front.port));
    let mut config = at(&server, "https://registry.test");
    config.proxy = Some(proxy.config(None));
    let error = manifest(&asking(&config), "a", "v1").await.unwrap_err();
    let Error::Unreachable(why) = &error else {
        panic!("{error}")
    };
    assert!(why.contains("certificate"), "{why}");
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_for_all_that_the_remote_asks() {
    let (server, tokens, content) = (Server::start().await, Server::start().await, Server::start().await);
    let authority = Authority::new();
    let bytes = noise(1000, 3);
    let put = server.put_image("a", "v1", std::slice::from_ref(&bytes));
    content.put_blob("a", &bytes);
    let registry = authority.front(&server, "127.0.0.1", Wants::Nothing).await;
    let realm = authority.front(&tokens, "127.0.0.1", Wants::Nothing).await;
    let cdn = authority.front(&content, "127.0.0.1", Wants::Nothing).await;
    server.demand_bearer_of(&format!("{}token", realm.url("127.0.0.1")), &tokens);
    let target = format!("{}v2/a/blobs/{}", cdn.url("127.0.0.1"), put.layers[0]);
    server.on("GET /blobs/", ALWAYS, [Act::Redirect(target)]);
    let mut config = remote(&server);
    config.url = registry.url("127.0.0.1");
    let error = manifest(&asking(&config), "a", "v1").await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    assert_eq!(server.seen().len(), 0);

    config.ca = Some(authority.pem());
    let upstream = asking(&config);
    assert_eq!(manifest(&upstream, "a", "v1").await, Ok(Some(put.digest)));
    assert!(blob(&upstream, "a", &put.layers[0]).await.unwrap() == bytes);

    // Another authority's word counts for nothing, and a wrong name is a wrong name.
    config.ca = Some(Authority::new().pem());
    assert!(manifest(&asking(&config), "a", "v1").await.is_err());
    config.ca = Some(authority.pem());
    config.url = registry.url("localhost");
    let error = manifest(&asking(&config), "a", "v1").await.unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn our_certificate_is_for_the_registry_and_its_mirrors_alone() {
    let (server, tokens, content) = (Server::start().await, Server::start().await, Server::start().await);
    let authority = Authority::new();
    let bytes = noise(1000, 4);
    let put = server.put_image("a", "v1", std::slice::from_ref(&bytes));
    content.put_blob("a", &bytes);
    let registry = authority.front(&server, "127.0.0.1", Wants::EveryonesCertificate).await;
    let realm = authority.front(&tokens, "127.0.0.1", Wants::Certificate).await;
    let cdn = authority.front(&content, "127.0.0.1", Wants::Certificate).await;
    server.demand_bearer_of(&format!("{}token", realm.url("127.0.0.1")), &tokens);
    let target = format!("{}v2/a/blobs/{}", cdn.url("127.0.0.1"), put.layers[0]);
    server.on("GET /blobs/", ALWAYS, [Act::Redirect(target)]);
    let mut config = remote(&server);
    config.url = registry.url("127.0.0.1");
    config.ca = Some(authority.pem());
    let error = manifest(&asking(&config), "a", "v1").await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");

    config.client_tls = Some(authority.client());
    let upstream = asking(&config);
    assert_eq!(manifest(&upstream, "a", "v1").await, Ok(Some(put.digest.clone())));
    assert!(blob(&upstream, "a", &put.layers[0]).await.unwrap() == bytes);
    assert!(registry.shown() > 0);
    assert!(tokens.asked("GET /token") > 0 && content.asked("GET /blobs/") > 0);
    assert_eq!((realm.shown(), cdn.shown()), (0, 0));

    // What is named as a mirror is one of us.
    config.mirrors = vec![cdn.url("127.0.0.1")];
    assert!(blob(&asking(&config), "a", &put.layers[0]).await.unwrap() == bytes);
    assert!(cdn.shown() > 0);
    assert_eq!(realm.shown(), 0);
}

#[tokio::test]
async fn what_cannot_be_used_is_said_before_anything_is_asked() {
    let server = Server::start().await;
    let client = Authority::new().client();
    let at_proxy = |url: &str| {
        let url = url.parse().unwrap();
        let credentials = None;
        RemoteConfig {
            proxy: Some(ProxyConfig { url, credentials }),
            ..remote(&server)
        }
    };
    let with = |cert: &[u8], key: Secret| RemoteConfig {
        client_tls: Some(ClientTls { cert: cert.into(), key }),
        ..remote(&server)
    };
    for (key, config) in [
        (
            "`repositories.remote.ca`",
            RemoteConfig {
                ca: Some(b"corp-ca.pem".as_slice().into()),
                ..remote(&server)
            },
        ),
        ("`repositories.remote.client_tls.cert`", with(b"", client.key.clone())),
        (
            "`repositories.remote.client_tls.key`",
            with(&client.cert, Secret::new("nothing")),
        ),
        (
            "`repositories.remote.client_tls`",
            RemoteConfig {
                client_tls: Some(client.clone()),
                ..at_proxy("https://proxy.test:3128")
            },
        ),
        ("`repositories.remote.proxy`", at_proxy("socks5://proxy.test")),
        ("`repositories.remote.proxy`", at_proxy("http://me:pw@proxy.test")),
        ("`repositories.remote.proxy`", at_proxy("http://proxy.test/path")),
    ] {
        let error = upstream(&config).expect_err(key).to_string();
        assert!(error.starts_with(key), "{error}");
        assert!(!error.contains("pw"), "{error}");
    }
    assert_eq!(server.connections(), 0);
}
