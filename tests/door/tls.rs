//! S14: which TLS is spoken, and whose certificates are believed. Swaps under load and stalled handshakes are beside.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use axum::{Extension, Router, routing};
use entrepot::config::TlsConfig;
use entrepot::http::serve::Peer;
use entrepot::http::tls::Tls;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::support::{GET, LONG, PATIENT, Site, ask, issue, shake};

/// Who vouches for clients.
struct Authority(CertifiedIssuer<'static, KeyPair>);

type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = named(name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed"))
    }

    fn file(&self, folder: &Path, name: &str) -> std::path::PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, self.0.pem()).expect("write");
        path
    }

    fn client(&self, name: &str) -> Shown {
        self.client_until(name, 2100)
    }

    fn client_until(&self, name: &str, year: i32) -> Shown {
        let mut params = CertificateParams::new(vec!["client.test".to_owned()]).expect("a name");
        params.distinguished_name = named(name);
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("signed");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        (vec![certificate.der().clone()], key)
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    if !name.is_empty() {
        names.push(DnType::CommonName, name);
    }
    names
}

fn client(server: &TlsConfig, shown: Option<Shown>, versions: &[&'static SupportedProtocolVersion]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(&server.cert).expect("PEM"))
        .expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots);
    let config = match shown {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("a certificate"),
        None => builder.with_no_client_auth(),
    };
    TlsConnector::from(Arc::new(config))
}

/// A door that answers with the user whom the certificate names.
async fn site(tls: &Tls) -> Site {
    let user = async |Extension(peer): Extension<Peer>| {
        let user = peer.certified.as_ref().and_then(|shown| shown.user(SystemTime::now()));
        format!("user: {}", user.unwrap_or("nobody"))
    };
    let router = Router::new().route("/", routing::get(user));
    Site::open_with(10, PATIENT, Some(tls.clone()), router).await
}

async fn user(site: &Site, connector: &TlsConnector) -> Option<String> {
    let mut stream = shake(connector, site.connect().await).await.ok()?;
    let text = ask(&mut stream, GET).await?;
    Some(text.split("user: ").nth(1).expect("an answer").to_owned())
}

/// The first message of a client that speaks no more than this version, without what came with 1.3.
fn hello(version: [u8; 2], suites: &[u16]) -> Vec<u8> {
    fn with_length(content: &[u8], bytes: usize) -> Vec<u8> {
        [&content.len().to_be_bytes()[8 - bytes..], content].concat()
    }
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let extensions = [
        // Curves: x25519, secp256r1. Points: uncompressed. Signatures: ECDSA with P-256.
        &[0, 10, 0, 6, 0, 4, 0, 29, 0, 23][..],
        &[0, 11, 0, 2, 1, 0],
        &[0, 13, 0, 4, 0, 2, 4, 3],
    ]
    .concat();
    let body = [
        &version[..],
        &[7; 32],
        &[0],
        &with_length(&suites, 2),
        &[1, 0],
        &with_length(&extensions, 2),
    ]
    .concat();
    let message = [&[1][..], &with_length(&body, 3)].concat();
    [&[22, 3, 1][..], &with_length(&message, 2)].concat()
}

/// The type of the record that it is answered with: 22 goes on with the handshake, 21 refuses.
async fn record(site: &Site, hello: &[u8]) -> u8 {
    let mut stream = site.connect().await;
    stream.write_all(hello).await.expect("sent");
    timeout(LONG, stream.read_u8())
        .await
        .expect("in time")
        .expect("an answer")
}

