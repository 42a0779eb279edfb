//! `credentials: docker-config`: docker's own logins, and the programs that keep them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use entrepot::config::{Environment, Login, Provider, RemoteConfig};
use entrepot::upstream::Error;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::ecr::{assert_fails_with, manifest, pass, upstream};
use crate::support::proxy::Proxy;
use crate::support::remote::until;
use crate::support::tls::{Authority, Wants};
use crate::support::upstream::{ALWAYS, Act, Image, Server, login, remote};

const SECRET: &str = "canary-of-a-password";

/// A registry, and somebody's home with a `config.json` and programs.
struct Home {
    registry: Server,
    put: Image,
    directory: TempDir,
    config: RemoteConfig,
}

impl Home {
    async fn new() -> Self {
        let (registry, directory) = (Server::start().await, TempDir::new().unwrap());
        let put = registry.put_image("a", "v1", &[]);
        let at = directory.path().to_str().unwrap();
        let environment: Environment = [
            ("DOCKER_CONFIG", at.to_owned()),
            ("PATH", format!("{at}:/usr/bin:/bin")),
            ("AT", at.to_owned()),
            ("ENTREPOT__AUTH__ANONYMOUS", "canary-of-ours".to_owned()),
        ]
        .into_iter()
        .collect();
        let config = RemoteConfig {
            credentials: vec![Login::Provided(Provider::DockerConfig, environment)],
            ..remote(&registry)
        };
        Self {
            registry,
            put,
            directory,
            config,
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, config: &Value) {
        std::fs::write(self.path("config.json"), config.to_string()).unwrap();
    }

    /// A helper that does this after it has read whom it is asked about.
    fn helper(&self, does: &str) {
        let file = self.path("docker-credential-test");
        let text =
            format!("#!/bin/sh\n[ \"$1\" = get ] || exit 9\nhost=$(cat)\necho \"$host\" >> \"$AT/asked\"\n{does}\n");
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What the helper was asked.
    fn asked(&self) -> Vec<String> {
        let asked = std::fs::read_to_string(self.path("asked")).unwrap_or_default();
        asked.lines().map(str::to_owned).collect()
    }

    async fn error(&self) -> String {
        let error = manifest(&upstream(&self.config).unwrap(), "a").await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(!text.contains("canary"), "{text}");
        text
    }
}

fn auth(user: &str, password: &str) -> Value {
    json!({ "auth": STANDARD.encode(format!("{user}:{password}")) })
}

fn prints(user: &str, secret: &str) -> String {
    format!("echo '{{\"ServerURL\":\"x\",\"Username\":\"{user}\",\"Secret\":\"{secret}\"}}'")
}

#[tokio::test]
async fn the_login_of_config_json_lets_us_in_and_a_new_one_is_found_when_it_does_not() {
    let home = Home::new().await;
    let host = home.registry.host();
    home.registry.demand_basic("ada", SECRET);
    home.write(&json!({ "auths": { "other.example": auth("eve", "x"), host.as_str(): auth("ada", SECRET) } }));
    let upstream = upstream(&home.config).unwrap();
    assert_eq!(manifest(&upstream, "a").await, Ok(Some(home.put.digest.clone())));

    // `docker login` with another password.
    home.registry.demand_basic("ada", "changed");
    home.write(&json!({ "auths": { host: auth("ada", "changed") } }));
    pass(Duration::from_secs(31)).await;
    assert_eq!(manifest(&upstream, "a").await, Ok(Some(home.put.digest.clone())));

    // What was found is used on while the file is being damaged, but not for ever.
    std::fs::write(home.path("config.json"), "{").unwrap();
    pass(Duration::from_secs(1200)).await;
    assert_eq!(manifest(&upstream, "a").await, Ok(Some(home.put.digest.clone())));
    pass(Duration::from_secs(3600)).await;
    assert_fails_with(&upstream, "config.json is no JSON: see line 1").await;
}

#[tokio::test]
async fn where_one_login_cannot_be_had_the_next_is_used() {
    let mut home = Home::new().await;
    home.registry.demand_basic("ada", SECRET);
    home.write(&json!({ "credsStore": "nowhere" }));
    assert_fails_with(&upstream(&home.config).unwrap(), "nowhere in PATH").await;
    home.config.credentials.push(login("ada", SECRET));
    let upstream = upstream(&home.config).unwrap();
    assert_eq!(manifest(&upstream, "a").await, Ok(Some(home.put.digest.clone())));
}

#[tokio::test]
async fn a_helper_is_asked_once_for_all_and_told_nothing_of_ours() {
    let home = Home::new().await;
    let host = home.registry.host();
    home.registry.demand_basic("ada", SECRET);
    home.helper(&format!("env > \"$AT/env\"\n{}", prints("ada", SECRET)));
    home.write(&json!({ "credHelpers": { host.as_str(): "test" }, "auths": { host.as_str(): auth("eve", "x") } }));
    let upstream = upstream(&home.config).unwrap();
    let all = futures_util::future::join_all((0..20).map(|_| manifest(&upstream, "a"))).await;
    assert!(
        all.iter().all(|one| *one == Ok(Some(home.put.digest.clone()))),
        "{all:?}"
    );
    assert_eq!(home.asked(), [host]);
    let seen = std::fs::read_to_string(home.path("env")).unwrap();
    assert!(
        seen.contains("DOCKER_CONFIG=") && !seen.contains("canary-of-ours"),
        "{seen}"
    );
}

#[tokio::test]
async fn what_is_wrong_is_told_without_what_was_printed() {
    let home = Home::new().await;
    home.registry.demand_basic("ada", SECRET);
    assert!(home.error().await.contains("there is no config.json of docker's"));
    home.write(&json!({ "auths": { "other.example": auth("eve", SECRET) } }));
    let expected = format!("there is no login for {} in ", home.registry.host());
    assert!(home.error().await.contains(&expected));

    home.write(&json!({ "credsStore": "test" }));
    assert!(
        home.error()
            .await
            .contains("docker-credential-test, which is nowhere in PATH")
    );
    std::fs::write(home.path("docker-credential-test"), "#!/bin/sh\n").unwrap();
    assert!(home.error().await.contains("nowhere in PATH"), "not a program");
    for (does, expected) in [
        (
            "echo canary; echo canary >&2; exit 1",
            "docker-credential-test fails: try `echo ",
        ),
        ("kill -9 $$", "fails"),
        ("echo canary", "prints what is no login"),
        ("echo '{\"Username\":\"canary\"}'", "prints what is no login"),
        (
            "echo '{\"Username\":7,\"Secret\":\"canary\"}'",
            "prints what is no login",
        ),
        ("printf '\\377\\376'", "prints what is no login"),
        (":", "prints what is no login"),
        ("while :; do echo canary; done", "prints more than a login"),
        (
            "echo '{\"Username\":\"a\",\"Secret\":\"\"}'",
            "the login has no password",
        ),
    ] {
        home.helper(does);
        let text = home.error().await;
        assert!(text.contains(expected), "{does}: {text}");
    }

    // It has none: then what is in the file counts.
    home.helper("echo 'credentials not found in native keychain'; exit 1");
    let host = home.registry.host();
    home.write(&json!({ "credsStore": "test", "auths": { host.as_str(): auth("ada", SECRET) } }));
    let upstream = upstream(&home.config).unwrap();
    assert_eq!(manifest(&upstream, "a").await, Ok(Some(home.put.digest.clone())));
    assert_eq!(home.asked().last(), Some(&host));
}

#[tokio::test]
async fn a_helper_that_hangs_is_ended_with_all_that_it_started() {
    let home = Home::new().await;
    home.registry.demand_basic("ada", SECRET);
    home.helper("sleep 1000 &\necho $! > \"$AT/started.new\"\nmv \"$AT/started.new\" \"$AT/started\"\nwait");
    home.write(&json!({ "credsStore": "test" }));
    let upstream = Arc::new(upstream(&home.config).unwrap());
    // Who asks waits no longer than for any other answer.
    assert!(matches!(manifest(&upstream, "a").await, Err(Error::Timeout(_))));
    let started = home.path("started");
    until("the helper has started its own", || started.exists()).await;
    let child = std::fs::read_to_string(&started).unwrap();
    let lives = || is_running(child.trim());
    assert!(lives(), "it hangs");
    pass(Duration::from_secs(16)).await;
    until("it is gone", || !lives()).await;
    let error = manifest(&upstream, "a").await.unwrap_err();
    assert!(error.to_string().contains("does not answer in time"), "{error}");
    assert_eq!(home.asked().len(), 1, "it is not asked again at once");
}

/// Whether there is such a process that has not ended yet.
fn is_running(id: &str) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(id).join("stat"));
    status.is_ok_and(|status| !status.contains(") Z "))
}

