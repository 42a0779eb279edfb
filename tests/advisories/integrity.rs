//! Bytes that were not what their name says, and answers that one client could spoil for others.

use bytes::Bytes;
use entrepot::cache::Error;
use reqwest::StatusCode;

use crate::binary::{OCI_INDEX, OCI_MANIFEST, Registry, expect, header, refused, sha256};
use crate::in_front_of;
use crate::support::remote::pulling;
use crate::support::upstream::{ALWAYS, Act, Server, digest, noise, remote};

const LOCAL: &str = "repositories: { images: { type: local } }";

/// nora stored whatever came under the digest that was asked for.
#[tokio::test]
async fn nora_581_bytes_of_another_digest_are_neither_kept_nor_given_as_whole() {
    let server = Server::start().await;
    let layer = noise(100_000, 1);
    let put = server.put_image("a", "v1", std::slice::from_ref(&layer));
    let remote = pulling(&remote(&server)).await;
    for wrong in [0, 50_000, 99_999] {
        let mut bytes = layer.to_vec();
        bytes[wrong] ^= 1;
        server.behave();
        server.on("GET /blobs/", ALWAYS, [Act::Body(Bytes::from(bytes))]);
        let given = remote.whole("a", &put.layers[0]).await;
        assert!(given.is_err(), "byte {wrong}");
        remote.assert_nothing_kept(&put.layers[0]).await;
    }
    server.behave();
    assert_eq!(remote.whole("a", &put.layers[0]).await.unwrap().1, layer);
}

/// artifact-keeper and others committed what had come of a body that broke off.
#[tokio::test]
async fn artifact_keeper_1912_a_body_that_breaks_off_is_not_kept_as_whole() {
    let server = Server::start().await;
    let layer = noise(100_000, 2);
    let put = server.put_image("a", "v1", std::slice::from_ref(&layer));
    let remote = pulling(&remote(&server)).await;
    for acts in [
        vec![Act::CutAfter(50_000), Act::IgnoreRange],
        vec![Act::ResetAfter(50_000), Act::IgnoreRange],
        vec![Act::Body(layer.slice(..50_000))],
        vec![Act::Unmeasured, Act::Body(layer.slice(..50_000))],
        vec![Act::Chunked, Act::CutAfter(50_000), Act::IgnoreRange],
    ] {
        server.behave();
        server.on("GET /blobs/", ALWAYS, acts);
        assert!(remote.whole("a", &put.layers[0]).await.is_err());
        assert!(remote.store.open_blob(&put.layers[0]).await.unwrap().is_none());
    }
    server.behave();
    assert_eq!(remote.whole("a", &put.layers[0]).await.unwrap().1, layer);
}

/// Dragonfly trusted a checksum that the other side chose.
#[tokio::test]
async fn cve_2025_59354_a_manifest_is_checked_against_the_digest_that_was_asked_for() {
    let server = Server::start().await;
    let (one, other) = (server.put_image("a", "v1", &[]), server.put_image("a", "v2", &[]));
    let wrong = [
        Act::Body(other.manifest.clone()),
        Act::Header("Docker-Content-Digest", one.digest.to_string()),
        Act::Header("ETag", format!("\"{}\"", one.digest)),
    ];
    server.on("GET /manifests/", ALWAYS, wrong);
    let remote = pulling(&remote(&server)).await;
    let refused = remote.tag("a", one.digest.as_str()).await;
    assert!(matches!(refused, Err(Error::Upstream { .. })), "{refused:?}");
    server.behave();
    let given = remote.tag("a", one.digest.as_str()).await.unwrap().unwrap();
    assert_eq!(given.value.bytes, one.manifest);
}

/// angos passed an upstream's `Docker-Content-Digest` on without a look at the body.
#[tokio::test]
async fn angos_by_tag_a_lying_digest_header_is_an_error() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[]);
    let lie = sha256(b"something else").to_string();
    server.on("* /manifests/", ALWAYS, [Act::Header("Docker-Content-Digest", lie)]);
    let registry = in_front_of(&server, "");
    let response = registry.get("/v2/a/manifests/v1").send().await.unwrap();
    refused(response, StatusCode::SERVICE_UNAVAILABLE).await;
    server.behave();
    let again = crate::binary::until("it is believed again", async || {
        let response = registry.get("/v2/a/manifests/v1").send().await.unwrap();
        response.status() == 200 && header(&response, "docker-content-digest") == put.digest.as_str()
    });
    again.await;
}

