//! Upstreams that lead to where only we can look. The neighbour listens on 127.0.0.2; the upstream, on 127.0.0.1, may be
//! asked although it is private, because the configuration says so.

use std::sync::Arc;

use entrepot::config::RemoteConfig;
use entrepot::oci::{Digest, ImageName};
use entrepot::telemetry::Metrics;
use entrepot::upstream::{Error, Range, Upstream};

use crate::support::upstream::{ALWAYS, Act, Server, credentials, noise, remote};

async fn blob_by(config: &RemoteConfig, digest: &Digest) -> Result<bool, Error> {
    let metrics = Arc::new(Metrics::new().unwrap());
    let upstream = Upstream::new(&"remote".parse().unwrap(), config, 64 * 1024, metrics).unwrap();
    let image: ImageName = "a".parse().unwrap();
    let given = upstream.blob(&image, digest, Range::default(), None).await?;
    Ok(given.is_some())
}

async fn neighbour() -> Server {
    Server::start_at("127.0.0.2:0").await
}

/// Asserts that a redirect to each of these is refused as private.
async fn assert_refused(targets: &[&str]) {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[noise(100, 1)]);
    for target in targets {
        server.behave();
        server.on("GET /blobs/", ALWAYS, [Act::Redirect((*target).to_owned())]);
        let refused = blob_by(&remote(&server), &put.layers[0]).await;
        assert!(matches!(refused, Err(Error::Private { .. })), "{target}: {refused:?}");
    }
}

/// Nexus fetched a cloud's metadata for whoever could name an address.
#[tokio::test]
async fn cve_2022_27907_a_clouds_metadata_is_not_fetched() {
    assert_refused(&[
        "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
        "http://[fd00:ec2::254]/latest/meta-data/",
        "http://168.63.129.16/machine?comp=goalstate",
    ])
    .await;
}

/// The same once more in Nexus: a number may be written in many ways.
#[tokio::test]
async fn cve_2026_0600_no_spelling_of_a_private_address_gets_through() {
    let neighbour = neighbour().await;
    let port = neighbour.port();
    let spellings: Vec<String> = [
        "127.0.0.2",
        "2130706434",
        "0x7f000002",
        "0x7f.2",
        "127.2",
        "0177.0.0.2",
        "%31%32%37.0.0.2",
        "127.0.0.2.",
        "[::ffff:127.0.0.2]",
        "[::ffff:7f00:2]",
    ]
    .iter()
    .map(|host| format!("http://{host}:{port}/latest"))
    .collect();
    let spellings: Vec<&str> = spellings.iter().map(String::as_str).collect();
    assert_refused(&spellings).await;
    assert_eq!(neighbour.connections(), 0);
}

/// Harbor asked any address that it was given as a registry's. Ours come from the configuration; a realm does not.
#[tokio::test]
async fn cve_2020_13788_a_realm_on_a_private_address_is_not_asked() {
    let (server, neighbour) = (Server::start().await, neighbour().await);
    let put = server.put_image("a", "v1", &[noise(100, 1)]);
    server.demand_bearer(&neighbour);
    let mut config = remote(&server);
    config.credentials = vec![credentials()];
    let refused = blob_by(&config, &put.layers[0]).await;
    assert!(matches!(refused, Err(Error::Private { .. })), "{refused:?}");
    assert_eq!(neighbour.connections(), 0);

    // Said to be right, it is right.
    config.allow_private = vec!["127.0.0.2/32".parse().unwrap()];
    assert_eq!(blob_by(&config, &put.layers[0]).await, Ok(true));
    assert_eq!(neighbour.asked("GET /token"), 1);
}

/// Dragonfly looked at the first address only.
#[tokio::test]
async fn cve_2025_59346_every_hop_is_looked_at() {
    let (server, between, neighbour) = (Server::start().await, Server::start().await, neighbour().await);
    let put = server.put_image("a", "v1", &[noise(100, 1)]);
    neighbour.put_image("a", "v1", &[noise(100, 1)]);
    let next = format!("{}/v2/a/blobs/{}", between.url(), put.layers[0]);
    server.on("GET /blobs/", ALWAYS, [Act::Redirect(next)]);
    let last = format!("{}/v2/a/blobs/{}", neighbour.url(), put.layers[0]);
    between.on("GET /blobs/", ALWAYS, [Act::Redirect(last)]);
    let refused = blob_by(&remote(&server), &put.layers[0]).await;
    assert!(matches!(refused, Err(Error::Private { .. })), "{refused:?}");
    assert_eq!(between.asked("GET /blobs/"), 1);
    assert_eq!(neighbour.connections(), 0);
}

/// ollama followed a 307 inwards.
#[tokio::test]
async fn cve_2026_5530_a_307_inwards_is_not_followed() {
    let (server, neighbour) = (Server::start().await, neighbour().await);
    let put = server.put_image("a", "v1", &[noise(100, 1)]);
    let target = format!("{}/admin", neighbour.url());
    server.on("GET /blobs/", ALWAYS, [Act::Redirect(target)]);
    let refused = blob_by(&remote(&server), &put.layers[0]).await;
    assert!(matches!(refused, Err(Error::Private { .. })), "{refused:?}");
    assert_eq!(neighbour.connections(), 0);
}

/// artifact-keeper forgot addresses within addresses, links, and clouds other than Amazon's.
#[tokio::test]
async fn ghsa_7f39_forms_that_wrap_an_address_and_other_clouds_are_private_too() {
    assert_refused(&[
        "http://[::ffff:169.254.169.254]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[2002:a9fe:a9fe::1]/",
        "http://[fe80::1]/",
        "http://[::]/",
        "http://0.0.0.0/",
        "http://192.0.0.192/opc/v2/instance/",
        "http://100.100.100.200/latest/meta-data/",
    ])
    .await;
}

/// go-containerregistry looked at names and not at what they stand for: the check is where the connection is made.
#[tokio::test]
async fn ggcr_2293_a_name_for_a_private_address_is_refused_when_connecting() {
    let neighbour = Server::start().await;
    let target = format!("http://localhost:{}/", neighbour.port());
    assert_refused(&[&target]).await;
    assert_eq!(neighbour.connections(), 0);
}
