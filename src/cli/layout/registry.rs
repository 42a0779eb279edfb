//! A server, spoken to by the distribution API.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderName, Method, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;

use super::names::printable;
use crate::http::client::{Answer, Client};
use crate::oci::manifest::Contents;
use crate::oci::{Algorithm, Digest, ImageName, Manifest, Reference, Tag, media_type};

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// How often something is tried again, and how long the first wait is, which doubles.
const TRIES: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The longest answer that is repeated in an error.
const EXCERPT: usize = 200;

/// A registry that is asked for images, or given some.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Registry {
    client: Client,
}

/// How long something that breaks off again and again is still gone on with.
#[derive(Debug, Default)]
pub(super) struct Patience {
    tries: u32,
}

impl Patience {
    /// Waits a little longer each time, and at last no more: a server that is started anew is back by then.
    pub(super) async fn wait(&mut self, error: anyhow::Error) -> anyhow::Result<()> {
        if self.tries == TRIES {
            return Err(error);
        }
        tokio::time::sleep(FIRST_WAIT * 2_u32.pow(self.tries)).await;
        self.tries += 1;
        Ok(())
    }
}

/// A manifest as a server gave it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) manifest: Manifest,
    pub(super) contents: Contents,
    /// What the server has to say of it: that nobody could be asked whether the tag has moved.
    pub(super) warning: Option<String>,
}

/// What is about a manifest, as far as can be told.
#[derive(Debug, Default)]
pub(super) struct Referrers {
    pub(super) digests: Vec<Digest>,
    /// Why there may be more.
    pub(super) warning: Option<String>,
}

/// A list of tags.
#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Vec<String>,
}

impl Registry {
    pub(in crate::cli) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// What the server is called: `registry.example.com:5000`.
    pub(in crate::cli) fn authority(&self) -> String {
        self.client.authority()
    }

    /// Asks for something below an image.
    pub(super) async fn ask(
        &self,
        method: Method,
        name: &ImageName,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        self.at(method, &format!("/v2/{name}/{path}"), headers, body).await
    }

    /// Asks for a path that it named itself.
    pub(super) async fn at(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        self.client.send(method, path, headers, body).await
    }

    /// A manifest, or that it is certainly not there.
    pub(super) async fn manifest(&self, name: &ImageName, reference: &Reference) -> anyhow::Result<Option<Found>> {
        let asked = format!("{name}{}{reference}", reference.separator());
        let accept = media_type::MANIFEST_TYPES.join(", ");
        let path = format!("manifests/{reference}");
        let answer = self
            .ask(Method::GET, name, &path, &[(header::ACCEPT, &accept)], Bytes::new())
            .await?;
        let Some(answer) = found(answer, &asked).await? else {
            return Ok(None);
        };
        let expected = match reference {
            Reference::Digest(digest) => Some(digest.clone()),
            Reference::Tag(_) => digest_of(&answer),
        };
        let content_type = answer.header(&header::CONTENT_TYPE).map(str::to_owned);
        let warning = warning_of(&answer);
        let bytes = answer.bytes().await.with_context(|| asked.clone())?;
        let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let (manifest, contents) =
            Manifest::from_elsewhere(bytes, content_type.as_deref(), algorithm).with_context(|| asked.clone())?;
        if expected.is_some_and(|expected| expected != manifest.digest) {
            bail!("{asked}: what the server sent has the digest {}", manifest.digest);
        }
        Ok(Some(Found {
            manifest,
            contents,
            warning,
        }))
    }

    /// What a tag or digest means there, or that it certainly means nothing.
    pub(super) async fn meaning(&self, name: &ImageName, reference: &Reference) -> anyhow::Result<Option<Digest>> {
        let asked = format!("{name}{}{reference}", reference.separator());
        let accept = media_type::MANIFEST_TYPES.join(", ");
        let path = format!("manifests/{reference}");
        let answer = self
            .ask(Method::HEAD, name, &path, &[(header::ACCEPT, &accept)], Bytes::new())
            .await?;
        let Some(answer) = found(answer, &asked).await? else {
            return Ok(None);
        };
        let digest = digest_of(&answer).with_context(|| format!("{asked}: the server does not say its digest"))?;
        Ok(Some(digest))
    }

