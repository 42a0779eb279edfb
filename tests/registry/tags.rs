//! Tags and what they have meant, through the API and the command line.

use entrepot::http::routes::Endpoint;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{Registry, entrepot, expect, header, refused, sha256, temporary};

const LOCAL: &str = "repositories: { images: { type: local } }\ndefault: images\n";

/// What a command prints, and its exit code.
fn run(registry: &Registry, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = entrepot(arguments)
        .env("ENTREPOT_SERVER", registry.url(""))
        .output()
        .expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

async fn post(registry: &Registry, path: &str, body: Value) -> (StatusCode, Value) {
    let response = registry
        .post(&format!("/api/v1/{path}"))
        .json(&body)
        .send()
        .await
        .expect("an answer");
    assert!(!header(&response, "x-request-id").is_empty());
    let status = response.status();
    (status, response.json().await.expect("JSON"))
}

async fn meaning(registry: &Registry, path: &str) -> String {
    let response = registry.get(path).send().await.expect("an answer");
    let response = expect(response, StatusCode::OK).await;
    header(&response, "docker-content-digest").to_owned()
}

#[tokio::test]
async fn a_pushed_tag_can_be_looked_up_pinned_and_put_back() {
    let registry = Registry::start(LOCAL);
    let one = registry.push_image("/v2/images/app", "v1", b"one").await;
    let two = registry.push_image("/v2/images/app", "v1", b"two").await;
    let (code, out, _) = run(&registry, &["tags", "history", "images/app:v1"]);
    assert_eq!(code, Some(0));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], format!("images/app:v1 means {two}"));
    assert!(lines[1].contains(two.as_str()) && lines[1].ends_with("  push"), "{out}");
    assert!(lines[2].contains(one.as_str()) && lines.len() == 3, "{out}");
    let (_, out, _) = run(&registry, &["tags", "history", "app:v1", "--json"]);
    let document: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(document["history"].as_array().map(Vec::len), Some(2), "{document}");
    assert_eq!((&document["digest"], &document["pinned"]), (&json!(two), &json!(false)));

    // As docker writes it, with the server in front.
    let image = format!("{}/images/app:v1", registry.address());
    let (code, out, _) = run(&registry, &["tags", "rollback", &image]);
    assert_eq!((code, out), (Some(0), format!("images/app:v1 means {one} again\n")));
    assert_eq!(meaning(&registry, "/v2/images/app/manifests/v1").await, one.to_string());
    let (code, out, _) = run(&registry, &["tags", "pin", &image]);
    assert_eq!(
        (code, out),
        (Some(0), format!("images/app:v1 means {one} until it is unpinned\n"))
    );
    let push = || {
        registry
            .put("/v2/images/app/manifests/v1")
            .header("content-type", crate::support::OCI_MANIFEST)
            .body(crate::support::image_manifest(
                (&sha256(b"{}"), 2),
                &[(&sha256(b"two"), 3)],
                "",
            ))
    };
    let response = push().send().await.expect("an answer");
    assert!(response.status() == StatusCode::FORBIDDEN);
    assert!(response.text().await.expect("text").contains("unpin"));
    for path in [
        "/v2/images/app/manifests/v1".to_owned(),
        format!("/v2/images/app/manifests/{one}"),
    ] {
        let response = registry.delete(&path).send().await.expect("an answer");
        assert_eq!(refused(response, StatusCode::FORBIDDEN).await, "DENIED");
    }
    let registry = registry.restart();
    let response = registry
        .put("/v2/images/app/manifests/v1")
        .header("content-type", crate::support::OCI_MANIFEST)
        .body(crate::support::image_manifest(
            (&sha256(b"{}"), 2),
            &[(&sha256(b"two"), 3)],
            "",
        ))
        .send()
        .await
        .expect("an answer");
    assert_eq!(
        refused(response, StatusCode::FORBIDDEN).await,
        "DENIED",
        "it is pinned after a restart"
    );
    assert_eq!(run(&registry, &["tags", "unpin", "images/app:v1"]).0, Some(0));
    let (code, _, error) = run(&registry, &["tags", "unpin", "images/app:v1"]);
    assert!(code == Some(1) && error.contains("not pinned"), "{error}");
    assert_eq!(registry.push_image("/v2/images/app", "v1", b"two").await, two);
    let (code, _, _) = run(&registry, &["tags", "rollback", "images/app:v1", "--to", one.as_str()]);
    assert_eq!(code, Some(0));
    let (code, _, error) = run(
        &registry,
        &["tags", "rollback", "images/app:v1", "--to", sha256(b"x").as_str()],
    );
    assert!(code == Some(1) && error.contains("never meant"), "{error}");
}

