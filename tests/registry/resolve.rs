//! `entrepot resolve`: what it says is what a pull or push comes to, and it says why.

use reqwest::StatusCode;
use serde_json::Value;

use crate::support::{Registry, entrepot, expect, header, temporary};

/// What it says, as JSON, and its exit code.
fn resolve(registry: &Registry, arguments: &[&str], login: Option<&str>) -> (Option<i32>, Value, String) {
    let mut command = entrepot(&["resolve", "--json"]);
    command.args(arguments).env("ENTREPOT_SERVER", registry.url(""));
    if let Some(login) = login {
        let config = registry.directory.path().join("docker");
        std::fs::create_dir_all(&config).expect("a directory");
        let auth = base64(login.as_bytes());
        let document = serde_json::json!({ "auths": { registry.address(): { "auth": auth } } });
        std::fs::write(config.join("config.json"), document.to_string()).expect("docker's configuration");
        command.env("DOCKER_CONFIG", &config);
    }
    let output = command.output().expect("it runs");
    let errors = String::from_utf8(output.stderr).expect("text");
    let document = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), document, errors)
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// `repository verdict` of every member.
fn verdicts(document: &Value) -> Vec<String> {
    let members = document["members"].as_array().expect("members");
    let word = |member: &Value, key: &str| member[key].as_str().expect(key).to_owned();
    members
        .iter()
        .map(|member| format!("{} {}", word(member, "repository"), word(member, "verdict")))
        .collect()
}

fn why<'a>(document: &'a Value, repository: &str) -> &'a str {
    let members = document["members"].as_array().expect("members");
    let member = members.iter().find(|member| member["repository"] == repository);
    member.expect(repository)["why"].as_str().expect("why")
}

fn behind(upstream: &Registry) -> String {
    let address = upstream.address();
    format!(
        "repositories:
  own: {{ type: local, immutable_tags: ['v*'] }}
  near: {{ type: remote, url: 'http://{address}/near', insecure: true, tag_ttl: 1h }}
  picky: {{ type: remote, url: 'http://{address}/far', insecure: true, include: ['nothing/**'] }}
  far: {{ type: remote, url: 'http://{address}/far', insecure: true, tag_ttl: 0s }}
  gone: {{ type: remote, url: 'http://127.0.0.1:1', insecure: true }}
  docker: {{ type: virtual, members: [{{ repository: own, priority: true }}, near, picky, gone, far], push_to: own, serves: [docker.io], hosts: [images.example.com] }}
default: docker
"
    )
}

fn upstream() -> Registry {
    Registry::start("repositories: { near: { type: local }, far: { type: local } }")
}

