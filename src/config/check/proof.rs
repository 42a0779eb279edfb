//! What proves who we are and who the upstream is: passwords and certificates, from files or from the configuration.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use url::Url;

use super::super::field::{Field, OneOrMore};
use super::super::file;
use super::super::findings::Finding;
use super::super::node::At;
use super::super::units::excerpt;
use super::super::{ClientTls, Credentials, Login, Provider, Secret};
use super::{Checker, describe};

/// Longer than any password, and than the tokens that stand for one.
const LONGEST_PASSWORD: u64 = 64 << 10;
/// Longer than a bundle of every authority that there is.
const LONGEST_PEM: u64 = 4 << 20;

impl Checker<'_> {
    /// What lets us in at an upstream, one way or several.
    pub(super) fn all_credentials(
        &mut self,
        written: &Field<OneOrMore<file::Credentials>>,
        upstream: Option<&Url>,
    ) -> Vec<Login> {
        let Some((at, all)) = written.with_place() else {
            return Vec::new();
        };
        if all.0.is_empty() {
            self.problem(Finding::new(
                at,
                "an empty list: without this key, the upstream is asked anonymously",
            ));
        }
        let mut known: Vec<Login> = Vec::new();
        for (at, written) in all.0.iter().filter_map(Field::with_place) {
            let Some(login) = self.login(at, written, upstream) else {
                continue;
            };
            if known.iter().any(|other| other.name() == login.name()) {
                self.problem(Finding::new(
                    at,
                    format!("`{}` is in the list already", excerpt(login.name())),
                ));
            }
            known.push(login);
        }
        known
    }

    fn login(&mut self, at: At, written: &file::Credentials, upstream: Option<&Url>) -> Option<Login> {
        if written.from.is_absent() {
            return self.credentials(at, written).map(Login::Password);
        }
        let (_, provider) = written.from.with_place()?;
        let provider = match provider {
            file::Provider::Ecr => Provider::Ecr,
            file::Provider::EcrPublic => Provider::EcrPublic,
            file::Provider::Gcp => Provider::Gcp,
            file::Provider::Azure => Provider::Azure,
            file::Provider::DockerConfig => Provider::DockerConfig,
        };
        let others = [&written.username, &written.password, &written.password_file];
        if others.into_iter().any(|other| !other.is_absent()) {
            let name = provider.name();
            self.problem(
                Finding::new(at, format!("`{name}` knows its user and password itself"))
                    .hint(format!("`credentials: {name}` is all there is to say")),
            );
        }
        if let Some(objection) = upstream.and_then(|upstream| provider.objection(upstream)) {
            self.problem(Finding::new(
                at,
                format!("`{}` is for another registry: {objection}", provider.name()),
            ));
        }
        Some(Login::Provided(provider, self.environment.clone()))
    }

    fn credentials(&mut self, at: At, written: &file::Credentials) -> Option<Credentials> {
        let username = self.required(&written.username, at, "username");
        let password = match (written.password.with_place(), written.password_file.with_place()) {
            (Some((_, _)), Some((at, _))) => {
                self.problem(Finding::new(at, "a `password` and a `password_file`: which is it?"));
                None
            }
            (Some((at, password)), None) => Some((at, Secret::new(password.as_str()))),
            (None, Some((at, path))) => self.password_from(at, path).map(|password| (at, password)),
            (None, None) => {
                if written.password.is_absent() && written.password_file.is_absent() {
                    self.problem(Finding::new(at, "`password` or `password_file` is missing"));
                }
                None
            }
        };
        let ((username_at, username), (password_at, password)) = username.zip(password)?;
        // A password may be a whole file, such as one of Google's keys.
        let is_odd = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
        for (at, what, text, is_odd) in [
            (
                username_at,
                "username",
                username.as_str(),
                username.contains(char::is_control),
            ),
            (
                password_at,
                "password",
                password.reveal(),
                password.reveal().contains(is_odd),
            ),
        ] {
            if text.is_empty() || is_odd {
                self.problem(Finding::new(
                    at,
                    format!("the {what} is empty or holds a control character"),
                ));
            }
        }
        if username.contains(':') {
            self.problem(Finding::new(
                username_at,
                "a `:` in the username would be taken for the beginning of the password",
            ));
        }
        Some(Credentials {
            username: username.clone(),
            password,
        })
    }

    fn password_from(&mut self, at: At, path: &str) -> Option<Secret> {
        let path = self.path(path);
        let password = read_password(&path);
        if let Err(error) = &password {
            self.problem(Finding::new(
                at,
                format!("cannot read {}: {}", path.display(), describe(error)),
            ));
        }
        self.files.push(path);
        password.ok().map(Secret::new)
    }

    /// The authorities in a PEM file.
    pub(super) fn authorities(&mut self, at: At, path: &str) -> Option<Arc<[u8]>> {
        let bytes = self.pem(at, path)?;
        self.certificates(at, path, &bytes).then(|| bytes.into())
    }

    /// The certificate that we show, and its key.
    pub(super) fn client_tls(&mut self, at: At, written: &file::ClientTls) -> Option<ClientTls> {
        let cert = self.required(&written.cert, at, "cert");
        let key = self.required(&written.key, at, "key");
        let ((cert_at, cert_path), (key_at, key_path)) = cert.zip(key)?;
        let cert = self.pem(cert_at, cert_path);
        let key = self.pem(key_at, key_path);
        let (cert, key) = cert.zip(key)?;
        let is_key = PrivateKeyDer::from_pem_slice(&key).is_ok();
        if !is_key {
            self.problem(Finding::new(
                key_at,
                format!("`{}` holds no private key in PEM", excerpt(key_path)),
            ));
        }
        let key = String::from_utf8(key).ok().filter(|_| is_key)?;
        self.certificates(cert_at, cert_path, &cert).then(|| ClientTls {
            cert: cert.into(),
            key: Secret::new(key),
        })
    }

    fn certificates(&self, at: At, path: &str, bytes: &[u8]) -> bool {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
        let is_some = all.is_ok_and(|all| !all.is_empty());
        if !is_some {
            self.problem(Finding::new(
                at,
                format!("`{}` holds no certificate in PEM", excerpt(path)),
            ));
        }
        is_some
    }

    /// What is in a PEM file.
    fn pem(&mut self, at: At, path: &str) -> Option<Vec<u8>> {
        let path = self.path(path);
        let read = read_short(&path, LONGEST_PEM);
        if let Err(error) = &read {
            self.problem(Finding::new(
                at,
                format!("cannot read {}: {}", path.display(), describe(error)),
            ));
        }
        self.files.push(path);
        read.ok()
    }
}

pub(super) fn read_short(path: &Path, longest: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(longest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > longest {
        return Err(std::io::Error::other("it is too long for what it should be"));
    }
    Ok(bytes)
}

/// The contents of a file without the line end that editors and `echo` leave.
fn read_password(path: &Path) -> std::io::Result<String> {
    let text =
        String::from_utf8(read_short(path, LONGEST_PASSWORD)?).map_err(|_| std::io::Error::other("it is not text"))?;
    let end = text.strip_suffix('\n').unwrap_or(&text);
    Ok(end.strip_suffix('\r').unwrap_or(end).to_owned())
}
