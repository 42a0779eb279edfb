//! Rights that were looked at in one place and not in another.

use reqwest::StatusCode;

use crate::binary::{OCI_MANIFEST, image_manifest, sha256};
use crate::people::{ADA, BOB, EVE, MALLORY, Secured, told, until_answered};
use crate::raw;

/// artifact-keeper served `/v2` outside of what looks at rights: every user could pull every image.
#[tokio::test]
async fn artifact_keeper_3268_a_login_is_not_a_right() {
    let secured = Secured::start().await;
    let (manifest, layer) = (secured.manifest.as_str(), secured.layer.as_str());
    for base in ["/v2/private/app", "/private/v2/app"] {
        for what in [
            "manifests/v1".to_owned(),
            format!("manifests/{manifest}"),
            format!("blobs/{layer}"),
            "tags/list".to_owned(),
            format!("referrers/{manifest}"),
        ] {
            let path = format!("{base}/{what}");
            assert_eq!(
                secured.ask("GET", &path, Some(ADA)).await.status(),
                StatusCode::OK,
                "{path}"
            );
            for method in ["GET", "HEAD"] {
                for (who, status) in [
                    (None, StatusCode::UNAUTHORIZED),
                    (Some(BOB), StatusCode::FORBIDDEN),
                    (Some(EVE), StatusCode::FORBIDDEN),
                    (Some(MALLORY), StatusCode::FORBIDDEN),
                ] {
                    let response = secured.ask(method, &path, who).await;
                    assert_eq!(response.status(), status, "{method} {path} as {who:?}");
                }
            }
        }
    }
}

/// nora looked at rights for manifests only. Each road to a blob is one.
#[tokio::test]
async fn nora_ghsa_4j4m_ranges_and_conditions_go_round_nothing() {
    let secured = Secured::start().await;
    let path = format!("/v2/private/app/blobs/{}", secured.layer);
    for (name, value) in [
        ("range", "bytes=0-1".to_owned()),
        ("if-none-match", "*".to_owned()),
        ("if-none-match", format!("\"{}\"", secured.layer)),
        ("if-range", "\"x\"".to_owned()),
        ("x-original-url", "/v2/public/app/manifests/v1".to_owned()),
        ("x-rewrite-url", "/v2/".to_owned()),
    ] {
        let request = secured.request("GET", &path).header(name, &value);
        let response = secured.send(request, Some(BOB)).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{name}: {value}");
        assert!(!response.text().await.unwrap().contains("for ada"));
    }
}

/// artifact-keeper showed a private member through a public virtual repository.
#[tokio::test]
async fn artifact_keeper_3399_a_virtual_shows_nobody_more_than_its_members_do() {
    let secured = Secured::start().await;
    // Both have an `app`: who may not see the private one gets the public one, and of the private digest nothing.
    for base in ["/v2/all", "/all/v2", "/v2"] {
        for who in [None, Some(BOB)] {
            let response = secured.ask("GET", &format!("{base}/app/manifests/v1"), who).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()["x-entrepot-repository"], "public");
            for what in [
                format!("manifests/{}", secured.manifest),
                format!("blobs/{}", secured.layer),
            ] {
                let response = secured.ask("GET", &format!("{base}/app/{what}"), who).await;
                let expected = if who.is_none() {
                    StatusCode::UNAUTHORIZED
                } else {
                    StatusCode::NOT_FOUND
                };
                assert_eq!(response.status(), expected, "{base} {what} as {who:?}");
            }
        }
        let response = secured
            .ask("GET", &format!("{base}/app/blobs/{}", secured.layer), Some(ADA))
            .await;
        assert_eq!(response.status(), StatusCode::OK);
    }
}

/// artifact-keeper's and Harbor's catalogs listed everything to everybody.
#[tokio::test]
async fn cve_2020_29662_a_catalog_lists_what_its_reader_may_read() {
    let secured = Secured::start().await;
    for (who, shown) in [
        (None, "app"),
        (Some(BOB), "app"),
        (Some(EVE), "app shared"),
        (Some(ADA), "app hidden shared"),
    ] {
        for path in ["/v2/_catalog", "/all/v2/_catalog"] {
            let response = secured.ask("GET", path, who).await;
            let document: serde_json::Value = response.json().await.unwrap();
            let names: Vec<&str> = document["repositories"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|name| name.as_str()?.split('/').next_back())
                .collect();
            assert_eq!(names.join(" "), shown, "{path} as {who:?}");
        }
    }
    for who in [None, Some(BOB), Some(EVE), Some(MALLORY)] {
        let text = told(secured.ask("GET", "/private/v2/_catalog", who).await, &[]).await;
        assert!(!text.contains("hidden") && !text.contains("\"app\""), "{who:?}: {text}");
    }
}

