//! What was pulled is pulled again when the upstream is gone, and what was never seen is "could not tell".

use reqwest::StatusCode;

use crate::support::{Registry, expect, header, refused, temporary, until};

fn configuration(address: &str) -> String {
    format!(
        r"
server: {{ listen: '127.0.0.1:0' }}
storage: {{ path: data }}
repositories:
  images: {{ type: local }}
  hub: {{ type: remote, url: 'http://{address}/hub', insecure: true, tag_ttl: 0s }}
  docker: {{ type: virtual, members: [{{ repository: images, priority: true }}, hub], push_to: images }}
default: docker
"
    )
}

#[tokio::test]
async fn with_the_upstream_gone_what_was_pulled_is_served_and_the_rest_is_503() {
    let upstream = Registry::start("repositories: { hub: { type: local } }");
    let digest = upstream
        .push_image("/v2/hub/library/alpine", "latest", b"content")
        .await;
    let registry = Registry::start_in(&temporary(), &configuration(upstream.address()));
    let layer = crate::support::sha256(b"content");
    let paths = [
        "/v2/library/alpine/manifests/latest".to_owned(),
        format!("/v2/library/alpine/manifests/{digest}"),
        format!("/v2/library/alpine/blobs/{layer}"),
    ];
    let mut bodies = Vec::new();
    for path in &paths {
        let response = registry.get(path).send().await.expect("an answer");
        let response = expect(response, StatusCode::OK).await;
        // By digest it is here already: the tag brought it.
        let expected = if path.contains("manifests/sha256:") {
            "HIT"
        } else {
            "MISS"
        };
        assert_eq!(header(&response, "x-cache"), expected, "{path}");
        bodies.push(response.bytes().await.expect("a body"));
    }
    upstream.stop();
    // Twice: the second stale answer is where others have failed.
    for _ in 0..2 {
        for (path, body) in paths.iter().zip(&bodies) {
            for head in [false, true] {
                let request = if head { registry.head(path) } else { registry.get(path) };
                let response = expect(request.send().await.expect("an answer"), StatusCode::OK).await;
                let expected = if path.ends_with("latest") { "STALE" } else { "HIT" };
                assert_eq!(header(&response, "x-cache"), expected, "{path}");
                assert_eq!(header(&response, "warning").is_empty(), expected == "HIT", "{path}");
                if !head {
                    assert_eq!(response.bytes().await.expect("a body"), body);
                }
            }
        }
    }
    for path in [
        "/v2/library/alpine/manifests/never".to_owned(),
        "/v2/library/never/manifests/latest".to_owned(),
        format!("/v2/library/alpine/blobs/{}", crate::support::sha256(b"never")),
        "/v2/library/never/tags/list".to_owned(),
    ] {
        let response = registry.get(&path).send().await.expect("an answer");
        assert!(!header(&response, "retry-after").is_empty());
        let text = format!("{:?}", response.headers());
        assert_eq!(
            refused(response, StatusCode::SERVICE_UNAVAILABLE).await,
            "UNAVAILABLE",
            "{path} {text}"
        );
    }
    let metrics = registry.metrics().await;
    assert!(metrics.contains(r#"outcome="stale",repository="hub"}"#), "{metrics}");
    // What is pushed here is not touched by any of it.
    registry.push_image("/v2/docker/team/app", "v1", b"ours").await;
    let response = registry
        .get("/v2/docker/team/app/manifests/v1")
        .send()
        .await
        .expect("an answer");
    expect(response, StatusCode::OK).await;

    // After a restart of ours as well.
    let registry = registry.restart();
    for path in &paths {
        let response = registry.get(path).send().await.expect("an answer");
        expect(response, StatusCode::OK).await;
    }
}

#[tokio::test]
async fn a_tag_that_moved_upstream_is_seen_and_one_that_did_not_costs_no_fetch() {
    let upstream = Registry::start("repositories: { hub: { type: local } }");
    upstream.push_image("/v2/hub/app", "latest", b"first").await;
    let registry = Registry::start_in(&temporary(), &configuration(upstream.address()));
    let pull = async || {
        let response = registry
            .get("/v2/app/manifests/latest")
            .send()
            .await
            .expect("an answer");
        let response = expect(response, StatusCode::OK).await;
        (
            header(&response, "x-cache").to_owned(),
            header(&response, "docker-content-digest").to_owned(),
        )
    };
    let (_, first) = pull().await;
    assert_eq!(pull().await, ("REVALIDATED".to_owned(), first.clone()));
    let gets = async || {
        let metrics = upstream.metrics().await;
        let wanted = r#"registry_http_requests_total{code="200",handler="manifest",method="GET"} "#;
        metrics
            .lines()
            .find_map(|line| line.strip_prefix(wanted).map(str::to_owned))
    };
    assert_eq!(gets().await.as_deref(), Some("1"));
    let second = upstream.push_image("/v2/hub/app", "latest", b"second").await;
    let (outcome, digest) = pull().await;
    assert_eq!((outcome.as_str(), digest.as_str()), ("MISS", second.as_str()));
    // A tag that upstream itself says is gone is gone.
    let delete = upstream
        .delete("/v2/hub/app/manifests/latest")
        .send()
        .await
        .expect("an answer");
    expect(delete, StatusCode::ACCEPTED).await;
    until("the tag is gone here too", async || {
        let response = registry
            .get("/v2/app/manifests/latest")
            .send()
            .await
            .expect("an answer");
        response.status() == StatusCode::NOT_FOUND
    })
    .await;
    // Its manifest is still had by digest.
    let response = registry
        .get(&format!("/v2/app/manifests/{first}"))
        .send()
        .await
        .expect("an answer");
    expect(response, StatusCode::OK).await;
}
