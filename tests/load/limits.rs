//! S11: numbers, lengths and names that only somebody hostile sends.

use std::fmt::Write as _;

use reqwest::StatusCode;

use crate::binary::{OCI_INDEX, OCI_MANIFEST, Registry, expect, refused, sha256};
use crate::raw::resident;

const MEGABYTE: u64 = 1 << 20;

async fn series(registry: &Registry) -> usize {
    registry
        .metrics()
        .await
        .lines()
        .filter(|line| !line.starts_with('#'))
        .count()
}

async fn push(registry: &Registry, media_type: &str, text: String) -> reqwest::Response {
    let request = registry
        .put("/v2/docker/a/manifests/v1")
        .header("content-type", media_type);
    request.body(text).send().await.expect("an answer")
}

#[tokio::test]
async fn s11_numbers_and_depths_that_nobody_means() {
    let registry = Registry::start("repositories: { docker: { type: local } }");
    registry.push_image("/v2/docker/a", "v0", b"layer").await;
    let before = resident(&registry);
    for n in [
        "9223372036854775808",
        "9223372036854775807",
        "18446744073709551616",
        "-1",
        "1e9",
        "0x10",
        "%00",
    ] {
        for path in ["/v2/docker/a/tags/list", "/v2/_catalog"] {
            let response = registry.get(&format!("{path}?n={n}")).send().await.expect("an answer");
            assert!(
                response.status().is_client_error() || response.status() == StatusCode::OK,
                "{path}?n={n}: {}",
                response.status()
            );
        }
    }
    let last = "a".repeat(8000);
    let response = registry
        .get(&format!("/v2/docker/a/tags/list?n=1&last={last}"))
        .send()
        .await;
    assert!(!response.expect("an answer").status().is_server_error());
    // Deep, within and beyond what is read at all.
    for (open, close, levels) in [("[", "]", 100), ("[", "]", 2_000_000), ("{\"a\":", "}", 300_000)] {
        let nested = format!("{}1{}", open.repeat(levels), close.repeat(levels));
        let text = format!(r#"{{"schemaVersion":2,"x":{nested}}}"#);
        let code = refused(push(&registry, OCI_MANIFEST, text).await, StatusCode::BAD_REQUEST).await;
        assert_eq!(code, "MANIFEST_INVALID", "{levels} levels");
    }
    // Long: more than may be sent, and more than is looked up.
    let digest = sha256(b"layer");
    for (entries, status) in [
        (1_000_000, StatusCode::PAYLOAD_TOO_LARGE),
        (20_000, StatusCode::BAD_REQUEST),
        (1001, StatusCode::BAD_REQUEST),
    ] {
        let entry = format!(r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":5}}"#);
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            vec![entry; entries].join(",")
        );
        expect(push(&registry, OCI_INDEX, text).await, status).await;
    }
    let tags: String = (0..5_000).fold(String::from("?"), |mut query, number| {
        let _ = write!(query, "tag=t{number}&");
        query
    });
    let request = registry.put(&format!("/v2/docker/a/manifests/{digest}{tags}"));
    let response = request
        .header("content-type", OCI_MANIFEST)
        .body("{}")
        .send()
        .await
        .expect("an answer");
    assert!(response.status().is_client_error(), "{}", response.status());
    let grown = resident(&registry).saturating_sub(before);
    assert!(grown <= 48 * MEGABYTE, "{grown} bytes more");
    expect(
        registry
            .get("/v2/docker/a/manifests/v0")
            .send()
            .await
            .expect("an answer"),
        StatusCode::OK,
    )
    .await;
}

#[tokio::test]
async fn s11_whatever_is_asked_for_the_metrics_stay_few() {
    let registry = Registry::start("repositories: { docker: { type: local } }");
    registry.push_image("/v2/docker/a", "v0", b"layer").await;
    let before = series(&registry).await;
    for number in 0..500 {
        for path in [
            format!("/v2/docker/image{number}/manifests/v{number}"),
            format!("/v2/key{number}/image/tags/list"),
            format!("/key{number}/v2/image/manifests/v1"),
            format!("/nothing{number}"),
            format!("/v2/image{number}/manifests/v1?ns=host{number}.example"),
        ] {
            let _ = registry.get(&path).send().await.expect("an answer");
        }
        let method = format!("M{number}").parse::<reqwest::Method>().expect("a method");
        let _ = registry
            .client
            .request(method, registry.url("/v2/"))
            .send()
            .await
            .expect("an answer");
    }
    let after = series(&registry).await;
    assert!(
        after <= before + 300 && after <= 5000,
        "{before} series before, {after} after"
    );
    assert!(!registry.metrics().await.contains("image7"));
}