/// Harbor said 404 for one and 403 for the other: what is private and what is nowhere look alike.
#[tokio::test]
async fn cve_2019_19030_private_and_absent_look_alike() {
    let secured = Secured::start().await;
    let absent = sha256(b"absent");
    for who in [None, Some(BOB)] {
        for (there, nowhere) in [
            (
                "private/app/manifests/v1".to_owned(),
                "private/zzz/manifests/v1".to_owned(),
            ),
            ("private/app/tags/list".to_owned(), "private/zzz/tags/list".to_owned()),
            (
                format!("private/app/blobs/{}", secured.layer),
                format!("private/app/blobs/{absent}"),
            ),
            (
                format!("private/app/manifests/{}", secured.manifest),
                format!("private/app/manifests/{absent}"),
            ),
            (
                format!("public/app/blobs/{}", secured.layer),
                format!("public/app/blobs/{absent}"),
            ),
            (
                format!("all/app/manifests/{}", secured.manifest),
                format!("all/app/manifests/{absent}"),
            ),
        ] {
            for method in ["GET", "HEAD"] {
                let differing = [
                    "private/app",
                    "private/zzz",
                    secured.layer.as_str(),
                    secured.manifest.as_str(),
                    absent.as_str(),
                ];
                let there = told(secured.ask(method, &format!("/v2/{there}"), who).await, &differing).await;
                let nowhere = told(secured.ask(method, &format!("/v2/{nowhere}"), who).await, &differing).await;
                assert_eq!(there, nowhere, "{method} as {who:?}");
            }
        }
    }
}

/// openshift gave any blob to whoever may read any image.
#[tokio::test]
async fn openshift_9755_a_blob_is_not_read_by_way_of_another_image() {
    let secured = Secured::start().await;
    for base in ["/v2/public/app", "/v2/public/other", "/v2/all/app"] {
        let response = secured
            .ask("GET", &format!("{base}/blobs/{}", secured.layer), Some(BOB))
            .await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{base}");
    }
}

/// Gitea made an object one's own for whoever knew its digest.
#[tokio::test]
async fn cve_2026_28740_knowing_a_digest_makes_nothing_ones_own() {
    let secured = Secured::start().await;
    let (layer, read) = (&secured.layer, format!("/v2/public/mine/blobs/{}", secured.layer));
    // By a manifest that names it.
    let request = secured
        .request("PUT", "/v2/public/mine/manifests/v1")
        .header("content-type", OCI_MANIFEST);
    let request = request.body(image_manifest((layer, 7), &[], ""));
    assert_eq!(
        secured.send(request, Some(MALLORY)).await.status(),
        StatusCode::BAD_REQUEST
    );
    // By an upload of something else under its name.
    let request = secured
        .request("POST", &format!("/v2/public/mine/blobs/uploads/?digest={layer}"))
        .body("guess");
    assert_eq!(
        secured.send(request, Some(MALLORY)).await.status(),
        StatusCode::BAD_REQUEST
    );
    let request = secured.request("POST", &format!("/v2/public/mine/blobs/uploads/?digest={layer}"));
    assert!(secured.send(request, Some(MALLORY)).await.status().is_client_error());
    assert_eq!(
        secured.ask("GET", &read, Some(MALLORY)).await.status(),
        StatusCode::NOT_FOUND
    );
}

/// The specification's own note: a mount tells whether a blob is somewhere.
#[tokio::test]
async fn distribution_spec_275_a_mount_without_the_right_is_one_of_nothing() {
    let secured = Secured::start().await;
    let absent = sha256(b"absent");
    for from in ["&from=private/app", "&from=all/app", ""] {
        let mut answers = Vec::new();
        for digest in [&secured.layer, &absent] {
            let path = format!("/v2/public/mine/blobs/uploads/?mount={digest}{from}");
            let response = secured.ask("POST", &path, Some(MALLORY)).await;
            assert_eq!(response.status(), StatusCode::ACCEPTED, "{path}");
            let location = response.headers()["location"].to_str().unwrap().to_owned();
            let id = location
                .split('?')
                .next()
                .unwrap()
                .rsplit('/')
                .next()
                .unwrap()
                .to_owned();
            answers.push(told(response, &[&id, &location]).await);
        }
        assert_eq!(answers[0], answers[1], "{from}");
        let read = format!("/v2/public/mine/blobs/{}", secured.layer);
        assert_eq!(
            secured.ask("GET", &read, Some(MALLORY)).await.status(),
            StatusCode::NOT_FOUND
        );
    }
    // With it, it is one.
    let path = format!(
        "/v2/public/mine/blobs/uploads/?mount={}&from=private/app",
        secured.layer
    );
    assert_eq!(
        secured.ask("POST", &path, Some(ADA)).await.status(),
        StatusCode::CREATED
    );
}

