//! Certificate and key of the front door, whose clients' certificates are believed there, and how both are exchanged
//! while it is open.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use std::{fmt, iter};

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerConnection, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::access::certificate::{self, Named};
use crate::config::TlsConfig;

/// The longest PEM file read: a chain of a hundred certificates is shorter.
const LONGEST_FILE: u64 = 1024 * 1024;

/// Why a certificate and its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not PEM, or a damaged one.
    #[error("{} is not PEM: {reason}", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A PEM file without a certificate.
    #[error("there is no certificate in {}", .0.display())]
    NoCertificate(PathBuf),
    /// A PEM file without a private key.
    #[error("there is no private key in {}", .0.display())]
    NoKey(PathBuf),
    /// A private key that needs a password.
    #[error("the private key in {} is encrypted: store it without a password", .0.display())]
    EncryptedKey(PathBuf),
    /// A private key of a kind that we cannot use.
    #[error("the private key in {} cannot be used: {source}", path.display())]
    UnusableKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// A certificate that cannot be understood.
    #[error("the first certificate in {} cannot be used: {source}", path.display())]
    UnusableCertificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// A certificate of `client_ca` that cannot vouch for anybody.
    #[error("certificate number {number} in {} vouches for nobody: {source}", path.display())]
    UnusableAuthority {
        /// The file.
        path: PathBuf,
        /// Which of its certificates, from 1 on.
        number: usize,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The key belongs to another certificate.
    #[error(
        "the private key in {} does not belong to the first certificate in {} (the server's own comes first, its issuers after it)",
        key.display(),
        cert.display()
    )]
    KeyMismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The TLS library refuses its settings.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// What makes connections TLS. A clone shares the certificate: [`Tls::replace`] on one is seen by all.
#[derive(Clone)]
pub struct Tls(Arc<ArcSwap<Current>>);

/// What handshakes are made with now. It is replaced as a whole: a session that was begun with one is never taken up
/// with another.
struct Current {
    config: Arc<ServerConfig>,
    authorities: Option<Arc<Authorities>>,
}

/// Who vouches for clients.
#[derive(PartialEq, Eq)]
struct Authorities(Vec<CertificateDer<'static>>);

/// Whom the certificate of a client names, for as long as it is to be believed.
#[derive(Clone)]
pub struct Certified {
    named: Arc<Named>,
    authorities: Arc<Authorities>,
    tls: Tls,
}

impl Tls {
    /// Reads certificate and key. An error never becomes plain text: without a `Tls` there is nothing to listen with.
    pub fn load(files: &TlsConfig) -> Result<Self, Error> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(Current::read(files, None)?))))
    }

    /// Reads all of it again, for handshakes from now on. On any error the old ones stay: the files may just be half
    /// written.
    pub fn replace(&self, files: &TlsConfig) -> Result<(), Error> {
        let read = Current::read(files, Some(&self.0.load()))?;
        self.0.store(Arc::new(read));
        Ok(())
    }

    /// What to begin a handshake with, and what to ask of the certificate when it is over.
    pub(super) fn acceptor(&self) -> (TlsAcceptor, Clients) {
        let current = self.0.load();
        let clients = Clients {
            tls: self.clone(),
            authorities: current.authorities.clone(),
        };
        (TlsAcceptor::from(Arc::clone(&current.config)), clients)
    }
}

/// Who clients of one handshake may be.
pub(super) struct Clients {
    tls: Tls,
    authorities: Option<Arc<Authorities>>,
}

impl Clients {
    /// Whom the certificate names that a client has shown.
    pub(super) fn named(self, connection: &ServerConnection) -> Option<Certified> {
        let certificate = connection.peer_certificates()?.first()?;
        let named = certificate::named(certificate);
        if named.is_none() {
            tracing::debug!("a client's certificate names no user: its subject has no common name, or several");
        }
        Some(Certified {
            named: Arc::new(named?),
            authorities: self.authorities?,
            tls: self.tls,
        })
    }
}

