//! An authority that nobody knows, what it vouches for, and ports that speak TLS in front of a server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use entrepot::config::{ClientTls, Secret};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::upstream::Server;

/// An authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A port that speaks TLS. It closes when dropped.
pub struct Front {
    pub port: u16,
    shown: Arc<AtomicU64>,
    _running: JoinSet<()>,
}

/// What a port wants to see of who comes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    Nothing,
    /// A certificate, from those who have one.
    Certificate,
    /// A certificate from everybody.
    EveryonesCertificate,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// For `ca`.
    pub fn pem(&self) -> Arc<[u8]> {
        self.0.pem().into_bytes().into()
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    /// What a port under this name speaks TLS with.
    pub fn server(&self, name: &str) -> Arc<ServerConfig> {
        let (certificate, key) = self.issue(name);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.unwrap().with_no_client_auth();
        Arc::new(config.with_single_cert(vec![certificate.der().clone()], key).unwrap())
    }

    /// For `client_tls`.
    pub fn client(&self) -> ClientTls {
        let (certificate, key) = self.issue("client.test");
        ClientTls {
            cert: certificate.pem().into_bytes().into(),
            key: Secret::new(key.serialize_pem()),
        }
    }

    /// A port in front of a server, under this name or address.
    pub async fn front(&self, server: &Server, name: &str, wants: Wants) -> Front {
        self.front_of(server.host(), name, wants).await
    }

    /// The same in front of whatever is at this address.
    pub async fn front_of(&self, server: String, name: &str, wants: Wants) -> Front {
        let (certificate, key) = self.issue(name);
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let verifier = match wants {
            Wants::EveryonesCertificate => verifier.build().unwrap(),
            _ => verifier.allow_unauthenticated().build().unwrap(),
        };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match wants {
            Wants::Nothing => builder.with_no_client_auth(),
            _ => builder.with_client_cert_verifier(verifier),
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shown = Arc::new(AtomicU64::new(0));
        let mut running = JoinSet::new();
        running.spawn(pass(listener, Arc::new(config), server, Arc::clone(&shown)));
        Front {
            port,
            shown,
            _running: running,
        }
    }
}

impl Front {
    /// How many connections brought a certificate.
    pub fn shown(&self) -> u64 {
        self.shown.load(Ordering::Relaxed)
    }

    pub fn url(&self, host: &str) -> url::Url {
        format!("https://{host}:{}", self.port).parse().unwrap()
    }
}

async fn pass(listener: TcpListener, config: Arc<ServerConfig>, to: String, shown: Arc<AtomicU64>) {
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let mut connections = JoinSet::new();
    while let Ok((outside, _)) = listener.accept().await {
        let (acceptor, to, shown) = (acceptor.clone(), to.clone(), Arc::clone(&shown));
        connections.spawn(async move {
            let mut outside = acceptor.accept(outside).await?;
            if outside.get_ref().1.peer_certificates().is_some() {
                shown.fetch_add(1, Ordering::Relaxed);
            }
            let mut inside = TcpStream::connect(to).await?;
            tokio::io::copy_bidirectional(&mut outside, &mut inside).await
        });
    }
}