#[tokio::test]
async fn s14_only_tls_1_2_and_1_3_with_strong_ciphers() {
    const GOOD: u16 = 0xc02b;
    let folder = tempfile::tempdir().expect("folder");
    let files = issue(folder.path(), "a");
    let site = site(&Tls::load(&files).expect("loads")).await;
    for version in [&TLS12, &TLS13] {
        let user = user(&site, &client(&files, None, &[version])).await;
        assert_eq!(user.as_deref(), Some("nobody"), "{version:?}");
    }
    assert_eq!(
        record(&site, &hello([3, 3], &[GOOD])).await,
        22,
        "the hello itself is good"
    );
    for version in [[3, 0], [3, 1], [3, 2]] {
        assert_eq!(record(&site, &hello(version, &[GOOD])).await, 21, "{version:?}");
    }
    // Nothing encrypted, export, RC4, DES, 3DES, nobody authenticated, without forward secrecy, CBC.
    for weak in [
        0x0001, 0x0003, 0x0005, 0x0009, 0x000a, 0x0034, 0x009c, 0x003c, 0xc009, 0xc023, 0xc007, 0xc008,
    ] {
        assert_eq!(record(&site, &hello([3, 3], &[weak])).await, 21, "{weak:#06x}");
    }
    // An SSL 2 hello, and plain HTTP: never an answer in the clear.
    for other in [&[0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10][..], GET] {
        let mut stream = site.connect().await;
        stream.write_all(other).await.expect("sent");
        stream.shutdown().await.expect("shut");
        let mut said = Vec::new();
        let _ = timeout(LONG, stream.read_to_end(&mut said)).await.expect("in time");
        assert!(!said.windows(4).any(|part| part == b"HTTP"), "{said:?}");
        assert!(said.first().is_none_or(|kind| *kind == 21), "{said:?}");
    }
}

#[tokio::test]
async fn s14_a_client_certificate_names_its_user_and_a_strange_one_ends_the_handshake() {
    let folder = tempfile::tempdir().expect("folder");
    let (ours, theirs) = (Authority::new("ours"), Authority::new("ours"));
    let files = TlsConfig {
        client_ca: Some(ours.file(folder.path(), "ours.crt")),
        ..issue(folder.path(), "a")
    };
    let site = site(&Tls::load(&files).expect("loads")).await;
    for version in [&TLS12, &TLS13] {
        let user = async |shown| user(&site, &client(&files, shown, &[version])).await;
        assert_eq!(user(None).await.as_deref(), Some("nobody"));
        assert_eq!(user(Some(ours.client("ada"))).await.as_deref(), Some("ada"));
        assert_eq!(user(Some(ours.client(""))).await.as_deref(), Some("nobody"));
        assert_eq!(user(Some(theirs.client("ada"))).await, None, "another authority's");
        assert_eq!(
            user(Some(ours.client_until("ada", 2001))).await,
            None,
            "one that has run out"
        );
        // Whoever takes up a session would not be asked again.
        let connector = client(&files, Some(ours.client("ada")), &[version]);
        for _ in 0..2 {
            let mut stream = shake(&connector, site.connect().await).await.expect("shakes");
            assert!(ask(&mut stream, GET).await.expect("served").ends_with("user: ada"));
            let kind = stream.get_ref().1.handshake_kind();
            assert_eq!(kind, Some(rustls::HandshakeKind::Full));
        }
    }
}

#[tokio::test]
async fn s14_authorities_that_are_exchanged_end_what_they_vouched_for() {
    let folder = tempfile::tempdir().expect("folder");
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let server = issue(folder.path(), "a");
    let with = |authority: &Authority| TlsConfig {
        client_ca: Some(authority.file(folder.path(), "clients.crt")),
        ..server.clone()
    };
    let tls = Tls::load(&with(&first)).expect("loads");
    let site = site(&tls).await;
    let connector = client(&server, Some(first.client("ada")), &[&TLS13]);
    let mut stream = shake(&connector, site.connect().await).await.expect("shakes");
    let mut asked = async || ask(&mut stream, GET).await.expect("served");
    assert!(asked().await.ends_with("user: ada"));
    // A reload that changes something else changes nobody.
    tls.replace(&with(&first)).expect("replaces");
    assert!(asked().await.ends_with("user: ada"));
    tls.replace(&with(&second)).expect("replaces");
    assert!(asked().await.ends_with("user: nobody"));
    assert_eq!(user(&site, &connector).await, None);
    let other = client(&server, Some(second.client("bob")), &[&TLS13]);
    assert_eq!(user(&site, &other).await.as_deref(), Some("bob"));
    // Without authorities nobody is asked for a certificate.
    tls.replace(&server).expect("replaces");
    assert_eq!(user(&site, &other).await.as_deref(), Some("nobody"));
}