#[tokio::test]
async fn an_identity_token_is_exchanged_at_the_realm_and_goes_nowhere_else() {
    let home = Home::new().await;
    let (host, elsewhere) = (home.registry.host(), Server::start().await);
    home.registry.demand_bearer(&home.registry);
    home.registry.allow_token("short");
    home.write(&json!({ "auths": { host.as_str(): { "auth": "YWRhOng=", "identitytoken": SECRET } } }));
    let gives = || {
        [
            Act::Status(200),
            Act::Body(r#"{"access_token":"short","expires_in":300}"#.into()),
        ]
    };
    home.registry.on("POST /token", 1, gives());
    let own = upstream(&home.config).unwrap();
    assert_eq!(manifest(&own, "a").await, Ok(Some(home.put.digest.clone())));
    let asked: Vec<_> = home
        .registry
        .seen()
        .into_iter()
        .filter(|seen| seen.method == "POST")
        .collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].target, "/token?kept=yes");
    assert_eq!(asked[0].header("authorization"), None);
    let form = "grant_type=refresh_token&client_id=entrepot&refresh_token=canary-of-a-password&service=test&scope=\
                repository%3Aa%3Apull";
    assert_eq!(asked[0].body, form);

    // Neither a redirect nor a realm of another's gets it, nor does a registry that asks for a password.
    home.registry.on(
        "POST /token",
        ALWAYS,
        [Act::Redirect(format!("{}/token", elsewhere.url()))],
    );
    assert!(home.error().await.contains("redirects what is for it alone"));
    assert_eq!(elsewhere.seen().len(), 0);
    home.registry.demand_bearer(&elsewhere);
    assert!(
        manifest(&upstream(&home.config).unwrap(), "a").await.is_ok(),
        "anonymously"
    );
    home.registry.demand_basic("ada", SECRET);
    assert!(home.error().await.contains("Refused"));
    for seen in elsewhere.seen() {
        assert_eq!((seen.method.as_str(), seen.header("authorization")), ("GET", None));
        assert!(!format!("{seen:?}").contains(SECRET), "{seen:?}");
    }
    for seen in home.registry.seen().iter().filter(|seen| seen.method != "POST") {
        assert!(!format!("{seen:?}").contains(SECRET), "{seen:?}");
    }

    // Revoked, which OAuth 2.0 answers with 400, and nothing is for everybody.
    home.registry.behave();
    home.registry.demand_bearer(&home.registry);
    home.registry.on("* /token", ALWAYS, [Act::Status(400)]);
    assert!(home.error().await.contains("Refused"));
}

