//! The secrets of who gives us what lets us in: AWS's keys, Google's, Azure's, docker's helpers, and what they give.

use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{Said, basic, files};
use crate::binary::{Registry, entrepot, temporary};
use crate::support::cloud::{Asked, Cloud, Says};
use crate::support::proxy::Proxy;
use crate::support::tls::{Authority, Wants};
use crate::support::upstream::{ALWAYS, Act, Server};

const ECR: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
const GOOGLE: &str = "europe-docker.pkg.dev";
const AZURE: &str = "acme.azurecr.io";
const KEY: &str = include_str!("../../fixtures/google-key.pem");

/// All the clouds at once: who asks is given something.
fn cloud(asked: &Asked) -> Says {
    if !asked.header("x-amz-target").is_empty() {
        let token = STANDARD.encode("AWS:canary-ecr-token");
        return Says::This(
            200,
            format!(r#"{{"authorizationData":[{{"authorizationToken":"{token}"}}]}}"#),
        );
    }
    Says::This(
        200,
        r#"{"access_token":"canary-access-token","expires_in":3599}"#.to_owned(),
    )
}

#[tokio::test]
async fn s06_no_secret_of_a_clouds_is_told_either() {
    let (own, ecr, google, azure) = (
        Server::start().await,
        Server::start().await,
        Server::start().await,
        Server::start().await,
    );
    for server in [&own, &ecr, &google, &azure] {
        server.put_image("a", "v1", &[]);
    }
    own.demand_basic("ada", "canary-of-a-helper");
    ecr.demand_basic("AWS", "canary-ecr-token");
    google.demand_bearer_of(&format!("https://{GOOGLE}/token"), &google);
    azure.demand_bearer_of(&format!("https://{AZURE}/oauth2/token"), &azure);
    azure.allow_token("canary-registry-token");
    for (path, body) in [
        ("exchange", r#"{"refresh_token":"canary-refresh-token"}"#),
        ("token", r#"{"access_token":"canary-registry-token"}"#),
    ] {
        let acts = [Act::Status(200), Act::Body(body.into())];
        azure.on(&format!("POST /oauth2/{path}"), ALWAYS, acts);
    }
    let cloud = Cloud::start(cloud).await;
    let (proxy, authority, directory) = (Proxy::start().await, Authority::new(), temporary());
    let mut fronts = Vec::new();
    for (name, address) in [
        (ECR, ecr.host()),
        (GOOGLE, google.host()),
        (AZURE, azure.host()),
        ("api.ecr.eu-west-1.amazonaws.com", cloud.host()),
        ("oauth2.googleapis.com", cloud.host()),
        ("login.microsoftonline.com", cloud.host()),
    ] {
        let front = authority.front_of(address, name, Wants::Nothing).await;
        proxy.knows(&format!("{name}:443"), &format!("127.0.0.1:{}", front.port));
        fronts.push(front);
    }

    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("ca.pem"), authority.pem()).unwrap();
    let key = json!({ "type": "service_account", "client_email": "a@b.example", "private_key": KEY });
    std::fs::write(at("key.json"), key.to_string()).unwrap();
    std::fs::write(at("config.json"), r#"{"credsStore":"test"}"#).unwrap();
    let helper =
        "#!/bin/sh\necho canary-on-stderr >&2\necho '{\"Username\":\"ada\",\"Secret\":\"canary-of-a-helper\"}'\n";
    std::fs::write(at("docker-credential-test"), helper).unwrap();
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(at("docker-credential-test"), executable).unwrap();
    let way = format!("proxy: 'http://{}', ca: ca.pem", proxy.host());
    let text = format!(
        "
server: {{ listen: '127.0.0.1:0' }}
storage: {{ path: data }}
repositories:
  amazon: {{ type: remote, url: 'https://{ECR}', credentials: ecr, {way} }}
  google: {{ type: remote, url: 'https://{GOOGLE}', credentials: gcp, {way} }}
  azure: {{ type: remote, url: 'https://{AZURE}', credentials: azure, {way} }}
  docker: {{ type: remote, url: '{}', insecure: true, credentials: docker-config }}
",
        own.url()
    );
    std::fs::write(at("repositories.yml"), &text).unwrap();
    let mut command = entrepot(&["serve", "-c"]);
    command
        .arg(at("repositories.yml"))
        .env("ENTREPOT_LOG", "trace")
        .env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", "canary-aws-secret")
        .env("AWS_SESSION_TOKEN", "canary-aws-session")
        .env("GOOGLE_APPLICATION_CREDENTIALS", at("key.json"))
        .env("AZURE_TENANT_ID", "acme.example")
        .env("AZURE_CLIENT_ID", "me")
        .env("AZURE_CLIENT_SECRET", "canary-azure-secret")
        .env("DOCKER_CONFIG", directory.path())
        .env("PATH", format!("{}:/usr/bin:/bin", directory.path().display()));
    let registry = Registry::started_by(&directory, &mut command);
    let mut said = Said::default();
    for key in ["amazon", "google", "azure", "docker"] {
        let path = format!("/v2/{key}/a/manifests/v1");
        let response = registry.client.get(registry.url(&path)).send().await.unwrap();
        assert_eq!(response.status(), 200, "{key}: {}", registry.log());
        said.answer(&path, registry.client.get(registry.url(&path))).await;
    }
    // And what is said when it goes wrong.
    cloud.think(|_| Says::This(400, r#"{"error":"canary-of-a-mistake, canary"}"#.to_owned()));
    for key in ["amazon", "google", "azure", "docker"] {
        let path = format!("/v2/{key}/none/manifests/v1");
        said.answer(&path, registry.client.get(registry.url(&path))).await;
    }
    assert!(registry.log().contains("TRACE"), "the log is at its most talkative");
    said.add("the log", registry.log());
    said.add("the metrics", registry.metrics().await);
    files(&registry.data(), &mut said);
    let line = KEY.lines().nth(1).unwrap().to_owned();
    let mut secrets = vec![
        ("Google's key", line),
        ("what Basic makes of ECR's token", basic("AWS", "canary-ecr-token")),
        (
            "what Basic makes of Google's",
            basic("oauth2accesstoken", "canary-access-token"),
        ),
        ("a registry's token", "secret-token".to_owned()),
        ("what Basic makes of a helper's", basic("ada", "canary-of-a-helper")),
    ];
    for canary in [
        "canary-ecr-token",
        "canary-access-token",
        "canary-refresh-token",
        "canary-registry-token",
        "canary-aws-secret",
        "canary-aws-session",
        "canary-azure-secret",
        "canary-of-a-helper",
        "canary-on-stderr",
        "canary-of-a-mistake",
    ] {
        secrets.push((canary, canary.to_owned()));
    }
    said.assert_silent_about(&secrets);
    for (server, shown) in [(&ecr, "AWS"), (&own, "ada")] {
        let begin = format!("Basic {}", &STANDARD.encode(format!("{shown}:"))[..4]);
        let seen = server.seen();
        assert!(seen.iter().any(|seen| {
            seen.header("authorization")
                .is_some_and(|text| text.starts_with(&begin))
        }));
    }
}
