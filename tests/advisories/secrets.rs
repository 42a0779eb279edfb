//! Secrets of every kind that we hold or are shown, carried through all that we do, and looked for in all that we say: the
//! log at its most talkative, metrics, the audit, answers, what the command line prints, `Debug`, and the files we keep.

mod clouds;

use std::path::Path;

use entrepot::config::{Environment, load_text};
use reqwest::{Client, RequestBuilder};

use crate::binary::{Registry, entrepot, temporary, until};
use crate::people::line;
use crate::support::tls::Authority;
use crate::support::upstream::{ALWAYS, Act, Server, noise};

/// Everything that was said, by where.
#[derive(Default)]
struct Said(Vec<(String, String)>);

impl Said {
    fn add(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.0.push((place.into(), text.into()));
    }

    async fn answer(&mut self, place: &str, request: RequestBuilder) -> String {
        let Ok(response) = request.send().await else {
            return String::new();
        };
        let head = format!("{} {:?}", response.status(), response.headers());
        let text = response.text().await.unwrap_or_default();
        self.add(place, format!("{head} {text}"));
        text
    }

    fn assert_silent_about(&self, secrets: &[(&str, String)]) {
        for (kind, secret) in secrets {
            assert!(secret.len() >= 8, "{kind}: {secret:?} is found anywhere");
            for (place, text) in &self.0 {
                if let Some(at) = text.find(secret.as_str()) {
                    let from = text[..at].rfind('\n').map_or(0, |line| line + 1);
                    let line = text[from..].lines().next().unwrap_or_default();
                    panic!("{kind} is in {place}: {line:.2000}");
                }
            }
        }
    }
}

/// The files below a directory, as text.
fn files(root: &Path, said: &mut Said) {
    for path in crate::binary::tree(root) {
        let bytes = std::fs::read(root.join(&path)).unwrap();
        said.add(format!("the file {path}"), String::from_utf8_lossy(&bytes));
    }
}

const ADA: &str = "canary-user-password";

/// The base64 that Basic makes of a user and a password.
fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"))
}

fn configuration(server: &Server, bearer: &Server, proxied: &Server) -> String {
    format!(
        "
server: {{ listen: '127.0.0.1:0' }}
storage: {{ path: data }}
audit: {{ to: audit.log, pulls: true }}
auth:
  anonymous: none
  htpasswd: htpasswd
  tokens: true
  policies: [{{ who: ada, may: [pull, push, delete, admin], on: '**' }}]
repositories:
  images: {{ type: local }}
  basic:
    type: remote
    url: '{}'
    insecure: true
    credentials: [{{ username: up, password: canary-upstream-one }}, {{ username: up2, password: '${{CANARY_TWO}}' }}, {{ username: up3, password_file: third }}]
  bearer:
    type: remote
    url: '{}'
    insecure: true
    credentials: {{ username: up, password: canary-upstream-one }}
  proxied:
    type: remote
    url: '{}'
    insecure: true
    proxy: 'http://proxy:canary-proxy-password@127.0.0.1:1'
    client_tls: {{ cert: client.crt, key: client.key }}
default: images
",
        server.url(),
        bearer.url(),
        proxied.url()
    )
}

