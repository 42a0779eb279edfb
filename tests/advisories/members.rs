//! Virtual repositories: whose image it is.

use reqwest::StatusCode;

use crate::binary::{Registry, header};
use crate::support::upstream::{ALWAYS, Act, Server, noise};

fn over(first: &Server, second: &Server) -> Registry {
    Registry::start(&format!(
        "repositories:\n  images: {{ type: local }}\n  one: {{ type: remote, url: '{}', insecure: true, tag_ttl: 0s, negative_ttl: 0s }}\n  two: {{ type: remote, url: '{}', insecure: true, tag_ttl: 0s, negative_ttl: 0s }}\n  all: {{ type: virtual, members: [{{ repository: images, priority: true }}, {{ repository: one, priority: true }}, two], push_to: images }}\ndefault: all\n",
        first.url(),
        second.url()
    ))
}

/// artifact-keeper merged what its members listed, and a public name shadowed a private one.
#[tokio::test]
async fn artifact_keeper_1600_a_name_of_ours_is_asked_for_nowhere_else() {
    let (one, two) = (Server::start().await, Server::start().await);
    one.put_image("team/app", "v9", &[noise(10, 1)]);
    two.put_image("team/app", "v9", &[noise(10, 2)]);
    let registry = over(&one, &two);
    let ours = registry.push_image("/v2/all/team/app", "v1", b"ours").await;
    for (tag, status) in [("v1", StatusCode::OK), ("v9", StatusCode::NOT_FOUND)] {
        let response = registry
            .get(&format!("/v2/all/team/app/manifests/{tag}"))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), status, "{tag}");
        if status == StatusCode::OK {
            assert_eq!(header(&response, "docker-content-digest"), ours.as_str());
        }
    }
    let response = registry.get("/v2/all/team/app/tags/list").send().await.unwrap();
    let tags: serde_json::Value = response.json().await.unwrap();
    assert_eq!(tags["tags"], serde_json::json!(["v1"]));
    assert_eq!(one.seen().len() + two.seen().len(), 0, "the name has not left");
}

/// artifact-keeper went on to the next member after any error, so that who could make the first one fail chose the image.
#[tokio::test]
async fn artifact_keeper_resolver_an_error_of_the_first_owner_is_not_an_absence() {
    let (one, two) = (Server::start().await, Server::start().await);
    two.put_image("team/app", "v1", &[noise(10, 2)]);
    let registry = over(&one, &two);
    for acts in [
        vec![Act::Status(500)],
        vec![Act::Status(503)],
        vec![Act::Status(401)],
        vec![Act::Status(403)],
        vec![Act::Status(429)],
        vec![Act::Close],
        vec![Act::Status(200), Act::Body("junk".into())],
        vec![Act::Status(302)],
        vec![Act::Redirect("http://169.254.169.254/".to_owned())],
    ] {
        one.behave();
        one.on("* /v2/", ALWAYS, acts);
        let response = registry.get("/v2/all/team/app/manifests/v1").send().await.unwrap();
        let status = response.status();
        assert!(
            status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS,
            "{status}: {}",
            response.text().await.unwrap_or_default()
        );
    }
    assert_eq!(two.seen().len(), 0, "nobody else was asked");
}
