//! One client: requests, and what becomes of them, told to the oracle.

use std::sync::Arc;

use bytes::Bytes;
use entrepot::oci::Digest;
use reqwest::header::HeaderMap;
use reqwest::{Client, RequestBuilder, StatusCode};

use crate::binary::{Registry, sha256};
use crate::dice::Dice;
use crate::oracle::{Key, State};
use crate::world::World;

/// The repository that is pushed to.
pub(crate) const LOCAL: &str = "/v2/local";

/// The server is gone, as it was meant to be: whatever was asked last has no answer.
#[derive(Debug)]
pub(crate) struct Gone;

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The digest of its body, which must be the one that it names.
    pub(crate) fn digest(&self) -> Digest {
        let digest = sha256(&self.body);
        assert_eq!(self.header("docker-content-digest"), digest.as_str(), "a wrong body");
        digest
    }
}

/// A way to one life of the server.
#[derive(Clone)]
pub(crate) struct Door {
    base: String,
    client: Client,
}

impl Door {
    pub(crate) fn of(registry: &Registry) -> Self {
        Self {
            base: registry.url(""),
            client: registry.client.clone(),
        }
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let path = path.strip_prefix(&self.base).unwrap_or(path);
        let method = method.parse().expect("a method");
        self.client.request(method, format!("{}{path}", self.base))
    }
}

pub(crate) struct Caller {
    pub(crate) world: Arc<World>,
    pub(crate) door: Door,
    /// The image that is pushed to.
    pub(crate) image: String,
    /// Whether nobody else does.
    pub(crate) is_alone: bool,
    pub(crate) dice: Dice,
}

impl Caller {
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("{LOCAL}/{}/{rest}", self.image)
    }

    pub(crate) fn blob_key(&self, digest: &Digest) -> Key {
        Key::Blob(self.image.clone(), digest.clone())
    }

    pub(crate) fn manifest_key(&self, digest: &Digest) -> Key {
        Key::Manifest(self.image.clone(), digest.clone())
    }

    pub(crate) fn tag_key(&self, tag: &str) -> Key {
        Key::Tag(self.image.clone(), tag.to_owned())
    }

    /// The whole answer. Only once the server is being ended may there be none, and only where its calls fail may it
    /// say that it has failed.
    pub(crate) async fn ask(&self, request: RequestBuilder) -> Result<Answer, Gone> {
        let (client, request) = request.build_split();
        let request = request.expect("a request");
        let what = format!("{} {}", request.method(), request.url());
        // The body of a pull that can not be gone on with is cut off: the status has been sent.
        let may_be_cut = request.method().is_safe();
        self.world.count_request();
        let answered = async {
            let response = client.execute(request).await?;
            let (status, headers) = (response.status(), response.headers().clone());
            let body = response.bytes().await?;
            Ok::<_, reqwest::Error>(Answer { status, headers, body })
        };
        match answered.await {
            Ok(answer) => {
                let failed = answer.status.is_server_error();
                assert!(
                    !failed || self.world.may_fail(),
                    "{what}: {} {:?}",
                    answer.status,
                    answer.body
                );
                Ok(answer)
            }
            Err(error) => {
                let is_meant = self.world.may_vanish() || (may_be_cut && self.world.may_fail());
                assert!(is_meant, "{what}: no answer: {error:?}");
                Err(Gone)
            }
        }
    }

    /// Asks for a change. Whether it was made: `success` says so, and `refusals` that it was not.
    pub(crate) async fn change(
        &self,
        changes: Vec<(Key, State)>,
        request: RequestBuilder,
        success: StatusCode,
        refusals: &[StatusCode],
    ) -> Result<bool, Gone> {
        let what = format!("{changes:?}");
        let ticket = self.world.oracle.begin(changes);
        let answer = self.ask(request).await?;
        let done = answer.status == success;
        self.world.oracle.end(ticket, done);
        assert!(
            done || answer.status.is_server_error() || refusals.contains(&answer.status),
            "{what}: {} {:?}",
            answer.status,
            answer.body
        );
        Ok(done)
    }
}
