//! Every way to name an image reaches the same one, and what the server writes has the form that the client used.

use reqwest::StatusCode;

use crate::support::{Registry, expect, header, refused, temporary};

const SERVER: &str = r"
server:
  listen: ['127.0.0.1:0', { address: '127.0.0.1:0', repository: other }]
storage: { path: data }
repositories:
  images: { type: local }
  other: { type: local }
  docker: { type: virtual, members: [images], push_to: images, hosts: [docker.example.com], serves: [docker.io] }
";

#[tokio::test]
async fn every_form_of_a_name_reaches_the_same_image() {
    let directory = temporary();
    let registry = Registry::start_in(&directory, &format!("{SERVER}default: docker\n"));
    let digest = registry
        .push_image("/v2/images/library/alpine", "latest", b"content")
        .await;
    for (path, host) in [
        ("/v2/library/alpine/manifests/latest", ""),
        ("/v2/docker/library/alpine/manifests/latest", ""),
        ("/docker/v2/library/alpine/manifests/latest", ""),
        ("/images/v2/library/alpine/manifests/latest", ""),
        ("/v2/library/alpine/manifests/latest", "docker.example.com:5000"),
        ("/v2/library/alpine/manifests/latest", "Docker.Example.COM"),
        ("/v2/library/alpine/manifests/latest?ns=docker.io", ""),
        // regclient calls it by the name of its address.
        ("/v2/library/alpine/manifests/latest?ns=registry-1.docker.io", ""),
    ] {
        let mut request = registry.get(path);
        if !host.is_empty() {
            request = request.header("host", host);
        }
        let response = expect(request.send().await.expect("an answer"), StatusCode::OK).await;
        assert_eq!(header(&response, "docker-content-digest"), digest.as_str(), "{path}");
        let namespace = path.split_once("ns=").map_or("", |(_, namespace)| namespace);
        assert_eq!(header(&response, "oci-namespace"), namespace, "{path}");
    }
    // An address of its own is its repository, for names without a key.
    let path = "/v2/library/alpine/manifests/latest";
    let own = format!("http://{}{path}", registry.addresses[1]);
    let response = registry.client.get(own).send().await.expect("an answer");
    assert_eq!(refused(response, StatusCode::NOT_FOUND).await, "MANIFEST_UNKNOWN");
    for (path, status) in [("/v2/", 200), ("/v2", 200), ("/docker/v2/", 200), ("/nothing/v2/", 404)] {
        let response = registry.get(path).send().await.expect("an answer");
        assert_eq!(response.status().as_u16(), status, "{path}");
    }
}

#[tokio::test]
async fn what_nobody_configured_is_404_and_names_what_there_is() {
    let directory = temporary();
    let registry = Registry::start_in(&directory, SERVER);
    let response = registry
        .get("/v2/library/alpine/manifests/latest")
        .send()
        .await
        .expect("an answer");
    let response = expect(response, StatusCode::NOT_FOUND).await;
    let text = response.text().await.expect("a body");
    assert!(
        text.contains("NAME_UNKNOWN") && text.contains("docker, images, other"),
        "{text}"
    );
    for host in ["quay.io", "169.254.169.254", "%0d%0aX:y"] {
        let path = format!("/v2/library/alpine/manifests/latest?ns={host}");
        let response = registry.get(&path).send().await.expect("an answer");
        assert_eq!(refused(response, StatusCode::NOT_FOUND).await, "NAME_UNKNOWN");
    }
}

#[tokio::test]
async fn locations_and_links_have_the_form_that_the_client_used() {
    let directory = temporary();
    let registry = Registry::start_in(&directory, &format!("{SERVER}default: docker\n"));
    for (base, query) in [
        ("/v2/app", ""),
        ("/v2/docker/app", ""),
        ("/docker/v2/app", ""),
        ("/v2/app", "ns=docker.io"),
    ] {
        let response = registry
            .post(&format!("{base}/blobs/uploads/?{query}"))
            .send()
            .await
            .expect("an answer");
        let response = expect(response, StatusCode::ACCEPTED).await;
        let location = header(&response, "location").to_owned();
        assert!(location.starts_with(&format!("{base}/blobs/uploads/")), "{location}");
        assert!(location.ends_with(query), "{location}");
        expect(
            registry.delete(&location).send().await.expect("an answer"),
            StatusCode::NO_CONTENT,
        )
        .await;
    }
    for tag in ["a", "b"] {
        registry.push_image("/docker/v2/app", tag, b"content").await;
    }
    let response = registry
        .get("/docker/v2/app/tags/list?n=1")
        .send()
        .await
        .expect("an answer");
    assert_eq!(
        header(&response, "link"),
        "</docker/v2/app/tags/list?last=a&n=1>; rel=\"next\""
    );
}

#[tokio::test]
async fn a_catalog_lists_names_as_this_client_would_write_them() {
    let directory = temporary();
    let registry = Registry::start_in(&directory, &format!("{SERVER}default: docker\n"));
    registry.push_image("/v2/images/team/app", "v1", b"content").await;
    registry.push_image("/v2/other/tool", "v1", b"content").await;
    let list = async |path: &str| {
        let response = registry.get(path).send().await.expect("an answer");
        let document: serde_json::Value = response.json().await.expect("JSON");
        document["repositories"].to_string()
    };
    assert_eq!(list("/v2/_catalog").await, r#"["team/app"]"#);
    assert_eq!(list("/other/v2/_catalog").await, r#"["tool"]"#);
    let registry = {
        drop(registry);
        Registry::start_in(&directory, SERVER)
    };
    let response = registry.get("/v2/_catalog").send().await.expect("an answer");
    let document: serde_json::Value = response.json().await.expect("JSON");
    assert_eq!(
        document["repositories"].to_string(),
        r#"["docker/team/app","images/team/app","other/tool"]"#
    );
}
