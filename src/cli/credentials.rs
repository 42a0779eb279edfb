//! Who the command line is to a server: what the environment says, or who `docker login` made of us.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::config::Secret;
use crate::http::client::Login;

/// How long a credential helper may take: it may ask somebody for a finger.
const HELPER: Duration = Duration::from_secs(60);
/// The longest file or answer of a helper that is read.
const LONGEST: u64 = 1 << 20;
/// The user name that says that the password is a token for tokens.
const TOKEN_USER: &str = "<token>";

/// The login for a server, if there is one. `authority` is its host, with a port where it is not the usual one.
pub(super) fn find(authority: &str) -> Option<Login> {
    if let Some(token) = said("ENTREPOT_TOKEN") {
        return Some(Login::Token(Secret::new(token)));
    }
    files().iter().find_map(|file| {
        let text = read(file)?;
        let config: Value = serde_json::from_slice(&text).ok()?;
        in_file(&config, authority)
    })
}

fn said(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// Where docker and podman keep their logins.
fn files() -> Vec<PathBuf> {
    let within = |name: &str, rest: &str| said(name).map(|directory| Path::new(&directory).join(rest));
    let docker = within("DOCKER_CONFIG", "config.json").or_else(|| within("HOME", ".docker/config.json"));
    let podman = said("REGISTRY_AUTH_FILE")
        .map(PathBuf::from)
        .or_else(|| within("XDG_RUNTIME_DIR", "containers/auth.json"));
    docker.into_iter().chain(podman).collect()
}

fn read(file: &Path) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    std::fs::File::open(file)
        .ok()?
        .take(LONGEST)
        .read_to_end(&mut text)
        .ok()?;
    Some(text)
}

fn in_file(config: &Value, authority: &str) -> Option<Login> {
    let helpers = config["credHelpers"].as_object();
    let own = helpers.and_then(|helpers| helpers.get(authority)?.as_str());
    if let Some(helper) = own.or_else(|| config["credsStore"].as_str())
        && let Some(login) = ask(helper, authority)
    {
        return Some(login);
    }
    let auths = config["auths"].as_object()?;
    auths
        .iter()
        .find(|(key, _)| host_of(key) == authority)
        .and_then(|(_, entry)| in_entry(entry))
}

/// The host that a key is about: some are whole URLs.
fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

fn in_entry(entry: &Value) -> Option<Login> {
    let said = |key: &str| entry[key].as_str().filter(|text| !text.is_empty());
    if let Some(token) = said("identitytoken") {
        return Some(Login::Refresh(Secret::new(token)));
    }
    if let Some(token) = said("registrytoken") {
        return Some(Login::Token(Secret::new(token)));
    }
    if let (Some(user), Some(password)) = (said("username"), said("password")) {
        return Some(login(user, password));
    }
    let plain = STANDARD.decode(said("auth")?).ok()?;
    let plain = String::from_utf8(plain).ok()?;
    let (user, password) = plain.split_once(':')?;
    // Old versions of docker pad it with zeros.
    Some(login(user, password.trim_end_matches('\0')))
}

fn login(user: &str, password: &str) -> Login {
    if user == TOKEN_USER {
        return Login::Refresh(Secret::new(password));
    }
    Login::Password {
        user: user.to_owned(),
        password: Secret::new(password),
    }
}

/// Asks a credential helper of docker's.
fn ask(helper: &str, authority: &str) -> Option<Login> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if helper.is_empty() || !helper.chars().all(is_plain) {
        return None;
    }
    let child = Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let said = match child {
        Ok(child) => answer(child, authority)?,
        Err(error) => {
            eprintln!("docker-credential-{helper}, which docker's config.json names, cannot be asked: {error}");
            return None;
        }
    };
    let said: Value = serde_json::from_slice(&said).ok()?;
    Some(login(said["Username"].as_str()?, said["Secret"].as_str()?))
}

/// What a helper says of a server. One that says nothing for too long is ended.
fn answer(mut child: Child, authority: &str) -> Option<Vec<u8>> {
    let (mut input, output) = (child.stdin.take()?, child.stdout.take()?);
    let sent = input.write_all(authority.as_bytes());
    drop(input);
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut said = Vec::new();
        let read = output.take(LONGEST).read_to_end(&mut said);
        let _ = tell.send(read.map(|_| said));
    });
    let said = told.recv_timeout(HELPER);
    let _ = child.kill();
    let _ = child.wait();
    sent.ok()?;
    said.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(login: Option<Login>) -> String {
        match login {
            None => "nothing".to_owned(),
            Some(Login::Password { user, password }) => format!("{user}:{}", password.reveal()),
            Some(Login::Token(token)) => format!("token {}", token.reveal()),
            Some(Login::Refresh(token)) => format!("refresh {}", token.reveal()),
        }
    }

    #[test]
    fn a_login_is_found_as_docker_and_podman_write_it() {
        let auth = STANDARD.encode("ada:pass:word");
        for (entry, expected) in [
            (json!({ "auth": auth }), "ada:pass:word"),
            (json!({ "auth": auth, "identitytoken": "t" }), "refresh t"),
            (json!({ "auth": STANDARD.encode("<token>:t") }), "refresh t"),
            (json!({ "registrytoken": "t" }), "token t"),
            (json!({ "username": "ada", "password": "x" }), "ada:x"),
            (json!({}), "nothing"),
            (json!({ "auth": "%" }), "nothing"),
        ] {
            for key in ["host:5000", "https://host:5000", "http://host:5000/v2/"] {
                let config = json!({ "auths": { key: entry, "other": { "auth": STANDARD.encode("b:c") } } });
                assert_eq!(shown(in_file(&config, "host:5000")), expected, "{key} {entry}");
            }
        }
    }

    #[test]
    fn a_login_is_shown_to_no_other_host() {
        let config = json!({ "auths": { "host": { "username": "a", "password": "b" } } });
        for authority in ["host:5000", "host.example", "evil-host", "hos", ""] {
            assert_eq!(shown(in_file(&config, authority)), "nothing", "{authority}");
        }
        assert_eq!(shown(in_file(&config, "host")), "a:b");
    }

    #[test]
    fn a_helper_is_a_name_and_no_path() {
        for helper in ["", "../evil", "a b", "a;b"] {
            let config = json!({ "credsStore": helper });
            assert_eq!(shown(in_file(&config, "host")), "nothing");
        }
    }
}
