//! The configuration as the commands see it: mistakes, reloads, and what is refused.

use std::process::Output;

use reqwest::StatusCode;

use crate::support::{Registry, entrepot, expect, temporary, until};

/// Ten different mistakes, one a line where that can be.
const TEN: &str = "\
server:
  listen: 127.0.0.1:99999
  drain: soon
storge: { path: data }
repositories:
  v2: { type: local }
  images: { type: local, allow_delte: true }
  hub: { type: remote, url: 'ftp://example.com' }
  ecr: { type: remote, url: 'https://ecr.example.com', tag_ttl: [5m] }
  docker: { type: virtual, members: [images, nobody], push_to: hub }
  circle: { type: virtual, members: [circle] }
";

fn run(arguments: &[&str], configuration: &str) -> Output {
    let directory = temporary();
    let file = directory.path().join("repositories.yml");
    std::fs::write(&file, configuration).expect("written");
    entrepot(arguments).arg("-c").arg(&file).output().expect("it runs")
}

#[test]
fn ten_mistakes_are_ten_reports_each_at_its_place() {
    for (command, code) in [("serve", 2), ("check", 1)] {
        let output = run(&[command], TEN);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let errors = String::from_utf8_lossy(&output.stderr);
        for place in [
            "repositories.yml:2:11:",
            "repositories.yml:3:10:",
            "repositories.yml:4:1:",
            "repositories.yml:6:3:",
            "repositories.yml:7:26:",
            "repositories.yml:8:29:",
            "repositories.yml:9:65:",
            "repositories.yml:10:46:",
            "repositories.yml:10:64:",
            "repositories.yml:11:38:",
        ] {
            assert!(errors.contains(place), "{place} is not in\n{errors}");
        }
        assert!(errors.contains("10 problems"), "{errors}");
        assert!(errors.contains("did you mean `storage`?"), "{errors}");
        assert!(errors.contains("did you mean `allow_delete`?"), "{errors}");
    }
}

#[test]
fn the_worked_example_has_no_problems() {
    let example = include_str!("../../repositories.yml");
    let output = run(&["check"], example);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn without_auth_only_a_loopback_address_is_listened_on() {
    let text = |auth: &str| {
        format!("server: {{ listen: '0.0.0.0:5000' }}\n{auth}repositories: {{ images: {{ type: local }} }}\n")
    };
    let output = run(&["check"], &text(""));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("auth"), "{output:?}");
    for anonymous in ["none", "pull", "all"] {
        let output = run(&["check"], &text(&format!("auth: {{ anonymous: {anonymous} }}\n")));
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn the_schema_is_json_and_knows_the_keys() {
    let output = entrepot(&["schema"]).output().expect("it runs");
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(schema["$schema"].is_string());
    assert!(schema.to_string().contains("push_to"));
}

#[tokio::test]
async fn without_a_file_named_the_built_in_configuration_serves() {
    let directory = temporary();
    std::fs::write(directory.path().join("repositories.yml"), ONE).expect("written");
    let mut command = entrepot(&[]);
    command
        .current_dir(directory.path())
        .env("ENTREPOT__SERVER__LISTEN", "127.0.0.1:0");
    let registry = Registry::started_by(&directory, &mut command);
    let status = async |path: &str| registry.get(path).send().await.expect("an answer").status();
    for key in ["docker-local", "docker-hub", "docker"] {
        assert_eq!(status(&format!("/{key}/v2/")).await, StatusCode::OK, "{key}");
    }
    assert_eq!(
        status("/images/v2/").await,
        StatusCode::NOT_FOUND,
        "the file that lies here was read"
    );
    let output = entrepot(&["check"])
        .current_dir(directory.path())
        .output()
        .expect("it runs");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("1 repository, no problems"),
        "{output:?}"
    );
}

#[test]
fn a_wrong_command_line_is_exit_2() {
    let output = entrepot(&["serv"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let output = entrepot(&["--help"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0));
}

const ONE: &str =
    "server: { listen: '127.0.0.1:0' }\nstorage: { path: data }\nrepositories: { images: { type: local } }\n";
const TWO: &str = "server: { listen: '127.0.0.1:0' }\nstorage: { path: data }\nrepositories: { images: { type: local }, more: { type: local } }\n";

#[tokio::test]
async fn a_good_change_takes_effect_and_a_bad_one_changes_nothing() {
    let directory = temporary();
    let registry = Registry::start_in(&directory, ONE);
    let file = directory.path().join("repositories.yml");
    let status = async || {
        let response = registry.get("/more/v2/").send().await.expect("an answer");
        response.status()
    };
    let digest = registry.push_blob("/v2/images/app", b"half").await;
    let response = registry
        .post("/v2/images/app/blobs/uploads/")
        .send()
        .await
        .expect("an answer");
    let location = crate::support::header(&expect(response, StatusCode::ACCEPTED).await, "location").to_owned();
    assert_eq!(status().await, StatusCode::NOT_FOUND);

    std::fs::write(&file, TWO).expect("written");
    registry.signal("-HUP");
    until("the second repository is there", async || {
        status().await == StatusCode::OK
    })
    .await;

    std::fs::write(&file, TEN).expect("written");
    registry.signal("-HUP");
    until("the refusal is counted", async || {
        registry
            .metrics()
            .await
            .contains("entrepot_config_last_reload_successful 0")
    })
    .await;
    assert_eq!(status().await, StatusCode::OK);
    until("the refusal is logged", async || {
        registry.log().contains("repositories.yml:2:11")
    })
    .await;

    // An upload begun before both goes on after them.
    let response = registry
        .put(&format!("{location}?digest={digest}"))
        .body("half")
        .send()
        .await
        .expect("an answer");
    expect(response, StatusCode::CREATED).await;

    // Without a signal too: the content is looked at now and then.
    std::fs::write(&file, TWO).expect("written");
    until("the good one is taken again", async || {
        registry
            .metrics()
            .await
            .contains("entrepot_config_last_reload_successful 1")
    })
    .await;
}

#[tokio::test]
async fn anonymous_callers_may_what_auth_says() {
    let text = |anonymous: &str| {
        format!(
            "server: {{ listen: '127.0.0.1:0' }}\nstorage: {{ path: data }}\nauth: {{ anonymous: {anonymous} }}\nrepositories: {{ images: {{ type: local }} }}\n"
        )
    };
    let directory = temporary();
    let registry = Registry::start_in(&directory, &text("all"));
    registry.push_image("/v2/images/app", "v1", b"content").await;
    drop(registry);
    for (anonymous, pull, push) in [("pull", 200, 401), ("none", 401, 401)] {
        let registry = Registry::start_in(&directory, &text(anonymous));
        let response = registry
            .get("/v2/images/app/manifests/v1")
            .send()
            .await
            .expect("an answer");
        assert_eq!(response.status().as_u16(), pull);
        let response = registry
            .post("/v2/images/app/blobs/uploads/")
            .send()
            .await
            .expect("an answer");
        assert_eq!(response.status().as_u16(), push);
        let response = registry
            .delete("/v2/images/app/manifests/v1")
            .send()
            .await
            .expect("an answer");
        assert_eq!(response.status().as_u16(), push);
        let response = registry.get("/readyz").send().await.expect("an answer");
        assert_eq!(response.status().as_u16(), 200);
    }
}
