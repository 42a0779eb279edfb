//! Saying who one is, as clients do: the challenge, tokens, passwords, and what is refused to whom.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::AUTHORIZATION;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::Value;

use crate::support::{Registry, expect, header, refused, temporary};

/// Everybody may pull what is public, bob what is his team's, ada may everything.
pub(crate) const SHARED: &str = "\
auth:
  anonymous: pull
  htpasswd: users
  policies:
    - { who: '*', may: pull, on: ['docker/public/**', 'local/public/**'] }
    - { who: bob, may: [pull, push], on: 'docker/team/**' }
    - { who: ada, may: [pull, push, delete, admin], on: '**' }
audit: { to: audit.log, pulls: true }
repositories:
  local: { type: local }
  docker: { type: virtual, members: [local], push_to: local }
default: docker
";

/// A server with two users: ada, whose password is `lovelace`, and bob, whose is `builder`.
pub(crate) fn shared(server: &str) -> Registry {
    with_users(&format!(
        "server: {{ listen: '127.0.0.1:0'{server} }}\nstorage: {{ path: data }}\n{SHARED}"
    ))
}

pub(crate) fn with_users(configuration: &str) -> Registry {
    let directory = temporary();
    let line = |user: &str, password: &str| format!("{user}:{}\n", bcrypt::hash(password, 4).expect("a hash"));
    let users = line("ada", "lovelace") + &line("bob", "builder");
    std::fs::write(directory.path().join("users"), users).expect("users");
    Registry::start_in(&directory, configuration)
}

pub(crate) trait As {
    fn by(self, user: &str, password: &str) -> Self;
    fn with_token(self, token: &str) -> Self;
}

impl As for RequestBuilder {
    fn by(self, user: &str, password: &str) -> Self {
        self.header(
            AUTHORIZATION,
            format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))),
        )
    }

    fn with_token(self, token: &str) -> Self {
        self.header(AUTHORIZATION, format!("Bearer {token}"))
    }
}

async fn send(request: RequestBuilder) -> Response {
    request.send().await.expect("an answer")
}

/// The one challenge of an answer that says to log in.
async fn challenge(request: RequestBuilder) -> String {
    let response = expect(send(request).await, StatusCode::UNAUTHORIZED).await;
    let all: Vec<_> = response.headers().get_all("www-authenticate").iter().collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].to_str().expect("text").to_owned()
}

/// What `/token` gives.
async fn tokens(request: RequestBuilder) -> Value {
    let response = expect(send(request).await, StatusCode::OK).await;
    assert_eq!(header(&response, "cache-control"), "no-store");
    assert_eq!(header(&response, "content-type"), "application/json");
    let text = response.text().await.expect("text");
    assert!(text.len() < 64 << 10);
    let document: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(document["token"], document["access_token"]);
    assert!(
        document["issued_at"].is_null(),
        "clients compare it with their own clocks"
    );
    assert!(document["expires_in"].as_u64().is_some_and(|seconds| seconds >= 60));
    document
}

async fn token(request: RequestBuilder) -> String {
    tokens(request).await["token"].as_str().expect("a token").to_owned()
}

/// Has ada push an image of one layer, with her password.
pub(crate) async fn push(registry: &Registry, base: &str, tag: &str) {
    let put = |path: String, kind: &str, bytes: Vec<u8>| {
        let request = registry.put(&path).header("content-type", kind.to_owned());
        request.by("ada", "lovelace").body(bytes)
    };
    let config = crate::support::sha256(b"{}");
    let uploads = registry.post(&format!("{base}/blobs/uploads/?digest={config}"));
    let uploaded = send(uploads.by("ada", "lovelace").body("{}")).await;
    expect(uploaded, StatusCode::CREATED).await;
    let manifest = crate::support::image_manifest((&config, 2), &[], "");
    let pushed = put(
        format!("{base}/manifests/{tag}"),
        crate::support::OCI_MANIFEST,
        manifest.into(),
    );
    expect(send(pushed).await, StatusCode::CREATED).await;
}