/// regclient ignored the digest of a pinned reference.
#[tokio::test]
async fn ghsa_qv35_what_is_asked_for_by_digest_has_that_digest_from_the_cache_too() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[]);
    let registry = in_front_of(&server, "");
    let path = format!("/v2/a/manifests/{}", put.digest);
    let response = expect(registry.get(&path).send().await.unwrap(), StatusCode::OK).await;
    assert_eq!(digest(&response.bytes().await.unwrap()), put.digest);
    // Damaged on the disk, it is another document that has the name.
    let hex = put.digest.hex();
    let file = registry
        .data()
        .join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    let other = put.manifest.to_vec().to_ascii_uppercase();
    std::fs::write(&file, other).expect("the manifest's file");
    let registry = registry.restart();
    let response = registry.get(&path).send().await.unwrap();
    if response.status() == StatusCode::OK {
        assert_eq!(digest(&response.bytes().await.unwrap()), put.digest);
    }
}

/// artifact-keeper, Harbor and distribution served files of no bytes with the length that a database remembered.
#[tokio::test]
async fn artifact_keeper_1489_an_emptied_file_is_not_served() {
    let registry = Registry::start(LOCAL);
    let blob = registry.push_blob("/v2/images/app", b"content").await;
    let hex = blob.hex();
    let file = registry
        .data()
        .join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    assert!(file.exists());
    std::fs::write(&file, b"").unwrap();
    for _ in 0..2 {
        for request in [
            registry.get(&format!("/v2/images/app/blobs/{blob}")),
            registry.head(&format!("/v2/images/app/blobs/{blob}")),
        ] {
            assert_eq!(request.send().await.unwrap().status(), StatusCode::NOT_FOUND);
        }
    }
    registry.push_blob("/v2/images/app", b"content").await;
    let response = registry
        .get(&format!("/v2/images/app/blobs/{blob}"))
        .send()
        .await
        .unwrap();
    assert_eq!(
        response.bytes().await.unwrap(),
        &b"content"[..],
        "pushed again, it is whole"
    );
}

/// The same from an upstream: 200 and nothing.
#[tokio::test]
async fn harbor_22295_an_answer_of_no_bytes_is_not_kept() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[noise(1000, 3)]);
    server.on("GET /blobs/", ALWAYS, [Act::Body(Bytes::new())]);
    server.on("GET /manifests/", ALWAYS, [Act::Body(Bytes::new())]);
    let remote = pulling(&remote(&server)).await;
    assert!(remote.whole("a", &put.layers[0]).await.is_err());
    remote.assert_nothing_kept(&put.layers[0]).await;
    assert!(remote.tag("a", "v1").await.is_err());
    assert!(remote.store.open_blob(&put.digest).await.unwrap().is_none());
}

