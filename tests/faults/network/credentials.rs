//! F7: who sees the credentials. Through a proxy of the test's, every name but the registry's is the canary's.

use bytes::Bytes;
use entrepot::config::RemoteConfig;
use entrepot::oci::media_type::OCI_MANIFEST;

use super::asking::{ask_everything, asking, manifest};
use crate::support::proxy::Proxy;
use crate::support::tls::{Authority, Front, Wants};
use crate::support::upstream::{ALWAYS, Act, Image, Server, credentials, digest, noise, remote};

/// Realms that are not the registry's, `http://registry.test`, however they look.
const REALMS: [&str; 14] = [
    "http://evil.test/token",
    "http://registry.test:8080/token",
    "http://registry.test.evil.test/token",
    "http://evil.test/registry.test/token",
    "http://evil.test/token?u=http://registry.test",
    "http://evil.test/token#@registry.test",
    "http://evil.test\\@registry.test/token",
    "http://registry.test@evil.test/token",
    "http://xregistry.test/token",
    "http://registry.tes/token",
    "http://registry.test./token",
    "http://auth.docker.io/token",
    "http://listed.test:81/token",
    "https://registry.test/token",
];
/// Where a registry that was shown the credentials may send us with them.
const TARGETS: [&str; 7] = [
    "http://evil.test/x",
    "http://registry.test:8080/x",
    "http://registry.test.evil.test/x",
    "http://xregistry.test/x",
    "http://registry.test./x",
    "https://registry.test/x",
    "//evil.test/x",
];

struct Stage {
    server: Server,
    canary: Server,
    proxy: Proxy,
    put: Image,
    config: RemoteConfig,
    _tls: Front,
}

async fn stage() -> Stage {
    let (server, canary, proxy) = (Server::start().await, Server::start().await, Proxy::start().await);
    let put = server.put_image("a", "v1", &[noise(1000, 1)]);
    proxy.knows("registry.test:80", &server.host());
    proxy.takes_others_to(&canary.host());
    // The canary reads what comes over TLS too.
    let authority = Authority::new();
    let tls = authority.front(&canary, "registry.test", Wants::Nothing).await;
    proxy.knows("registry.test:443", &format!("127.0.0.1:{}", tls.port));
    let mut config = remote(&server);
    config.ca = Some(authority.pem());
    config.url = "http://registry.test".parse().unwrap();
    config.proxy = Some(proxy.config(None));
    config.credentials = vec![credentials()];
    config.token_realms = vec!["listed.test:82".to_owned(), "auth.test".to_owned()];
    Stage {
        server,
        canary,
        proxy,
        put,
        config,
        _tls: tls,
    }
}

impl Stage {
    async fn ask_everything(&self) {
        let upstream = asking(&self.config);
        ask_everything(&upstream, "a", &self.put.digest, &self.put.layers[0]).await;
    }

