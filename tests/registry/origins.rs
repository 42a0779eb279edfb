//! S16: who a request comes from and what it was sent to, behind proxies and behind liars.

use reqwest::{RequestBuilder, StatusCode};

use crate::login::{As as _, push, shared};
use crate::support::{Registry, expect, header, tree};

/// What a client may make up.
const MADE_UP: [(&str, &str); 6] = [
    ("x-forwarded-for", "192.0.2.7"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "evil.example"),
    ("x-forwarded-prefix", "/evil"),
    ("x-forwarded-port", "6666"),
    ("x-real-ip", "192.0.2.7"),
];

fn forwarded(mut request: RequestBuilder) -> RequestBuilder {
    for (name, value) in MADE_UP {
        request = request.header(name, value);
    }
    request
}

async fn realm(request: RequestBuilder) -> String {
    let response = expect(request.send().await.expect("an answer"), StatusCode::UNAUTHORIZED).await;
    header(&response, "www-authenticate").to_owned()
}

/// The addresses that the audit has told so far, of refusals.
fn told(registry: &Registry) -> Vec<String> {
    let text = std::fs::read_to_string(registry.directory.path().join("audit.log")).unwrap_or_default();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect(line));
    let denied = lines.filter(|line| line["outcome"] == "denied");
    denied
        .filter_map(|line| Some(line["from"].as_str()?.to_owned()))
        .collect()
}

async fn last_told(registry: &Registry) -> String {
    let before = told(registry).len();
    let refused = forwarded(registry.post("/v2/public/app/blobs/uploads/"));
    expect(refused.send().await.expect("an answer"), StatusCode::UNAUTHORIZED).await;
    crate::support::until("the audit has the line", async || told(registry).len() > before).await;
    told(registry).pop().expect("a line")
}

#[tokio::test]
async fn s16_what_a_client_makes_up_changes_nothing() {
    let registry = shared(", trusted_proxies: ['10.0.0.0/8']");
    let plain = realm(registry.get("/v2/")).await;
    assert_eq!(
        plain,
        format!(
            "Bearer realm=\"http://{}/token\",service=\"127.0.0.1\"",
            registry.address()
        )
    );
    assert_eq!(realm(forwarded(registry.get("/v2/"))).await, plain);
    let standard = "for=192.0.2.7;proto=https;host=evil.example";
    assert_eq!(realm(registry.get("/v2/").header("forwarded", standard)).await, plain);
    assert_eq!(last_told(&registry).await, "127.0.0.1");
}

#[tokio::test]
async fn s16_what_a_trusted_proxy_says_counts() {
    let registry = shared(", trusted_proxies: ['127.0.0.0/8']");
    let through = |request: RequestBuilder| {
        let request = request.header("x-forwarded-proto", "https");
        request
            .header("x-forwarded-host", "Images.example.com:8443")
            .header("x-forwarded-prefix", "/registry")
    };
    let asked = realm(through(registry.get("/v2/"))).await;
    let expected = "Bearer realm=\"https://images.example.com:8443/registry/token\",service=\"images.example.com\"";
    assert_eq!(asked, expected);
    // The path that the proxy takes away is there again in what the client follows.
    let started = through(registry.post("/v2/team/app/blobs/uploads/")).by("ada", "lovelace");
    let started = expect(started.send().await.expect("an answer"), StatusCode::ACCEPTED).await;
    let location = header(&started, "location");
    assert!(
        location.starts_with("/registry/v2/team/app/blobs/uploads/"),
        "{location}"
    );
    assert_eq!(last_told(&registry).await, "192.0.2.7");
}

#[tokio::test]
async fn s16_the_configured_address_is_told_whatever_is_asked() {
    let registry = shared(", external_url: 'https://registry.example.com', trusted_proxies: ['127.0.0.0/8']");
    let expected = "Bearer realm=\"https://registry.example.com/token\",service=\"registry.example.com\"";
    for request in [
        registry.get("/v2/"),
        registry.get("/v2/").header("host", "evil.example"),
        forwarded(registry.get("/v2/")),
    ] {
        let asked = realm(request).await;
        assert_eq!(asked.replace("/evil/", "/"), expected);
    }
}

/// Whatever host a client asks for, nothing that others get, or that is kept, has it in it.
#[tokio::test]
async fn s16_no_host_is_kept() {
    let registry = shared("");
    push(&registry, "/v2/public/app", "v1").await;
    for path in [
        "/v2/public/app/manifests/v1",
        "/v2/public/app/tags/list?n=1",
        "/v2/public/app/referrers/sha256:0000000000000000000000000000000000000000000000000000000000000000",
        "/v2/_catalog?n=1",
        "/v2/public/none/manifests/v1",
        "/api/v1/tags/history?image=public/app:v1",
    ] {
        let asked = forwarded(registry.get(path))
            .header("host", "evil.example")
            .by("ada", "lovelace");
        let response = asked.send().await.expect("an answer");
        for (name, value) in response.headers() {
            assert!(
                !value.to_str().unwrap_or_default().contains("evil"),
                "{path}: {name}: {value:?}"
            );
        }
        let text = response.text().await.expect("text");
        assert!(!text.contains("evil"), "{path}: {text}");
    }
    let upload = forwarded(registry.post("/v2/public/app/blobs/uploads/")).header("host", "evil.example");
    let response = upload.by("ada", "lovelace").send().await.expect("an answer");
    assert!(header(&response, "location").starts_with("/v2/"), "{response:?}");
    for file in tree(&registry.data()) {
        assert!(!file.contains("evil"), "{file}");
        let bytes = std::fs::read(registry.data().join(&file)).unwrap_or_default();
        assert!(!bytes.windows(4).any(|part| part == b"evil"), "{file}");
    }
}