impl Certified {
    /// The user, if the certificate may still be believed: it has not run out since the handshake, nor were the
    /// authorities exchanged.
    pub fn user(&self, now: SystemTime) -> Option<&str> {
        let current = self.tls.0.load();
        let is_current = current
            .authorities
            .as_ref()
            .is_some_and(|authorities| Arc::ptr_eq(authorities, &self.authorities));
        (is_current && now <= self.named.until).then_some(self.named.user.as_str())
    }
}

impl fmt::Debug for Certified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.named.user)
    }
}

impl Current {
    fn read(files: &TlsConfig, before: Option<&Self>) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let certified = read(files, &provider)?;
        let authorities = files
            .client_ca
            .as_deref()
            .map(certificates)
            .transpose()?
            .map(Authorities);
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let builder = match (&authorities, &files.client_ca) {
            (Some(authorities), Some(path)) => {
                builder.with_client_cert_verifier(verifier(authorities, path, provider)?)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if authorities.is_some() {
            // Whoever takes up a session is not asked for a certificate again: the old one would live on with it.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        let authorities = authorities.map(|authorities| {
            let same = before.and_then(|before| before.authorities.as_ref());
            same.filter(|same| ***same == authorities)
                .map_or_else(|| Arc::new(authorities), Arc::clone)
        });
        Ok(Self {
            config: Arc::new(config),
            authorities,
        })
    }
}

/// Clients may show a certificate of these authorities, or none; whoever shows another is sent away.
fn verifier(
    authorities: &Authorities,
    path: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let unusable = |number, source| Error::UnusableAuthority {
        path: path.to_owned(),
        number,
        source,
    };
    let mut roots = RootCertStore::empty();
    for (number, authority) in iter::zip(1.., &authorities.0) {
        roots
            .add(authority.clone())
            .map_err(|source| unusable(number, source))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .map_err(|error| Error::Setup(rustls::Error::General(error.to_string())))
}

fn read(files: &TlsConfig, provider: &CryptoProvider) -> Result<CertifiedKey, Error> {
    let chain = certificates(&files.cert)?;
    let key = provider
        .key_provider
        .load_private_key(private_key(&files.key)?)
        .map_err(|source| Error::UnusableKey {
            path: files.key.clone(),
            source,
        })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // A kind of key whose public half the library does not tell: the first handshake shows it.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(Error::KeyMismatch {
            cert: files.cert.clone(),
            key: files.key.clone(),
        }),
        Err(source) => Err(Error::UnusableCertificate {
            path: files.cert.clone(),
            source,
        }),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = contents(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|error| not_pem(path, &error))?;
    if chain.is_empty() {
        return Err(Error::NoCertificate(path.to_owned()));
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let text = contents(path)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(_) if holds(&text, b"Proc-Type: 4,ENCRYPTED") => Err(Error::EncryptedKey(path.to_owned())),
        Ok(key) => Ok(key),
        Err(_) if holds(&text, b"ENCRYPTED") => Err(Error::EncryptedKey(path.to_owned())),
        Err(pem::Error::NoItemsFound) => Err(Error::NoKey(path.to_owned())),
        Err(error) => Err(not_pem(path, &error)),
    }
}

fn contents(path: &Path) -> Result<Vec<u8>, Error> {
    let unreadable = |source| Error::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut text = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(LONGEST_FILE + 1).read_to_end(&mut text).map_err(unreadable)?;
    let reason = if text.len() as u64 > LONGEST_FILE {
        "it is longer than 1 MiB"
    } else if text.is_empty() {
        "it is empty"
    } else if !holds(&text, b"-----BEGIN ") {
        "it has no line `-----BEGIN …`"
    } else {
        return Ok(text);
    };
    Err(Error::NotPem {
        path: path.to_owned(),
        reason: reason.to_owned(),
    })
}

