//! Virtual repositories: order, priority, pushes, unions. Their remotes' upstream is a second Entrepôt.

use std::io::{Read as _, Write as _};

use reqwest::StatusCode;

use crate::support::{OCI_MANIFEST, Registry, expect, header, image_manifest, refused, sha256, temporary};

/// Two upstreams in one process, a local repository and virtual ones over all of them. A virtual is named after what
/// comes first in it.
fn configuration(upstream: &Registry) -> String {
    let address = upstream.address();
    format!(
        r"
server: {{ listen: '127.0.0.1:0' }}
storage: {{ path: data }}
repositories:
  images: {{ type: local }}
  one: {{ type: remote, url: 'http://{address}/one', insecure: true, tag_ttl: 0s }}
  two: {{ type: remote, url: 'http://{address}/two', insecure: true, tag_ttl: 0s }}
  guarded: {{ type: virtual, members: [{{ repository: images, priority: true }}, one, two], push_to: images }}
  open: {{ type: virtual, members: [images, one, two], push_to: images }}
  readonly: {{ type: virtual, members: [two, one] }}
  nested: {{ type: virtual, members: [readonly, images], push_to: images }}
default: guarded
"
    )
}

fn upstream() -> Registry {
    Registry::start("repositories: { one: { type: local }, two: { type: local } }")
}

async fn digest_of(registry: &Registry, path: &str) -> (StatusCode, String, String) {
    let response = registry.get(path).send().await.expect("an answer");
    (
        response.status(),
        header(&response, "docker-content-digest").to_owned(),
        header(&response, "x-entrepot-repository").to_owned(),
    )
}

