//! Pushing to and pulling from a local repository, in every way that the specification has.

use entrepot::oci::{Algorithm, Digest};
use reqwest::StatusCode;

use crate::support::{OCI_INDEX, OCI_MANIFEST, Registry, expect, header, image_manifest, refused, sha256};

const LOCAL: &str = "repositories: { images: { type: local } }";
const BASE: &str = "/v2/images/team/app";

async fn start_upload(registry: &Registry) -> String {
    let response = registry
        .post(&format!("{BASE}/blobs/uploads/"))
        .send()
        .await
        .expect("an answer");
    let response = expect(response, StatusCode::ACCEPTED).await;
    assert_eq!(header(&response, "range"), "0-0");
    header(&response, "location").to_owned()
}

async fn assert_blob(registry: &Registry, digest: &Digest, bytes: &[u8]) {
    let response = registry
        .get(&format!("{BASE}/blobs/{digest}"))
        .send()
        .await
        .expect("an answer");
    let response = expect(response, StatusCode::OK).await;
    assert_eq!(header(&response, "docker-content-digest"), digest.as_str());
    assert_eq!(header(&response, "content-length"), bytes.len().to_string());
    assert_eq!(response.bytes().await.expect("a body"), bytes);
}

#[tokio::test]
async fn a_blob_comes_back_byte_for_byte_however_it_was_pushed() {
    let registry = Registry::start(LOCAL);
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let (first, second) = bytes.split_at(400_000);

    // Docker: a stream, then the digest alone.
    let location = start_upload(&registry).await;
    let response = registry
        .patch(&location)
        .body(bytes.clone())
        .send()
        .await
        .expect("an answer");
    let response = expect(response, StatusCode::ACCEPTED).await;
    assert_eq!(header(&response, "range"), format!("0-{}", bytes.len() - 1));
    let digest = sha256(&bytes);
    let finish = format!("{}?digest={digest}", header(&response, "location"));
    let response = registry.put(&finish).send().await.expect("an answer");
    let response = expect(response, StatusCode::CREATED).await;
    assert_eq!(header(&response, "location"), format!("{BASE}/blobs/{digest}"));
    assert_blob(&registry, &digest, &bytes).await;

    // In chunks, the last of them with the digest; and sha512, which was not announced.
    let digest = Digest::of(Algorithm::Sha512, &bytes);
    let location = start_upload(&registry).await;
    let response = registry
        .patch(&location)
        .header("content-range", format!("0-{}", first.len() - 1))
        .body(first.to_vec())
        .send()
        .await
        .expect("an answer");
    let response = expect(response, StatusCode::ACCEPTED).await;
    let response = registry
        .put(&format!("{}?digest={digest}", header(&response, "location")))
        .header("content-range", format!("{}-{}", first.len(), bytes.len() - 1))
        .body(second.to_vec())
        .send()
        .await
        .expect("an answer");
    expect(response, StatusCode::CREATED).await;
    assert_blob(&registry, &digest, &bytes).await;

    // containerd: no PATCH, all in the PUT. Nothing at all is a blob too.
    for bytes in [&bytes[..77], b""] {
        let location = start_upload(&registry).await;
        let digest = sha256(bytes);
        let finish = format!("{location}?digest={digest}");
        let response = registry
            .put(&finish)
            .body(bytes.to_vec())
            .send()
            .await
            .expect("an answer");
        expect(response, StatusCode::CREATED).await;
        assert_blob(&registry, &digest, bytes).await;
    }
}