#[tokio::test]
async fn what_is_told_of_a_pull_is_what_a_pull_gets() {
    let upstream = upstream();
    let near = upstream.push_image("/v2/near/library/app", "v1", b"near").await;
    upstream.push_image("/v2/far/library/app", "v1", b"far").await;
    let last = upstream.push_image("/v2/far/last", "v1", b"last").await;
    let registry = Registry::start(&behind(&upstream));

    // However it is written.
    let own = format!("{}/library/app:v1", registry.address());
    for (index, image) in [
        "docker/library/app:v1",
        "library/app:v1",
        "docker.io/library/app:v1",
        "docker.io/app:v1",
        "index.docker.io/library/app:v1",
        "images.example.com/library/app:v1",
        &own,
    ]
    .into_iter()
    .enumerate()
    {
        let (code, document, errors) = resolve(&registry, &[image], None);
        assert_eq!(code, Some(0), "{image}: {errors}");
        assert_eq!(document["answer"]["digest"], near.as_str(), "{image}: {document}");
        assert_eq!(document["answer"]["repository"], "near");
        assert_eq!(
            document["answer"]["cache"],
            if index == 0 { "MISS" } else { "HIT" },
            "{image}"
        );
        assert_eq!(
            verdicts(&document),
            [
                "own absent",
                "near answered",
                "picky skipped",
                "gone skipped",
                "far skipped"
            ]
        );
        assert!(why(&document, "far").contains("`near` comes before it"), "{document}");
    }
    let response = registry
        .head("/v2/docker/library/app/manifests/v1")
        .send()
        .await
        .expect("an answer");
    let response = expect(response, StatusCode::OK).await;
    assert_eq!(header(&response, "docker-content-digest"), near.as_str());

    // Who does not have it, who cannot tell, and who is not for it.
    let (code, document, errors) = resolve(&registry, &["last:v1"], None);
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(
        verdicts(&document),
        [
            "own absent",
            "near absent",
            "picky absent",
            "gone failed",
            "far answered"
        ]
    );
    assert!(why(&document, "picky").contains("include"), "{document}");
    assert!(why(&document, "gone").ends_with("; passed over"), "{document}");
    assert_eq!(document["answer"]["digest"], last.as_str());
    let far = &document["members"][4];
    let url = format!("http://{}/v2/far/last/manifests/v1", upstream.address());
    assert_eq!(far["url"], url.as_str(), "{document}");
    let (_, document, _) = resolve(&registry, &["last:v1"], None);
    assert!(why(&document, "near").contains("negative_ttl"), "{document}");
    assert_eq!(document["answer"]["cache"], "REVALIDATED", "{document}");

    // By digest, what is stored comes first.
    let (_, document, _) = resolve(&registry, &[&format!("docker/last@{last}")], None);
    assert_eq!(document["answer"]["cache"], "HIT", "{document}");

    // An image of our own is asked for nowhere else.
    registry.push_image("/v2/own/team/app", "dev", b"ours").await;
    let (code, document, errors) = resolve(&registry, &["team/app:none"], None);
    assert_eq!(code, Some(1), "{document}");
    assert!(errors.contains("nothing answers"), "{errors}");
    assert_eq!(document["refused"]["status"], 404, "{document}");
    assert_eq!(
        verdicts(&document),
        [
            "own absent",
            "near skipped",
            "picky skipped",
            "gone skipped",
            "far skipped"
        ]
    );
    assert!(
        why(&document, "near").contains("`own`, which has `priority`"),
        "{document}"
    );
    assert!(!upstream.log().contains("team/app"), "its name left");

    // Nothing of it was fetched but manifests.
    let log = upstream.log();
    let fetched = |line: &&str| line.contains("\"GET\"") && line.contains("/blobs/");
    assert_eq!(log.lines().find(fetched), None);

    // What for a person is said is said without JSON, too.
    let output = entrepot(&["resolve", "last:v1", "--server"])
        .arg(registry.url(""))
        .output();
    let text = String::from_utf8(output.expect("it runs").stdout).expect("text");
    assert!(text.contains("gone   failed    ") && text.contains(&url), "{text}");
    assert!(text.contains(&format!("answered by far: {last}")), "{text}");
}

#[tokio::test]
async fn names_that_mean_nothing_are_told_why() {
    let upstream = upstream();
    let registry = Registry::start(&behind(&upstream));
    for (arguments, code, says) in [
        (&["ghcr.io/app"][..], 1, "no repository here answers for `ghcr.io`"),
        (&["other:5000/app:v1"], 1, "no repository here answers for `other:5000`"),
        (&["own/app:v1"], 1, "has no manifest v1 of app"),
        (&["gone/app:v1"], 1, "`gone` could not be asked"),
        (&["App"], 2, "lower"),
        (&["app:v1", "--group", "x"], 2, "--as"),
    ] {
        let (exit, document, errors) = resolve(&registry, arguments, None);
        assert_eq!(exit, Some(code), "{arguments:?}: {document} {errors}");
        assert!(errors.contains(says), "{arguments:?}: {errors}");
    }
    for query in [
        "",
        "?image=app&push=perhaps",
        "?image=app&as=",
        "?image=app&group=x",
        "?image=app&other=1",
    ] {
        let path = format!("/api/v1/resolve{query}");
        let status = registry.get(&path).send().await.expect("an answer").status();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
    }
}

#[tokio::test]
async fn a_push_is_told_where_it_would_land() {
    let upstream = upstream();
    let registry = Registry::start(&behind(&upstream));
    registry.push_image("/v2/own/team/app", "v1", b"ours").await;
    for (image, lands) in [
        ("docker/team/app:v2", true),
        ("team/app", true),
        ("own/team/app:dev", true),
        // It means something already, and may mean nothing else.
        ("team/app:v1", false),
        ("near/team/app", false),
    ] {
        let (code, document, errors) = resolve(&registry, &[image, "--push"], None);
        assert_eq!(code, Some(i32::from(!lands)), "{image}: {document} {errors}");
        assert_eq!(document["push_to"]["repository"] == "own", lands, "{image}: {document}");
    }
    let (_, document, _) = resolve(&registry, &["near/app", "--push"], None);
    assert!(document.to_string().contains("push to `docker` or `own`"), "{document}");
    let (_, document, _) = resolve(&registry, &["team/app:v1", "--push"], None);
    assert!(document.to_string().contains("immutable"), "{document}");
}

