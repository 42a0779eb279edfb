//! `credentials: azure`: a proof of Microsoft's, which the registry exchanges for a token for tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use entrepot::config::{Environment, Login, Provider, RemoteConfig};
use entrepot::upstream::{Error, Range};
use tempfile::TempDir;

use super::ecr::{manifest, upstream};
use crate::support::cloud::{Asked, Cloud, Says};
use crate::support::proxy::Proxy;
use crate::support::tls::{Authority, Front, Wants};
use crate::support::upstream::{ALWAYS, Act, Image, Seen, Server, noise, remote};

const HOST: &str = "acme.azurecr.io";
const STORAGE: &str = "weumanaged12.blob.core.windows.net";
const LOGIN: &str = "login.microsoftonline.com";
const SECRET: &str = "canary-of-a-secret";
const ASSERTION: &str = "canary-of-an-assertion";
const RESOURCE: &str = "https%3A%2F%2Fcontainerregistry.azure.net";

/// A registry of Azure's, Microsoft's login, the machine, and where blobs are.
struct Azure {
    registry: Server,
    storage: Server,
    login: Cloud,
    machine: Cloud,
    directory: TempDir,
    put: Image,
    config: RemoteConfig,
    proxy: Proxy,
    _fronts: Vec<Front>,
}

fn given(token: &str, life: &str) -> Says {
    Says::This(
        200,
        format!(r#"{{"token_type":"Bearer","expires_in":{life},"access_token":"{token}"}}"#),
    )
}

/// Microsoft Entra ID as it is documented.
fn login(asked: &Asked) -> Says {
    assert_eq!(asked.method, "POST");
    let own = format!("grant_type=client_credentials&client_id=me&scope={RESOURCE}%2F.default&");
    let proof = asked
        .body
        .strip_prefix(&own)
        .unwrap_or_else(|| panic!("{}", asked.body));
    let assertion = format!(
        "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=\
         {ASSERTION}"
    );
    match asked.target.as_str() {
        "/acme.example/oauth2/v2.0/token" if proof == format!("client_secret={SECRET}") => given("of-secret", "3599"),
        "/acme.example/oauth2/v2.0/token" if proof == assertion => given("of-assertion", "3599"),
        _ => Says::This(
            401,
            format!(r#"{{"error":"invalid_client","error_description":"{SECRET}"}}"#),
        ),
    }
}

/// The metadata service of a virtual machine, and the endpoint of an app service.
fn machine(asked: &Asked) -> Says {
    let vm = format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={RESOURCE}");
    let app = format!("/msi/token?api-version=2019-08-01&resource={RESOURCE}&client_id=me");
    match asked.target.as_str() {
        target if target == vm && asked.header("metadata") == "true" => given("of-machine", "\"86399\""),
        target if target == app && asked.header("x-identity-header") == SECRET => given("of-app", "\"86399\""),
        _ => Says::This(400, r#"{"error":"invalid_request"}"#.to_owned()),
    }
}

impl Azure {
    async fn start() -> Self {
        let (registry, storage) = (Server::start().await, Server::start().await);
        let (login, machine) = (Cloud::start(login).await, Cloud::start(machine).await);
        let (proxy, authority) = (Proxy::start().await, Authority::new());
        let mut fronts = Vec::new();
        for (name, address) in [
            (HOST, registry.host()),
            (STORAGE, storage.host()),
            (LOGIN, login.host()),
        ] {
            let front = authority.front_of(address, name, Wants::Nothing).await;
            proxy.knows(&format!("{name}:443"), &format!("127.0.0.1:{}", front.port));
            fronts.push(front);
        }
        let layer = noise(1000, 9);
        let put = registry.put_image("team/app", "v1", std::slice::from_ref(&layer));
        storage.put_blob("layers", &layer);
        let away = format!("https://{STORAGE}/v2/layers/blobs/{}?sig=f00", put.layers[0]);
        registry.on("GET /v2/team/app/blobs/", ALWAYS, [Act::Redirect(away)]);
        registry.demand_bearer_of(&format!("https://{HOST}/oauth2/token"), &registry);
        registry.allow_token("access");
        let claims = URL_SAFE_NO_PAD.encode(r#"{"exp":9999999999}"#);
        let refresh = format!(r#"{{"refresh_token":"e30.{claims}.canary"}}"#);
        registry.on(
            "POST /oauth2/exchange",
            ALWAYS,
            [Act::Status(200), Act::Body(refresh.into())],
        );
        // Only this name is sent, and nothing about its life.
        let access = Act::Body(r#"{"access_token":"access"}"#.into());
        registry.on("POST /oauth2/token", ALWAYS, [Act::Status(200), access]);
        Self {
            config: RemoteConfig {
                url: format!("https://{HOST}").parse().unwrap(),
                proxy: Some(proxy.config(None)),
                ca: Some(authority.pem()),
                ..remote(&registry)
            },
            registry,
            storage,
            login,
            machine,
            directory: TempDir::new().unwrap(),
            put,
            proxy,
            _fronts: fronts,
        }
    }

    fn config(&self, more: &[(&str, &str)]) -> RemoteConfig {
        let machine = self.machine.url();
        let own = [("AZURE_POD_IDENTITY_AUTHORITY_HOST", machine.as_str())];
        let environment: Environment = own.iter().chain(more).copied().collect();
        RemoteConfig {
            credentials: vec![Login::Provided(Provider::Azure, environment)],
            ..self.config.clone()
        }
    }

    async fn error(&self, more: &[(&str, &str)]) -> String {
        let error = manifest(&upstream(&self.config(more)).unwrap(), "team/app")
            .await
            .unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(matches!(error, Error::Credentials(_)), "{text}");
        assert!(!text.contains("canary"), "{text}");
        text
    }

    fn asked(&self, path: &str) -> Vec<Seen> {
        let seen = self.registry.seen();
        seen.into_iter().filter(|seen| seen.target == path).collect()
    }
}

const APPLICATION: [(&str, &str); 2] = [("AZURE_TENANT_ID", "acme.example"), ("AZURE_CLIENT_ID", "me")];

#[tokio::test]
async fn a_proof_is_exchanged_for_a_token_that_only_the_registrys_own_endpoint_sees() {
    let azure = Azure::start().await;
    let variables = [&APPLICATION[..], &[("AZURE_CLIENT_SECRET", SECRET)]].concat();
    let upstream = upstream(&azure.config(&variables)).unwrap();
    let all = futures_util::future::join_all((0..10).map(|_| manifest(&upstream, "team/app"))).await;
    assert!(
        all.iter().all(|one| *one == Ok(Some(azure.put.digest.clone()))),
        "{all:?}"
    );
    let blob = upstream
        .blob(
            &"team/app".parse().unwrap(),
            &azure.put.layers[0],
            Range::default(),
            None,
        )
        .await;
    assert!(blob.unwrap().is_some());

    assert_eq!(azure.login.asked().len(), 1);
    let exchanged = azure.asked("/oauth2/exchange");
    assert_eq!(exchanged.len(), 1);
    assert_eq!(
        exchanged[0].body,
        format!("grant_type=access_token&service={HOST}&access_token=of-secret&tenant=acme.example")
    );
    let asked = azure.asked("/oauth2/token");
    assert_eq!(asked.len(), 1);
    let fields: Vec<&str> = asked[0].body.split('&').collect();
    assert_eq!(fields[..2], ["grant_type=refresh_token", "client_id=entrepot"]);
    assert!(fields[2].starts_with("refresh_token=e30."), "{fields:?}");
    assert_eq!(fields[3..], ["service=test", "scope=repository%3Ateam%2Fapp%3Apull"]);
    for seen in azure.registry.seen() {
        let shown = format!("{seen:?}");
        assert!(!shown.contains(SECRET), "{shown}");
        assert_eq!(shown.contains("canary"), seen.target == "/oauth2/token", "{shown}");
    }
    assert!(!azure.storage.seen().is_empty());
    for seen in azure.storage.seen() {
        assert_eq!(seen.header("authorization"), None, "{seen:?}");
    }
    assert!(azure.machine.asked().is_empty());
}

#[tokio::test]
async fn a_workload_and_the_machine_prove_who_we_are_too() {
    let azure = Azure::start().await;
    let file = azure.directory.path().join("token");
    std::fs::write(&file, format!("{ASSERTION}\n")).unwrap();
    let file = file.to_str().unwrap();
    let app = format!("{}/msi/token", azure.machine.url());
    for (variables, expected) in [
        (
            [&APPLICATION[..], &[("AZURE_FEDERATED_TOKEN_FILE", file)]].concat(),
            "of-assertion",
        ),
        (Vec::new(), "of-machine"),
        (
            vec![
                ("IDENTITY_ENDPOINT", app.as_str()),
                ("IDENTITY_HEADER", SECRET),
                ("AZURE_CLIENT_ID", "me"),
            ],
            "of-app",
        ),
    ] {
        azure.registry.forget();
        let own = upstream(&azure.config(&variables)).unwrap();
        assert_eq!(
            manifest(&own, "team/app").await,
            Ok(Some(azure.put.digest.clone())),
            "{expected}"
        );
        let exchanged = azure.asked("/oauth2/exchange");
        assert!(
            exchanged[0].body.contains(&format!("&access_token={expected}")),
            "{}",
            exchanged[0].body
        );
    }
    assert!(
        azure.proxy.asked().iter().all(|head| head.starts_with("CONNECT ")),
        "the machine is not asked through a proxy"
    );
}

#[tokio::test]
async fn what_is_set_up_wrong_or_refused_is_told() {
    let azure = Azure::start().await;
    let secret = ("AZURE_CLIENT_SECRET", SECRET);
    for (variables, expected) in [
        (vec![secret], "AZURE_TENANT_ID is not set"),
        (
            vec![secret, ("AZURE_TENANT_ID", "acme.example")],
            "AZURE_CLIENT_ID is not set",
        ),
        (
            vec![secret, ("AZURE_TENANT_ID", "a/../b"), APPLICATION[1]],
            "AZURE_TENANT_ID is neither an id nor a domain",
        ),
        (
            [
                &APPLICATION[..],
                &[secret, ("AZURE_AUTHORITY_HOST", "http://login.example")],
            ]
            .concat(),
            "AZURE_AUTHORITY_HOST is no https address",
        ),
        (
            vec![("AZURE_CLIENT_CERTIFICATE_PATH", "x")],
            "AZURE_CLIENT_CERTIFICATE_PATH is set, which is not supported",
        ),
        (
            [&APPLICATION[..], &[("AZURE_FEDERATED_TOKEN_FILE", "/nowhere")]].concat(),
            "/nowhere is not there",
        ),
        (
            vec![("IDENTITY_ENDPOINT", "x"), ("IDENTITY_HEADER", SECRET)],
            "IDENTITY_ENDPOINT is no web address",
        ),
    ] {
        let text = azure.error(&variables).await;
        assert!(text.contains(expected), "{text}");
    }
    assert!(azure.login.asked().is_empty() && azure.machine.asked().is_empty());

    let wrong = [&APPLICATION[..], &[("AZURE_CLIENT_SECRET", "canary-of-another")]].concat();
    assert!(
        azure
            .error(&wrong)
            .await
            .contains("Microsoft Entra ID answers 401 (invalid_client)")
    );
    azure.machine.think(|_| {
        Says::This(
            400,
            r#"{"error":"invalid_request","error_description":"canary"}"#.to_owned(),
        )
    });
    assert!(
        azure
            .error(&[])
            .await
            .contains("the machine's identity endpoint answers 400 (invalid_request)")
    );

    let right = [&APPLICATION[..], &[secret]].concat();
    azure.registry.behave();
    let refusal = r#"{"errors":[{"code":"UNAUTHORIZED","message":"canary"}]}"#;
    azure.registry.on(
        "POST /oauth2/exchange",
        1,
        [Act::Status(401), Act::Body(refusal.into())],
    );
    assert!(
        azure
            .error(&right)
            .await
            .contains("the registry's /oauth2/exchange answers 401 (UNAUTHORIZED)")
    );
    azure.registry.on(
        "POST /oauth2/exchange",
        1,
        [Act::Status(200), Act::Body("canary".into())],
    );
    assert!(azure.error(&right).await.contains("gives no token"));
    // What it was asked to exchange is for it alone.
    azure.registry.on(
        "POST /oauth2/exchange",
        1,
        [Act::Redirect(format!("https://{STORAGE}/"))],
    );
    assert!(azure.error(&right).await.contains("answers 307"));
    assert!(azure.storage.seen().is_empty());
}

#[tokio::test]
async fn nobody_but_azure_is_shown_such_a_token() {
    for (url, is_well) in [
        ("https://acme.azurecr.io", true),
        ("https://acme.azurecr.cn/team", true),
        ("https://acme.azurecr.us", true),
        ("https://azurecr.io", false),
        ("https://evilazurecr.io", false),
        ("https://acme.azurecr.io.evil.org", false),
        ("https://registry.example.com", false),
        ("http://acme.azurecr.io", false),
        ("https://acme.azurecr.io:8443", false),
    ] {
        let mut config = RemoteConfig::of(url.parse().unwrap());
        config.credentials = vec![Login::Provided(Provider::Azure, Environment::default())];
        assert_eq!(upstream(&config).is_ok(), is_well, "{url}");
    }
}