fn not_pem(path: &Path, error: &pem::Error) -> Error {
    Error::NotPem {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

fn holds(text: &[u8], words: &[u8]) -> bool {
    text.windows(words.len()).any(|window| window == words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issue(folder: &Path, name: &str) -> TlsConfig {
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

    fn refusal(files: &TlsConfig) -> String {
        match Tls::load(files) {
            Ok(_) => panic!("loaded"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_mistake_names_its_file() {
        let folder = tempfile::tempdir().expect("folder");
        let (good, other) = (issue(folder.path(), "good"), issue(folder.path(), "other"));
        assert!(Tls::load(&good).is_ok());
        let with = |cert: &Path, key: &Path| {
            let (cert, key) = (cert.to_owned(), key.to_owned());
            refusal(&TlsConfig {
                cert,
                key,
                client_ca: None,
            })
        };
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("write");
            path
        };
        let pem = std::fs::read_to_string(&good.cert).expect("read");
        let garbled = write("garbled.crt", &pem.replace("MII", "M*I"));
        let cut = write("cut.crt", &pem[..pem.len() / 2]);
        let not_x509 = write(
            "not-x509.crt",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        );
        let empty = write("empty.key", "");
        let text = write("text.key", "secret");
        let locked = write(
            "locked.key",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        );
        let odd = write(
            "odd.key",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        );
        let absent = folder.path().join("absent.key");
        for (said, file, words) in [
            (with(&good.cert, &absent), "absent.key", "cannot read"),
            (with(&good.cert, &empty), "empty.key", "it is empty"),
            (with(&good.cert, &text), "text.key", "not PEM"),
            (with(&good.cert, &locked), "locked.key", "encrypted"),
            (with(&good.cert, &odd), "odd.key", "cannot be used"),
            (with(&good.cert, &good.cert), "good.crt", "no private key"),
            (with(&good.key, &good.key), "good.key", "no certificate"),
            (with(&garbled, &good.key), "garbled.crt", "not PEM"),
            (with(&cut, &good.key), "cut.crt", "not PEM"),
            (with(&not_x509, &good.key), "not-x509.crt", "cannot be used"),
            (with(&good.cert, &other.key), "other.key", "does not belong"),
        ] {
            assert!(said.contains(file) && said.contains(words), "{file}: {said}");
        }
    }

    #[test]
    fn a_bad_replacement_leaves_the_old_one() {
        let folder = tempfile::tempdir().expect("folder");
        let (first, second) = (issue(folder.path(), "first"), issue(folder.path(), "second"));
        let tls = Tls::load(&first).expect("loads");
        let before = tls.0.load_full();
        let mixed = TlsConfig {
            cert: second.cert.clone(),
            key: first.key.clone(),
            client_ca: None,
        };
        assert!(matches!(tls.replace(&mixed), Err(Error::KeyMismatch { .. })));
        assert!(Arc::ptr_eq(&before, &tls.0.load_full()));
        tls.clone().replace(&second).expect("replaces");
        assert!(!Arc::ptr_eq(&before, &tls.0.load_full()));
    }

    #[test]
    fn clients_authorities_are_read_and_their_mistakes_told() {
        let folder = tempfile::tempdir().expect("folder");
        let with = |path: &Path| TlsConfig {
            client_ca: Some(path.to_owned()),
            ..issue(folder.path(), "server")
        };
        let authority = issue(folder.path(), "authority");
        let good = with(&authority.cert);
        let tls = Tls::load(&good).expect("loads");
        let authorities = || tls.0.load().authorities.clone().expect("some");
        let before = authorities();
        // The same ones again are the same; connections that they let in stay.
        tls.replace(&good).expect("replaces");
        assert!(Arc::ptr_eq(&before, &authorities()));
        let damaged = folder.path().join("damaged.crt");
        std::fs::write(
            &damaged,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        )
        .expect("write");
        for (bad, words) in [
            (&authority.key, "no certificate"),
            (&damaged, "vouches for nobody"),
            (&folder.path().join("absent.crt"), "cannot read"),
        ] {
            let error = tls.replace(&with(bad)).expect_err(words).to_string();
            assert!(error.contains(words), "{error}");
            assert!(Arc::ptr_eq(&before, &authorities()));
        }
    }
}
