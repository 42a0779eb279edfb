//! Tokens of robots: made, used, revoked, and never seen again.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::passwords::{start, version};
use super::support::{Registry, entrepot, expect, until};

async fn ask(registry: &Registry, method: &str, path: &str, user: &str, body: Option<Value>) -> (StatusCode, Value) {
    let method = method.parse().expect("a method");
    let mut request = registry.client.request(method, registry.url(path));
    if !user.is_empty() {
        request = request.basic_auth(user, Some(format!("pass-{user}")));
    }
    if let Some(body) = body {
        request = request
            .header("content-type", "application/json")
            .body(body.to_string());
    }
    let response = request.send().await.expect("an answer");
    let status = response.status();
    (status, response.json().await.unwrap_or_default())
}

async fn make(registry: &Registry, name: &str, may: &[&str], on: &str) -> (String, String) {
    let body = json!({ "name": name, "scope": [{ "may": may, "on": on }] });
    let (status, made) = ask(registry, "POST", "/api/v1/tokens", "ada", Some(body)).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let part = |key: &str| made[key].as_str().expect(key).to_owned();
    (part("id"), part("token"))
}

async fn may_push(registry: &Registry, name: &str, token: &str) -> StatusCode {
    let request = registry.post(&format!("/v2/{name}/blobs/uploads/"));
    let request = request.basic_auth("whoever", Some(token));
    request.send().await.expect("an answer").status()
}

#[tokio::test]
async fn a_robot_may_what_its_token_is_for_until_it_is_revoked() {
    let registry = start();
    let (id, token) = make(&registry, "ci", &["pull", "push"], "images/team/**").await;
    assert!(token.starts_with(&format!("entrepot_{id}_")) && token.len() == 9 + 16 + 1 + 43);
    assert_eq!(
        may_push(&registry, "images/team/app", &token).await,
        StatusCode::ACCEPTED
    );
    assert_eq!(
        may_push(&registry, "images/other/app", &token).await,
        StatusCode::FORBIDDEN
    );
    // As a Bearer by itself, and in exchange for a token of ours.
    let bearer = registry
        .get("/v2/")
        .bearer_auth(&token)
        .send()
        .await
        .expect("an answer");
    assert_eq!(bearer.status(), StatusCode::OK);
    let exchange = registry.get("/token").basic_auth("ci", Some(&token)).send().await;
    let exchange = expect(exchange.expect("an answer"), StatusCode::OK).await;
    let minted: Value = exchange.json().await.expect("JSON");
    let minted = minted["token"].as_str().expect("a token").to_owned();
    let push = async || {
        let request = registry.post("/v2/images/team/app/blobs/uploads/").bearer_auth(&minted);
        request.send().await.expect("an answer").status()
    };
    assert_eq!(push().await, StatusCode::ACCEPTED);
    // A robot makes no robots, whatever its scope.
    let (status, _) = ask(&registry, "DELETE", &format!("/api/v1/tokens/{id}"), "bob", None).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, revoked) = ask(&registry, "DELETE", "/api/v1/tokens/ci", "ada", None).await;
    assert_eq!((status, revoked["id"].as_str()), (StatusCode::OK, Some(&*id)));
    assert_eq!(
        may_push(&registry, "images/team/app", &token).await,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(push().await, StatusCode::UNAUTHORIZED);
    // One of the same name is another.
    let (_, other) = make(&registry, "ci", &["pull", "push"], "images/team/**").await;
    assert_eq!(
        may_push(&registry, "images/team/app", &other).await,
        StatusCode::ACCEPTED
    );
    assert_eq!(push().await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn only_who_may_do_everything_makes_tokens() {
    let registry = start();
    let body = json!({ "name": "ci", "scope": [{ "may": ["pull"], "on": "**" }] });
    let (_, token) = make(&registry, "admin", &["pull", "push", "delete", "admin"], "images/**").await;
    for (method, path) in [
        ("GET", "/api/v1/tokens"),
        ("POST", "/api/v1/tokens"),
        ("DELETE", "/api/v1/tokens/admin"),
        ("DELETE", "/api/v1/tokens/nobody"),
    ] {
        let sent = (method == "POST").then(|| body.clone());
        let (status, _) = ask(&registry, method, path, "bob", sent.clone()).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}");
        let (status, _) = ask(&registry, method, path, "", sent).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}");
        let request = registry
            .client
            .request(method.parse().expect("a method"), registry.url(path));
        let status = request.bearer_auth(&token).send().await.expect("an answer").status();
        assert_eq!(
            status,
            StatusCode::FORBIDDEN,
            "{method} {path}: not everything is a repository's"
        );
    }
}