/// artifact-keeper looked at the name as written and served the decoded one.
#[tokio::test]
async fn ghsa_fv45_a_name_is_read_once() {
    let secured = Secured::start().await;
    for path in [
        "/v2/privat%65/app/manifests/v1",
        "/v2/%70rivate/app/manifests/v1",
        "/v2/private%2Fapp/manifests/v1",
        "/v2/PRIVATE/app/manifests/v1",
        "/v2//private/app/manifests/v1",
        "/v2/./private/app/manifests/v1",
        "/v2/public/../private/app/manifests/v1",
        "/v2/public/%2e%2e/private/app/manifests/v1",
        "/v2/private/app/manifests/%761",
        "/privat%65/v2/app/manifests/v1",
        "/v2/private/app/%6danifests/v1",
        "/%76%32/private/app/manifests/v1",
        "/v2/private/app/manifests/v1;x",
        "/v2/private/app/manifests/v1?ns=public",
        "http://public/v2/private/app/manifests/v1",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = raw(secured.registry.address(), request.as_bytes());
        let status: u16 = answer.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
        assert!((400..500).contains(&status), "{path}: {answer}");
        assert!(!answer.contains("schemaVersion"), "{path}: {answer}");
    }
}

/// angos asked its policy only about repositories that the configuration declares.
#[tokio::test]
async fn angos_1_5_0_a_name_that_nobody_declared_passes_the_same_gate() {
    let secured = Secured::start().await;
    for (method, path) in [
        ("POST", "/v2/undeclared/app/blobs/uploads/"),
        ("PUT", "/v2/undeclared/app/manifests/v1"),
        ("DELETE", "/v2/undeclared/app/manifests/v1"),
        ("POST", "/undeclared/v2/app/blobs/uploads/"),
        ("PUT", "/v2/app/manifests/v1"),
    ] {
        for (who, refused) in [(None, StatusCode::UNAUTHORIZED), (Some(BOB), StatusCode::FORBIDDEN)] {
            let request = secured
                .request(method, path)
                .header("content-type", OCI_MANIFEST)
                .body("{}");
            let status = secured.send(request, who).await.status();
            // A key that does not exist may be said not to.
            assert!(
                status == refused || path.starts_with("/undeclared") && status == StatusCode::NOT_FOUND,
                "{method} {path}: {status}"
            );
        }
    }
}

/// Moby did not look at the rights of a request whose body was too long.
#[tokio::test]
async fn cve_2026_34040_a_body_too_long_is_refused_for_want_of_a_right_first() {
    let secured = Secured::start().await;
    for (who, refused) in [(None, StatusCode::UNAUTHORIZED), (Some(BOB), StatusCode::FORBIDDEN)] {
        for length in [10, (4 << 20) + 1] {
            let request = secured
                .request("PUT", "/v2/private/app/manifests/v1")
                .header("content-type", OCI_MANIFEST);
            let request = request.header("expect", "100-continue").body(vec![b' '; length]);
            let request = match who {
                Some((user, password)) => request.basic_auth(user, Some(password)),
                None => request,
            };
            // The connection may be closed while there is still something to send; what is not may be the wrong answer.
            if let Ok(response) = request.send().await {
                assert_eq!(response.status(), refused, "{length} bytes as {who:?}");
            }
        }
    }
}

/// Harbor let users make themselves administrators, and change what belongs to other projects.
#[tokio::test]
async fn cve_2019_16097_nobody_gives_themselves_rights() {
    let secured = Secured::start().await;
    let image = secured.registry.url("/v2/private/app").replace("http://", "");
    for (path, body) in [
        ("/api/v1/tags/pin", r#"{"image":"private/app:v1"}"#.to_owned()),
        (
            "/api/v1/tags/rollback",
            format!(r#"{{"image":"private/app:v1","to":"{}"}}"#, secured.manifest),
        ),
        ("/api/v1/prefetch", r#"{"images":["private/app:v1"]}"#.to_owned()),
        (
            "/api/v1/tokens",
            r#"{"name":"mine","scope":[{"may":["admin"],"on":"**"}],"admin":true}"#.to_owned(),
        ),
    ] {
        for (who, refused) in [
            (None, StatusCode::UNAUTHORIZED),
            (Some(BOB), StatusCode::FORBIDDEN),
            (Some(EVE), StatusCode::FORBIDDEN),
            (Some(MALLORY), StatusCode::FORBIDDEN),
        ] {
            let request = secured.request("POST", path).header("content-type", "application/json");
            let response = secured.send(request.body(body.clone()), who).await;
            assert_eq!(response.status(), refused, "{path} as {who:?} of {image}");
        }
    }
}

/// zot went on taking the groups that somebody had been in.
#[tokio::test]
async fn cve_2025_23208_who_has_left_a_group_has_left_it_at_the_reload() {
    let secured = Secured::start().await;
    let path = "/v2/team/app/manifests/v1";
    let token = secured.token(EVE).await;
    assert_eq!(secured.bearer(path, &token).await.status(), StatusCode::OK);
    assert_eq!(secured.ask("GET", path, Some(EVE)).await.status(), StatusCode::OK);
    secured.change("repositories.yml", "devs: [eve]", "devs: [bob]");
    until_answered(&secured, path, &token, StatusCode::FORBIDDEN).await;
    assert_eq!(
        secured.ask("GET", path, Some(EVE)).await.status(),
        StatusCode::FORBIDDEN
    );
    assert_eq!(secured.ask("GET", path, Some(BOB)).await.status(), StatusCode::OK);
}
