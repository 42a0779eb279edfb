//! Fetching ahead of time, through the API and the command line.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{OCI_INDEX, OCI_MANIFEST, Registry, entrepot, expect, header, image_manifest, temporary};

fn configuration(upstream: &Registry) -> String {
    format!(
        r"
server: {{ listen: '127.0.0.1:0' }}
storage: {{ path: data }}
repositories:
  images: {{ type: local }}
  hub: {{ type: remote, url: 'http://{}/hub', insecure: true }}
  docker: {{ type: virtual, members: [images, hub], push_to: images }}
default: docker
",
        upstream.address()
    )
}

/// An image for two platforms. What is returned are the digests of all but the index, by platform.
async fn push_two(upstream: &Registry) -> Vec<Vec<String>> {
    let mut entries = Vec::new();
    let mut digests = Vec::new();
    for platform in ["amd64", "arm64"] {
        let (layer, config) = (format!("layer {platform}"), format!("{{\"a\":\"{platform}\"}}"));
        let pushed = upstream.push_blob("/v2/hub/app", layer.as_bytes()).await;
        let described = upstream.push_blob("/v2/hub/app", config.as_bytes()).await;
        let text = image_manifest((&described, config.len()), &[(&pushed, layer.len())], "");
        let manifest = upstream
            .push_manifest("/v2/hub/app", platform, OCI_MANIFEST, text.as_bytes())
            .await;
        entries.push(format!(
            r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{manifest}","size":{},"platform":{{"os":"linux","architecture":"{platform}"}}}}"#,
            text.len()
        ));
        digests.push(vec![
            format!("manifests/{manifest}"),
            format!("blobs/{described}"),
            format!("blobs/{pushed}"),
        ]);
    }
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#,
        entries.join(",")
    );
    upstream
        .push_manifest("/v2/hub/app", "v1", OCI_INDEX, index.as_bytes())
        .await;
    digests
}

async fn assert_hit(registry: &Registry, path: &str) {
    let response = registry.get(path).send().await.expect("an answer");
    let response = expect(response, StatusCode::OK).await;
    assert_eq!(header(&response, "x-cache"), "HIT", "{path}");
}

#[tokio::test]
async fn an_image_that_was_fetched_ahead_is_served_without_its_upstream() {
    let upstream = Registry::start("repositories: { hub: { type: local } }");
    let digests = push_two(&upstream).await;
    let registry = Registry::start_in(&temporary(), &configuration(&upstream));
    let run = |arguments: &[&str]| {
        entrepot(&["prefetch", "--server", &registry.url("")])
            .args(arguments)
            .output()
            .expect("it runs")
    };
    let output = run(&["app:v1", "--platform", "linux/arm64"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(
        (output.status.code(), &*text),
        (
            Some(0),
            "app:v1: 2 manifests, 2 blobs, 2 of them fetched (24 bytes), 0 missing\n"
        )
    );
    let list = registry.directory.path().join("list");
    std::fs::write(&list, "# ours\n\ndocker/app:v1 # both\nhub/app:arm64\n").expect("written");
    let output = run(&["--file", &list.to_string_lossy(), "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .expect("text")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let summary = &lines.last().expect("a summary")["summary"];
    let figures = [
        &summary["images"],
        &summary["blobs"],
        &summary["fetched"],
        &summary["missing"],
    ];
    assert_eq!(figures, [&json!(2), &json!(6), &json!(2), &json!(0)], "{summary}");
    let output = run(&["app:v2", "app:v1"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).expect("text");
    assert!(error.contains("app:v2") && error.contains("1 of 2 images"), "{error}");
    assert_eq!(run(&[]).status.code(), Some(2));

    upstream.stop();
    assert_hit(&registry, "/v2/app/manifests/v1").await;
    for path in digests.iter().flatten() {
        assert_hit(&registry, &format!("/v2/app/{path}")).await;
    }
}

#[tokio::test]
async fn what_is_pushed_here_needs_no_fetching() {
    let upstream = Registry::start("repositories: { hub: { type: local } }");
    let registry = Registry::start_in(&temporary(), &configuration(&upstream));
    registry.push_image("/v2/docker/ours", "v1", b"ours").await;
    let body = json!({ "images": ["ours:v1"] });
    let response = registry
        .post("/api/v1/prefetch")
        .json(&body)
        .send()
        .await
        .expect("an answer");
    let response = expect(response, StatusCode::OK).await;
    assert_eq!(header(&response, "content-type"), "application/x-ndjson");
    let text = response.text().await.expect("text");
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    assert_eq!(
        (&last["summary"]["images"], &last["summary"]["images_failed"]),
        (&json!(1), &json!(0))
    );
}
