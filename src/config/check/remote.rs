//! Remote repositories.

use std::io::Read;
use std::path::Path;

use super::super::field::Field;
use super::super::file::{self, Defaults};
use super::super::findings::Finding;
use super::super::node::At;
use super::super::{Credentials, RemoteConfig, Secret};
use super::{Checker, count, describe, time, timeout};

/// Longer than any password, and than the tokens that stand for one.
const LONGEST_PASSWORD: u64 = 64 << 10;

/// The names of Docker Hub that answer with a web page.
const NOT_REGISTRIES: [&str; 3] = ["docker.io", "www.docker.com", "hub.docker.com"];

impl Checker<'_> {
    /// `at` is where its key stands.
    pub(super) fn remote(
        &mut self,
        at: At,
        written: &file::Remote,
        defaults: Option<&Defaults>,
    ) -> Option<RemoteConfig> {
        let insecure = self.insecure(written);
        let credentials = written
            .credentials
            .with_place()
            .and_then(|(at, written)| self.credentials(at, written));
        let (_, url) = self.required(&written.url, at, "url")?;
        let none = Defaults::default();
        let general = defaults.unwrap_or(&none);
        let usual = RemoteConfig::of(url.0.clone());
        let patience = [&written.stale_if_error, &general.stale_if_error]
            .into_iter()
            .find_map(Field::get);
        Some(RemoteConfig {
            credentials: credentials.into_iter().collect(),
            token_realms: self.distinct(&written.token_realms, |host| &host.0),
            insecure,
            tag_ttl: time(&written.tag_ttl, time(&general.tag_ttl, usual.tag_ttl)),
            revalidate_timeout: time(
                &written.revalidate_timeout,
                time(&general.revalidate_timeout, usual.revalidate_timeout),
            ),
            stale_if_error: patience.and_then(|patience| patience.0),
            connect_timeout: timeout(
                &written.connect_timeout,
                timeout(&general.connect_timeout, usual.connect_timeout),
            ),
            first_byte_timeout: timeout(
                &written.first_byte_timeout,
                timeout(&general.first_byte_timeout, usual.first_byte_timeout),
            ),
            idle_timeout: timeout(
                &written.idle_timeout,
                timeout(&general.idle_timeout, usual.idle_timeout),
            ),
            connections: count(&written.connections, count(&general.connections, usual.connections)),
            ..usual
        })
    }

    fn insecure(&self, written: &file::Remote) -> bool {
        let insecure = written.insecure.with_place().filter(|(_, insecure)| **insecure);
        if let Some((at, url)) = written.url.with_place() {
            if url.0.scheme() == "http" && insecure.is_none() && !matches!(written.insecure, Field::Wrong) {
                self.problem(
                    Finding::new(
                        at,
                        "`http://` lets everybody on the way read and change images and passwords",
                    )
                    .hint("use `https://`, or say `insecure: true` beside it"),
                );
            }
            let host = url.0.host_str().unwrap_or_default();
            if NOT_REGISTRIES.contains(&host) {
                self.problem(
                    Finding::warning(at, format!("`{host}` is not the address of a registry"))
                        .hint("Docker Hub's is `https://registry-1.docker.io`"),
                );
            }
        }
        if let Some((at, _)) = insecure {
            self.problem(Finding::warning(
                at,
                "nothing proves that what comes from this upstream is what it sent",
            ));
        }
        insecure.is_some()
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
        for (at, what, text) in [
            (username_at, "username", username.as_str()),
            (password_at, "password", password.reveal()),
        ] {
            if text.is_empty() || text.contains(char::is_control) {
                self.problem(Finding::new(
                    at,
                    format!("the {what} is empty or holds a control character"),
                ));
            }
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
}

/// The contents of a file without the line end that editors and `echo` leave.
fn read_password(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    if file.take(LONGEST_PASSWORD + 1).read_to_string(&mut text)? as u64 > LONGEST_PASSWORD {
        return Err(std::io::Error::other("it is too long for a password"));
    }
    let end = text.strip_suffix('\n').unwrap_or(&text);
    Ok(end.strip_suffix('\r').unwrap_or(end).to_owned())
}
