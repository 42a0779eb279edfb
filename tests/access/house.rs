//! A registry with walls, and those who come to it.

use std::sync::{Arc, Mutex};

use reqwest::{Client, Method, RequestBuilder, Response};
use tempfile::TempDir;

use crate::support::{Registry, temporary};

/// Everybody's password.
const PASSWORD: &str = "correct horse";
const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2";

/// Somebody who comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// Without any credentials.
    Nobody,
    /// With a token that says just that.
    NobodysToken,
    /// A user.
    User(&'static str),
    /// A user with a token instead of the password.
    UsersToken(&'static str),
    /// The robot that was made last.
    Robot,
}

pub(crate) use Who::{Nobody, NobodysToken, Robot, User, UsersToken};

/// A registry, and the tokens of those who have some.
pub(crate) struct House {
    pub(crate) registry: Registry,
    client: Client,
    robot: Mutex<String>,
}

impl House {
    /// One with these users, policies and repositories.
    pub(crate) fn new(users: &[&str], server: &str, rest: &str) -> Self {
        let directory = temporary();
        Self::in_directory(&directory, users, server, rest)
    }

    pub(crate) fn in_directory(directory: &Arc<TempDir>, users: &[&str], server: &str, rest: &str) -> Self {
        let lines: Vec<String> = users.iter().map(|user| format!("{user}:{HASH}\n")).collect();
        std::fs::write(directory.path().join("htpasswd"), lines.concat()).expect("a file");
        let text = format!("server: {{ listen: '127.0.0.1:0'{server} }}\nstorage: {{ path: data }}\n{rest}");
        let registry = Registry::start_in(directory, &text);
        let client = registry.client.clone();
        Self {
            registry,
            client,
            robot: Mutex::default(),
        }
    }

    /// The same again after it has ended.
    pub(crate) fn restart(self) -> Self {
        Self {
            registry: self.registry.restart(),
            client: self.client,
            robot: self.robot,
        }
    }

    /// A request as somebody makes it. What the path says is sent as it is.
    pub(crate) async fn ask(&self, who: Who, method: &str, path: &str) -> RequestBuilder {
        let method: Method = method.parse().expect("a method");
        let request = self.client.request(method, self.registry.url(path));
        match who {
            Nobody => request,
            User(user) => request.basic_auth(user, Some(PASSWORD)),
            NobodysToken | UsersToken(_) | Robot => request.bearer_auth(self.token(who).await),
        }
    }

    pub(crate) async fn send(&self, who: Who, method: &str, path: &str) -> Response {
        self.ask(who, method, path).await.send().await.expect("an answer")
    }

    /// Status and body.
    pub(crate) async fn answer(&self, who: Who, method: &str, path: &str) -> (u16, String) {
        let response = self.send(who, method, path).await;
        let status = response.status().as_u16();
        (status, response.text().await.expect("text"))
    }

    /// Makes a robot. Who may do everything is `admin`.
    pub(crate) async fn make_robot(&self, name: &str, may: &[&str], on: &str) {
        let body = serde_json::json!({ "name": name, "scope": [{ "may": may, "on": on }] });
        let request = self.ask(User("admin"), "POST", "/api/v1/tokens").await;
        let response = request.json(&body).send().await.expect("an answer");
        let document: serde_json::Value = response.json().await.expect("JSON");
        let secret = document["token"].as_str().expect("a secret").to_owned();
        *self.robot.lock().expect("not poisoned") = secret;
    }

    pub(crate) async fn token(&self, who: Who) -> String {
        if who == Robot {
            return self.robot.lock().expect("not poisoned").clone();
        }
        let request = self.client.get(self.registry.url("/token?service=test"));
        let request = match who {
            Nobody | NobodysToken | Robot => request,
            User(user) | UsersToken(user) => request.basic_auth(user, Some(PASSWORD)),
        };
        let response = request.send().await.expect("an answer");
        let document: serde_json::Value = response.json().await.expect("a token");
        document["token"].as_str().expect("a token").to_owned()
    }

    /// Pushes an image of one layer.
    pub(crate) async fn push(&self, who: Who, base: &str, tag: &str, content: &[u8]) {
        let layer = crate::support::sha256(content);
        let config = crate::support::sha256(b"{}");
        for (digest, bytes) in [(&layer, content), (&config, b"{}")] {
            let request = self
                .ask(who, "POST", &format!("{base}/blobs/uploads/?digest={digest}"))
                .await;
            let response = request.body(bytes.to_vec()).send().await.expect("an answer");
            crate::support::expect(response, reqwest::StatusCode::CREATED).await;
        }
        let manifest = crate::support::image_manifest((&config, 2), &[(&layer, content.len())], "");
        let request = self.ask(who, "PUT", &format!("{base}/manifests/{tag}")).await;
        let request = request
            .header("content-type", crate::support::OCI_MANIFEST)
            .body(manifest);
        let response = request.send().await.expect("an answer");
        crate::support::expect(response, reqwest::StatusCode::CREATED).await;
    }
}

/// The digest of the manifest that [`House::push`] makes of this content.
pub(crate) fn manifest_of(content: &[u8]) -> String {
    let (layer, config) = (crate::support::sha256(content), crate::support::sha256(b"{}"));
    let text = crate::support::image_manifest((&config, 2), &[(&layer, content.len())], "");
    crate::support::sha256(text.as_bytes()).to_string()
}