/// Harbor let a robot whose name began with `scanner-` push into a proxy's cache.
#[tokio::test]
async fn harbor_23675_nobody_pushes_into_a_cache() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[]);
    let registry = in_front_of(&server, "");
    let base = "/v2/hub/a";
    let blob = sha256(b"{}");
    for request in [
        registry.post(&format!("{base}/blobs/uploads/")),
        registry
            .post(&format!("{base}/blobs/uploads/?digest={blob}"))
            .body("{}"),
        registry.post(&format!("{base}/blobs/uploads/?mount={blob}&from=hub/b")),
        registry
            .put(&format!("{base}/manifests/v1"))
            .header("content-type", OCI_MANIFEST)
            .body("{}"),
        registry.delete(&format!("{base}/manifests/{}", put.digest)),
        registry.delete(&format!("{base}/manifests/v1")),
        registry.delete(&format!("{base}/blobs/{blob}")),
    ] {
        let request = request.header("user-agent", "scanner-trivy");
        let response = request.send().await.unwrap();
        assert_eq!(refused(response, StatusCode::METHOD_NOT_ALLOWED).await, "UNSUPPORTED");
    }
    assert_eq!(server.seen().len(), 0, "and nothing of it was told upstream");
    let response = registry.get(&format!("{base}/blobs/{blob}")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

/// nora kept addresses with the `Host` of whoever came first.
#[tokio::test]
async fn nora_471_a_clients_host_is_in_no_answer() {
    let registry = Registry::start(LOCAL);
    registry.push_image("/v2/images/app", "v1", b"one").await;
    registry.push_image("/v2/images/app", "v2", b"two").await;
    let requests = [
        registry.get("/v2/images/app/tags/list?n=1"),
        registry.get("/v2/_catalog?n=1"),
        registry.get("/v2/images/app/manifests/v1"),
        registry.get("/v2/images/app/manifests/missing"),
        registry.post("/v2/images/app/blobs/uploads/"),
        registry.get("/v2/"),
        registry.get("/"),
    ];
    for request in requests {
        let request = request
            .header("host", "evil.example")
            .header("x-forwarded-host", "evil.example");
        let response = request.send().await.unwrap();
        let head = format!("{:?}", response.headers());
        let body = response.text().await.unwrap();
        assert!(!head.contains("evil.example"), "{head}");
        assert!(!body.contains("evil.example"), "{body}");
    }
}

/// nora's gate stood before manifests; blobs, ranges and HEAD went round it.
#[tokio::test]
async fn ghsa_4j4m_what_is_excluded_is_so_on_every_road() {
    let server = Server::start().await;
    let put = server.put_image("secret/app", "v1", &[noise(1000, 4)]);
    let registry = in_front_of(&server, "");
    let manifest = format!("/v2/hub/secret/app/manifests/{}", put.digest);
    let blob = format!("/v2/hub/secret/app/blobs/{}", put.layers[0]);
    for path in [&manifest, &blob] {
        let response = expect(registry.get(path).send().await.unwrap(), StatusCode::OK).await;
        response.bytes().await.unwrap();
    }
    let file = registry.directory.path().join("repositories.yml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        text.replace("insecure: true", "insecure: true, exclude: ['secret/**']"),
    )
    .unwrap();
    let registry = registry.restart();
    let asked = server.seen().len();
    for path in [
        &manifest,
        &blob,
        "/v2/hub/secret/app/manifests/v1",
        "/v2/hub/secret/app/tags/list",
    ] {
        for request in [
            registry.get(path),
            registry.head(path),
            registry.get(path).header("range", "bytes=0-9"),
            registry.get(path).header("if-none-match", "*"),
        ] {
            let status = request.send().await.unwrap().status();
            assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        }
    }
    assert_eq!(server.seen().len(), asked);
}

/// Artifactory kept answers that depended on more of the request than their name.
#[tokio::test]
async fn cve_2024_6915_no_request_changes_what_the_next_one_is_answered() {
    let server = Server::start().await;
    let layer = noise(10_000, 5);
    let put = server.put_image("a", "v1", std::slice::from_ref(&layer));
    let registry = in_front_of(&server, "");
    let (manifest, blob) = (
        "/v2/a/manifests/v1".to_owned(),
        format!("/v2/a/blobs/{}", put.layers[0]),
    );
    for path in [&manifest, &blob] {
        for (name, value) in [
            ("accept", "text/html"),
            ("range", "bytes=5-9"),
            ("accept-encoding", "gzip"),
            ("x-original-url", "/v2/b/manifests/v1"),
            ("x-http-method-override", "DELETE"),
            ("content-type", "text/html"),
            ("if-none-match", "\"x\""),
        ] {
            let response = registry
                .get(&format!("{path}?{name}={value}"))
                .header(name, value)
                .send()
                .await
                .unwrap();
            assert!(response.status().is_success(), "{name}");
            response.bytes().await.unwrap();
        }
        let response = registry.get(path).send().await.unwrap();
        let expected = if path.contains("blobs") { &layer } else { &put.manifest };
        let kind = if path.contains("blobs") {
            "application/octet-stream"
        } else {
            OCI_MANIFEST
        };
        assert_eq!(header(&response, "content-type"), kind);
        assert_eq!(response.bytes().await.unwrap(), expected);
    }
}

fn ambiguous(config: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[],"manifests":[]}}"#
    )
}