#[tokio::test]
async fn who_shows_nothing_is_asked_in_the_form_that_they_came() {
    let registry = shared("");
    let address = registry.address().to_owned();
    let plain = challenge(registry.get("/v2/")).await;
    assert_eq!(
        plain,
        format!("Bearer realm=\"http://{address}/token\",service=\"127.0.0.1\"")
    );
    let with_key = challenge(registry.get("/docker/v2/")).await;
    assert!(with_key.contains("/token?prefix=docker\""), "{with_key}");
    let pushed = challenge(registry.post("/v2/public/app/blobs/uploads/")).await;
    assert!(
        pushed.ends_with(",scope=\"repository:public/app:pull,push\""),
        "{pushed}"
    );
    let catalog = challenge(registry.get("/v2/_catalog").by("ada", "byron")).await;
    assert!(catalog.ends_with(",scope=\"registry:catalog:*\""), "{catalog}");
    // What neither user nor password is, is nobody.
    challenge(registry.get("/v2/").by("", "")).await;
    for path in ["/v2/", "/docker/v2/", "/v2/public/app/manifests/v1"] {
        let response = send(registry.get(path).by("ada", "lovelace")).await;
        assert_ne!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
        let failed = challenge(registry.post("/v2/public/app/blobs/uploads/").by("ada", "byron")).await;
        assert!(!failed.contains("error="), "no token was shown: {failed}");
    }
    let invalid = challenge(registry.get("/v2/").with_token("nonsense")).await;
    assert!(invalid.ends_with(",error=\"invalid_token\""), "{invalid}");
    let twice = registry.get("/v2/").by("ada", "lovelace").by("bob", "builder");
    challenge(twice).await;
}

#[tokio::test]
async fn tokens_are_had_in_every_way_that_clients_ask() {
    let registry = shared("");
    let form = |form: &str| {
        let request = registry.post("/token");
        request
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.to_owned())
    };
    let version = async |token: String| send(registry.get("/v2/").with_token(&token)).await.status();
    let push = async |token: String| {
        let started = registry.post("/v2/team/app/blobs/uploads/").with_token(&token);
        send(started).await.status()
    };

    // Nobody is somebody who has asked: what everybody may pull, they may.
    let nobody = token(registry.get("/token?scope=repository:public/app:pull&service=x")).await;
    assert_eq!(version(nobody.clone()).await, StatusCode::OK);
    assert_eq!(push(nobody).await, StatusCode::UNAUTHORIZED);

    let login = registry.get("/token?account=ada&client_id=docker&offline_token=true&service=x");
    let document = tokens(login.by("ada", "lovelace")).await;
    assert!(
        document["refresh_token"].is_null(),
        "docker would keep it instead of the password"
    );
    assert_eq!(document["expires_in"], 300);
    for scope in [
        "repository:team/app:pull",
        "nonsense",
        "repository(plugin):a:b&scope=aws registry:catalog:*",
    ] {
        let asked = registry.get(&format!("/token?scope={scope}"));
        assert_eq!(
            push(token(asked.by("bob", "builder")).await).await,
            StatusCode::ACCEPTED,
            "{scope}"
        );
    }

    let password = "grant_type=password&username=bob&password=builder&client_id=x&service=y&scope=repository:a:pull";
    let document = tokens(form(password)).await;
    assert!(document["refresh_token"].is_null());
    assert_eq!(
        push(document["token"].as_str().expect("a token").to_owned()).await,
        StatusCode::ACCEPTED
    );
    let document = tokens(form(&format!("{password}&access_type=offline"))).await;
    let refresh = document["refresh_token"]
        .as_str()
        .expect("a token for tokens")
        .to_owned();
    // It is for new tokens and nothing else.
    assert_eq!(version(refresh.clone()).await, StatusCode::UNAUTHORIZED);
    let renewed = token(form(&format!(
        "grant_type=refresh_token&refresh_token={refresh}&scope=a&scope=b"
    )))
    .await;
    assert_eq!(push(renewed.clone()).await, StatusCode::ACCEPTED);
    let access = form(&format!("grant_type=refresh_token&refresh_token={renewed}"));
    challenge(access).await;

    for (text, status) in [
        (
            "grant_type=password&username=bob&password=wrong",
            StatusCode::UNAUTHORIZED,
        ),
        ("grant_type=refresh_token&refresh_token=x", StatusCode::UNAUTHORIZED),
        ("grant_type=client_credentials", StatusCode::BAD_REQUEST),
        ("", StatusCode::BAD_REQUEST),
        (
            &format!("grant_type=password&padding={}", "x".repeat(65 << 10)),
            StatusCode::PAYLOAD_TOO_LARGE,
        ),
    ] {
        refused(send(form(text)).await, status).await;
    }
    let json = registry
        .post("/token")
        .header("content-type", "application/json")
        .body("{}");
    refused(send(json).await, StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
    refused(send(registry.delete("/token")).await, StatusCode::METHOD_NOT_ALLOWED).await;
}

