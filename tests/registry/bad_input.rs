//! What breaks the grammar gets the specification's 4xx and its code: never a 500, never a path outside the store.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use reqwest::StatusCode;

use crate::support::{
    OCI_INDEX, OCI_MANIFEST, PATIENCE, Registry, expect, header, image_manifest, refused, sha256, tree,
};

const LOCAL: &str = "repositories: { images: { type: local } }";

/// Sends a request line as it is: a client library would tidy it up first.
fn raw(registry: &Registry, request: &str) -> String {
    let mut stream = TcpStream::connect(registry.address()).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    // At once: a line that is refused is answered, and the connection closed, before a second piece could be sent.
    let request = format!("{request}\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[tokio::test]
async fn hostile_paths_reach_nothing_and_break_nothing() {
    let registry = Registry::start(LOCAL);
    registry.push_image("/v2/images/app", "v1", b"content").await;
    let before = tree(registry.directory.path());
    let digest = sha256(b"content");
    let names = [
        "..",
        "../..",
        "%2e%2e",
        "%2e%2e%2f",
        "..%2f..",
        "a%2fb",
        "a%5cb",
        "a%00",
        "a%2500",
        "A",
        "a//b",
        "/",
        "a/./b",
        "_manifests",
        "a/_layers",
        "-a",
        "a-",
        "%ff",
        "%",
        "%2",
        "a%0d%0ab",
        "\u{fc}",
        "a b",
    ];
    for name in names {
        for rest in [
            "manifests/v1".to_owned(),
            format!("manifests/{digest}"),
            format!("blobs/{digest}"),
            "tags/list".to_owned(),
            format!("referrers/{digest}"),
            "blobs/uploads/".to_owned(),
            "blobs/uploads/..".to_owned(),
            "blobs/uploads/%2e%2e%2fdata".to_owned(),
        ] {
            for method in ["GET", "PUT", "POST", "PATCH", "DELETE"] {
                for prefix in ["/v2/images", "/images/v2", "/v2"] {
                    let answer = raw(&registry, &format!("{method} {prefix}/{name}/{rest} HTTP/1.1"));
                    let status: u16 = answer.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
                    // An empty list of referrers is the answer for any name of the grammar, and none of these is one.
                    assert!(
                        (400..500).contains(&status),
                        "{method} {prefix}/{name}/{rest}: {answer}"
                    );
                }
            }
        }
    }
    for reference in [
        "..",
        ".hidden",
        "a%2fb",
        "sha256:..",
        "sha256:%2e%2e",
        &"a".repeat(129),
        "sha256:abc",
    ] {
        let answer = raw(&registry, &format!("PUT /v2/images/app/manifests/{reference} HTTP/1.1"));
        assert!(answer.starts_with("HTTP/1.1 400"), "{reference}: {answer}");
    }
    assert_eq!(before, tree(registry.directory.path()));
}

#[tokio::test]
async fn a_manifest_that_breaks_the_rules_is_400_and_one_too_long_413() {
    let registry = Registry::start(LOCAL);
    let base = "/v2/images/app";
    let config = registry.push_blob(base, b"{}").await;
    let image = |extra: &str| image_manifest((&config, 2), &[], extra);
    let long = format!("{}{}", image(""), " ".repeat(4 << 20));
    let wrong_size = image_manifest((&config, 3), &[], "");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let cases = [
        (image(r#","manifests":[]"#), OCI_MANIFEST, 400, "MANIFEST_INVALID"),
        (image(""), OCI_INDEX, 400, "MANIFEST_INVALID"),
        (image(r#","layers":[]"#), OCI_MANIFEST, 400, "MANIFEST_INVALID"),
        ("not json".to_owned(), OCI_MANIFEST, 400, "MANIFEST_INVALID"),
        (deep, OCI_MANIFEST, 400, "MANIFEST_INVALID"),
        (String::new(), OCI_MANIFEST, 400, "MANIFEST_INVALID"),
        (
            r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(),
            OCI_MANIFEST,
            400,
            "MANIFEST_INVALID",
        ),
        (wrong_size, OCI_MANIFEST, 400, "MANIFEST_INVALID"),
        (long, OCI_MANIFEST, 413, "SIZE_INVALID"),
    ];
    for (text, media_type, status, code) in cases {
        let shown: String = text.chars().take(60).collect();
        let response = registry
            .put(&format!("{base}/manifests/v1"))
            .header("content-type", media_type)
            .body(text)
            .send()
            .await
            .expect("an answer");
        let status = StatusCode::from_u16(status).expect("a status");
        assert_eq!(refused(response, status).await, code, "{shown}");
    }
    let other = sha256(b"other");
    let response = registry
        .put(&format!("{base}/manifests/{other}"))
        .header("content-type", OCI_MANIFEST)
        .body(image(""))
        .send()
        .await
        .expect("an answer");
    assert_eq!(refused(response, StatusCode::BAD_REQUEST).await, "DIGEST_INVALID");
}

#[tokio::test]
async fn every_answer_has_an_id_and_a_hostile_one_is_not_taken_over() {
    let registry = Registry::start(LOCAL);
    let ask = async |id: &str| {
        let response = registry
            .get("/v2/")
            .header("x-request-id", id)
            .send()
            .await
            .expect("an answer");
        response.headers()["x-request-id"].to_str().expect("text").to_owned()
    };
    assert_eq!(ask("build-7.42_a").await, "build-7.42_a");
    for hostile in ["a b", "\"quoted\"", &"x".repeat(129), "{}"] {
        assert_ne!(ask(hostile).await, hostile);
    }
}

#[tokio::test]
async fn a_method_that_a_path_does_not_take_is_405_with_those_it_takes() {
    let registry = Registry::start(LOCAL);
    for (method, path, allow) in [
        ("POST", "/v2/", "GET, HEAD"),
        ("GET", "/v2/images/app/blobs/uploads/", "POST"),
        ("PATCH", "/v2/images/app/manifests/v1", "GET, HEAD, PUT, DELETE"),
    ] {
        let answer = raw(&registry, &format!("{method} {path} HTTP/1.1"));
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
        assert!(
            answer
                .to_lowercase()
                .contains(&format!("allow: {}", allow.to_lowercase())),
            "{answer}"
        );
    }
}

/// Whatever somebody pushed, and under whatever type: a browser that is led to it shows, runs and frames nothing.
#[tokio::test]
async fn every_answer_keeps_browsers_from_making_a_page_of_it() {
    let registry = Registry::start(LOCAL);
    let base = "/v2/images/app";
    let page = b"<script>document.title = 'stolen'</script>";
    let blob = registry.push_blob(base, page).await;
    let manifest = r#"{"annotations":{"x":"<script>document.title = 'stolen'</script>"}}"#;
    registry
        .push_manifest(base, "page", "text/html", manifest.as_bytes())
        .await;
    let missing = sha256(b"missing");
    for (method, path, status) in [
        ("GET", "/", 200),
        ("GET", "/v2/", 200),
        ("GET", "/livez", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/nothing", 404),
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v1/openapi.json", 200),
        ("GET", "/v2/_catalog", 200),
        ("GET", "/v2/images/app/tags/list", 200),
        ("GET", "/v2/images/app/manifests/page", 200),
        ("GET", &format!("/v2/images/app/blobs/{blob}"), 200),
        ("HEAD", &format!("/v2/images/app/blobs/{blob}"), 200),
        ("GET", &format!("/v2/images/app/blobs/{missing}"), 404),
        ("POST", "/v2/images/app/blobs/uploads/", 202),
        ("POST", "/v2/", 405),
        ("GET", "/v2/images/App/tags/list", 400),
    ] {
        let method = method.parse().expect("a method");
        let request = registry.client.request(method, registry.url(path));
        let response = request.send().await.expect("an answer");
        let response = expect(response, StatusCode::from_u16(status).expect("a status")).await;
        assert_eq!(header(&response, "x-content-type-options"), "nosniff", "{path}");
        let policy = header(&response, "content-security-policy");
        for part in ["default-src 'none'", "frame-ancestors 'none'", "sandbox"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(
            header(&response, "cross-origin-resource-policy"),
            "same-origin",
            "{path}"
        );
        if path.contains("/blobs/sha256") && status == 200 {
            assert_eq!(header(&response, "content-type"), "application/octet-stream");
        }
    }
}
