//! docker's own logins: its `config.json`, or podman's `auth.json`, and the helper programs that these name.
//!
//! They are looked up anew every few minutes: who logs in again with docker has then logged in here too.

mod helper;

use std::path::PathBuf;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use url::Url;

use super::super::{Error, HUB_REGISTRY};
use super::files::read;
use super::renewed::{Given, Renewal};
use super::{Proof, missing};
use crate::config::{Environment, Secret};

/// What docker calls Docker Hub, and what people write for it.
const HUB: [&str; 4] = [
    "https://index.docker.io/v1/",
    "index.docker.io",
    "docker.io",
    HUB_REGISTRY,
];
/// The user name that says that the password is a token for tokens.
const TOKEN_USER: &str = "<token>";
/// How often it is looked up. A helper may be a slow program.
const FRESH: Duration = Duration::from_secs(300);
/// How long what was found is used while it cannot be looked up.
const LIFE: Duration = Duration::from_secs(3600);

/// The login of docker's for one registry.
pub(super) struct DockerConfig {
    environment: Environment,
    /// What the registry may be called there; the first is what docker calls it.
    names: Vec<String>,
}

impl DockerConfig {
    pub(super) fn new(registry: &Url, environment: Environment) -> Self {
        let host = registry.host_str().unwrap_or_default();
        let names = match registry.port() {
            None if host == HUB_REGISTRY && registry.scheme() == "https" => HUB.map(str::to_owned).to_vec(),
            Some(port) => vec![format!("{host}:{port}")],
            // The usual port may be written, too.
            None => match registry.port_or_known_default() {
                Some(port) => vec![host.to_owned(), format!("{host}:{port}")],
                None => vec![host.to_owned()],
            },
        };
        Self { environment, names }
    }

    /// The login as it is now.
    pub(super) async fn fetch(self: Arc<Self>) -> Result<Given, Error> {
        let mut seen = Vec::new();
        for file in self.files() {
            let Some(text) = read(&file).await? else { continue };
            let shown = file.display();
            let config: Value = serde_json::from_str(&text)
                .map_err(|error| missing(format!("{shown} is no JSON: see line {}", error.line())))?;
            let found = self.in_file(&config).await;
            let found = found.map_err(|why| missing(format!("{shown}: {why}")))?;
            if let Some(proof) = found {
                return Ok(Given {
                    proof,
                    life: LIFE,
                    renewal: Renewal::After(FRESH),
                });
            }
            seen.push(shown.to_string());
        }
        let name = &self.names[0];
        Err(match seen.as_slice() {
            [] => missing(
                "there is no config.json of docker's: set DOCKER_CONFIG to its directory, or HOME to that above \
                 .docker",
            ),
            seen => missing(format!("there is no login for {name} in {}", seen.join(", "))),
        })
    }

    /// Where docker and podman keep their logins.
    fn files(&self) -> Vec<PathBuf> {
        let variable = |name: &str| self.environment.get(name).filter(|text| !text.is_empty());
        let within = |name: &str, rest: &str| variable(name).map(|directory| PathBuf::from(directory).join(rest));
        let docker = within("DOCKER_CONFIG", "config.json").or_else(|| within("HOME", ".docker/config.json"));
        let podman = variable("REGISTRY_AUTH_FILE")
            .map(PathBuf::from)
            .or_else(|| within("XDG_RUNTIME_DIR", "containers/auth.json"));
        docker.into_iter().chain(podman).collect()
    }

    /// `Ok(None)` if it has none for us. What is wrong with what is meant for us is an error: another login would be
    /// somebody else's.
    async fn in_file(&self, config: &Value) -> Result<Option<Proof>, String> {
        let helpers = config["credHelpers"].as_object();
        let own = self
            .names
            .iter()
            .find_map(|name| Some((slice::from_ref(name), helpers?.get(name)?.as_str()?)));
        // An own one without a name says that there is none, not even that for all registries.
        let (names, helper) = match own {
            Some((name, helper)) => (name, helper),
            None => (self.names.as_slice(), config["credsStore"].as_str().unwrap_or_default()),
        };
        // It knows a login by the name under which somebody logged in.
        for name in names.iter().filter(|_| !helper.is_empty()) {
            if let Some(login) = helper::ask(helper, name, &self.environment).await? {
                return proof(&login.user, &login.secret).map(Some);
            }
        }
        let Some(entries) = config["auths"].as_object() else {
            return Ok(None);
        };
        let exact = self.names.iter().find_map(|name| entries.get(name));
        let entry = exact.or_else(|| {
            let is_ours = |key: &str| self.names.iter().any(|name| name == host_of(key));
            entries.iter().find(|(key, _)| is_ours(key)).map(|(_, entry)| entry)
        });
        entry.map_or(Ok(None), in_entry)
    }
}

/// The host that a key is about: some are whole URLs.
fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

/// An entry that says nothing is one of a login that is kept elsewhere.
fn in_entry(entry: &Value) -> Result<Option<Proof>, String> {
    let said = |key: &str| entry[key].as_str().filter(|text| !text.is_empty());
    if let Some(token) = said("identitytoken") {
        return Ok(Some(Proof::Refresh(Secret::new(token))));
    }
    if let (Some(user), Some(password)) = (said("username"), said("password")) {
        return proof(user, password).map(Some);
    }
    let Some(auth) = said("auth") else {
        return match said("registrytoken") {
            Some(_) => Err("the entry has a `registrytoken`, which cannot be used here; log in again".to_owned()),
            None => Ok(None),
        };
    };
    // Some who write it break its lines.
    let plain = STANDARD
        .decode(auth.replace(['\r', '\n'], ""))
        .ok()
        .and_then(|plain| String::from_utf8(plain).ok());
    let plain = plain.as_deref().and_then(|plain| plain.split_once(':'));
    let (user, password) = plain.ok_or("the `auth` of the entry is not the base64 of USER:PASSWORD")?;
    // Old versions of docker pad it with zeros.
    proof(user, password.trim_end_matches('\0')).map(Some)
}

