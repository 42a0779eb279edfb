//! Asks the local server whether it is ready: for images without a shell or curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::config::{ServerConfig, TlsConfig};

/// The whole question: longer than this is not ready.
const PATIENCE: Duration = Duration::from_secs(3);

/// Fails with the reason when the server of this configuration is not ready.
pub async fn ready(server: &ServerConfig) -> anyhow::Result<()> {
    let main = server.listen.first().map(|listen| listen.address);
    let address = reachable(server.metrics.or(main).context("the configuration listens nowhere")?);
    // The metrics address is never TLS.
    let tls = server.tls.as_ref().filter(|_| server.metrics.is_none());
    match tokio::time::timeout(PATIENCE, ask(address, tls)).await {
        Ok(answer) => answer,
        Err(_) => bail!("{address} did not answer within {} seconds", PATIENCE.as_secs()),
    }
}

/// An address to listen on everywhere is reached on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

async fn ask(address: SocketAddr, tls: Option<&TlsConfig>) -> anyhow::Result<()> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("nothing listens on {address}"))?;
    match tls {
        None => exchange(stream, address).await,
        Some(tls) => {
            let config = pinned(tls)?;
            let name = ServerName::IpAddress(address.ip().into());
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            exchange(connector.connect(name, stream).await?, address).await
        }
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, address: SocketAddr) -> anyhow::Result<()> {
    let request = format!("GET /readyz HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // A TLS peer that leaves without saying so has still answered.
    let _ = stream.take(4096).read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).unwrap_or_default();
    if status == "200" {
        return Ok(());
    }
    let reason = answer.split("\r\n\r\n").nth(1).unwrap_or_default().trim();
    bail!("{address} is not ready: {status} {reason}")
}

/// Trusts exactly the certificate that this configuration serves: its name is seldom that of a loopback address.
fn pinned(tls: &TlsConfig) -> anyhow::Result<rustls::ClientConfig> {
    let certificate =
        CertificateDer::from_pem_file(&tls.cert).map_err(|error| anyhow::anyhow!("{}: {error}", tls.cert.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Pinned {
        certificate,
        provider: Arc::clone(&provider),
    };
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(
            "the server shows another certificate than its configuration names".to_owned(),
        ))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
