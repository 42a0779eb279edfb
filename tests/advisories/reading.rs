//! How requests are read, and what of them comes back, in answers and in the log.

use reqwest::StatusCode;

use crate::binary::{OCI_MANIFEST, Registry, expect, header, refused, sha256};
use crate::support::upstream::{ALWAYS, Act, Server, noise};
use crate::{in_front_of, raw};

const LOCAL: &str = "repositories: { images: { type: local }, private: { type: local } }";

/// What a server answered to one request; a connection that is closed without a word counts as 400.
fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(400)
}

/// Every request here is one that some proxy reads in another way: it must be refused, and nothing behind it answered.
fn assert_not_smuggled(heads: &[&str]) {
    let registry = Registry::start(LOCAL);
    for head in heads {
        let request = format!("{head}\r\n\r\n0\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = raw(registry.address(), request.as_bytes());
        assert!((400..=501).contains(&status(&answer)), "{head}: {answer}");
        assert!(
            !answer.contains("ok\n"),
            "{head}: the second request was answered: {answer}"
        );
    }
    let answer = raw(
        registry.address(),
        b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    assert!(answer.contains("ok\n"), "a sane one is: {answer}");
}

/// hyper took `Content-Length: +5`.
#[test]
fn rustsec_2021_0078_a_length_is_digits() {
    assert_not_smuggled(&[
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: +5",
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5",
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: -1",
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5 5",
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6",
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 6",
    ]);
}

/// hyper let a `Transfer-Encoding` that does not end in `chunked` pass.
#[test]
fn rustsec_2021_0020_an_encoding_that_is_not_known_is_refused() {
    assert_not_smuggled(&[
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity",
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked",
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked",
    ]);
}

/// hyper's chunk sizes ran over.
#[test]
fn rustsec_2021_0079_a_chunk_size_that_runs_over_is_refused() {
    let registry = Registry::start(LOCAL);
    for size in ["f0000000000000003", "10000000000000000", "-1", "0x3", "3;\u{1}"] {
        let head = "POST /v2/images/app/blobs/uploads/?digest=x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
        let request = format!("{head}{size}\r\nabc\r\n0\r\n\r\n");
        let answer = raw(registry.address(), request.as_bytes());
        assert!((400..500).contains(&status(&answer)), "{size}: {answer}");
    }
    expect_alive(&registry);
}

fn expect_alive(registry: &Registry) {
    let answer = raw(
        registry.address(),
        b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(status(&answer), 200, "{answer}");
}

/// Nexus went up the tree behind `%2F`.
#[test]
fn cve_2024_4956_no_spelling_of_a_path_leaves_the_store() {
    let registry = Registry::start(LOCAL);
    for path in [
        "/%2F%2F%2F%2F%2F..%2F..%2F..%2Fetc%2Fpasswd",
        "/v2/images/..%2f..%2f..%2fetc/passwd/manifests/v1",
        "/v2/images/%2e%2e/%2e%2e/etc/passwd/tags/list",
        "/v2/images/app/blobs/uploads/..%2f..%2f..%2fetc%2fpasswd",
        "/v2/images/app/manifests/..%2f..%2fetc%2fpasswd",
        "/v2/images/app/blobs/sha256:..%2f..%2fetc%2fpasswd",
        "/../../../etc/passwd",
        "/v2/..;/..;/etc/passwd",
        "/%5c..%5c..%5cetc%5cpasswd",
        "/api/v1/..%2f..%2fetc%2fpasswd",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = raw(registry.address(), request.as_bytes());
        assert!((400..500).contains(&status(&answer)), "{path}: {answer}");
        assert!(!answer.contains("root:"), "{path}");
    }
}

/// nora answered 500 to a zero byte.
#[test]
fn nora_565_a_zero_byte_is_the_clients_mistake() {
    let registry = Registry::start(LOCAL);
    for path in [
        "/v2/images/a%00b/manifests/v1",
        "/v2/images/a%2500b/manifests/v1",
        "/v2/images/app/manifests/v%001",
        "/v2/images/app/tags/list?last=%00",
        "/v2/images/app/blobs/uploads/%00",
        "/v2/_catalog?last=%00",
        "/v2/?ns=%00",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = raw(registry.address(), request.as_bytes());
        assert!((200..500).contains(&status(&answer)), "{path}: {answer}");
    }
    assert!(!registry.log().contains("a request failed"));
}

/// tracing-subscriber wrote what a stranger said to the terminal, escapes and all.
#[tokio::test]
async fn rustsec_2025_0055_no_control_character_reaches_the_log() {
    let server = Server::start().await;
    server.put_image("a", "v1", &[noise(10, 1)]);
    let escape = "\u{1b}[2J\u{1b}]0;stolen\u{7}";
    server.on(
        "* /manifests/",
        ALWAYS,
        [Act::Header("Content-Type", format!("text/html{escape}"))],
    );
    server.on(
        "* /tags/",
        ALWAYS,
        [Act::Status(200), Act::Body(format!("{{\"tags\":[\"{escape}\"").into())],
    );
    let registry = in_front_of(&server, "");
    for path in [
        "/v2/a/manifests/v1",
        "/v2/a/tags/list",
        "/v2/hub/%1b%5b2Ja/manifests/v1",
        "/v2/a/tags/list?ns=%1b%5b2J%0a%7b",
        "/v2/a/tags/list?last=%1b%5b2J%0a",
        "/%1b%5b2J%0d%0a%7b%7d",
        "/v2/a/manifests/v1?ns=%e2%80%ae",
        "/api/v1/tags/history?image=%1b%5b2J%0a",
    ] {
        let response = registry.get(path).header("user-agent", "x\u{9b}").send().await.unwrap();
        let text = response.text().await.unwrap();
        let raw = text.chars().find(|c| c.is_control() && *c != '\n');
        assert!(raw.is_none(), "{path}: {text:?}");
    }
    let log = registry.log();
    assert!(log.lines().count() > 6, "{log}");
    // Before the log is begun, problems of the configuration are told, which are the operator's own words.
    for line in log.lines().skip_while(|line| !line.starts_with('{')) {
        let event: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(event.is_ok(), "one event a line: {line:?}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}

/// artifact-keeper passed an upstream's page through as a page of its own.
#[tokio::test]
async fn ghsa_4cw7_an_upstreams_page_is_not_passed_through() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[noise(10, 1)]);
    let page = "<html><script>alert('upstream')</script>";
    for status in [200, 403, 404, 500] {
        server.behave();
        let acts = [
            Act::Status(status),
            Act::Body(page.into()),
            Act::Header("Content-Type", "text/html".to_owned()),
            Act::Header("Set-Cookie", "session=theirs".to_owned()),
            Act::Header("Content-Security-Policy", "default-src *".to_owned()),
            Act::Header("Access-Control-Allow-Origin", "*".to_owned()),
        ];
        server.on("* /v2/", ALWAYS, acts);
        let registry = in_front_of(&server, "");
        for path in [
            "/v2/a/manifests/v1".to_owned(),
            "/v2/a/tags/list".to_owned(),
            format!("/v2/a/blobs/{}", put.layers[0]),
        ] {
            let Ok(response) = registry.get(&path).send().await else {
                continue;
            };
            assert!(!header(&response, "content-type").contains("html"), "{path}");
            assert!(header(&response, "content-security-policy").contains("default-src 'none'"));
            for name in ["set-cookie", "access-control-allow-origin"] {
                assert!(!response.headers().contains_key(name), "{path}: {name}");
            }
            if response.status() != 200 {
                assert!(
                    !response.text().await.unwrap_or_default().contains("upstream')"),
                    "{path}"
                );
            }
        }
    }
}

/// Harbor rendered a description that somebody had written. What is pushed here is never of a type that runs.
#[tokio::test]
async fn cve_2025_32019_what_was_pushed_cannot_run() {
    let registry = Registry::start(LOCAL);
    let page = b"<!doctype html><script>alert(1)</script>";
    let blob = registry.push_blob("/v2/images/app", page).await;
    let response = registry
        .get(&format!("/v2/images/app/blobs/{blob}"))
        .send()
        .await
        .unwrap();
    assert_eq!(header(&response, "content-type"), "application/octet-stream");
    assert_eq!(header(&response, "x-content-type-options"), "nosniff");
    let document = br#"{"annotations":{"org.opencontainers.image.description":"<script>alert(1)</script>"}}"#;
    for kind in ["text/html", "image/svg+xml", "application/xhtml+xml"] {
        let digest = registry.push_manifest("/v2/images/app", "page", kind, document).await;
        let response = registry
            .get(&format!("/v2/images/app/manifests/{digest}"))
            .send()
            .await
            .unwrap();
        let policy = header(&response, "content-security-policy");
        assert!(
            policy.contains("default-src 'none'") && policy.contains("sandbox"),
            "{policy}"
        );
        assert_eq!(header(&response, "x-content-type-options"), "nosniff");
    }
}

/// zot let any page read it with its visitor's credentials.
#[tokio::test]
async fn zot_cors_1_no_other_origin_may_read() {
    let registry = Registry::start(LOCAL);
    registry.push_image("/v2/images/app", "v1", b"content").await;
    for path in [
        "/v2/",
        "/v2/_catalog",
        "/v2/images/app/manifests/v1",
        "/api/v1/openapi.json",
        "/",
        "/token",
        "/metrics",
    ] {
        let ask = registry.get(path).header("origin", "https://evil.example");
        let preflight = registry.client.request(reqwest::Method::OPTIONS, registry.url(path));
        let preflight = preflight
            .header("origin", "https://evil.example")
            .header("access-control-request-method", "PUT");
        for request in [ask, preflight] {
            let response = request.send().await.unwrap();
            let allowed = response
                .headers()
                .keys()
                .find(|name| name.as_str().starts_with("access-control-"));
            assert!(allowed.is_none(), "{path}: {allowed:?}");
        }
    }
}

/// Harbor: ids of other projects' things. An upload belongs to the image that it was begun for.
#[tokio::test]
async fn cve_2022_31667_an_upload_is_known_only_where_it_was_begun() {
    let registry = Registry::start(LOCAL);
    let response = registry.post("/v2/images/app/blobs/uploads/").send().await.unwrap();
    let location = header(&expect(response, StatusCode::ACCEPTED).await, "location").to_owned();
    let id = location
        .split(['?', '#'])
        .next()
        .unwrap()
        .rsplit('/')
        .next()
        .unwrap()
        .to_owned();
    assert!(id.len() >= 32, "not to be guessed: {id}");
    for base in ["/v2/images/other", "/v2/private/app"] {
        let path = format!("{base}/blobs/uploads/{id}");
        let digest = sha256(b"x");
        for request in [
            registry.get(&path),
            registry.patch(&path).body("x"),
            registry.put(&format!("{path}?digest={digest}")).body("x"),
            registry.delete(&path),
        ] {
            let response = request.send().await.unwrap();
            assert_eq!(refused(response, StatusCode::NOT_FOUND).await, "BLOB_UPLOAD_UNKNOWN");
        }
    }
    let response = registry.get(&location).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::NO_CONTENT, "it is as it was");
}

/// angos took a half-written `tls` for none, and listened in the clear.
#[test]
fn angos_1_4_4_bad_tls_never_means_plaintext() {
    for tls in [
        "tls: { cert: missing.crt, key: missing.key }",
        "tls: { cert: a.pem }",
        "tls: {}",
        "tls:",
        "tls: true",
        "tls: { cert: junk.pem, key: junk.pem }",
    ] {
        let directory = crate::binary::temporary();
        std::fs::write(directory.path().join("junk.pem"), "junk").unwrap();
        let file = directory.path().join("repositories.yml");
        let text = format!("server:\n  listen: '127.0.0.1:0'\n  {tls}\nstorage: {{ path: data }}\n{LOCAL}\n");
        std::fs::write(&file, text).unwrap();
        let output = crate::binary::entrepot(&["serve", "-c"]).arg(&file).output().unwrap();
        assert!(!output.status.success(), "{tls}: {output:?}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("listens on"), "{tls}");
    }
}

/// Nexus went on saying that a manifest is unknown after the credential had been put right, until it was restarted.
#[tokio::test]
async fn nexus_639_trouble_with_a_credential_does_not_stick() {
    let server = Server::start().await;
    server.put_image("a", "v1", &[]);
    server.demand_basic("ada", "changed");
    let registry = in_front_of(&server, ", credentials: { username: ada, password: lovelace }");
    for _ in 0..3 {
        let response = registry.get("/v2/a/manifests/v1").send().await.unwrap();
        assert_eq!(
            response.status(),
            StatusCode::SERVICE_UNAVAILABLE,
            "not that it is unknown"
        );
    }
    server.demand_basic("ada", "lovelace");
    let response = registry.get("/v2/a/manifests/v1").send().await.unwrap();
    assert_eq!(
        expect(response, StatusCode::OK).await.headers()["content-type"],
        OCI_MANIFEST
    );
}

/// object_store put signed addresses, with their tokens, into its errors.
#[tokio::test]
async fn rustsec_2024_0358_no_signature_is_in_an_error_or_the_log() {
    let (server, content) = (Server::start().await, Server::start().await);
    let put = server.put_image("a", "v1", &[noise(10, 1)]);
    let target = format!(
        "{}/x?X-Amz-Signature=canary-signature&token=canary-token",
        content.url()
    );
    server.on("GET /blobs/", ALWAYS, [Act::Redirect(target)]);
    let registry = in_front_of(&server, "");
    let path = format!("/v2/a/blobs/{}", put.layers[0]);
    for acts in [
        vec![Act::Status(403)],
        vec![Act::Status(500)],
        vec![Act::Close],
        vec![Act::Body("wrong".into())],
    ] {
        content.behave();
        content.on("* /x", ALWAYS, acts);
        if let Ok(response) = registry.get(&path).send().await {
            let head = format!("{:?}", response.headers());
            let text = response.text().await.unwrap_or_default();
            assert!(!format!("{head}{text}").contains("canary"), "{head}{text}");
        }
    }
    content.stop().await;
    let response = registry.get(&path).send().await.unwrap();
    assert!(!response.text().await.unwrap_or_default().contains("canary"));
    assert!(
        content
            .seen()
            .iter()
            .any(|seen| seen.target.contains("canary-signature")),
        "it was used"
    );
    let log = registry.log();
    assert!(!log.contains("canary"), "{log}");
    assert!(!registry.metrics().await.contains("canary"));
}