#[tokio::test]
async fn s06_no_secret_of_any_kind_is_told() {
    let (server, bearer, content) = (Server::start().await, Server::start().await, Server::start().await);
    let put = server.put_image("a", "v1", &[noise(1000, 1)]);
    bearer.put_image("a", "v1", &[noise(1000, 1)]);
    server.demand_any_basic(&[("up3", "canary-upstream-three")]);
    bearer.demand_bearer(&bearer);
    let signed = format!("{}/x?X-Amz-Signature=canary-signature", content.url());
    server.on("GET /blobs/", ALWAYS, [Act::Redirect(signed)]);

    let directory = temporary();
    let client = Authority::new().client();
    let users = line("ada", ADA);
    for (name, text) in [
        ("htpasswd", users.as_bytes()),
        ("third", b"canary-upstream-three"),
        ("client.crt", &*client.cert),
        ("client.key", client.key.reveal().as_bytes()),
    ] {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    let text = configuration(&server, &bearer, &server);
    let file = directory.path().join("repositories.yml");
    std::fs::write(&file, &text).unwrap();
    let mut command = entrepot(&["serve", "-c"]);
    command
        .arg(&file)
        .env("ENTREPOT_LOG", "trace")
        .env("CANARY_TWO", "canary-upstream-two");
    let registry = Registry::started_by(&directory, &mut command);
    let mut said = Said::default();

    let (token, robot) = talk(&registry, &mut said, put.layers[0].as_str()).await;
    let issued: Vec<String> = bearer
        .seen()
        .iter()
        .filter_map(|seen| Some(seen.header("authorization")?.to_owned()))
        .collect();
    assert!(
        issued.iter().any(|shown| shown.contains("secret-token")),
        "upstream tokens were used: {issued:?}"
    );
    assert!(
        content
            .seen()
            .iter()
            .any(|seen| seen.target.contains("canary-signature")),
        "the signature was used"
    );
    let third = basic("up3", "canary-upstream-three");
    assert!(
        server
            .seen()
            .iter()
            .any(|seen| seen.header("authorization").is_some_and(|shown| shown.contains(&third)))
    );

    // A reload that fails with secrets on the very lines that are wrong.
    let broken = text.replace(
        "password: canary-upstream-one }",
        "password: canary-upstream-one, pasword: canary-upstream-one }",
    );
    std::fs::write(&file, &broken).unwrap();
    registry.signal("-HUP");
    until("the mistake is told", async || registry.log().contains("pasword")).await;
    commands(&mut said, &file);
    std::fs::write(&file, &text).unwrap();
    commands(&mut said, &file);
    debug(&text, directory.path(), &mut said);

    said.add("the log", registry.log());
    assert!(registry.log().contains("TRACE"), "the log is at its most talkative");
    said.add("the metrics", registry.metrics().await);
    let log = registry.directory.path().join("audit.log");
    until("the audit is written", async || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.lines().count() > 3)
    })
    .await;
    said.add("the audit", std::fs::read_to_string(&log).unwrap());
    let key_line = client.key.reveal().lines().nth(1).unwrap().to_owned();
    let hash = users.trim().split_once(':').unwrap().1.to_owned();
    let mut secrets = vec![
        ("an upstream's password", "canary-upstream-one".to_owned()),
        ("one from the environment", "canary-upstream-two".to_owned()),
        ("one from a file", "canary-upstream-three".to_owned()),
        ("what Basic makes of it", third),
        ("what Basic makes of the first", basic("up", "canary-upstream-one")),
        ("an upstream's token", "secret-token".to_owned()),
        ("the signature of a redirect", "canary-signature".to_owned()),
        ("a proxy's password", "canary-proxy-password".to_owned()),
        ("what Basic makes of that", basic("proxy", "canary-proxy-password")),
        ("a user's password", ADA.to_owned()),
        ("what Basic makes of a user's", basic("ada", ADA)),
        ("a wrong password", "canary-wrong-password".to_owned()),
        ("one in the place of a name", "canary-as-a-name-entrepot".to_owned()),
        ("somebody else's token", "canary-foreign-token".to_owned()),
        ("a refresh token that is none", "canary-refresh-token".to_owned()),
        ("a cookie", "canary-cookie".to_owned()),
        ("a password in a query", "canary-query-password".to_owned()),
        ("a token of ours", token),
        ("a robot's secret", robot),
        ("a client's key", key_line),
    ];
    said.assert_silent_about(&secrets);
    // What is kept, and where: the configuration's own files have to hold it, the data has no need to.
    let mut kept = Said::default();
    files(&registry.data(), &mut kept);
    kept.assert_silent_about(&secrets);
    secrets.push(("a password's hash", hash));
    said.assert_silent_about(&secrets);
    kept.assert_silent_about(&secrets);
}

