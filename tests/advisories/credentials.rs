//! Credentials that left their host. The secrets are `ada` and `lovelace`; the thief is a server of its own.

use std::sync::Arc;

use entrepot::config::RemoteConfig;
use entrepot::oci::{Digest, ImageName, Reference};
use entrepot::telemetry::Metrics;
use entrepot::upstream::{Error, Range, Upstream};

use crate::in_front_of;
use crate::support::remote::pulling;
use crate::support::tls::{Authority, Wants};
use crate::support::upstream::{ALWAYS, Act, Server, behind_tls, credentials, digest, login, noise, remote};

const BASIC: &str = "Basic YWRhOmxvdmVsYWNl";

fn image(name: &str) -> ImageName {
    name.parse().unwrap()
}

fn upstream(config: &RemoteConfig) -> Upstream {
    let metrics = Arc::new(Metrics::new().unwrap());
    Upstream::new(&"remote".parse().unwrap(), config, 64 * 1024, metrics).unwrap()
}

/// A remote in front of this server that has something to lose.
fn trusting(server: &Server) -> RemoteConfig {
    RemoteConfig {
        credentials: vec![credentials()],
        ..remote(server)
    }
}

async fn pull(upstream: &Upstream, tag: &str) -> Result<Option<Digest>, Error> {
    let reference: Reference = tag.parse().unwrap();
    let answer = upstream.manifest(&image("a"), &reference).await?;
    Ok(answer.map(|(manifest, _)| manifest.digest))
}

fn assert_saw_no_secret(thief: &Server) {
    for seen in thief.seen() {
        let text = format!("{seen:?}");
        for secret in [
            "authorization",
            "lovelace",
            "YWRhOmxvdmVsYWNl",
            "secret-token",
            "cookie",
        ] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

/// containerd fetched a foreign layer's `urls` and showed its credentials to whoever asked there.
#[tokio::test]
async fn cve_2020_15157_what_a_manifest_links_to_is_never_fetched() {
    let (server, thief) = (Server::start().await, Server::start().await);
    let layer = noise(1000, 1);
    thief.demand_basic("ada", "lovelace");
    thief.put_blob("a", &layer);
    let config = server.put_blob("a", &"{}".into());
    let foreign = digest(&layer);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[{{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"{foreign}","size":1000,"urls":["{}/v2/a/blobs/{foreign}"]}}]}}"#,
        thief.url()
    );
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    server.put_manifest("a", Some("v1"), &manifest.into(), media_type);
    let config = RemoteConfig {
        prefetch_layers: true,
        ..trusting(&server)
    };
    let remote = pulling(&config).await;
    remote.tag("a", "v1").await.unwrap().expect("the manifest");
    assert!(remote.blob("a", &foreign).await.unwrap().is_none(), "it is not there");
    assert!(
        server.asked("GET /v2/a/blobs/") > 0,
        "it was asked for where it belongs"
    );
    assert_eq!(thief.connections(), 0);
}

/// distribution asked whatever `realm` named, with the upstream's password.
#[tokio::test]
async fn cve_2026_33540_a_realm_elsewhere_is_asked_without_the_password() {
    let (server, thief) = (Server::start().await, Server::start().await);
    let put = server.put_image("a", "v1", &[]);
    server.demand_bearer(&thief);
    let upstream = upstream(&trusting(&server));
    assert_eq!(pull(&upstream, "v1").await, Ok(Some(put.digest)));
    assert_eq!(thief.asked("GET /token"), 1);
    assert_saw_no_secret(&thief);
}

/// The same in oras-go: a registry that behaved at first may name another realm later.
#[tokio::test]
async fn cve_2026_48978_a_realm_that_moves_takes_no_password_along() {
    let (server, thief) = (Server::start().await, Server::start().await);
    let put = server.put_image("a", "v1", &[]);
    server.demand_bearer(&server);
    let upstream = upstream(&trusting(&server));
    assert_eq!(pull(&upstream, "v1").await, Ok(Some(put.digest.clone())));
    assert!(
        server
            .seen()
            .iter()
            .any(|seen| seen.header("authorization") == Some(BASIC)),
        "its own endpoint saw it"
    );
    server.demand_bearer(&thief);
    assert_eq!(pull(&upstream, "v1").await, Ok(Some(put.digest)));
    assert!(thief.asked("GET /token") > 0);
    assert_saw_no_secret(&thief);
}

