//! A registry with users, and what is in it. `ada` may everything, `eve` is in a group for `team`, `mallory` may push to
//! `public`, `bob` may no more than anybody: pull `public`.

use entrepot::oci::Digest;
use reqwest::{RequestBuilder, Response, StatusCode};

use crate::binary::{Registry, sha256, temporary, until};

pub(crate) const ADA: (&str, &str) = ("ada", "ada's password");
pub(crate) const EVE: (&str, &str) = ("eve", "eve's password");
pub(crate) const MALLORY: (&str, &str) = ("mallory", "mallory's password");
pub(crate) const BOB: (&str, &str) = ("bob", "bob's password");

const SERVER: &str = "server: { listen: '127.0.0.1:0' }\nstorage: { path: data }\n";
const REPOSITORIES: &str = "
repositories:
  public: { type: local }
  private: { type: local }
  team: { type: local }
  all: { type: virtual, members: [public, private, team], push_to: public }
default: all
";
const AUTH: &str = "
auth:
  anonymous: pull
  htpasswd: htpasswd
  tokens: true
  groups: { devs: [eve] }
  policies:
    - { who: '*', may: pull, on: 'public/**' }
    - { who: ada, may: [pull, push, delete, admin], on: '**' }
    - { who: '@devs', may: [pull, push], on: 'team/**' }
    - { who: mallory, may: push, on: 'public/**' }
";

/// A registry with users, and the digests of what only `ada` may see.
pub(crate) struct Secured {
    pub(crate) registry: Registry,
    /// The manifest of `private/app:v1`.
    pub(crate) manifest: Digest,
    /// Its layer.
    pub(crate) layer: Digest,
}

impl Secured {
    /// What is in it is put there before there are users.
    pub(crate) async fn start() -> Self {
        let directory = temporary();
        let registry = Registry::start_in(&directory, &format!("{SERVER}{REPOSITORIES}"));
        registry.push_image("/v2/public/app", "v1", b"for everybody").await;
        registry.push_image("/v2/team/app", "v1", b"for the team").await;
        let manifest = registry.push_image("/v2/private/app", "v1", b"for ada").await;
        registry.push_image("/v2/team/shared", "v1", b"for the team").await;
        registry.push_image("/v2/private/hidden", "v1", b"for ada").await;
        registry.stop();
        let users: Vec<String> = [ADA, EVE, MALLORY, BOB]
            .iter()
            .map(|(user, password)| line(user, password))
            .collect();
        std::fs::write(directory.path().join("htpasswd"), users.concat()).unwrap();
        let registry = Registry::start_in(&directory, &format!("{SERVER}{AUTH}{REPOSITORIES}"));
        Self {
            registry,
            manifest,
            layer: sha256(b"for ada"),
        }
    }

    /// Asks as somebody; as nobody without.
    pub(crate) async fn ask(&self, method: &str, path: &str, who: Option<(&str, &str)>) -> Response {
        self.send(self.request(method, path), who).await
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.registry
            .client
            .request(method.parse().unwrap(), self.registry.url(path))
            .header("x-request-id", "same")
    }

    pub(crate) async fn send(&self, request: RequestBuilder, who: Option<(&str, &str)>) -> Response {
        let request = match who {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        };
        request.send().await.unwrap()
    }

    /// A token for somebody.
    pub(crate) async fn token(&self, who: (&str, &str)) -> String {
        let response = self.ask("GET", "/token?scope=repository:x:pull", Some(who)).await;
        assert_eq!(response.status(), StatusCode::OK);
        let document: serde_json::Value = response.json().await.unwrap();
        document["token"].as_str().unwrap().to_owned()
    }

    /// What a bearer of this is answered.
    pub(crate) async fn bearer(&self, path: &str, token: &str) -> Response {
        self.request("GET", path).bearer_auth(token).send().await.unwrap()
    }

    /// Changes a file of the configuration, and says so to the server.
    pub(crate) fn change(&self, file: &str, from: &str, to: &str) {
        let path = self.registry.directory.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        self.registry.signal("-HUP");
    }
}

pub(crate) fn line(user: &str, password: &str) -> String {
    // As cheap as it may be: it is not what these tests are about.
    format!("{user}:{}\n", bcrypt::hash(password, 4).unwrap())
}

/// An answer without what may differ: the digest that was asked for, and the time.
pub(crate) async fn told(response: Response, differing: &[&str]) -> String {
    let status = response.status();
    let mut headers: Vec<String> = response
        .headers()
        .iter()
        .filter(|(name, _)| *name != "date")
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or_default()))
        .collect();
    headers.sort();
    let mut text = format!("{status}\n{}\n{}", headers.join("\n"), response.text().await.unwrap());
    for word in differing {
        text = text.replace(word, "…");
    }
    text
}

/// Waits until somebody is answered so.
pub(crate) async fn until_answered(secured: &Secured, path: &str, token: &str, status: StatusCode) {
    until("the change counts", async || {
        secured.bearer(path, token).await.status() == status
    })
    .await;
}