/// Says every secret that a client can say. Our own token and a robot's are returned.
async fn talk(registry: &Registry, said: &mut Said, layer: &str) -> (String, String) {
    let ada = |request: RequestBuilder| request.basic_auth("ada", Some(ADA));
    let url = |path: &str| registry.url(path);
    let client: &Client = &registry.client;
    // These two answers are where the secrets belong.
    let given = |text: String| {
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["token"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let token = given(
        ada(client.get(url("/token")))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap(),
    );
    let wanted = r#"{"name":"ci","scope":[{"may":["pull"],"on":"images/**"}]}"#;
    let made = ada(client.post(url("/api/v1/tokens")))
        .header("content-type", "application/json")
        .body(wanted);
    let robot = given(made.send().await.unwrap().text().await.unwrap());

    said.answer("the list of tokens", ada(client.get(url("/api/v1/tokens"))))
        .await;
    for path in [
        "/v2/",
        "/v2/basic/a/manifests/v1",
        &format!("/v2/basic/a/blobs/{layer}"),
        "/v2/basic/a/tags/list",
        "/v2/bearer/a/manifests/v1",
        "/v2/bearer/a/tags/list",
        "/v2/proxied/a/manifests/v1",
        "/v2/images/nothing/manifests/v1",
        "/v2/_catalog",
        "/api/v1/tags/history?image=basic/a:v1",
        "/",
        "/metrics",
    ] {
        let request = || client.get(url(path));
        said.answer(path, ada(request())).await;
        said.answer(path, request().bearer_auth(&token)).await;
        said.answer(path, request().bearer_auth(&robot)).await;
        said.answer(path, request().basic_auth("any", Some(&robot))).await;
        said.answer(
            path,
            request().bearer_auth("canary-foreign-token.canary-foreign-token.x"),
        )
        .await;
        said.answer(
            path,
            request()
                .header("cookie", "session=canary-cookie")
                .header("x-api-key", "canary-cookie"),
        )
        .await;
        let refused = request().basic_auth("ada", Some("canary-wrong-password"));
        said.answer(path, refused).await;
        let swapped = request().basic_auth("entrepot_canary-as-a-name-entrepot", Some("x"));
        said.answer(path, swapped).await;
    }
    for form in [
        "grant_type=password&username=ada&password=canary-wrong-password&service=x",
        "grant_type=refresh_token&refresh_token=canary-refresh-token",
        "grant_type=canary-query-password&password=canary-query-password",
        "password=canary-query-password",
    ] {
        let request = client
            .post(url("/token"))
            .header("content-type", "application/x-www-form-urlencoded");
        said.answer("a form", request.body(form)).await;
    }
    let query = "/token?account=ada&password=canary-query-password&refresh_token=canary-query-password";
    said.answer("a query", client.get(url(query))).await;
    // A push, so that there is something to keep.
    let request = ada(client.post(url("/v2/images/app/blobs/uploads/"))).header("content-length", "0");
    said.answer("an upload", request).await;
    (token, robot)
}

/// What the command line prints about this configuration, good or bad.
fn commands(said: &mut Said, file: &Path) {
    for (variable, value) in [("CANARY_TWO", "canary-upstream-two"), ("CANARY_THREE", "x")] {
        let mut command = entrepot(&["check", "-c"]);
        let output = command.arg(file).env(variable, value).output().unwrap();
        said.add("entrepot check", String::from_utf8_lossy(&output.stdout));
        said.add("entrepot check", String::from_utf8_lossy(&output.stderr));
    }
}

/// The configuration as the program has it in its hands.
fn debug(text: &str, directory: &Path, said: &mut Said) {
    let environment: Environment = [("CANARY_TWO".to_owned(), "canary-upstream-two".to_owned())]
        .into_iter()
        .collect();
    let loaded = load_text("repositories.yml", text, directory, &environment);
    let loaded = loaded.unwrap_or_else(|problems| panic!("{problems:?}"));
    said.add("Debug", format!("{:?} {:#?}", loaded.config, loaded.config));
}