#[tokio::test]
async fn docker_hub_is_what_docker_calls_it_and_its_cdn_sees_nothing() {
    let home = Home::new().await;
    let (tokens, cdn) = (Server::start().await, Server::start().await);
    let layer = crate::support::upstream::noise(1000, 5);
    let put = home
        .registry
        .put_image("library/alpine", "v1", std::slice::from_ref(&layer));
    cdn.put_blob("layers", &layer);
    let away = format!(
        "https://production.cloudflare.docker.com/v2/layers/blobs/{}?verify=f00",
        put.layers[0]
    );
    home.registry
        .on("GET /v2/library/alpine/blobs/", ALWAYS, [Act::Redirect(away)]);
    home.registry.demand_bearer_of("https://auth.docker.io/token", &tokens);
    home.helper(&prints("ada", SECRET));
    home.write(&json!({ "auths": { "https://index.docker.io/v1/": {} }, "credsStore": "test" }));
    let (proxy, authority) = (Proxy::start().await, Authority::new());
    let mut fronts = Vec::new();
    for (name, server) in [
        ("registry-1.docker.io", &home.registry),
        ("auth.docker.io", &tokens),
        ("production.cloudflare.docker.com", &cdn),
    ] {
        let front = authority.front(server, name, Wants::Nothing).await;
        proxy.knows(&format!("{name}:443"), &format!("127.0.0.1:{}", front.port));
        fronts.push(front);
    }
    let config = RemoteConfig {
        url: "https://registry-1.docker.io".parse().unwrap(),
        proxy: Some(proxy.config(None)),
        ca: Some(authority.pem()),
        ..home.config.clone()
    };
    let upstream = upstream(&config).unwrap();
    assert_eq!(manifest(&upstream, "alpine").await, Ok(Some(put.digest.clone())));
    let blob = upstream
        .blob(
            &"alpine".parse().unwrap(),
            &put.layers[0],
            entrepot::upstream::Range::default(),
            None,
        )
        .await
        .unwrap();
    assert!(blob.is_some());
    assert_eq!(home.asked(), ["https://index.docker.io/v1/"]);
    let basic = format!("Basic {}", STANDARD.encode(format!("ada:{SECRET}")));
    assert!(!tokens.seen().is_empty());
    for seen in tokens.seen() {
        assert_eq!(seen.header("authorization"), Some(basic.as_str()));
    }
    for seen in home.registry.seen() {
        assert_ne!(seen.header("authorization"), Some(basic.as_str()), "{seen:?}");
    }
    assert!(!cdn.seen().is_empty());
    for seen in cdn.seen() {
        assert_eq!(seen.header("authorization"), None, "{seen:?}");
    }
}