#[tokio::test]
async fn members_are_asked_in_order_and_say_who_answered() {
    let upstream = upstream();
    let one = upstream.push_image("/v2/one/app", "v1", b"one").await;
    let two = upstream.push_image("/v2/two/app", "v1", b"two").await;
    let registry = Registry::start_in(&temporary(), &configuration(&upstream));
    for (name, digest, by) in [
        ("open", &one, "one"),
        ("readonly", &two, "two"),
        ("nested", &two, "two"),
    ] {
        let found = digest_of(&registry, &format!("/v2/{name}/app/manifests/v1")).await;
        assert_eq!(found, (StatusCode::OK, digest.to_string(), by.to_owned()));
    }
    // By digest, whoever has it.
    let found = digest_of(&registry, &format!("/v2/open/app/manifests/{two}")).await;
    assert_eq!((found.0, found.1), (StatusCode::OK, two.to_string()));
    let response = registry
        .get("/v2/open/app/manifests/v2")
        .send()
        .await
        .expect("an answer");
    assert_eq!(refused(response, StatusCode::NOT_FOUND).await, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn what_is_pushed_lands_in_the_local_member_and_comes_first() {
    let upstream = upstream();
    upstream.push_image("/v2/one/app", "v1", b"theirs").await;
    let registry = Registry::start_in(&temporary(), &configuration(&upstream));
    let ours = registry.push_image("/v2/open/app", "v1", b"ours").await;
    for name in ["images", "open", "guarded"] {
        let found = digest_of(&registry, &format!("/v2/{name}/app/manifests/v1")).await;
        assert_eq!(found, (StatusCode::OK, ours.to_string(), "images".to_owned()));
    }
    for path in ["/v2/readonly/app/blobs/uploads/", "/v2/one/app/blobs/uploads/"] {
        let response = registry.post(path).send().await.expect("an answer");
        let response = expect(response, StatusCode::METHOD_NOT_ALLOWED).await;
        let text = response.text().await.expect("a body");
        assert!(text.contains("UNSUPPORTED") && text.contains("`guarded`"), "{text}");
    }
    let delete = registry
        .delete("/v2/open/app/manifests/v1")
        .send()
        .await
        .expect("an answer");
    expect(delete, StatusCode::ACCEPTED).await;
    let found = digest_of(&registry, "/v2/open/app/manifests/v1").await;
    assert_eq!((found.0, found.2), (StatusCode::OK, "one".to_owned()));
}

#[tokio::test]
async fn an_image_that_lives_in_a_priority_member_is_never_asked_for_elsewhere() {
    let upstream = upstream();
    upstream.push_image("/v2/one/team/secret", "v2", b"theirs").await;
    let registry = Registry::start_in(&temporary(), &configuration(&upstream));
    registry.push_image("/v2/images/team/secret", "v1", b"ours").await;
    let before = requests(&upstream).await;
    for path in [
        "manifests/v2".to_owned(),
        format!("manifests/{}", sha256(b"?")),
        format!("blobs/{}", sha256(b"?")),
        "tags/list".to_owned(),
        format!("referrers/{}", sha256(b"?")),
    ] {
        let response = registry
            .get(&format!("/v2/guarded/team/secret/{path}"))
            .send()
            .await
            .expect("an answer");
        assert!(response.status() == StatusCode::NOT_FOUND || response.status() == StatusCode::OK);
    }
    assert_eq!(requests(&upstream).await, before, "the name left");
    // Without the guard it is asked for.
    let found = digest_of(&registry, "/v2/open/team/secret/manifests/v2").await;
    assert_eq!((found.0, found.2), (StatusCode::OK, "one".to_owned()));
}

/// How many requests of the distribution API a registry has answered.
async fn requests(registry: &Registry) -> u64 {
    let metrics = registry.metrics().await;
    let lines = metrics
        .lines()
        .filter(|line| line.starts_with("registry_http_requests_total"));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[tokio::test]
async fn lists_are_the_union_of_the_members() {
    let upstream = upstream();
    let subject = upstream.push_image("/v2/one/app", "v1", b"one").await;
    upstream.push_image("/v2/two/app", "v2", b"two").await;
    let config = upstream.push_blob("/v2/one/app", b"{}").await;
    let extra = format!(r#","subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":1}}"#);
    let text = image_manifest((&config, 2), &[], &extra);
    upstream
        .push_manifest("/v2/one/app", "theirs", OCI_MANIFEST, text.as_bytes())
        .await;
    let registry = Registry::start_in(&temporary(), &configuration(&upstream));
    registry.push_image("/v2/images/app", "v3", b"three").await;
    let config = registry.push_blob("/v2/images/app", b"{}").await;
    let ours = image_manifest((&config, 2), &[], &format!(r#",{},"annotations":{{}}"#, &extra[1..]));
    registry
        .push_manifest("/v2/images/app", "ours", OCI_MANIFEST, ours.as_bytes())
        .await;

    let response = registry.get("/v2/open/app/tags/list").send().await.expect("an answer");
    let document: serde_json::Value = response.json().await.expect("JSON");
    assert_eq!(document["tags"].to_string(), r#"["ours","theirs","v1","v2","v3"]"#);
    let path = format!("/v2/open/app/referrers/{subject}");
    let response = registry.get(&path).send().await.expect("an answer");
    let document: serde_json::Value = response.json().await.expect("JSON");
    assert_eq!(document["manifests"].as_array().map(Vec::len), Some(2), "{document}");
    // A catalog knows what is stored: of a remote, what was pulled.
    digest_of(&registry, "/v2/two/app/manifests/v2").await;
    let response = registry.get("/open/v2/_catalog").send().await.expect("an answer");
    let document: serde_json::Value = response.json().await.expect("JSON");
    assert_eq!(document["repositories"].to_string(), r#"["app"]"#);
}

#[tokio::test]
async fn referrers_that_nobody_can_tell_are_not_none() {
    let upstream = upstream();
    let registry = Registry::start_in(&temporary(), &configuration(&upstream));
    let subject = registry.push_image("/v2/images/app", "v1", b"ours").await;
    let config = registry.push_blob("/v2/images/app", b"{}").await;
    let about = format!(r#","subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":1}}"#);
    let text = image_manifest((&config, 2), &[], &about);
    registry
        .push_manifest("/v2/images/app", "about", OCI_MANIFEST, text.as_bytes())
        .await;
    upstream.stop();
    let path = format!("/v2/open/app/referrers/{subject}");
    let response = expect(registry.get(&path).send().await.expect("an answer"), StatusCode::OK).await;
    assert!(response.headers().contains_key("warning"), "a member cannot tell");
    let document: serde_json::Value = response.json().await.expect("JSON");
    assert_eq!(document["manifests"].as_array().map(Vec::len), Some(1), "{document}");
    // That the local member has none says nothing of the others'.
    let path = format!("/v2/open/other/referrers/{subject}");
    let response = registry.get(&path).send().await.expect("an answer");
    expect(response, StatusCode::SERVICE_UNAVAILABLE).await;
}

#[tokio::test]
async fn a_layer_that_a_client_was_told_is_there_need_not_be_sent() {
    let upstream = upstream();
    let layer = sha256(b"base layer");
    // In the second, the image lives in the member with priority as soon as one blob of it is pushed.
    for name in ["open", "guarded"] {
        upstream
            .push_image(&format!("/v2/one/{name}"), "v1", b"base layer")
            .await;
        let registry = Registry::start_in(&temporary(), &configuration(&upstream));
        let base = format!("/v2/{name}/{name}");
        let found = digest_of(&registry, &format!("{base}/manifests/v1")).await;
        assert_eq!(found.0, StatusCode::OK);
        let response = registry.get(&format!("{base}/blobs/{layer}")).send().await;
        let response = expect(response.expect("an answer"), StatusCode::OK).await;
        assert_eq!(response.text().await.expect("a body"), "base layer");
        let response = registry.head(&format!("{base}/blobs/{layer}")).send().await;
        assert_eq!(response.expect("an answer").status(), StatusCode::OK, "a member has it");
        let config = registry.push_blob(&base, b"{ }").await;
        let text = image_manifest((&config, 3), &[(&layer, 10)], "");
        registry.push_manifest(&base, "v2", OCI_MANIFEST, text.as_bytes()).await;
        // It is the local repository's own from now on.
        let response = registry.get(&format!("/v2/images/{name}/blobs/{layer}")).send().await;
        let response = expect(response.expect("an answer"), StatusCode::OK).await;
        assert_eq!(response.text().await.expect("a body"), "base layer");
    }
}

#[tokio::test]
async fn a_push_asks_no_upstream_and_goes_on_without_one() {
    let upstream = upstream();
    let registry = Registry::start_in(&temporary(), &configuration(&upstream));
    let before = requests(&upstream).await;
    let base = "/v2/guarded/team/new";
    let missing = |path: String| {
        let request = registry.head(&path);
        async move { request.send().await.expect("an answer").status() }
    };
    // As podman and containerd do it: is the blob there; then the blob; is the tag there; then the manifest.
    for _ in 0..2 {
        let layer = sha256(b"layer");
        let status = missing(format!("{base}/blobs/{layer}")).await;
        assert!(status == StatusCode::NOT_FOUND || status == StatusCode::OK);
        registry.push_blob(base, b"layer").await;
        let config = registry.push_blob(base, b"{}").await;
        assert_eq!(missing(format!("{base}/manifests/v1")).await, StatusCode::NOT_FOUND);
        let text = image_manifest((&config, 2), &[(&layer, 5)], "");
        registry.push_manifest(base, "v1", OCI_MANIFEST, text.as_bytes()).await;
        let delete = registry
            .delete(&format!("{base}/manifests/v1"))
            .send()
            .await
            .expect("an answer");
        expect(delete, StatusCode::ACCEPTED).await;
    }
    assert_eq!(requests(&upstream).await, before, "the name left");
    upstream.stop();
    let base = "/v2/guarded/team/newer";
    assert_eq!(
        missing(format!("{base}/blobs/{}", sha256(b"layer"))).await,
        StatusCode::NOT_FOUND
    );
    registry.push_image(base, "v1", b"layer").await;
    let found = digest_of(&registry, "/v2/guarded/team/newer/manifests/v1").await;
    assert_eq!(found.0, StatusCode::OK);
}

/// An upstream that has had enough: 429 to everything, until the test ends.
fn rate_limited() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(
                b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
        }
    });
    address
}

#[tokio::test]
async fn an_outage_never_decides_which_image_a_client_gets() {
    let upstream = upstream();
    let two = upstream.push_image("/v2/two/app", "v1", b"two").await;
    // A port that nothing listens on.
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address");
    let registry = Registry::start_in(
        &temporary(),
        &format!(
            r"
server: {{ listen: '127.0.0.1:0' }}
storage: {{ path: data }}
repositories:
  gone: {{ type: remote, url: 'http://{gone}', insecure: true }}
  limited: {{ type: remote, url: 'http://{}', insecure: true }}
  two: {{ type: remote, url: 'http://{}/two', insecure: true }}
  plain: {{ type: virtual, members: [gone, two] }}
  closed: {{ type: virtual, members: [{{ repository: gone, priority: true }}, two] }}
  nested: {{ type: virtual, members: [closed, two] }}
  busy: {{ type: virtual, members: [limited, two] }}
  both: {{ type: virtual, members: [limited, gone] }}
",
            rate_limited(),
            upstream.address()
        ),
    );
    let ask = async |path: &str| registry.get(path).send().await.expect("an answer");
    // A plain remote is passed over; if nobody else has it, the failing one is named, and it is no 404.
    for name in ["plain", "busy"] {
        let found = digest_of(&registry, &format!("/v2/{name}/app/manifests/v1")).await;
        assert_eq!(found, (StatusCode::OK, two.to_string(), "two".to_owned()));
    }
    let response = expect(ask("/v2/plain/app/manifests/v2").await, StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(response.text().await.expect("a body").contains("`gone`"));
    // A member with priority ends the search, in a virtual repository inside another one too.
    for name in ["closed", "nested"] {
        let response = ask(&format!("/v2/{name}/app/manifests/v1")).await;
        assert_eq!(
            refused(response, StatusCode::SERVICE_UNAVAILABLE).await,
            "UNAVAILABLE",
            "{name}"
        );
    }
    // By digest content proves itself, whoever fails.
    let found = digest_of(&registry, &format!("/v2/closed/app/manifests/{two}")).await;
    assert_eq!((found.0, found.1), (StatusCode::OK, two.to_string()));
    // 429 only when that is all that is wrong.
    let response = ask("/v2/busy/app/manifests/v2").await;
    // What is left of the seconds that it asked for.
    let left: u64 = header(&response, "retry-after").parse().expect("seconds");
    assert!((1..=7).contains(&left), "{left}");
    assert_eq!(
        refused(response, StatusCode::TOO_MANY_REQUESTS).await,
        "TOOMANYREQUESTS"
    );
    let response = ask("/v2/both/app/manifests/v1").await;
    assert_eq!(refused(response, StatusCode::SERVICE_UNAVAILABLE).await, "UNAVAILABLE");
}