fn proof(user: &str, password: &str) -> Result<Proof, String> {
    if password.is_empty() {
        return Err("the login has no password".to_owned());
    }
    if user == TOKEN_USER {
        return Ok(Proof::Refresh(Secret::new(password)));
    }
    Proof::basic(user, password).ok_or_else(|| "the login cannot be sent".to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;

    fn config(url: &str) -> DockerConfig {
        DockerConfig::new(&url.parse().expect("a URL"), Environment::default())
    }

    async fn found(url: &str, file: Value) -> Result<String, String> {
        let found = config(url).in_file(&file).await?;
        Ok(found.map_or_else(|| "nothing".to_owned(), |proof| proof.revealed()))
    }

    fn auth(plain: &str) -> Value {
        json!({ "auth": STANDARD.encode(plain) })
    }

    #[tokio::test]
    async fn a_login_is_found_as_docker_and_podman_write_it() {
        for (entry, expected) in [
            (auth("ada:pass:word"), Ok("ada:pass:word")),
            (auth("ada:x\0\0"), Ok("ada:x")),
            (json!({ "auth": "YWRh\r\nOng=\n" }), Ok("ada:x")),
            (auth("<token>:t"), Ok("refresh t")),
            (json!({ "auth": "YWRhOng=", "identitytoken": "t" }), Ok("refresh t")),
            (json!({ "username": "ada", "password": "x" }), Ok("ada:x")),
            (json!({}), Ok("nothing")),
            (json!({ "auth": "" }), Ok("nothing")),
            (json!({ "auth": "%" }), Err("base64")),
            (json!({ "auth": "YWRh" }), Err("base64")),
            (auth("ada:"), Err("no password")),
            (json!({ "registrytoken": "t" }), Err("registrytoken")),
        ] {
            for key in ["r.example:5000", "https://r.example:5000", "http://r.example:5000/v2/"] {
                let file = json!({ "auths": { "other": auth("b:c"), key: entry } });
                let found = found("https://r.example:5000", file).await;
                match expected {
                    Ok(login) => assert_eq!(found.as_deref(), Ok(login), "{key} {entry}"),
                    Err(why) => assert!(found.as_ref().is_err_and(|text| text.contains(why)), "{found:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn a_login_is_for_its_host_and_no_other() {
        for (key, url, is_found) in [
            ("https://index.docker.io/v1/", "https://registry-1.docker.io", true),
            ("docker.io", "https://registry-1.docker.io", true),
            ("docker.io", "http://registry-1.docker.io", false),
            ("docker.io", "https://registry-1.docker.io:8443", false),
            ("https://index.docker.io/v1/", "https://index.docker.io.evil.org", false),
            ("r.example", "https://r.example", true),
            ("r.example:443", "https://r.example", true),
            ("r.example:443", "http://r.example", false),
            ("r.example", "https://r.example:5000", false),
            ("r.example:5000", "https://r.example", false),
            ("r.example", "https://a.r.example", false),
            ("r.example", "https://r.example.evil.org", false),
            ("https://r.example@evil.org", "https://r.example", false),
        ] {
            let file = json!({ "auths": { key: auth("a:b") } });
            let expected = if is_found { "a:b" } else { "nothing" };
            assert_eq!(found(url, file).await.as_deref(), Ok(expected), "{key} for {url}");
        }
    }

    #[tokio::test]
    async fn an_own_helper_without_a_name_is_none() {
        let file = json!({
            "credHelpers": { "r.example": "" },
            "credsStore": "nowhere",
            "auths": { "r.example": auth("a:b"), "s.example": auth("a:b") },
        });
        assert_eq!(found("https://r.example", file.clone()).await.as_deref(), Ok("a:b"));
        assert!(
            found("https://s.example", file).await.is_err(),
            "the store is to be asked"
        );
    }

    #[tokio::test]
    async fn the_helper_of_all_is_asked_by_every_name_of_docker_hub() {
        let directory = tempfile::tempdir().expect("a directory");
        let program = directory.path().join("docker-credential-test");
        let text = "#!/bin/sh\nread -r host\nif [ \"$host\" = docker.io ]; then echo '{\"Username\":\"ada\",\"Secret\":\"x\"}'\n\
                    else echo 'credentials not found in native keychain'; exit 1; fi\n";
        std::fs::write(&program, text).expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("a program");
        let path = format!("{}:/usr/bin:/bin", directory.path().display());
        let environment: Environment = [("PATH".to_owned(), path)].into_iter().collect();
        let hub = DockerConfig::new(&"https://registry-1.docker.io".parse().expect("a URL"), environment);
        let found = hub.in_file(&json!({ "credsStore": "test" })).await;
        assert_eq!(
            found.map(|proof| proof.map(|proof| proof.revealed())),
            Ok(Some("ada:x".to_owned()))
        );
    }

    #[tokio::test]
    async fn a_helper_is_a_name_and_no_path() {
        for helper in ["../evil", "/bin/sh", "a b", "a;b"] {
            let found = found("https://r.example", json!({ "credsStore": helper })).await;
            assert!(
                found.is_err_and(|text| text.contains("is no name of a helper")),
                "{helper}"
            );
        }
    }
}