/// One document that is an image to some and an index to others (distribution-spec).
#[tokio::test]
async fn cve_2021_41190_an_ambiguous_manifest_is_refused_from_clients_and_upstreams() {
    let registry = Registry::start(LOCAL);
    let config = registry.push_blob("/v2/images/app", b"{}").await;
    for kind in [OCI_MANIFEST, OCI_INDEX] {
        let request = registry.put("/v2/images/app/manifests/v1").header("content-type", kind);
        let response = request.body(ambiguous(config.as_str())).send().await.unwrap();
        assert_eq!(refused(response, StatusCode::BAD_REQUEST).await, "MANIFEST_INVALID");
    }
    let server = Server::start().await;
    let config = server.put_blob("a", &"{}".into());
    let digest = server.put_manifest("a", Some("v1"), &ambiguous(config.as_str()).into(), OCI_MANIFEST);
    let remote = pulling(&remote(&server)).await;
    for reference in ["v1", digest.as_str()] {
        assert!(remote.tag("a", reference).await.is_err());
    }
    assert!(remote.store.open_blob(&digest).await.unwrap().is_none());
}

/// image-spec: the header said one type and the document another.
#[tokio::test]
async fn ghsa_77vh_the_type_in_the_header_is_the_one_in_the_document() {
    let registry = Registry::start(LOCAL);
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[]}}"#);
    let request = registry
        .put("/v2/images/app/manifests/v1")
        .header("content-type", OCI_MANIFEST);
    let response = request.body(index.clone()).send().await.unwrap();
    assert_eq!(refused(response, StatusCode::BAD_REQUEST).await, "MANIFEST_INVALID");
    let server = Server::start().await;
    server.put_manifest("a", Some("v1"), &index.clone().into(), OCI_MANIFEST);
    assert!(pulling(&remote(&server)).await.tag("a", "v1").await.is_err());
    // Pushed as what it is, it stays that whatever is asked for.
    registry
        .push_manifest("/v2/images/app", "v1", OCI_INDEX, index.as_bytes())
        .await;
    let request = registry
        .get("/v2/images/app/manifests/v1")
        .header("accept", OCI_MANIFEST);
    assert_eq!(header(&request.send().await.unwrap(), "content-type"), OCI_INDEX);
}

/// ollama verified each digest of a manifest once: named twice, the second was believed.
#[tokio::test]
async fn ollama_15485_a_digest_that_is_named_twice_is_verified_each_time() {
    let server = Server::start().await;
    let layer = noise(10_000, 6);
    let put = server.put_image("a", "v1", &[layer.clone(), layer.clone()]);
    server.on("GET /blobs/", ALWAYS, [Act::Body(noise(10_000, 7))]);
    let remote = pulling(&remote(&server)).await;
    remote.tag("a", "v1").await.unwrap().expect("the manifest");
    for digest in [&put.layers[0], &put.layers[1]] {
        assert!(remote.whole("a", digest).await.is_err());
    }
    remote.assert_nothing_kept(&put.layers[0]).await;
    server.behave();
    for digest in [&put.layers[0], &put.layers[1]] {
        assert_eq!(remote.whole("a", digest).await.unwrap().1, layer);
    }
}

/// distribution gave a blob that had been deleted, because its description was still in memory.
#[tokio::test]
async fn cve_2026_35172_what_is_deleted_cannot_be_read_again() {
    let registry = Registry::start(LOCAL);
    let blob = registry.push_blob("/v2/images/app", b"content").await;
    let path = format!("/v2/images/app/blobs/{blob}");
    expect(registry.get(&path).send().await.unwrap(), StatusCode::OK).await;
    expect(registry.delete(&path).send().await.unwrap(), StatusCode::ACCEPTED).await;
    for request in [
        registry.get(&path),
        registry.head(&path),
        registry.get(&path).header("range", "bytes=0-1"),
    ] {
        assert_eq!(request.send().await.unwrap().status(), StatusCode::NOT_FOUND);
    }
    // Nor by way of another image.
    let mount = format!("/v2/images/other/blobs/uploads/?mount={blob}&from=images/app");
    expect(registry.post(&mount).send().await.unwrap(), StatusCode::ACCEPTED).await;
    let other = registry
        .get(&format!("/v2/images/other/blobs/{blob}"))
        .send()
        .await
        .unwrap();
    assert_eq!(other.status(), StatusCode::NOT_FOUND);
}