/// The same in artifact-keeper, seen from the outside: what is configured in a file does not leave by any pull.
#[tokio::test]
async fn ghsa_78h6_3wp8_2542_a_configured_password_stays_with_its_registry() {
    let (server, thief) = (Server::start().await, Server::start().await);
    server.put_image("a", "v1", &[]);
    server.demand_bearer(&thief);
    let registry = in_front_of(&server, ", credentials: { username: ada, password: lovelace }");
    let response = registry.get("/v2/hub/a/manifests/v1").send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(thief.asked("GET /token"), 1);
    assert_saw_no_secret(&thief);
    assert!(
        registry.log().contains("token_realms"),
        "it says what to do if that is right"
    );
}

/// go-containerregistry followed a realm from https to http.
#[tokio::test]
async fn ggcr_2193_a_realm_in_the_clear_is_not_asked_for_a_registry_that_is_not() {
    let (server, thief) = (Server::start().await, Server::start().await);
    server.put_image("a", "v1", &[]);
    server.demand_bearer(&thief);
    let authority = Authority::new();
    let front = authority.front(&server, "127.0.0.1", Wants::Nothing).await;
    let mut config = trusting(&server);
    config.url = front.url("127.0.0.1");
    config.ca = Some(authority.pem());
    config.token_realms = vec![thief.host()];
    let refused = pull(&upstream(&config), "v1").await;
    assert!(matches!(refused, Err(Error::Lies(_))), "{refused:?}");
    assert_eq!(thief.connections(), 0, "not even without the password");
}

/// jib showed its password to a host that a redirect led to, because that asked for Basic.
#[tokio::test]
async fn jib_4523_who_a_redirect_leads_to_gets_no_answer_to_its_challenge() {
    let (server, thief) = (Server::start().await, Server::start().await);
    let blob = noise(1000, 2);
    let put = server.put_image("a", "v1", std::slice::from_ref(&blob));
    thief.put_blob("a", &blob);
    thief.demand_basic("ada", "lovelace");
    server.demand_basic("ada", "lovelace");
    let upstream = upstream(&trusting(&server));
    assert_eq!(pull(&upstream, "v1").await, Ok(Some(put.digest)));
    let target = format!("{}/v2/a/blobs/{}", thief.url(), put.layers[0]);
    server.on("GET /blobs/", ALWAYS, [Act::Redirect(target)]);
    let answer = upstream.blob(&image("a"), &put.layers[0], Range::default(), None).await;
    assert_eq!(answer.map(|_| ()), Err(Error::Refused { status: 401 }));
    assert!(thief.asked("GET /blobs/") > 0);
    assert_saw_no_secret(&thief);
}

/// oras-go and regclient kept `Authorization` when a redirect changed the host. Another port is another host.
#[tokio::test]
async fn ghsa_vh4v_2xq2_g5cg_a_redirect_to_another_port_loses_the_token() {
    let (server, thief) = (Server::start().await, Server::start().await);
    let blob = noise(1000, 3);
    let put = server.put_image("a", "v1", std::slice::from_ref(&blob));
    thief.put_blob("a", &blob);
    server.demand_bearer(&server);
    let upstream = upstream(&trusting(&server));
    let target = format!("{}/v2/a/blobs/{}", thief.url(), put.layers[0]);
    server.on("GET /blobs/", ALWAYS, [Act::Redirect(target)]);
    for _ in 0..2 {
        let given = upstream.blob(&image("a"), &put.layers[0], Range::default(), None).await;
        assert!(given.unwrap().is_some());
    }
    assert_eq!(thief.asked("GET /blobs/"), 2);
    assert_saw_no_secret(&thief);
}

/// regclient followed an address in an answer with the token. We upload nothing, but lists have a next page.
#[tokio::test]
async fn cve_2026_49349_the_next_page_is_the_registrys_own() {
    let (server, thief) = (Server::start().await, Server::start().await);
    server.put_image("a", "v1", &[]);
    server.demand_bearer(&server);
    let link = format!("<{}/v2/a/tags/list?n=1>; rel=\"next\"", thief.url());
    server.on(
        "GET /tags/",
        1,
        [
            Act::Status(401),
            Act::Header("WWW-Authenticate", format!("Bearer realm=\"{}/token\"", server.url())),
        ],
    );
    server.on("GET /tags/", ALWAYS, [Act::Header("Link", link)]);
    let refused = upstream(&trusting(&server)).tags(&image("a")).await;
    assert!(matches!(refused, Err(Error::Lies(_))), "{refused:?}");
    assert_eq!(thief.connections(), 0);
}

