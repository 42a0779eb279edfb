//! S12: no client's byte enters a cache. S13: what may not be replaced or deleted stays, whoever races.

use crate::house::{House, Robot, User, Who, manifest_of};
use crate::support::{OCI_MANIFEST, Registry, image_manifest, sha256, tree};

const ALL: &str = "may: [pull, push, delete, admin], on: \"**\"";

#[tokio::test]
async fn s12_no_clients_bytes_enter_a_cache() {
    let upstream = Registry::start("repositories: { hub: { type: local } }");
    upstream.push_image("/v2/hub/team/app", "v1", b"upstream's").await;
    let address = upstream.address();
    // Names that elsewhere opened doors, and one that is a pattern's.
    let users = ["scanner-1", "robot-hub", "hub", "docker", "admin"];
    let rest = format!(
        r#"
auth:
  htpasswd: ./htpasswd
  tokens: true
  policies:
    - {{ who: ["scanner-1", "robot-hub", hub, docker], may: [pull], on: "hub/**" }}
    - {{ who: [admin], {ALL} }}
repositories:
  local: {{ type: local }}
  hub: {{ type: remote, url: 'http://{address}/hub', insecure: true }}
  docker: {{ type: virtual, members: [local, hub], push_to: local }}
  read-only: {{ type: virtual, members: [hub], serves: [registry.example.com] }}
default: docker
"#
    );
    let house = House::new(&users, "", &rest);
    // What a robot is called, and even a right to push there, opens nothing.
    house.make_robot("scanner-1", &["pull", "push", "delete"], "**").await;
    let callers = users.map(User);
    let callers = callers.iter().copied().chain([Robot]);
    let expected = house
        .answer(User("admin"), "GET", "/v2/hub/team/app/manifests/v1")
        .await;
    assert_eq!(expected.0, 200);
    let config = sha256(b"{}");
    let blob = sha256(b"poison");
    let manifest = image_manifest((&config, 2), &[(&blob, 6)], "");
    let digest = sha256(manifest.as_bytes());
    let upload = "0".repeat(32);
    let mut tried = 0;
    for (base, query) in [
        ("/v2/hub/team/app", String::new()),
        ("/hub/v2/team/app", String::new()),
        ("/v2/%68ub/team/app", String::new()),
        ("/v2/read-only/team/app", String::new()),
        ("/read-only/v2/team/app", String::new()),
        ("/v2/team/app", "&ns=registry.example.com".to_owned()),
        ("/hub/v2/team/app", "&ns=registry.example.com".to_owned()),
    ] {
        for (verb, line) in [
            ("PUT", "manifests/v1?".to_owned()),
            ("PUT", "manifests/new?".to_owned()),
            ("PUT", format!("manifests/{digest}?")),
            ("PUT", format!("manifests/{digest}?tag=v1")),
            ("DELETE", "manifests/v1?".to_owned()),
            ("DELETE", format!("blobs/{config}?")),
            ("POST", "blobs/uploads/?".to_owned()),
            ("POST", format!("blobs/uploads/?digest={blob}")),
            ("POST", format!("blobs/uploads/?mount={config}&from=local/team/app")),
            ("PATCH", format!("blobs/uploads/{upload}?")),
            ("PUT", format!("blobs/uploads/{upload}?digest={blob}")),
        ] {
            let path = format!("{base}/{line}{query}");
            for who in callers.clone() {
                let body = if path.contains("manifests") {
                    manifest.clone()
                } else {
                    "poison".to_owned()
                };
                let request = house.ask(who, verb, &path).await;
                let request = request.header("content-type", OCI_MANIFEST).body(body);
                let status = request.send().await.expect("an answer").status().as_u16();
                let expected = if matches!(who, User("admin") | Robot) { 405 } else { 403 };
                assert_eq!(status, expected, "{verb} {path} {who:?}");
                tried += 1;
            }
        }
    }
    assert!(tried >= 300, "{tried}");
    // What goes through the virtual repository lands in the local one, and is not the remote's.
    house.push(User("admin"), "/v2/docker/team/app", "v1", b"poison").await;
    assert_eq!(
        house
            .answer(User("admin"), "GET", "/v2/hub/team/app/manifests/v1")
            .await,
        expected
    );
    let blob = format!("/v2/hub/team/app/blobs/{blob}");
    assert_eq!(house.answer(User("hub"), "GET", &blob).await.0, 404);
    let poison = [&sha256(b"poison"), &digest].map(|digest| digest.as_str().replace("sha256:", ""));
    let entered = |path: &String| {
        path.contains("/hub/") && (poison.iter().any(|hex| path.contains(hex)) || path.contains("/new/"))
    };
    let entered: Vec<String> = tree(&house.registry.data()).into_iter().filter(entered).collect();
    assert!(entered.is_empty(), "{entered:?}");
}

