//! TLS towards upstreams: `ring`, the machine's own certificate authorities and those of `ca`, a certificate of ours
//! where one is wanted, HTTP/1.1.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, InconsistentKeys, RootCertStore, SignatureScheme};

use super::Error;
use crate::config::{ClientTls, RemoteConfig};

/// Whom we believe, and as whom we come.
#[derive(Clone)]
pub(super) struct Trust {
    insecure: bool,
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<Arc<CertifiedKey>>,
}

impl Trust {
    /// Reads what the configuration gives as PEM. What is wrong with it shows here, before anything is served.
    pub(super) fn read(config: &RemoteConfig) -> Result<Self, Error> {
        let authorities = match &config.ca {
            Some(pem) => certificates("ca", pem)?,
            None => Vec::new(),
        };
        let mut store = RootCertStore::empty();
        for (index, authority) in authorities.iter().enumerate() {
            store.add(authority.clone()).map_err(|error| {
                let number = index + 1;
                wrong(
                    "ca",
                    format!("its certificate number {number} is none that can be trusted: {error}"),
                )
            })?;
        }
        Ok(Self {
            insecure: config.insecure,
            authorities,
            identity: config.client_tls.as_ref().map(identity).transpose()?.map(Arc::new),
        })
    }

    pub(super) const fn has_identity(&self) -> bool {
        self.identity.is_some()
    }

    /// How to shake hands with anybody. Reads the certificate store of the machine (`SSL_CERT_FILE` and `SSL_CERT_DIR`
    /// go before it), so it blocks. A machine without one is no error: upstreams over plain HTTP need none, and the
    /// others will say that the certificate's issuer is unknown.
    pub(super) fn with_strangers(&self) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let mut config = if self.insecure {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
                .with_no_client_auth()
        } else {
            builder.with_root_certificates(self.roots()).with_no_client_auth()
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// The same with those who may see our certificate; `None` if we have none. Sessions are not shared with others: who
    /// takes one up again is taken for who began it.
    pub(super) fn with_own(&self, strangers: &ClientConfig) -> Option<ClientConfig> {
        let identity = self.identity.as_ref()?;
        let mut config = strangers.clone();
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(Arc::clone(identity)));
        config.resumption = Resumption::default();
        Some(config)
    }

    fn roots(&self) -> RootCertStore {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(found.certs);
        store.add_parsable_certificates(self.authorities.iter().cloned());
        if store.is_empty() {
            tracing::warn!(
                errors = ?found.errors,
                "no certificate authorities were found on this machine: no https upstream can be trusted; install \
                 ca-certificates or point SSL_CERT_FILE at a bundle"
            );
        }
        store
    }
}

fn wrong(key: &'static str, reason: impl Into<String>) -> Error {
    Error::Configuration {
        key: key.to_owned(),
        reason: reason.into(),
    }
}

fn certificates(key: &'static str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|error| wrong(key, format!("it is not PEM, or damaged: {error}")))?;
    if found.is_empty() {
        return Err(wrong(
            key,
            "there is no certificate in it: it is to be PEM, which begins with -----BEGIN CERTIFICATE-----",
        ));
    }
    Ok(found)
}

fn identity(config: &ClientTls) -> Result<CertifiedKey, Error> {
    const CERT: &str = "client_tls.cert";
    const KEY: &str = "client_tls.key";
    let chain = certificates(CERT, &config.cert)?;
    let key = private_key(KEY, config.key.reveal())?;
    let key = rustls::crypto::ring::default_provider()
        .key_provider
        .load_private_key(key)
        .map_err(|error| wrong(KEY, format!("it is no private key of a kind that is known: {error}")))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // A kind of key whose public half the library does not tell: the first handshake shows it.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(wrong(
            KEY,
            "it does not belong to the first certificate in client_tls.cert: our own comes first, its issuers after it",
        )),
        Err(error) => Err(wrong(CERT, format!("its first certificate cannot be read: {error}"))),
    }
}

fn private_key(key: &'static str, text: &str) -> Result<PrivateKeyDer<'static>, Error> {
    match PrivateKeyDer::from_pem_slice(text.as_bytes()) {
        Ok(found) if !text.contains("Proc-Type: 4,ENCRYPTED") => Ok(found),
        Ok(_) => Err(wrong(key, "it is encrypted: store it without a password")),
        Err(_) if text.contains("ENCRYPTED") => Err(wrong(key, "it is encrypted: store it without a password")),
        Err(pem::Error::NoItemsFound) => Err(wrong(
            key,
            "there is no private key in it: it is to be PEM, which begins with -----BEGIN PRIVATE KEY-----",
        )),
        // The error could quote what it met.
        Err(_) => Err(wrong(key, "it is not PEM, or damaged")),
    }
}

/// `insecure: true`: whoever answers is believed. Signatures are still checked, so that the handshake is one.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::remote;
    use super::*;
    use crate::config::Secret;

    fn reading(change: impl FnOnce(&mut RemoteConfig)) -> Result<Trust, Error> {
        let mut config = remote("https://r.example.com");
        change(&mut config);
        Trust::read(&config)
    }

    fn pem(text: &str) -> Arc<[u8]> {
        text.as_bytes().into()
    }

    #[test]
    fn authorities_come_from_pem_or_the_reason_is_told() {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let read = |text: &str| reading(|config| config.ca = Some(pem(text)));
        assert_eq!(read(&cert).expect("one").authorities.len(), 1);
        assert_eq!(
            read(&format!("# ours\n{cert}\n{cert}")).expect("two").authorities.len(),
            2
        );
        assert!(!read(&cert).expect("one").has_identity());
        let other = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (text, words) in [
            ("", "no certificate"),
            ("corp-ca.pem", "no certificate"),
            (key.as_str(), "no certificate"),
            (&cert.replace("MII", "M*I"), "not PEM"),
            (&cert[..cert.len() / 2], "not PEM"),
            (&format!("{cert}{other}"), "number 2"),
        ] {
            let error = read(text).err().expect(words).to_string();
            assert!(error.contains("`ca`") && error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_certificate_of_ours_needs_its_key() {
        let make = || rcgen::generate_simple_self_signed(vec!["me".to_owned()]).expect("a certificate");
        let (own, other) = (make(), make());
        let (cert, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        let read = |cert: &str, key: &str| {
            reading(|config| {
                config.client_tls = Some(ClientTls {
                    cert: pem(cert),
                    key: Secret::new(key),
                });
            })
        };
        assert!(read(&cert, &key).expect("a pair").has_identity());
        let damaged = key.replace("MIG", "M*G");
        for (cert, key, at, words) in [
            ("", key.as_str(), "client_tls.cert", "no certificate"),
            (&key, &key, "client_tls.cert", "no certificate"),
            (&cert, "", "client_tls.key", "no private key"),
            (&cert, &cert, "client_tls.key", "no private key"),
            (&cert, &damaged, "client_tls.key", "not PEM"),
            (
                &cert,
                &other.signing_key.serialize_pem(),
                "client_tls.key",
                "does not belong",
            ),
            (
                &cert,
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
                "client_tls.key",
                "encrypted",
            ),
            (
                &cert,
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                "client_tls.key",
                "no private key",
            ),
        ] {
            let error = read(cert, key).err().expect(words).to_string();
            assert!(error.contains(at) && error.contains(words), "{error}");
            for line in key.lines().filter(|line| line.len() > 20 && !line.contains("---")) {
                assert!(!error.contains(line), "{error}");
            }
        }
    }
}