#[tokio::test]
async fn what_is_no_token_is_refused_in_words() {
    let registry = start();
    make(&registry, "taken", &["pull"], "**").await;
    let scope = json!([{ "may": ["pull"], "on": "**" }]);
    for (body, expected) in [
        (json!({ "name": "taken", "scope": scope }), 409),
        (json!({ "name": "", "scope": scope }), 400),
        (json!({ "name": "a b", "scope": scope }), 400),
        (json!({ "name": "x".repeat(65), "scope": scope }), 400),
        (json!({ "name": "x", "scope": [] }), 400),
        (json!({ "name": "x", "scope": [{ "may": [], "on": "**" }] }), 400),
        (json!({ "name": "x", "scope": [{ "may": ["rule"], "on": "**" }] }), 400),
        (json!({ "name": "x", "scope": [{ "may": ["pull"], "on": "a{" }] }), 400),
        (json!({ "name": "x", "scope": scope, "expires_in": 0 }), 400),
        (json!({ "name": "x", "scope": scope, "expires_in": u64::MAX }), 400),
        (
            json!({ "name": "x", "scope": scope, "expires_in": 60, "never_expires": true }),
            400,
        ),
        (json!({ "name": "x", "scope": scope, "token": "mine" }), 400),
    ] {
        let (status, answer) = ask(&registry, "POST", "/api/v1/tokens", "ada", Some(body.clone())).await;
        assert_eq!(status.as_u16(), expected, "{body} {answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|text| !text.is_empty()));
    }
    let (status, _) = ask(&registry, "DELETE", "/api/v1/tokens/none", "ada", None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn tokens_outlive_a_restart_and_end_when_they_should() {
    let registry = start();
    let (_, token) = make(&registry, "ci", &["push"], "images/**").await;
    let body = json!({ "name": "short", "scope": [{ "may": ["push"], "on": "**" }], "expires_in": 1 });
    let (_, short) = ask(&registry, "POST", "/api/v1/tokens", "ada", Some(body)).await;
    let short = short["token"].as_str().expect("a token").to_owned();
    let registry = registry.restart();
    assert_eq!(may_push(&registry, "images/app", &token).await, StatusCode::ACCEPTED);
    until("it has expired", async || {
        may_push(&registry, "images/app", &short).await == StatusCode::UNAUTHORIZED
    })
    .await;
    let registry = registry.restart();
    let (_, known) = ask(&registry, "GET", "/api/v1/tokens", "ada", None).await;
    let by_name = |name: &str| {
        let all = known["tokens"].as_array().expect("tokens");
        all.iter()
            .find(|token| token["name"] == name)
            .cloned()
            .expect("a token")
    };
    let ci = by_name("ci");
    assert!(ci["last_used"].is_string() && ci["expires"].is_string(), "{ci}");
    assert_eq!((&ci["expired"], &ci["created_by"]), (&json!(false), &json!("ada")));
    assert_eq!(by_name("short")["expired"], json!(true));
    // Who has ended makes room for a successor of the same name.
    make(&registry, "short", &["pull"], "**").await;
}

#[tokio::test]
async fn s06_a_secret_is_in_one_answer_and_nowhere_else() {
    let registry = start();
    let (_, token) = make(&registry, "ci", &["push"], "images/**").await;
    assert_eq!(may_push(&registry, "images/app", &token).await, StatusCode::ACCEPTED);
    let (_, known) = ask(&registry, "GET", "/api/v1/tokens", "ada", None).await;
    let metrics = registry
        .get("/metrics")
        .basic_auth("ada", Some("pass-ada"))
        .send()
        .await;
    let metrics = metrics.expect("an answer").text().await.expect("text");
    let secret = token.rsplit_once('_').map_or(token.as_str(), |(_, secret)| secret);
    let document = std::fs::read_to_string(registry.data().join("private/robots.json")).expect("a document");
    for (what, text) in [
        ("the list", known.to_string()),
        ("metrics", metrics),
        ("the log", registry.log()),
        ("the disk", document),
    ] {
        assert!(!text.contains(secret), "{what} tells it");
    }
    let mode = std::fs::metadata(registry.data().join("private/robots.json"))
        .expect("a document")
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_list_of_robots_that_cannot_be_read_is_no_empty_one() {
    let registry = start();
    make(&registry, "ci", &["pull"], "**").await;
    let file = registry.data().join("private/robots.json");
    let configuration = registry.directory.path().join("repositories.yml");
    let directory = registry.kill();
    std::fs::write(&file, "{").expect("a file");
    let failed = entrepot(&["serve", "-c"])
        .arg(&configuration)
        .output()
        .expect("it runs");
    assert!(!failed.status.success());
    let told = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(told.contains("robots.json") && told.contains("bring it back"), "{told}");
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), "{");
    drop(directory);
}

fn run(registry: &Registry, home: &Path, arguments: &[&str]) -> Output {
    let url = registry.url("");
    entrepot(arguments)
        .args(["--server", url.trim_end_matches('/')])
        .env("DOCKER_CONFIG", home)
        .env_remove("REGISTRY_AUTH_FILE")
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("ENTREPOT_TOKEN")
        .output()
        .expect("it runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_makes_lists_and_revokes_as_whoever_logged_in() {
    let registry = start();
    let home = tempfile::tempdir().expect("a directory");
    let refused = run(&registry, home.path(), &["token", "list"]);
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("docker login"), "{told}");
    let config = |entry: Value| {
        let config = json!({ "auths": { registry.address(): entry } });
        std::fs::write(home.path().join("config.json"), config.to_string()).expect("a file");
    };
    config(json!({ "auth": STANDARD.encode("ada:pass-ada") }));
    let create = [
        "token",
        "create",
        "ci",
        "--may",
        "pull,push",
        "--on",
        "images/**",
        "--expires-in",
        "1h",
    ];
    let made = run(&registry, home.path(), &create);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let token = String::from_utf8(made.stdout).expect("text").trim().to_owned();
    assert_eq!(may_push(&registry, "images/app", &token).await, StatusCode::ACCEPTED);
    let list = run(&registry, home.path(), &["token", "list"]);
    let listed = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(
        listed.contains("may pull, push on images/**") && !listed.contains(&token),
        "{listed}"
    );
    // As docker keeps it when it was given a token for tokens.
    let form = "grant_type=password&username=ada&password=pass-ada&access_type=offline&service=x&client_id=x";
    let form_type = "application/x-www-form-urlencoded";
    let response = registry
        .post("/token")
        .header("content-type", form_type)
        .body(form)
        .send()
        .await;
    let response: Value = response.expect("an answer").json().await.expect("JSON");
    config(json!({ "identitytoken": response["refresh_token"].as_str().expect("a token for tokens") }));
    let revoked = run(&registry, home.path(), &["token", "revoke", "ci"]);
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    assert_eq!(
        may_push(&registry, "images/app", &token).await,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(version(&registry, "ada", "pass-ada").await.status(), StatusCode::OK);
}