fn guarded() -> House {
    House::new(
        &["admin", "pusher"],
        "",
        &format!(
            r#"
auth:
  htpasswd: ./htpasswd
  policies:
    - {{ who: [admin], {ALL} }}
    - {{ who: [pusher], may: [pull, push], on: "**" }}
repositories:
  kept: {{ type: local, allow_delete: false, immutable_tags: ["v*"] }}
  free: {{ type: local, allow_delete: true }}
  all: {{ type: virtual, members: [kept, free], push_to: kept }}
"#
        ),
    )
}

async fn put(house: &House, who: Who, path: &str, manifest: &str) -> u16 {
    let request = house.ask(who, "PUT", path).await.header("content-type", OCI_MANIFEST);
    request
        .body(manifest.to_owned())
        .send()
        .await
        .expect("an answer")
        .status()
        .as_u16()
}

#[tokio::test]
async fn s13_an_immutable_tag_is_created_once_whoever_races() {
    let house = guarded();
    let layer = sha256(b"content");
    house.push(User("pusher"), "/v2/kept/app", "dev", b"content").await;
    let config = sha256(b"{}");
    let manifest = |number: usize| {
        let extra = format!(r#","annotations":{{"number":"{number}"}}"#);
        image_manifest((&config, 2), &[(&layer, 7)], &extra)
    };
    // A hundred at once, by every name and as a tag beside a digest too.
    let racing = (0..100_usize).map(|number| {
        let (house, text) = (&house, manifest(number));
        async move {
            let digest = sha256(text.as_bytes());
            let path = match number % 3 {
                0 => "/v2/kept/app/manifests/v1".to_owned(),
                1 => "/all/v2/app/manifests/v1".to_owned(),
                _ => format!("/v2/all/app/manifests/{digest}?tag=v1"),
            };
            put(
                house,
                User(if number % 2 == 0 { "admin" } else { "pusher" }),
                &path,
                &text,
            )
            .await
        }
    });
    let statuses = futures_util::future::join_all(racing).await;
    let created = statuses.iter().filter(|status| **status == 201).count();
    let denied = statuses.iter().filter(|status| **status == 403).count();
    assert_eq!((created, denied), (1, 99), "{statuses:?}");
    let winner = statuses.iter().position(|status| *status == 201).expect("one");
    for path in ["/v2/kept/app/manifests/v1", "/v2/all/app/manifests/v1"] {
        let (_, text) = house.answer(User("pusher"), "GET", path).await;
        assert_eq!(text, manifest(winner));
    }
    // The same again is no change. Other tags move.
    assert_eq!(
        put(&house, User("pusher"), "/v2/kept/app/manifests/v1", &manifest(winner)).await,
        201
    );
    assert_eq!(
        put(&house, User("pusher"), "/v2/kept/app/manifests/dev", &manifest(7)).await,
        201
    );
    // Nor does the API move it.
    let body = serde_json::json!({ "image": "kept/app:v1", "to": sha256(manifest(winner + 1).as_bytes()).as_str() });
    for change in ["pin", "rollback"] {
        let request = house
            .ask(User("admin"), "POST", &format!("/api/v1/tags/{change}"))
            .await;
        let status = request.json(&body).send().await.expect("an answer").status().as_u16();
        assert!(matches!(status, 403 | 404), "{change}: {status}");
    }
    let (_, text) = house.answer(User("pusher"), "GET", "/v2/kept/app/manifests/v1").await;
    assert_eq!(text, manifest(winner));
}

#[tokio::test]
async fn s13_what_may_not_be_deleted_stays_whoever_races() {
    let house = guarded();
    for repository in ["kept", "free"] {
        house
            .push(User("pusher"), &format!("/v2/{repository}/app"), "v1", b"content")
            .await;
    }
    let (layer, manifest) = (sha256(b"content"), manifest_of(b"content"));
    let lines = [
        "manifests/v1".to_owned(),
        format!("manifests/{manifest}"),
        format!("blobs/{layer}"),
    ];
    let everywhere = [
        "/v2/kept/app",
        "/kept/v2/app",
        "/v2/all/app",
        "/all/v2/app",
        "/v2/%6bept/app",
    ];
    // The right to delete is not the right to push, and a repository that keeps everything asks nobody.
    let racing = (0..100_usize).map(|number| {
        let path = format!(
            "{}/{}",
            everywhere[number % everywhere.len()],
            lines[number % lines.len()]
        );
        let who = if number % 2 == 0 { "admin" } else { "pusher" };
        let house = &house;
        async move { (who, house.send(User(who), "DELETE", &path).await.status().as_u16()) }
    });
    for (who, status) in futures_util::future::join_all(racing).await {
        assert_eq!(status, if who == "admin" { 405 } else { 403 });
    }
    for line in &lines {
        assert_eq!(
            house
                .answer(User("pusher"), "GET", &format!("/v2/kept/app/{line}"))
                .await
                .0,
            200,
            "{line}"
        );
        let path = format!("/v2/free/app/{line}");
        assert_eq!(
            house.send(User("pusher"), "DELETE", &path).await.status().as_u16(),
            403,
            "{path}"
        );
        assert_eq!(house.answer(User("pusher"), "GET", &path).await.0, 200, "{line}");
    }
}

#[tokio::test]
async fn s13_a_deleted_blob_does_not_come_back() {
    let house = guarded();
    for repository in ["kept", "free"] {
        house
            .push(User("pusher"), &format!("/v2/{repository}/app"), "v1", b"content")
            .await;
    }
    let layer = sha256(b"content");
    let path = format!("/v2/free/app/blobs/{layer}");
    assert_eq!(house.answer(User("pusher"), "GET", &path).await.0, 200);
    assert_eq!(house.send(User("admin"), "DELETE", &path).await.status().as_u16(), 202);
    // Its bytes are still here, for the other repository: no cache and no dry run of a push brings it back to this one.
    for verb in ["GET", "HEAD"] {
        assert_eq!(
            house.send(User("pusher"), verb, &path).await.status().as_u16(),
            404,
            "{verb}"
        );
    }
    let ranged = house
        .ask(User("pusher"), "GET", &path)
        .await
        .header("range", "bytes=0-1");
    assert_eq!(ranged.send().await.expect("an answer").status().as_u16(), 404);
    let conditional = house
        .ask(User("pusher"), "GET", &path)
        .await
        .header("if-none-match", format!("\"{layer}\""));
    assert_eq!(conditional.send().await.expect("an answer").status().as_u16(), 404);
    let mount = format!("/v2/free/new/blobs/uploads/?mount={layer}&from=free/app");
    assert_eq!(house.send(User("pusher"), "POST", &mount).await.status().as_u16(), 202);
    let (status, _) = house
        .answer(User("pusher"), "GET", &format!("/v2/free/new/blobs/{layer}"))
        .await;
    assert_eq!(status, 404);
    assert_eq!(
        house
            .answer(User("pusher"), "GET", &format!("/v2/kept/app/blobs/{layer}"))
            .await
            .0,
        200
    );
}