    /// That the canary was called, as the case meant it to be, and saw nothing.
    fn assert_saw_nothing(&self, case: &str) {
        for seen in self.canary.seen() {
            let text = format!("{seen:?}");
            for secret in ["lovelace", "YWRhOmxvdmVsYWNl", "secret-token"] {
                assert!(!text.contains(secret), "{case}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn f07_a_realm_elsewhere_never_sees_the_credentials() {
    let mut called = 0;
    for realm in REALMS {
        let stage = stage().await;
        stage.server.demand_bearer_of(realm, &stage.canary);
        // No token of the canary's: what is shown to it again would be its own.
        stage.canary.on("GET /token", ALWAYS, [Act::Status(500)]);
        stage.ask_everything().await;
        stage.assert_saw_nothing(realm);
        called += usize::from(stage.canary.connections() > 0);
    }
    assert!(called >= 10, "the canaries of {called} cases were called");

    // One that is listed does see them, and hands them on to nobody.
    let stage = stage().await;
    let auth = Server::start().await;
    stage.proxy.knows("auth.test:80", &auth.host());
    stage.server.demand_bearer_of("http://auth.test/token", &auth);
    auth.on(
        "GET /token",
        ALWAYS,
        [Act::Redirect("http://evil.test/token".to_owned())],
    );
    stage.ask_everything().await;
    assert!(auth.seen()[0].header("authorization").is_some());
    assert!(stage.canary.asked("GET /token") > 0);
    stage.assert_saw_nothing("a listed realm that redirects");
}

#[tokio::test]
async fn f07_no_redirect_takes_the_credentials_along() {
    for target in TARGETS {
        for with_token in [false, true] {
            let stage = stage().await;
            if with_token {
                stage
                    .server
                    .demand_bearer_of("http://registry.test/token", &stage.server);
            } else {
                stage.server.demand_basic("ada", "lovelace");
            }
            let upstream = asking(&stage.config);
            // Let in, so that it would be shown unasked.
            assert!(manifest(&upstream, "a", "v1").await.unwrap().is_some());
            stage.server.on("* /v2/", ALWAYS, [Act::Redirect(target.to_owned())]);
            for answer in [401, 200, 407] {
                let challenge = "Bearer realm=\"http://evil.test/token\", Basic realm=\"x\"";
                let acts = [
                    Act::Status(answer),
                    Act::Header("WWW-Authenticate", challenge.to_owned()),
                ];
                stage.canary.behave();
                stage.canary.on("* /", ALWAYS, acts);
                ask_everything(&upstream, "a", &stage.put.digest, &stage.put.layers[0]).await;
            }
            assert!(stage.canary.connections() > 0, "{target}");
            stage.assert_saw_nothing(target);
        }
    }
}

#[tokio::test]
async fn f07_a_host_that_was_led_to_gets_a_token_for_nobody() {
    let stage = stage().await;
    stage
        .server
        .demand_bearer_of("http://registry.test/token", &stage.server);
    let upstream = asking(&stage.config);
    assert!(manifest(&upstream, "a", "v1").await.unwrap().is_some());
    // It asks for a token of the registry's own endpoint, which we would show the credentials to.
    stage
        .server
        .on("GET /v2/", ALWAYS, [Act::Redirect("http://evil.test/x".to_owned())]);
    let challenge = "Bearer realm=\"http://registry.test/token\",service=\"test\"";
    let acts = [Act::Status(401), Act::Header("WWW-Authenticate", challenge.to_owned())];
    stage.canary.on("* /", ALWAYS, acts);
    let before = stage.server.asked("GET /token");
    ask_everything(&upstream, "a", &stage.put.digest, &stage.put.layers[0]).await;
    let calls: Vec<_> = stage
        .server
        .seen()
        .into_iter()
        .filter(|seen| seen.target.starts_with("/token"))
        .collect();
    let shown: Vec<_> = stage
        .canary
        .seen()
        .iter()
        .filter_map(|seen| seen.header("authorization").map(str::to_owned))
        .collect();
    assert!(!shown.is_empty() && calls.len() > before);
    for (number, call) in calls.iter().enumerate() {
        if call.header("authorization").is_some() {
            let token = format!("Bearer secret-token-{number}");
            assert!(!shown.contains(&token), "a token that was given for the credentials");
        }
    }
    assert!(shown.iter().all(|shown| !shown.starts_with("Basic")));
}

#[tokio::test]
async fn f07_what_an_answer_says_beside_a_redirect_is_not_followed() {
    let elsewhere = "http://evil.test/x".to_owned();
    let link = Act::Header("Link", "<http://evil.test/next>; rel=\"next\"".to_owned());
    for (case, acts) in [
        ("a list that goes on elsewhere", vec![link]),
        (
            "a Location without a redirect",
            vec![Act::Header("Location", elsewhere.clone())],
        ),
        (
            "a Content-Location",
            vec![Act::Header("Content-Location", elsewhere.clone())],
        ),
        ("a refresh", vec![Act::Header("Refresh", format!("0; url={elsewhere}"))]),
        (
            "another place to be from now on",
            vec![Act::Header("Alt-Svc", "h2=\"evil.test:443\"".to_owned())],
        ),
        (
            "a 305",
            vec![Act::Status(305), Act::Header("Location", elsewhere.clone())],
        ),
        (
            "a 201",
            vec![Act::Status(201), Act::Header("Location", elsewhere.clone())],
        ),
    ] {
        let stage = stage().await;
        stage.server.demand_basic("ada", "lovelace");
        let upstream = asking(&stage.config);
        assert!(manifest(&upstream, "a", "v1").await.unwrap().is_some());
        stage.server.on("* /v2/", ALWAYS, acts);
        ask_everything(&upstream, "a", &stage.put.digest, &stage.put.layers[0]).await;
        assert_eq!(stage.canary.connections(), 0, "{case}");
    }

    // Layers that say themselves where they are: `urls`.
    let stage = stage().await;
    stage.server.demand_basic("ada", "lovelace");
    let foreign = digest(b"foreign");
    let manifest = Bytes::from(format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"x/y","digest":"{foreign}","size":7}},
        "layers":[{{"mediaType":"x/y","digest":"{foreign}","size":7,"urls":["http://evil.test/foreign"]}}]}}"#
    ));
    let put = stage.server.put_manifest("a", Some("v1"), &manifest, OCI_MANIFEST);
    ask_everything(&asking(&stage.config), "a", &put, &foreign).await;
    assert_eq!(stage.canary.connections(), 0);
}

#[tokio::test]
async fn f07_nothing_leaves_tls() {
    let (server, tokens, authority) = (Server::start().await, Server::start().await, Authority::new());
    let put = server.put_image("a", "v1", &[noise(1000, 2)]);
    let front = authority.front(&server, "127.0.0.1", Wants::Nothing).await;
    let mut config = remote(&server);
    config.url = front.url("127.0.0.1");
    config.ca = Some(authority.pem());
    config.credentials = vec![credentials()];
    config.token_realms = vec!["127.0.0.1".to_owned()];
    server.demand_bearer(&tokens);
    ask_everything(&asking(&config), "a", &put.digest, &put.layers[0]).await;
    assert_eq!(tokens.connections(), 0, "a realm over http");
    server.demand_basic("ada", "lovelace");
    server.on("* /v2/", ALWAYS, [Act::Redirect(tokens.url())]);
    ask_everything(&asking(&config), "a", &put.digest, &put.layers[0]).await;
    assert_eq!(tokens.connections(), 0, "a redirect to http");
}
