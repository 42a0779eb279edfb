//! A door with a small site behind it, and clients that speak raw HTTP.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::IntoResponse;
use axum::{Extension, Router, routing};
use entrepot::config::{Limits, Listen, TlsConfig};
use entrepot::http::serve::{Door, Patience, Peer};
use entrepot::http::tls::Tls;
use entrepot::telemetry::Metrics;
use futures_util::stream;
use http::StatusCode;
use http_body_util::BodyExt;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longer than anything here should take: a test that waits so long has failed.
pub(crate) const LONG: Duration = Duration::from_secs(20);
pub(crate) const PATIENT: Patience = Patience {
    head: LONG,
    idle: LONG,
    stall: LONG,
};
pub(crate) const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

pub(crate) struct Site {
    pub(crate) door: Door,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Arc<Metrics>,
    /// What `/gate` waits for between its two halves.
    pub(crate) gate: Arc<Semaphore>,
}

pub(crate) fn limits(connections: usize) -> Limits {
    Limits {
        manifest: 0,
        upload: 0,
        uploads: 0,
        upload_idle: Duration::ZERO,
        connections,
        header_timeout: Duration::ZERO,
    }
}

pub(crate) fn at(address: &str) -> Listen {
    Listen {
        address: address.parse().expect("address"),
        repository: None,
    }
}

impl Site {
    pub(crate) async fn open(connections: usize, patience: Patience, tls: Option<Tls>) -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let router = router(Arc::clone(&gate));
        let site = Self::open_with(connections, patience, tls, router).await;
        Self { gate, ..site }
    }

    pub(crate) async fn open_with(connections: usize, patience: Patience, tls: Option<Tls>, router: Router) -> Self {
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let gate = Arc::new(Semaphore::new(0));
        let door = Door::with_patience(&limits(connections), patience, Arc::clone(&metrics), router);
        let address = door.listen(&[at("127.0.0.1:0")], tls).await.expect("listens")[0];
        Self {
            door,
            address,
            metrics,
            gate,
        }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        timeout(LONG, TcpStream::connect(self.address))
            .await
            .expect("in time")
            .expect("connects")
    }

    /// Waits until so many connections are open.
    pub(crate) async fn until_open(&self, connections: usize) {
        let line = format!("\nentrepot_connections {connections}\n");
        let start = Instant::now();
        while !String::from_utf8(self.metrics.render().expect("text"))
            .expect("UTF-8")
            .contains(&line)
        {
            assert!(start.elapsed() < LONG, "never {connections} connections");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn router(gate: Arc<Semaphore>) -> Router {
    let zeros = Bytes::from(vec![0; 1 << 20]);
    Router::new()
        .route("/", routing::get(async || "hello"))
        .route("/panic", routing::get(async || -> &str { panic!("on purpose") }))
        .route(
            "/peer",
            routing::get(async |Extension(peer): Extension<Peer>| format!("{peer:?}")),
        )
        .route("/refuse", routing::put(async || (StatusCode::FORBIDDEN, "no")))
        .route(
            "/upload",
            routing::put(async |body: Body| match body.collect().await {
                Ok(body) => body.to_bytes().len().to_string().into_response(),
                Err(error) => (StatusCode::REQUEST_TIMEOUT, error.to_string()).into_response(),
            }),
        )
        .route(
            "/gate",
            routing::get(async || {
                let halves = stream::unfold(0, move |half| {
                    let gate = Arc::clone(&gate);
                    async move {
                        if half == 1 {
                            gate.acquire().await.expect("open").forget();
                        }
                        (half < 2).then_some((Ok::<_, std::io::Error>("half"), half + 1))
                    }
                });
                Body::from_stream(halves)
            }),
        )
        .route(
            "/zeros",
            routing::get(async move || {
                Body::from_stream(stream::repeat_with(move || Ok::<_, std::io::Error>(zeros.clone())))
            }),
        )
}

/// Sends one request and reads its whole answer, which must have a length.
pub(crate) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, request: &[u8]) -> Option<String> {
    let exchange = async {
        stream.write_all(request).await.ok()?;
        answer(stream).await
    };
    timeout(LONG, exchange).await.expect("an answer in time")
}

/// Reads one whole answer; `None` when the connection ends before that.
pub(crate) async fn answer<S: AsyncRead + Unpin>(stream: &mut S) -> Option<String> {
    let mut text = Vec::new();
    loop {
        if stream.read_buf(&mut text).await.ok()? == 0 {
            return None;
        }
        let all = String::from_utf8_lossy(&text).to_ascii_lowercase();
        let Some((head, body)) = all.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .split_once("content-length: ")
            .and_then(|(_, rest)| rest.lines().next());
        if length.is_some_and(|length| body.len() == length.parse::<usize>().expect("number")) {
            return Some(String::from_utf8_lossy(&text).into_owned());
        }
    }
}

/// How long it takes until the other side ends the connection.
pub(crate) async fn until_closed<S: AsyncRead + Unpin>(stream: &mut S) -> Duration {
    let start = Instant::now();
    let mut buffer = [0; 4096];
    let end = async { while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {} };
    timeout(LONG, end).await.expect("closed in time");
    start.elapsed()
}

/// A new certificate for `localhost`, in these files.
pub(crate) fn issue(folder: &Path, name: &str) -> TlsConfig {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("certificate");
    let files = TlsConfig {
        cert: folder.join(format!("{name}.crt")),
        key: folder.join(format!("{name}.key")),
        client_ca: None,
    };
    std::fs::write(&files.cert, made.cert.pem()).expect("write");
    std::fs::write(&files.key, made.signing_key.serialize_pem()).expect("write");
    files
}

/// A client that trusts these certificates.
pub(crate) fn connector(trusted: &[TlsConfig], protocols: &[&[u8]]) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    for files in trusted {
        roots
            .add(CertificateDer::from_pem_file(&files.cert).expect("PEM"))
            .expect("certificate");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    // Every connection is to see the certificate.
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = protocols.iter().map(|&name| name.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

pub(crate) async fn shake(connector: &TlsConnector, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").expect("name");
    timeout(LONG, connector.connect(name, stream)).await.expect("in time")
}