#[tokio::test]
async fn somebody_elses_rights_are_told_to_who_may_everything() {
    let upstream = upstream();
    let digest = upstream.push_image("/v2/far/team/far", "v1", b"far").await;
    let directory = temporary();
    let hash = bcrypt::hash("secret", 4).expect("a hash");
    let users = format!("ada:{hash}\nbob:{hash}\n");
    std::fs::write(directory.path().join("htpasswd"), users).expect("a password file");
    let rules = r#"
auth:
  anonymous: pull
  htpasswd: ./htpasswd
  groups: { far: [eve] }
  policies:
    - { who: ["*"], may: [pull], on: "own/open/**" }
    - { who: [ada], may: [pull, push, delete, admin], on: "**" }
    - { who: [bob], may: [pull, push], on: "own/team/**" }
    - { who: ["@far"], may: [pull], on: "docker/team/**" }
"#;
    let configuration = format!(
        "server: {{ listen: '127.0.0.1:0' }}\nstorage: {{ path: data }}\n{rules}{}",
        behind(&upstream)
    );
    let open = format!(
        "server: {{ listen: '127.0.0.1:0' }}\nstorage: {{ path: data }}\n{}",
        behind(&upstream)
    );
    let registry = Registry::start_in(&directory, &open);
    registry.push_image("/v2/own/team/app", "v1", b"ours").await;
    registry.stop();
    let registry = Registry::start_in(&directory, &configuration);
    let ada = Some("ada:secret");
    let (code, document, errors) = resolve(&registry, &["docker/team/far:v1"], ada);
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(document["answer"]["digest"], digest.as_str(), "{document}");
    assert_eq!(document["verdicts"][0]["allowed"], true);
    let by = document["verdicts"][0]["by"].as_str().expect("a rule");
    assert!(by.starts_with("rule 2 of `auth.policies`, { who: [ada]"), "{by}");
    let who_may = document["who_may"].to_string();
    assert!(who_may.contains("@far") && who_may.contains("bob"), "{who_may}");

    // Bob sees only what is pushed here, of all that is behind the name.
    let (code, document, _) = resolve(&registry, &["docker/team/far:v1", "--as", "bob"], ada);
    assert_eq!(code, Some(1), "{document}");
    assert_eq!(document["refused"]["status"], 404, "{document}");
    assert_eq!(document["as"], "bob");
    let not = document["verdicts"].as_array().expect("verdicts");
    assert!(not.iter().any(|verdict| verdict["allowed"] == false), "{document}");
    assert!(not.iter().any(|verdict| verdict["allowed"] == true), "{document}");
    let (code, document, _) = resolve(&registry, &["docker/team/far:v1", "--as", "bob", "--group", "far"], ada);
    assert_eq!(
        (code, &document["answer"]["repository"]),
        (Some(0), &"far".into()),
        "{document}"
    );
    let (code, document, _) = resolve(&registry, &["docker/team/far:v1", "--as", "anonymous"], ada);
    assert_eq!(
        (code, &document["refused"]["status"]),
        (Some(1), &401.into()),
        "{document}"
    );
    let (_, document, _) = resolve(&registry, &["docker/open/app", "--push", "--as", "nobody"], ada);
    assert_eq!(document["refused"]["status"], 403, "{document}");
    assert!(
        document["note"].as_str().expect("a note").contains("password file"),
        "{document}"
    );
    let (code, document, _) = resolve(&registry, &["docker/team/app", "--push", "--as", "bob"], ada);
    assert_eq!(
        (code, &document["push_to"]["repository"]),
        (Some(0), &"own".into()),
        "{document}"
    );
    let (code, _, errors) = resolve(&registry, &["docker/team/app", "--as", "robot:none"], ada);
    assert_eq!(code, Some(2), "{errors}");

    // Others learn what a pull tells them, and not who may what or what is hidden.
    let (code, _, errors) = resolve(&registry, &["docker/team/app", "--as", "ada"], Some("bob:secret"));
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("may not administer"), "{errors}");
    let (code, document, errors) = resolve(&registry, &["docker/team/app:v1"], Some("bob:secret"));
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(document["answer"]["repository"], "own");
    assert!(
        document["members"].is_null() && document.get("verdicts").is_none(),
        "{document}"
    );
    assert!(document.get("who_may").is_none(), "{document}");
    let (code, _, errors) = resolve(&registry, &["docker/team/app:v1"], None);
    assert_eq!(code, Some(1));
    assert!(errors.contains("log in"), "{errors}");
}