#[tokio::test]
async fn what_is_refused_to_nobody_is_401_and_to_somebody_403() {
    let registry = shared("");
    push(&registry, "/v2/secret/app", "v1").await;
    let body = async |request: RequestBuilder, status: StatusCode| {
        let text = expect(send(request.header("x-request-id", "same")).await, status)
            .await
            .text()
            .await;
        text.expect("text").replace("secret/none", "secret/app")
    };
    let (here, absent) = ("/v2/secret/app/manifests/v1", "/v2/secret/none/manifests/v1");
    let there = body(registry.get(here), StatusCode::UNAUTHORIZED).await;
    assert_eq!(there, body(registry.get(absent), StatusCode::UNAUTHORIZED).await);
    assert!(there.contains("\"code\":\"UNAUTHORIZED\""), "{there}");
    let bob = |path: &str| registry.get(path).by("bob", "builder");
    let there = body(bob(here), StatusCode::FORBIDDEN).await;
    assert_eq!(there, body(bob(absent), StatusCode::FORBIDDEN).await);
    assert!(there.contains("\"code\":\"DENIED\""), "{there}");
    let denied = send(bob(here)).await;
    assert!(
        denied.headers().get("www-authenticate").is_none(),
        "another login would not help"
    );
    // Whoever has a token and needs more is told so.
    let nobody = token(registry.get("/token")).await;
    let more = challenge(registry.get(here).with_token(&nobody)).await;
    assert!(
        more.ends_with(",scope=\"repository:secret/app:pull\",error=\"insufficient_scope\""),
        "{more}"
    );
    expect(send(registry.get(here).by("ada", "lovelace")).await, StatusCode::OK).await;
}

/// A Docker daemon shows a mirror its login at Docker Hub. Refusing it would send all its pulls around us.
#[tokio::test]
async fn logins_at_docker_hub_count_as_none_where_a_daemon_finds_a_mirror() {
    let registry = shared("");
    push(&registry, "/v2/public/app", "v1").await;
    push(&registry, "/v2/secret/app", "v1").await;
    let stranger = |path: &str| registry.get(path).by("hubuser", "hubpassword");
    let status = |path: &'static str| async move { send(stranger(path)).await.status().as_u16() };
    for (path, expected) in [
        ("/v2/public/app/manifests/v1", 200),
        ("/v2/public/app/tags/list", 200),
        ("/v2/secret/app/manifests/v1", 401),
        // Names with a key, and everything that is no pull, are for those who know us.
        ("/v2/docker/public/app/manifests/v1", 401),
        ("/docker/v2/public/app/manifests/v1", 401),
        ("/v2/", 401),
        ("/v2/_catalog", 401),
        ("/token?account=hubuser&scope=repository:public/app:pull", 200),
        ("/token?account=hubuser&scope=repository:library/alpine:pull", 200),
        ("/token?account=hubuser", 401),
        ("/token?scope=repository:public/app:pull,push", 401),
        ("/token?scope=repository:docker/public/app:pull", 401),
        ("/token?prefix=docker&scope=repository:public/app:pull", 401),
    ] {
        assert_eq!(status(path).await, expected, "{path}");
    }
    let pushed = registry
        .post("/v2/public/app/blobs/uploads/")
        .by("hubuser", "hubpassword");
    assert_eq!(send(pushed).await.status(), StatusCode::UNAUTHORIZED);
    // A wrong password of somebody who is known here is the same: nothing tells them apart.
    let wrong = registry.get("/v2/public/app/manifests/v1").by("ada", "byron");
    assert_eq!(send(wrong).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_address_that_is_open_as_a_whole_asks_nobody() {
    let registry = with_users(
        "server: { listen: ['127.0.0.1:0', { address: '127.0.0.1:0', repository: open }, { address: '127.0.0.1:0', repository: local }] }
storage: { path: data }
auth:
  anonymous: pull
  htpasswd: users
  policies:
    - { who: '*', may: pull, on: ['open/**', 'local/public/**'] }
    - { who: ada, may: [pull, push], on: '**' }
repositories: { open: { type: local }, local: { type: local } }
",
    );
    for (address, expected) in registry.addresses.iter().zip([401, 200, 401]) {
        let response = send(registry.client.get(format!("http://{address}/v2/"))).await;
        assert_eq!(response.status().as_u16(), expected, "{address}");
        assert_eq!(header(&response, "docker-distribution-api-version"), "registry/2.0");
    }
}