/// connaisseur took a credential for every URL that began with its host: `r.example` for `r.example.evil.org`.
#[tokio::test]
async fn connaisseur_2166_a_host_that_begins_alike_is_another_one() {
    let (server, thief) = (Server::start().await, Server::start().await);
    server.put_image("a", "v1", &[]);
    server.demand_bearer(&thief);
    let mut config = trusting(&server);
    let whole = thief.host();
    config.token_realms = vec![whole[..whole.len() - 1].to_owned()];
    pull(&upstream(&config), "v1").await.unwrap().expect("the image");
    assert!(thief.asked("GET /token") > 0);
    assert_saw_no_secret(&thief);

    // Where a text would begin with the registry's address, a URL has a user.
    let asked = thief.connections();
    server.demand_bearer_of(&format!("{}@{}/token", server.url(), thief.host()), &thief);
    let refused = pull(&upstream(&trusting(&server)), "v1").await;
    assert_eq!(refused, Err(Error::Refused { status: 401 }));
    assert_eq!(thief.connections(), asked);
}

/// containers/image asked for tokens without verifying who gives them.
#[tokio::test]
async fn cve_2019_10214_a_token_endpoint_that_nobody_vouches_for_is_not_asked() {
    let (server, tokens) = (Server::start().await, Server::start().await);
    server.put_image("a", "v1", &[]);
    let (url, _running) = behind_tls(&tokens).await;
    server.demand_bearer_of(&format!("{url}/token"), &tokens);
    let mut config = trusting(&server);
    config.token_realms = vec!["127.0.0.1".to_owned()];
    let refused = pull(&upstream(&config), "v1").await;
    assert!(matches!(refused, Err(Error::Unreachable(_))), "{refused:?}");
    assert_eq!(tokens.seen().len(), 0, "nothing was said to it");
}

/// Dragonfly switched verification off for what it was sent to.
#[tokio::test]
async fn cve_2025_59347_a_redirect_to_a_host_that_nobody_vouches_for_is_not_followed() {
    let (server, content) = (Server::start().await, Server::start().await);
    let put = server.put_image("a", "v1", &[noise(1000, 4)]);
    let (url, _running) = behind_tls(&content).await;
    server.on("GET /blobs/", ALWAYS, [Act::Redirect(format!("{url}/x"))]);
    let refused = upstream(&remote(&server))
        .blob(&image("a"), &put.layers[0], Range::default(), None)
        .await;
    assert!(matches!(refused, Err(Error::Unreachable(_))), "{:?}", refused.err());
    assert_eq!(content.seen().len(), 0);
}

/// angos kept tokens by registry alone: who asked second was given what the first one may see.
#[tokio::test]
async fn angos_1_4_5_a_token_belongs_to_the_credential_that_it_was_given_for() {
    let server = Server::start().await;
    server.put_image("a", "v1", &[]);
    server.put_image("a", "v2", &[]);
    server.demand_bearer(&server);
    server.count_pulls(1);
    let mut config = trusting(&server);
    config.credentials.push(login("eve", "other"));
    let upstream = upstream(&config);
    assert!(pull(&upstream, "v1").await.unwrap().is_some());
    assert!(pull(&upstream, "v2").await.unwrap().is_some(), "the other one pays");
    let seen = server.seen();
    let mut shown: Vec<&str> = seen
        .iter()
        .filter(|seen| seen.method == "GET" && seen.target.contains("/manifests/") && seen.status == 200)
        .filter_map(|seen| seen.header("authorization"))
        .collect();
    shown.dedup();
    assert_eq!(shown.len(), 2, "{shown:?}");
    let askers: std::collections::BTreeSet<_> = seen
        .iter()
        .filter(|seen| seen.target.starts_with("/token"))
        .map(|seen| seen.header("authorization").unwrap_or_default())
        .collect();
    assert_eq!(askers.len(), 2, "{askers:?}");
}

/// dart's registry passed its clients' headers on. What a client shows us is for us.
#[tokio::test]
async fn dart_8_what_a_client_shows_us_does_not_go_upstream() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[noise(1000, 5)]);
    let registry = in_front_of(&server, "");
    for path in [
        "/v2/a/manifests/v1".to_owned(),
        format!("/v2/a/blobs/{}", put.layers[0]),
        "/v2/a/tags/list".to_owned(),
    ] {
        let request = registry.get(&path).header("authorization", BASIC);
        let request = request
            .header("cookie", "session=lovelace")
            .header("x-api-key", "lovelace")
            .header("proxy-authorization", BASIC);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
    }
    assert!(server.seen().len() >= 3);
    assert_saw_no_secret(&server);
}