    /// The tags of an image, and why there may be more.
    pub(in crate::cli) async fn tags(&self, name: &ImageName) -> anyhow::Result<(Vec<Tag>, Option<String>)> {
        let asked = format!("the tags of {name}");
        let answer = self.ask(Method::GET, name, "tags/list", &[], Bytes::new()).await?;
        let answer = found(answer, &asked)
            .await?
            .with_context(|| format!("the server has no {name}"))?;
        let warning = warning_of(&answer);
        let bytes = answer.bytes().await.with_context(|| asked.clone())?;
        let listed: Tags = serde_json::from_slice(&bytes).with_context(|| asked.clone())?;
        let tags = listed.tags.iter().map(|tag| tag.parse()).collect::<Result<_, _>>();
        Ok((tags.with_context(|| asked.clone())?, warning))
    }

    /// The list of what refers to a manifest.
    pub(super) async fn referrers(&self, name: &ImageName, subject: &Digest) -> anyhow::Result<Referrers> {
        let asked = format!("the referrers of {name}@{subject}");
        let path = format!("referrers/{subject}");
        let answer = self.ask(Method::GET, name, &path, &[], Bytes::new()).await?;
        let Some(answer) = found(answer, &asked).await? else {
            return Ok(Referrers::default());
        };
        let warning = warning_of(&answer);
        let bytes = answer.bytes().await.with_context(|| asked.clone())?;
        let (_, contents) = Manifest::from_elsewhere(bytes, Some(media_type::OCI_INDEX), Algorithm::Sha256)
            .with_context(|| asked.clone())?;
        let digests = contents.manifests.into_iter().map(|descriptor| descriptor.digest);
        Ok(Referrers {
            digests: digests.collect(),
            warning,
        })
    }

    /// Whether a blob is there, by what can be told.
    pub(super) async fn has_blob(&self, name: &ImageName, digest: &Digest) -> anyhow::Result<bool> {
        let path = format!("blobs/{digest}");
        let answer = self.ask(Method::HEAD, name, &path, &[], Bytes::new()).await?;
        Ok(answer.status == StatusCode::OK)
    }
}

fn warning_of(answer: &Answer) -> Option<String> {
    answer.header(&header::WARNING).map(printable)
}

fn digest_of(answer: &Answer) -> Option<Digest> {
    answer.header(&CONTENT_DIGEST)?.parse().ok()
}

/// An answer about what is there; none if it is certainly not.
async fn found(answer: Answer, asked: &str) -> anyhow::Result<Option<Answer>> {
    match answer.status {
        StatusCode::OK => Ok(Some(answer)),
        StatusCode::NOT_FOUND => {
            // To its end, so that the connection can be used again.
            answer.bytes().await?;
            Ok(None)
        }
        _ => Err(refusal(answer).await.context(asked.to_owned())),
    }
}

/// What a server said when it did not do what it was asked for.
pub(super) async fn refusal(answer: Answer) -> anyhow::Error {
    let status = answer.status;
    let text = answer.text().await.unwrap_or_default();
    let document: Value = serde_json::from_str(&text).unwrap_or_default();
    let said: Vec<&str> = document["errors"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|error| error["message"].as_str())
        .collect();
    let said: String = said
        .join("; ")
        .chars()
        .filter(|c| !c.is_control())
        .take(EXCERPT)
        .collect();
    let hint = match status {
        StatusCode::UNAUTHORIZED => " (`docker login` to the server, or set ENTREPOT_TOKEN)",
        _ => "",
    };
    if said.is_empty() {
        anyhow::anyhow!("the server answered {status}{hint}")
    } else {
        anyhow::anyhow!("{said}{hint}")
    }
}