#[tokio::test]
async fn a_chunk_out_of_order_is_416_and_the_upload_goes_on() {
    let registry = Registry::start(LOCAL);
    let location = start_upload(&registry).await;
    let chunk = |range: &str, bytes: &'static [u8]| {
        registry
            .patch(&location)
            .header("content-range", range)
            .body(bytes)
            .send()
    };
    let response = chunk("5-9", b"fghij").await.expect("an answer");
    assert_eq!(header(&response, "range"), "0-0");
    assert_eq!(
        refused(response, StatusCode::RANGE_NOT_SATISFIABLE).await,
        "RANGE_INVALID"
    );
    expect(chunk("0-4", b"abcde").await.expect("an answer"), StatusCode::ACCEPTED).await;
    let response = chunk("0-4", b"abcde").await.expect("an answer");
    assert_eq!(header(&response, "range"), "0-4");
    assert_eq!(header(&response, "location"), location);
    assert_eq!(
        refused(response, StatusCode::RANGE_NOT_SATISFIABLE).await,
        "RANGE_INVALID"
    );
    let response = registry.get(&location).send().await.expect("an answer");
    let response = expect(response, StatusCode::NO_CONTENT).await;
    assert_eq!(header(&response, "range"), "0-4");
    expect(chunk("5-9", b"fghij").await.expect("an answer"), StatusCode::ACCEPTED).await;
    let digest = sha256(b"abcdefghij");
    let response = registry
        .put(&format!("{location}?digest={digest}"))
        .send()
        .await
        .expect("an answer");
    expect(response, StatusCode::CREATED).await;
    assert_blob(&registry, &digest, b"abcdefghij").await;
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_nothing_is_stored() {
    let registry = Registry::start(LOCAL);
    let digest = sha256(b"right");
    let upload = start_upload(&registry).await;
    let response = registry
        .put(&format!("{upload}?digest={digest}"))
        .body("wrong")
        .send()
        .await
        .expect("an answer");
    assert_eq!(refused(response, StatusCode::BAD_REQUEST).await, "DIGEST_INVALID");
    let monolithic = format!("{BASE}/blobs/uploads/?digest={digest}");
    let response = registry
        .post(&monolithic)
        .body("wrong")
        .send()
        .await
        .expect("an answer");
    assert_eq!(refused(response, StatusCode::BAD_REQUEST).await, "DIGEST_INVALID");
    let response = registry
        .head(&format!("{BASE}/blobs/{digest}"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_upload_belongs_to_its_image_and_can_be_cancelled() {
    let registry = Registry::start(LOCAL);
    let location = start_upload(&registry).await;
    let elsewhere = location.replace("team/app", "team/other");
    for response in [
        registry.patch(&elsewhere).body("x").send().await,
        registry.delete(&elsewhere).send().await,
    ] {
        let response = response.expect("an answer");
        assert_eq!(refused(response, StatusCode::NOT_FOUND).await, "BLOB_UPLOAD_UNKNOWN");
    }
    let response = registry.delete(&location).send().await.expect("an answer");
    expect(response, StatusCode::NO_CONTENT).await;
    let response = registry.get(&location).send().await.expect("an answer");
    assert_eq!(refused(response, StatusCode::NOT_FOUND).await, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn a_blob_is_mounted_from_another_image_and_read_only_where_it_is_linked() {
    let registry = Registry::start(LOCAL);
    let digest = registry.push_blob("/v2/images/other", b"shared").await;
    let response = registry
        .get(&format!("{BASE}/blobs/{digest}"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(refused(response, StatusCode::NOT_FOUND).await, "BLOB_UNKNOWN");
    let mount = format!("{BASE}/blobs/uploads/?mount={digest}&from=images%2Fother");
    let response = registry.post(&mount).send().await.expect("an answer");
    expect(response, StatusCode::CREATED).await;
    assert_blob(&registry, &digest, b"shared").await;
    // What is nowhere is an upload like any other.
    let nowhere = sha256(b"nowhere");
    let mount = format!("{BASE}/blobs/uploads/?mount={nowhere}&from=images/other");
    let response = registry.post(&mount).send().await.expect("an answer");
    let response = expect(response, StatusCode::ACCEPTED).await;
    assert!(!header(&response, "location").is_empty());
}

#[tokio::test]
async fn a_manifest_leaves_as_it_came_whatever_accept_says() {
    let registry = Registry::start(LOCAL);
    let layer = registry.push_blob(BASE, b"layer").await;
    let config = registry.push_blob(BASE, b"{}").await;
    let text = image_manifest((&config, 2), &[(&layer, 5)], ",  \"unknown\" : [1, 2]");
    let digest = registry.push_manifest(BASE, "v1", OCI_MANIFEST, text.as_bytes()).await;
    for reference in ["v1", digest.as_str()] {
        let path = format!("{BASE}/manifests/{reference}");
        let response = registry
            .get(&path)
            .header("accept", OCI_INDEX)
            .send()
            .await
            .expect("an answer");
        let response = expect(response, StatusCode::OK).await;
        assert_eq!(header(&response, "content-type"), OCI_MANIFEST);
        assert_eq!(header(&response, "docker-content-digest"), digest.as_str());
        assert_eq!(header(&response, "x-entrepot-repository"), "images");
        let etag = header(&response, "etag").to_owned();
        assert_eq!(response.text().await.expect("a body"), text);
        let response = registry.head(&path).send().await.expect("an answer");
        assert_eq!(header(&response, "content-length"), text.len().to_string());
        let response = registry
            .get(&path)
            .header("if-none-match", etag)
            .send()
            .await
            .expect("an answer");
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
    }
}

#[tokio::test]
async fn a_manifest_whose_blobs_are_missing_is_refused_unless_that_is_allowed() {
    let registry =
        Registry::start("repositories: { images: { type: local }, sparse: { type: local, allow_sparse: true } }");
    let missing = sha256(b"missing");
    for (base, status) in [(BASE, StatusCode::BAD_REQUEST), ("/v2/sparse/app", StatusCode::CREATED)] {
        let config = registry.push_blob(base, b"{}").await;
        let text = image_manifest((&config, 2), &[(&missing, 7)], "");
        let response = registry
            .put(&format!("{base}/manifests/v1"))
            .header("content-type", OCI_MANIFEST)
            .body(text)
            .send()
            .await
            .expect("an answer");
        if status == StatusCode::CREATED {
            expect(response, status).await;
        } else {
            assert_eq!(refused(response, status).await, "MANIFEST_BLOB_UNKNOWN");
        }
    }
}

#[tokio::test]
async fn tags_are_listed_in_order_and_in_pages() {
    let registry = Registry::start(LOCAL);
    for tag in ["v10", "b", "v2", "a", "v1"] {
        registry.push_image(BASE, tag, b"same").await;
    }
    let list = async |path: String| {
        let response = registry.get(&path).send().await.expect("an answer");
        let response = expect(response, StatusCode::OK).await;
        let link = header(&response, "link").to_owned();
        let document: serde_json::Value = response.json().await.expect("JSON");
        let tags: Vec<String> = serde_json::from_value(document["tags"].clone()).expect("tags");
        (tags, link)
    };
    let (tags, link) = list(format!("{BASE}/tags/list")).await;
    assert_eq!(tags, ["a", "b", "v1", "v10", "v2"]);
    assert_eq!(link, "");
    let mut pages = Vec::new();
    let mut path = format!("{BASE}/tags/list?n=2");
    loop {
        let (tags, link) = list(path).await;
        pages.push(tags);
        let Some(next) = link.strip_prefix('<').and_then(|link| link.split('>').next()) else {
            break;
        };
        path = next.to_owned();
    }
    assert_eq!(pages, [vec!["a", "b"], vec!["v1", "v10"], vec!["v2"]]);
    let (tags, link) = list(format!("{BASE}/tags/list?n=0")).await;
    assert!(tags.is_empty() && link.is_empty());
    let response = registry
        .get("/v2/images/unknown/tags/list")
        .send()
        .await
        .expect("an answer");
    assert_eq!(refused(response, StatusCode::NOT_FOUND).await, "NAME_UNKNOWN");
}

#[tokio::test]
async fn what_refers_to_an_image_is_listed_and_filtered() {
    let registry = Registry::start(LOCAL);
    let subject = registry.push_image(BASE, "v1", b"signed").await;
    let config = registry.push_blob(BASE, b"{}").await;
    let size = 2;
    for kind in ["application/vnd.example.signature", "application/vnd.example.sbom"] {
        let extra = format!(
            r#","artifactType":"{kind}","subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":1}},"annotations":{{"of":"{kind}"}}"#
        );
        let text = image_manifest((&config, size), &[], &extra);
        let digest = sha256(text.as_bytes());
        let response = registry
            .put(&format!("{BASE}/manifests/{digest}"))
            .header("content-type", OCI_MANIFEST)
            .body(text)
            .send()
            .await
            .expect("an answer");
        let response = expect(response, StatusCode::CREATED).await;
        assert_eq!(header(&response, "oci-subject"), subject.as_str());
    }
    let list = async |query: &str| {
        let path = format!("{BASE}/referrers/{subject}{query}");
        let response = registry.get(&path).send().await.expect("an answer");
        let response = expect(response, StatusCode::OK).await;
        assert_eq!(header(&response, "content-type"), OCI_INDEX);
        let filtered = header(&response, "oci-filters-applied").to_owned();
        let document: serde_json::Value = response.json().await.expect("JSON");
        (document["manifests"].as_array().expect("a list").clone(), filtered)
    };
    assert_eq!(list("").await.0.len(), 2);
    let (manifests, filtered) = list("?artifactType=application%2Fvnd.example.sbom").await;
    assert_eq!(filtered, "artifactType");
    assert_eq!(manifests.len(), 1);
    assert_eq!(manifests[0]["annotations"]["of"], "application/vnd.example.sbom");
    // Nothing refers to what nobody knows; it is an empty list all the same.
    let path = format!("/v2/images/unknown/referrers/{}", sha256(b"?"));
    let response = registry.get(&path).send().await.expect("an answer");
    expect(response, StatusCode::OK).await;
}

#[tokio::test]
async fn deleting_takes_the_tag_or_the_manifest_with_its_tags() {
    let registry =
        Registry::start("repositories: { images: { type: local }, kept: { type: local, allow_delete: false } }");
    let digest = registry.push_image(BASE, "v1", b"content").await;
    registry.push_image(BASE, "v2", b"content").await;
    let delete = async |path: String| registry.delete(&path).send().await.expect("an answer");
    let status = async |reference: &str| {
        let path = format!("{BASE}/manifests/{reference}");
        registry.head(&path).send().await.expect("an answer").status()
    };
    expect(delete(format!("{BASE}/manifests/v1")).await, StatusCode::ACCEPTED).await;
    assert_eq!(status("v1").await, StatusCode::NOT_FOUND);
    assert_eq!(status("v2").await, StatusCode::OK);
    assert_eq!(status(digest.as_str()).await, StatusCode::OK);
    expect(delete(format!("{BASE}/manifests/{digest}")).await, StatusCode::ACCEPTED).await;
    assert_eq!(status("v2").await, StatusCode::NOT_FOUND);
    assert_eq!(status(digest.as_str()).await, StatusCode::NOT_FOUND);
    let again = delete(format!("{BASE}/manifests/{digest}")).await;
    assert_eq!(refused(again, StatusCode::NOT_FOUND).await, "MANIFEST_UNKNOWN");
    let blob = sha256(b"content");
    expect(delete(format!("{BASE}/blobs/{blob}")).await, StatusCode::ACCEPTED).await;
    let response = registry
        .get(&format!("{BASE}/blobs/{blob}"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(refused(response, StatusCode::NOT_FOUND).await, "BLOB_UNKNOWN");

    let digest = registry.push_image("/v2/kept/app", "v1", b"content").await;
    for path in [
        "manifests/v1".to_owned(),
        format!("manifests/{digest}"),
        format!("blobs/{blob}"),
    ] {
        let response = delete(format!("/v2/kept/app/{path}")).await;
        assert_eq!(refused(response, StatusCode::METHOD_NOT_ALLOWED).await, "UNSUPPORTED");
    }
    let response = registry
        .head("/v2/kept/app/manifests/v1")
        .send()
        .await
        .expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn ranges_of_a_blob_are_served_as_asked() {
    let registry = Registry::start(LOCAL);
    let digest = registry.push_blob(BASE, b"0123456789").await;
    let path = format!("{BASE}/blobs/{digest}");
    for (range, status, body, content_range) in [
        ("bytes=2-4", 206, "234", "bytes 2-4/10"),
        ("bytes=7-", 206, "789", "bytes 7-9/10"),
        ("bytes=-2", 206, "89", "bytes 8-9/10"),
        ("bytes=5-100", 206, "56789", "bytes 5-9/10"),
        ("bytes=10-", 416, "", "bytes */10"),
        ("bytes=0-1,20-30", 206, "01", "bytes 0-1/10"),
        ("bytes=4-5,0-1", 200, "0123456789", ""),
        ("bytes=0-1,1-2", 200, "0123456789", ""),
        ("nonsense", 200, "0123456789", ""),
    ] {
        let response = registry
            .get(&path)
            .header("range", range)
            .send()
            .await
            .expect("an answer");
        assert_eq!(response.status().as_u16(), status, "{range}");
        assert_eq!(header(&response, "content-range"), content_range, "{range}");
        assert_eq!(response.text().await.expect("a body"), body, "{range}");
    }
}

/// What clients of zstd:chunked ask for: the files of a layer that they do not have yet, all at once.
#[tokio::test]
async fn several_ranges_of_a_blob_come_in_one_answer() {
    let registry = Registry::start(LOCAL);
    let bytes: Vec<u8> = (0..9_000_000_u32).map(|at| (at % 251) as u8).collect();
    let digest = registry.push_blob(BASE, &bytes).await;
    let path = format!("{BASE}/blobs/{digest}");
    let few = vec![(0, 1), (5, 5), (100, 4_999_999), (8_999_990, 8_999_999)];
    let many: Vec<(usize, usize)> = (0..1024).map(|at| (at * 8_000, at * 8_000 + 6_000)).collect();
    for parts in [few, many] {
        let asked: Vec<String> = parts.iter().map(|(start, end)| format!("{start}-{end}")).collect();
        let response = registry
            .get(&path)
            .header("range", format!("bytes={}", asked.join(",")));
        let response = expect(response.send().await.expect("an answer"), StatusCode::PARTIAL_CONTENT).await;
        assert_eq!(header(&response, "content-range"), "");
        assert_eq!(header(&response, "docker-content-digest"), digest.as_str());
        let media_type = header(&response, "content-type").to_owned();
        let boundary = media_type
            .strip_prefix("multipart/byteranges; boundary=")
            .expect("a boundary");
        let length: usize = header(&response, "content-length").parse().expect("a length");
        let body = response.bytes().await.expect("a body");
        assert_eq!(body.len(), length);
        let mut expected = Vec::new();
        for (start, end) in parts {
            let head = format!(
                "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {start}-{end}/9000000\r\n\r\n"
            );
            expected.extend_from_slice(head.as_bytes());
            expected.extend_from_slice(&bytes[start..=end]);
        }
        expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        assert!(body == expected, "the parts are not what they should be");
    }
    // On the same connection, afterwards.
    let whole = registry.get(&path).send().await.expect("an answer");
    assert!(whole.bytes().await.expect("a body") == bytes);
}

/// A layer that lies elsewhere for ever is neither asked for nor looked after here, and the manifest stays as it is.
#[tokio::test]
async fn foreign_layers_are_left_alone() {
    let registry = Registry::start(LOCAL);
    let config = registry.push_blob(BASE, b"{}").await;
    let elsewhere = sha256(b"elsewhere");
    for (tag, media_type) in [
        ("docker", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
        ("oci", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
    ] {
        let layer = format!(
            r#"{{"mediaType":"{media_type}","digest":"{elsewhere}","size":9,"urls":["https://elsewhere.example/layer"]}}"#
        );
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[{layer}]}}"#
        );
        registry.push_manifest(BASE, tag, OCI_MANIFEST, text.as_bytes()).await;
        let response = registry.get(&format!("{BASE}/manifests/{tag}")).send().await;
        assert_eq!(response.expect("an answer").text().await.expect("a body"), text);
    }
    let blob = registry.get(&format!("{BASE}/blobs/{elsewhere}")).send().await;
    assert_eq!(
        refused(blob.expect("an answer"), StatusCode::NOT_FOUND).await,
        "BLOB_UNKNOWN"
    );
}

#[tokio::test]
async fn a_push_by_digest_can_set_tags() {
    let registry = Registry::start(LOCAL);
    let config = registry.push_blob(BASE, b"{}").await;
    let text = image_manifest((&config, 2), &[], "");
    let digest = sha256(text.as_bytes());
    let response = registry
        .put(&format!("{BASE}/manifests/{digest}?tag=one&tag=two"))
        .header("content-type", OCI_MANIFEST)
        .body(text)
        .send()
        .await
        .expect("an answer");
    let response = expect(response, StatusCode::CREATED).await;
    let tags: Vec<_> = response.headers().get_all("oci-tag").iter().collect();
    assert_eq!(tags, ["one", "two"]);
    for tag in ["one", "two"] {
        let response = registry
            .head(&format!("{BASE}/manifests/{tag}"))
            .send()
            .await
            .expect("an answer");
        assert_eq!(header(&response, "docker-content-digest"), digest.as_str());
    }
}

#[tokio::test]
async fn an_immutable_tag_neither_moves_nor_goes() {
    let registry = Registry::start("repositories: { images: { type: local, immutable_tags: ['v*'] } }");
    let kept = registry.push_image(BASE, "v1", b"kept").await;
    let again = registry.push_image(BASE, "v1", b"kept").await;
    assert_eq!(again, kept, "the same again is no change");
    let other = registry.push_image(BASE, "latest", b"other").await;
    let manifest = registry.get(&format!("{BASE}/manifests/latest")).send().await;
    let manifest = manifest.expect("an answer").bytes().await.expect("a body");

    let attempts = [
        registry
            .put(&format!("{BASE}/manifests/v1"))
            .header("content-type", OCI_MANIFEST)
            .body(manifest.clone()),
        registry
            .put(&format!("{BASE}/manifests/{other}?tag=v1"))
            .header("content-type", OCI_MANIFEST)
            .body(manifest),
        registry.delete(&format!("{BASE}/manifests/v1")),
        registry.delete(&format!("{BASE}/manifests/{kept}")),
        registry
            .post("/api/v1/tags/pin")
            .header("content-type", "application/json")
            .body(format!(r#"{{"image":"images/team/app:v1","to":"{other}"}}"#)),
    ];
    for attempt in attempts {
        let response = attempt.send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        let said = response.text().await.expect("a body");
        assert!(said.contains("`v1` is immutable here"), "{said}");
    }
    let found = registry.head(&format!("{BASE}/manifests/v1")).send().await;
    assert_eq!(
        header(&found.expect("an answer"), "docker-content-digest"),
        kept.as_str()
    );
    // What is not meant moves and goes as ever.
    let gone = registry.delete(&format!("{BASE}/manifests/latest")).send().await;
    expect(gone.expect("an answer"), StatusCode::ACCEPTED).await;
}
