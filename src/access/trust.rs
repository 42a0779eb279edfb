//! TLS towards those who vouch for others: an issuer's keys, a directory. The machine's own certificate authorities, and
//! those of `ca`.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// Whom to believe.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust(Vec<CertificateDer<'static>>);

impl Trust {
    /// Reads a `ca`. What is wrong with it shows here, before anything is served.
    pub(super) fn read(pem: Option<&[u8]>) -> Result<Self, String> {
        let Some(pem) = pem else {
            return Ok(Self::default());
        };
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let found = found.map_err(|error| format!("`ca` is not PEM, or damaged: {error}"))?;
        if found.is_empty() {
            return Err(
                "`ca` has no certificate in it: it is to be PEM, which begins with -----BEGIN CERTIFICATE-----".into(),
            );
        }
        let mut store = RootCertStore::empty();
        for (index, authority) in found.iter().enumerate() {
            store.add(authority.clone()).map_err(|error| {
                let number = index + 1;
                format!("`ca`: its certificate number {number} is none that can be trusted: {error}")
            })?;
        }
        Ok(Self(found))
    }

    /// How to shake hands. Reads the certificate store of the machine, so it blocks.
    pub(super) fn client(&self) -> Result<ClientConfig, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(self.0.iter().cloned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_come_from_pem_or_the_reason_is_told() {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        assert_eq!(Trust::read(Some(made.cert.pem().as_bytes())).expect("one").0.len(), 1);
        assert!(Trust::read(None).expect("none").0.is_empty());
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (text, words) in [
            ("", "no certificate"),
            ("text", "no certificate"),
            (damaged, "number 1"),
        ] {
            let said = Trust::read(Some(text.as_bytes())).expect_err(text);
            assert!(said.contains(words), "{said}");
        }
    }
}