#[tokio::test]
async fn a_tag_of_an_upstream_is_pinned_where_it_comes_from() {
    let upstream = Registry::start("repositories: { hub: { type: local } }");
    let one = upstream.push_image("/v2/hub/app", "1.0", b"one").await;
    let configuration = format!(
        r"
server: {{ listen: '127.0.0.1:0' }}
storage: {{ path: data }}
repositories:
  images: {{ type: local }}
  hub: {{ type: remote, url: 'http://{}/hub', insecure: true, tag_ttl: 0s }}
  docker: {{ type: virtual, members: [{{ repository: images, priority: true }}, hub], push_to: images }}
default: docker
",
        upstream.address()
    );
    let registry = Registry::start_in(&temporary(), &configuration);
    assert_eq!(meaning(&registry, "/v2/app/manifests/1.0").await, one.to_string());
    let two = upstream.push_image("/v2/hub/app", "1.0", b"two").await;
    assert_eq!(meaning(&registry, "/v2/app/manifests/1.0").await, two.to_string());
    let log = registry.log();
    assert!(
        log.contains("looks like a version has moved") && log.contains(one.as_str()),
        "{log}"
    );
    let metrics = registry.metrics().await;
    assert!(
        metrics.contains(r#"entrepot_tags_moved_total{kind="version",repository="hub"} 1"#),
        "{metrics}"
    );

    let (status, document) = post(&registry, "tags/rollback", json!({ "image": "app:1.0" })).await;
    assert_eq!(status, StatusCode::OK);
    let expected = json!({ "repository": "hub", "image": "app", "tag": "1.0", "digest": one, "pinned": true });
    assert_eq!(document, expected);
    assert_eq!(meaning(&registry, "/v2/app/manifests/1.0").await, one.to_string());
    let (_, out, _) = run(&registry, &["tags", "history", "docker/app:1.0"]);
    assert!(
        out.starts_with(&format!("hub/app:1.0 means {one}, pinned\n")) && out.contains("rollback"),
        "{out}"
    );
    let (status, _) = post(&registry, "tags/unpin", json!({ "image": "docker/app:1.0" })).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(meaning(&registry, "/v2/app/manifests/1.0").await, two.to_string());
    let (status, document) = post(&registry, "tags/pin", json!({ "image": "app:1.0", "to": one })).await;
    assert_eq!((status, &document["digest"]), (StatusCode::OK, &json!(one)));
}

#[tokio::test]
async fn what_is_not_said_right_is_refused_in_words() {
    let registry = Registry::start(LOCAL);
    registry.push_image("/v2/images/app", "v1", b"one").await;
    let wrong = registry.get("/api/v1/tags/pin").send().await.expect("an answer");
    let wrong = expect(wrong, StatusCode::METHOD_NOT_ALLOWED).await;
    assert_eq!(header(&wrong, "content-type"), "application/json");
    for (path, body, status) in [
        ("tags/pin", json!({ "image": "app:v2" }), 404),
        ("tags/pin", json!({ "image": "App:v1" }), 400),
        ("tags/pin", json!({ "image": "other:5000/app:v1" }), 404),
        ("tags/pin", json!({ "image": "app:v1", "to": "v2" }), 400),
        ("tags/pin", json!({ "image": "app:v1", "force": true }), 400),
        ("tags/pin", json!({ "image": format!("app@{}", sha256(b"x")) }), 400),
        ("tags/rollback", json!({ "image": "app:v1" }), 404),
        ("tags/nothing", json!({}), 404),
        ("prefetch", json!({ "images": [] }), 400),
        ("prefetch", json!({ "images": ["app"], "platforms": ["linux"] }), 400),
    ] {
        let (found, document) = post(&registry, path, body.clone()).await;
        assert_eq!(found.as_u16(), status, "{path} {body} {document}");
        assert!(
            document["error"]["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{document}"
        );
        assert!(document["error"]["code"].is_string(), "{document}");
    }
    // What a page of another site can make a browser send.
    let response = registry
        .post("/api/v1/tags/pin")
        .header("content-type", "text/plain")
        .body(r#"{"image":"app:v1"}"#)
        .send()
        .await
        .expect("an answer");
    expect(response, StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
    let response = registry
        .get("/api/v1/tags/history?image=app:v2")
        .send()
        .await
        .expect("an answer");
    expect(response, StatusCode::NOT_FOUND).await;
    let (code, _, error) = run(&registry, &["tags", "pin", "App"]);
    assert!(code == Some(2) && !error.is_empty(), "{error}");
    assert_eq!(
        run(&registry, &["tags", "history", "app:v1", "--server", "ftp://x"]).0,
        Some(2)
    );
    assert_eq!(
        run(
            &registry,
            &["tags", "history", "app:v1", "--server", "http://127.0.0.1:1"]
        )
        .0,
        Some(1)
    );
}

#[tokio::test]
async fn who_may_only_pull_may_look_and_not_touch() {
    let start = |anonymous: &str| {
        Registry::start_in(
            &temporary(),
            &format!(
                "server: {{ listen: '127.0.0.1:0' }}\nstorage: {{ path: data }}\nauth: {{ anonymous: {anonymous} }}\n{LOCAL}"
            ),
        )
    };
    for (anonymous, look) in [("pull", StatusCode::NOT_FOUND), ("none", StatusCode::UNAUTHORIZED)] {
        let registry = start(anonymous);
        let response = registry
            .get("/api/v1/tags/history?image=app:v1")
            .send()
            .await
            .expect("an answer");
        expect(response, look).await;
        for path in ["tags/pin", "tags/unpin", "tags/rollback"] {
            let (status, document) = post(&registry, path, json!({ "image": "app:v1" })).await;
            assert_eq!(
                (status, &document["error"]["code"]),
                (StatusCode::UNAUTHORIZED, &json!("UNAUTHORIZED"))
            );
        }
        let (status, _) = post(&registry, "prefetch", json!({ "images": ["app:v1"] })).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn the_description_describes_what_there_is() {
    let registry = Registry::start(LOCAL);
    let response = registry.get("/api/v1/openapi.json").send().await.expect("an answer");
    let response = expect(response, StatusCode::OK).await;
    let document: Value = response.json().await.expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let mut described: Vec<String> = Vec::new();
    for (path, methods) in paths {
        for method in methods.as_object().expect("methods").keys() {
            described.push(format!("{method} {path}"));
            let method = method.to_uppercase().parse().expect("a method");
            let request = registry.client.request(method, registry.url(path)).body("{");
            let status = request.send().await.expect("an answer").status().as_u16();
            assert!(
                matches!(status, 200 | 400 | 415),
                "{path} is described and not there: {status}"
            );
        }
    }
    let mut answered: Vec<String> = Vec::new();
    for endpoint in Endpoint::ALL
        .iter()
        .filter(|endpoint| endpoint.path().starts_with("/api/"))
    {
        for method in endpoint.methods() {
            answered.push(format!("{} {}", method.to_lowercase(), endpoint.path()));
        }
    }
    described.sort();
    answered.sort();
    assert_eq!(answered, described);
}
