//! `credentials: gcp`: Google's access tokens, from a key, a login or the machine.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use entrepot::config::{Environment, Login, Provider, RemoteConfig};
use entrepot::upstream::{Error, Range};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::ecr::{manifest, upstream};
use crate::support::cloud::{Asked, Cloud, Says};
use crate::support::proxy::Proxy;
use crate::support::tls::{Authority, Front, Wants};
use crate::support::upstream::{ALWAYS, Act, Image, Server, login, noise, remote};

/// The same key, as Google writes it, and for who verifies what it signed. For tests and nothing else.
const KEY: &str = include_str!("../fixtures/google-key.pem");
const PUBLIC: &str = include_str!("../fixtures/issuer-rsa.json");
const HOST: &str = "europe-docker.pkg.dev";
const STORAGE: &str = "storage.googleapis.com";
const EMAIL: &str = "puller@acme.iam.gserviceaccount.com";
const SECRET: &str = "canary-of-a-secret";

/// A registry of Google's, where its tokens come from, and where its blobs are.
struct Google {
    registry: Server,
    storage: Server,
    tokens: Cloud,
    machine: Cloud,
    home: TempDir,
    put: Image,
    config: RemoteConfig,
    proxy: Proxy,
    _fronts: Vec<Front>,
}

/// Google's token endpoint as it is documented.
fn tokens(asked: &Asked) -> Says {
    let form: Vec<(String, String)> = url::form_urlencoded::parse(asked.body.as_bytes())
        .into_owned()
        .collect();
    let field = |name: &str| {
        form.iter()
            .find(|(key, _)| key == name)
            .map_or("", |(_, value)| value.as_str())
    };
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/token"));
    assert_eq!(asked.header("content-type"), "application/x-www-form-urlencoded");
    let is_well = match field("grant_type") {
        "urn:ietf:params:oauth:grant-type:jwt-bearer" => is_signed(field("assertion")),
        "refresh_token" => {
            (field("client_id"), field("client_secret"), field("refresh_token")) == ("me", SECRET, SECRET)
        }
        _ => false,
    };
    if is_well {
        return given("of-key");
    }
    Says::This(
        400,
        format!(r#"{{"error":"invalid_grant","error_description":"{SECRET}"}}"#),
    )
}

fn given(token: &str) -> Says {
    let body = format!(r#"{{"access_token":"ya29.{token}","expires_in":3599,"token_type":"Bearer"}}"#);
    Says::This(200, body)
}

/// Whether a JWT is signed by the key, and says what it should.
fn is_signed(jwt: &str) -> bool {
    let (signed, signature) = jwt.rsplit_once('.').unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let read = |text: &str| -> Value { serde_json::from_slice(&bytes(text)).unwrap() };
    assert_eq!(read(header), json!({ "alg": "RS256", "typ": "JWT", "kid": "key-1" }));
    let claims = read(claims);
    assert_eq!(claims["iss"], EMAIL);
    assert_eq!(claims["aud"], "https://oauth2.googleapis.com/token");
    assert_eq!(claims["scope"], "https://www.googleapis.com/auth/cloud-platform");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let begin = claims["iat"].as_u64().unwrap();
    assert!(begin.abs_diff(now.as_secs()) < 60, "{claims}");
    assert_eq!(claims["exp"], begin + 3600);
    let public: Value = serde_json::from_str(PUBLIC).unwrap();
    let part = |name: &str| bytes(public[name].as_str().unwrap());
    let key = RsaPublicKeyComponents {
        n: part("n"),
        e: part("e"),
    };
    key.verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &bytes(signature))
        .is_ok()
}

fn machine(asked: &Asked) -> Says {
    assert_eq!(asked.header("metadata-flavor"), "Google");
    assert_eq!(
        asked.target,
        "/computeMetadata/v1/instance/service-accounts/default/token"
    );
    given("of-machine")
}

impl Google {
    async fn start() -> Self {
        let (registry, storage) = (Server::start().await, Server::start().await);
        let (tokens, machine) = (Cloud::start(tokens).await, Cloud::start(machine).await);
        let (proxy, authority) = (Proxy::start().await, Authority::new());
        let mut fronts = Vec::new();
        for (name, address) in [
            (HOST, registry.host()),
            (STORAGE, storage.host()),
            ("oauth2.googleapis.com", tokens.host()),
        ] {
            let front = authority.front_of(address, name, Wants::Nothing).await;
            proxy.knows(&format!("{name}:443"), &format!("127.0.0.1:{}", front.port));
            fronts.push(front);
        }
        let layer = noise(1000, 9);
        let put = registry.put_image("acme/images/app", "v1", std::slice::from_ref(&layer));
        storage.put_blob("layers", &layer);
        let away = format!(
            "https://{STORAGE}/v2/layers/blobs/{}?X-Goog-Signature=f00",
            put.layers[0]
        );
        registry.on("GET /v2/acme/images/app/blobs/", ALWAYS, [Act::Redirect(away)]);
        registry.demand_bearer_of(&format!("https://{HOST}/v2/token"), &registry);
        registry.allow_token("registry-token");
        let answer = Act::Body(r#"{"token":"registry-token","expires_in":300}"#.into());
        registry.on("GET /v2/token", ALWAYS, [Act::Status(200), answer]);
        Self {
            config: RemoteConfig {
                url: format!("https://{HOST}").parse().unwrap(),
                proxy: Some(proxy.config(None)),
                ca: Some(authority.pem()),
                ..remote(&registry)
            },
            registry,
            storage,
            tokens,
            machine,
            home: TempDir::new().unwrap(),
            put,
            proxy,
            _fronts: fronts,
        }
    }

    fn config(&self, more: &[(&str, &str)]) -> RemoteConfig {
        let home = self.home.path().to_str().unwrap();
        let machine = self.machine.host();
        let own = [("HOME", home), ("GCE_METADATA_HOST", machine.as_str())];
        let environment: Environment = own.iter().chain(more).copied().collect();
        RemoteConfig {
            credentials: vec![Login::Provided(Provider::Gcp, environment)],
            ..self.config.clone()
        }
    }

    fn write(&self, name: &str, file: &Value) -> String {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, file.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    async fn error(&self, more: &[(&str, &str)]) -> String {
        let error = manifest(&upstream(&self.config(more)).unwrap(), "acme/images/app")
            .await
            .unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(matches!(error, Error::Credentials(_)), "{text}");
        assert!(!text.contains("canary") && !text.contains("PRIVATE KEY"), "{text}");
        text
    }

    /// What the registry's token endpoint was shown.
    fn shown(&self) -> Vec<String> {
        let seen = self.registry.seen();
        let asked = seen.iter().filter(|seen| seen.target.starts_with("/v2/token"));
        asked
            .map(|seen| {
                let basic = seen.header("authorization").unwrap().strip_prefix("Basic ").unwrap();
                String::from_utf8(STANDARD.decode(basic).unwrap()).unwrap()
            })
            .collect()
    }
}

fn key() -> Value {
    json!({
        "type": "service_account", "project_id": "acme", "private_key_id": "key-1", "private_key": KEY,
        "client_email": EMAIL, "token_uri": "https://oauth2.googleapis.com/token",
    })
}

#[tokio::test]
async fn a_key_is_exchanged_for_a_token_that_only_the_registry_sees() {
    let google = Google::start().await;
    let file = google.write("key.json", &key());
    let upstream = upstream(&google.config(&[("GOOGLE_APPLICATION_CREDENTIALS", &file)])).unwrap();
    let name = "acme/images/app";
    let all = futures_util::future::join_all((0..10).map(|_| manifest(&upstream, name))).await;
    assert!(
        all.iter().all(|one| *one == Ok(Some(google.put.digest.clone()))),
        "{all:?}"
    );
    let blob = upstream
        .blob(&name.parse().unwrap(), &google.put.layers[0], Range::default(), None)
        .await;
    assert!(blob.unwrap().is_some());
    assert_eq!(google.tokens.asked().len(), 1);
    assert_eq!(google.shown(), ["oauth2accesstoken:ya29.of-key"]);
    assert!(!google.storage.seen().is_empty());
    for seen in google.storage.seen() {
        assert_eq!(seen.header("authorization"), None, "{seen:?}");
    }
    assert!(google.machine.asked().is_empty());
    assert!(
        !format!("{:?}", google.tokens.asked()).contains("PRIVATE"),
        "the key itself is never sent"
    );
}

#[tokio::test]
async fn a_login_and_the_machine_give_tokens_too() {
    let google = Google::start().await;
    let name = "acme/images/app";
    let by_machine = upstream(&google.config(&[])).unwrap();
    assert_eq!(manifest(&by_machine, name).await, Ok(Some(google.put.digest.clone())));
    assert_eq!(google.shown(), ["oauth2accesstoken:ya29.of-machine"]);
    let login = json!({
        "type": "authorized_user", "client_id": "me", "client_secret": SECRET, "refresh_token": SECRET,
    });
    google.write(".config/gcloud/application_default_credentials.json", &login);
    google.registry.forget();
    let by_login = upstream(&google.config(&[])).unwrap();
    assert_eq!(manifest(&by_login, name).await, Ok(Some(google.put.digest.clone())));
    assert_eq!(google.shown(), ["oauth2accesstoken:ya29.of-key"]);
    assert_eq!(google.machine.asked().len(), 1, "the file comes before the machine");
    assert!(
        google.proxy.asked().iter().all(|head| head.starts_with("CONNECT ")),
        "the machine is not asked through a proxy"
    );
}

#[tokio::test]
async fn what_is_set_up_wrong_is_told_and_nobody_else_is_asked_instead() {
    let google = Google::start().await;
    let variable = "GOOGLE_APPLICATION_CREDENTIALS";
    let mut with_http = key();
    with_http["token_uri"] = json!("http://oauth2.googleapis.com/token");
    let mut without_key = key();
    without_key["private_key"] = json!("-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n");
    for (file, expected) in [
        (
            json!({ "type": "external_account" }),
            "the kind `external_account`, which is not supported",
        ),
        (json!({ "type": "canary" }), "of a kind that is not known"),
        (json!([SECRET]), "is no file of Google's credentials"),
        (json!({ "type": "service_account" }), "has no `client_email`"),
        (json!({ "type": "authorized_user" }), "has no `client_id`"),
        (with_http, "has a `token_uri` that is no https address"),
        (without_key, "holds a `private_key` that is none"),
    ] {
        let path = google.write("file.json", &file);
        let text = google.error(&[(variable, &path)]).await;
        assert!(text.contains(expected), "{text}");
    }
    assert!(
        google
            .error(&[(variable, "/nowhere.json")])
            .await
            .contains("/nowhere.json is not there")
    );
    let text = google.error(&[("GCE_METADATA_HOST", "evil.org/x?")]).await;
    assert!(text.contains("GCE_METADATA_HOST is no HOST or HOST:PORT"), "{text}");
    assert!(google.tokens.asked().is_empty() && google.machine.asked().is_empty());

    let path = google.write("file.json", &key());
    google.tokens.think(|_| {
        Says::This(
            400,
            r#"{"error":"invalid_grant","error_description":"canary"}"#.to_owned(),
        )
    });
    assert!(
        google
            .error(&[(variable, &path)])
            .await
            .contains("answers 400 (invalid_grant)")
    );
    google.machine.think(|_| Says::This(404, "canary".to_owned()));
    assert!(
        google
            .error(&[])
            .await
            .contains("knows no service account of this machine")
    );
    google.machine.think(|_| Says::This(200, "canary".to_owned()));
    assert!(google.error(&[]).await.contains("gives no token"));
    assert!(Path::new(&path).exists());
}

#[tokio::test]
async fn a_key_that_is_written_down_is_a_password_with_all_its_lines() {
    let google = Google::start().await;
    let password = "{\n  \"type\": \"service_account\",\n  \"x\": \"a b: c\"\n}\n";
    let config = RemoteConfig {
        credentials: vec![login("_json_key", password)],
        ..google.config.clone()
    };
    let name = "acme/images/app";
    assert_eq!(
        manifest(&upstream(&config).unwrap(), name).await,
        Ok(Some(google.put.digest.clone()))
    );
    assert_eq!(google.shown(), [format!("_json_key:{password}")]);
    assert!(google.tokens.asked().is_empty() && google.machine.asked().is_empty());
}

#[tokio::test]
async fn nobody_but_google_is_shown_such_a_token() {
    for url in [
        "https://registry.example.com",
        "https://europe-docker.pkg.dev.evil.org",
        "https://evilpkg.dev",
        "https://pkg.dev",
        "https://evilgcr.io",
        "http://gcr.io",
        "https://gcr.io:8443",
    ] {
        let mut config = RemoteConfig::of(url.parse().unwrap());
        config.credentials = vec![Login::Provided(Provider::Gcp, Environment::default())];
        let text = upstream(&config).unwrap_err().to_string();
        assert!(
            text.contains("`repositories.remote.credentials` cannot be used"),
            "{text}"
        );
    }
    for url in [
        "https://gcr.io",
        "https://eu.gcr.io/acme",
        "https://us-west1-docker.pkg.dev/acme/images",
    ] {
        let mut config = RemoteConfig::of(url.parse().unwrap());
        config.credentials = vec![Login::Provided(Provider::Gcp, Environment::default())];
        assert!(upstream(&config).is_ok(), "{url}");
    }
}