/// zot gave any blob of its common store to whoever knew the digest.
#[tokio::test]
async fn cve_2024_39897_a_blob_is_read_only_where_it_was_put() {
    let registry = Registry::start("repositories: { images: { type: local }, others: { type: local } }");
    let blob = registry.push_blob("/v2/images/app", b"content").await;
    let absent = sha256(b"absent");
    for base in ["/v2/images/other", "/v2/others/app"] {
        let mut answers = Vec::new();
        for digest in [&blob, &absent] {
            let head = registry.head(&format!("{base}/blobs/{digest}")).send().await.unwrap();
            assert_eq!(head.status(), StatusCode::NOT_FOUND);
            let response = registry
                .get(&format!("{base}/blobs/{digest}"))
                .header("x-request-id", "same")
                .send();
            let text = refused_text(response.await.unwrap()).await;
            answers.push(text.replace(digest.as_str(), "DIGEST"));
        }
        assert_eq!(answers[0], answers[1], "it looks as if it were nowhere");
        // A manifest cannot take it along, either.
        let manifest = crate::binary::image_manifest((&blob, 7), &[], "");
        let request = registry
            .put(&format!("{base}/manifests/v1"))
            .header("content-type", OCI_MANIFEST);
        let response = request.body(manifest).send().await.unwrap();
        assert_eq!(
            refused(response, StatusCode::BAD_REQUEST).await,
            "MANIFEST_BLOB_UNKNOWN"
        );
    }
}

async fn refused_text(response: reqwest::Response) -> String {
    let response = expect(response, StatusCode::NOT_FOUND).await;
    let mut names: Vec<String> = response.headers().keys().map(ToString::to_string).collect();
    names.sort();
    format!("{names:?} {}", response.text().await.unwrap())
}

/// distribution deleted tags although `delete.enabled` was false.
#[tokio::test]
async fn cve_2026_41888_what_forbids_deletions_forbids_all_of_them() {
    let registry = Registry::start("repositories: { images: { type: local, allow_delete: false } }");
    let digest = registry.push_image("/v2/images/app", "v1", b"content").await;
    for path in [
        "/v2/images/app/manifests/v1".to_owned(),
        format!("/v2/images/app/manifests/{digest}"),
        format!("/v2/images/app/blobs/{}", sha256(b"content")),
    ] {
        let response = registry.delete(&path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let response = registry.get(&path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
    }
}

/// zot let who may only create overwrite a tag.
#[tokio::test]
async fn cve_2026_31801_a_tag_that_is_immutable_is_not_overwritten() {
    let registry = Registry::start("repositories: { images: { type: local, immutable_tags: ['v*'] } }");
    let first = registry.push_image("/v2/images/app", "v1", b"one").await;
    let second = registry.push_image("/v2/images/app", "dev", b"two").await;
    let path = format!("/v2/images/app/manifests/{second}");
    let bytes = registry.get(&path).send().await.unwrap().bytes().await.unwrap();
    for path in [
        "/v2/images/app/manifests/v1".to_owned(),
        format!("/v2/images/app/manifests/{second}?tag=v1"),
    ] {
        let request = registry.put(&path).header("content-type", OCI_MANIFEST);
        let response = request.body(bytes.clone()).send().await.unwrap();
        assert!(response.status().is_client_error(), "{path}: {}", response.status());
    }
    let response = registry.head("/v2/images/app/manifests/v1").send().await.unwrap();
    assert_eq!(header(&response, "docker-content-digest"), first.as_str());
}
