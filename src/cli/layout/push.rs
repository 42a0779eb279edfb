//! A layout is pushed to a server, in an order in which nothing that is half there can be asked for by its name: blobs,
//! manifests from the leaves up, what is about them, and tags at last.

use std::collections::{HashMap, HashSet};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderName, Method, StatusCode, header};

use super::names::is_about;
use super::plan::{Node, Plan, Unit};
use super::progress::Progress;
use super::read::{Content, Layout};
use super::registry::{Patience, Registry, refusal};
use crate::http::client::Answer;
use crate::oci::{Descriptor, Digest, ImageName, Reference, Tag};
use crate::store::Imported;

/// How much of a blob is sent in one request.
const PIECE: u64 = 16 << 20;
const BYTES: (HeaderName, &str) = (header::CONTENT_TYPE, "application/octet-stream");

/// Why something did not come.
enum Trouble {
    /// It cannot: the rest can.
    Refused(String),
    /// Nothing can any more.
    Broken(anyhow::Error),
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Self::Broken(error)
    }
}

/// One run.
pub(in crate::cli) struct Pushing<'a> {
    registry: &'a Registry,
    layout: &'a Layout,
    plan: &'a Plan,
    replace_tags: bool,
    progress: Progress,
    /// In which image a blob is by now.
    blobs: HashMap<Digest, ImageName>,
    done: Imported,
}

impl<'a> Pushing<'a> {
    /// Of this, to there.
    pub(in crate::cli) fn new(
        registry: &'a Registry,
        layout: &'a Layout,
        plan: &'a Plan,
        replace_tags: bool,
        progress: Progress,
    ) -> Self {
        Self {
            registry,
            layout,
            plan,
            replace_tags,
            progress,
            blobs: HashMap::new(),
            done: Imported::default(),
        }
    }

    /// Pushes all of it that can be pushed.
    pub(in crate::cli) async fn run(mut self) -> anyhow::Result<Imported> {
        self.done.problems.clone_from(&self.plan.problems);
        self.progress.expect(self.plan.size());
        for (name, image) in &self.plan.images {
            let before = self.done.manifests + self.done.present;
            let mut here = HashSet::new();
            let mut tags = Vec::new();
            for unit in &image.units {
                match self.unit(name, unit, &mut here).await {
                    Ok(()) => tags.extend(unit.tag.as_ref().zip(unit.manifests.last())),
                    Err(Trouble::Refused(why)) => {
                        let tag = unit.tag.as_ref().map_or_else(String::new, |tag| format!(":{tag}"));
                        self.done.problems.push(format!("{name}{tag} is left out: {why}"));
                    }
                    Err(Trouble::Broken(error)) => return Err(error.context(BROKEN)),
                }
            }
            // Whoever sees the image's tag finds its signature too.
            tags.sort_by_key(|(tag, _)| !is_about(tag));
            for (tag, digest) in tags {
                match self.tag(name, tag, digest).await {
                    Ok(()) => self.progress.tell(&format!("{name}:{tag}")),
                    Err(Trouble::Refused(why)) => self.done.problems.push(format!("{name}:{tag}: {why}")),
                    Err(Trouble::Broken(error)) => return Err(error.context(BROKEN)),
                }
            }
            self.done.images += u64::from(self.done.manifests + self.done.present > before);
        }
        Ok(self.done)
    }

    /// A manifest and what it lists; nothing of it, if something is missing.
    async fn unit(&mut self, name: &ImageName, unit: &Unit, here: &mut HashSet<Digest>) -> Result<(), Trouble> {
        let nodes = unit.manifests.iter().filter(|digest| !here.contains(*digest));
        let nodes: Vec<&Node> = nodes.filter_map(|digest| self.plan.nodes.get(digest)).collect();
        for blob in nodes.iter().flat_map(|node| &node.blobs) {
            self.check(name, blob).await?;
        }
        for node in nodes {
            for blob in &node.blobs {
                if let Some(content) = self.layout.blob(&blob.digest)? {
                    self.blob(name, &blob.digest, &content).await?;
                }
            }
            let digest = &node.descriptor.digest;
            let was_here = self.registry.meaning(name, &Reference::Digest(digest.clone())).await;
            self.manifest(name, digest, &digest.to_string()).await?;
            // Behind one name there may be several repositories, so it is pushed even so.
            if matches!(was_here, Ok(Some(_))) {
                self.done.present += 1;
            } else {
                self.done.manifests += 1;
            }
            here.insert(digest.clone());
        }
        Ok(())
    }

    /// Whether a blob can be had.
    async fn check(&self, name: &ImageName, blob: &Descriptor) -> Result<(), Trouble> {
        let Descriptor { digest, size, .. } = blob;
        match self.layout.blob(digest)? {
            Some(content) if content.size == *size => Ok(()),
            Some(content) => Err(Trouble::Refused(format!(
                "{digest} has {} bytes in the file, and {size} in its manifest",
                content.size
            ))),
            None if blob.may_be_absent() || self.registry.has_blob(name, digest).await? => Ok(()),
            None => Err(Trouble::Refused(format!(
                "it needs {digest}, which is neither in the file nor on the server"
            ))),
        }
    }

    async fn blob(&mut self, name: &ImageName, digest: &Digest, content: &Content) -> Result<(), Trouble> {
        if self.blobs.get(digest).is_some_and(|there| there == name) {
            return Ok(());
        }
        let is_first = !self.blobs.contains_key(digest);
        if self.registry.has_blob(name, digest).await? {
            self.done.present += 1;
        } else if self.send(name, digest, content).await? {
            self.done.copied += 1;
            self.done.bytes += content.size;
        } else {
            self.done.present += 1;
        }
        if is_first {
            self.progress.add(content.size);
        }
        self.blobs.insert(digest.clone(), name.clone());
        Ok(())
    }

    /// Sends a blob; false if the server had it, in another image.
    async fn send(&self, name: &ImageName, digest: &Digest, content: &Content) -> Result<bool, Trouble> {
        let location = match self.blobs.get(digest) {
            Some(there) => {
                let path = format!("blobs/uploads/?mount={digest}&from={there}");
                let answer = self.registry.ask(Method::POST, name, &path, &[], Bytes::new()).await?;
                if answer.status == StatusCode::CREATED {
                    return Ok(false);
                }
                Some(begun(answer).await?)
            }
            None => None,
        };
        let actual = content
            .digest(digest.algorithm())
            .with_context(|| format!("{digest} cannot be read"))?;
        if actual != *digest {
            return Err(Trouble::Refused(format!(
                "what is called {digest} in the file has the digest {actual}"
            )));
        }
        let location = match location {
            Some(location) => location,
            None if content.size <= PIECE => {
                let bytes = content.read(0, PIECE).map_err(anyhow::Error::from)?;
                let path = format!("blobs/uploads/?digest={digest}");
                let answer = self.registry.ask(Method::POST, name, &path, &[BYTES], bytes).await?;
                match answer.status {
                    StatusCode::CREATED => return Ok(true),
                    // It takes blobs only in two steps.
                    StatusCode::ACCEPTED => begun(answer).await?,
                    _ => return Err(refused(answer).await),
                }
            }
            None => {
                let path = format!("blobs/uploads/?digest-algorithm={}", digest.algorithm());
                begun(self.registry.ask(Method::POST, name, &path, &[], Bytes::new()).await?).await?
            }
        };
        self.upload(location, digest, content).await?;
        Ok(true)
    }

    /// Sends a blob in pieces, and goes on where it broke off.
    async fn upload(&self, mut location: String, digest: &Digest, content: &Content) -> Result<(), Trouble> {
        let (mut sent, mut patience) = (0, Patience::default());
        while sent < content.size {
            let bytes = content.read(sent, PIECE).map_err(anyhow::Error::from)?;
            let next = sent + bytes.len() as u64;
            let range = format!("{sent}-{}", next - 1);
            let headers = [BYTES, (header::CONTENT_RANGE, &*range)];
            let answer = self.registry.at(Method::PATCH, &location, &headers, bytes).await;
            let error = match answer {
                Ok(answer) if answer.status == StatusCode::ACCEPTED => {
                    location = location_of(&answer)?;
                    sent = next;
                    patience = Patience::default();
                    continue;
                }
                Ok(answer) if !may_pass(answer.status) => return Err(refused(answer).await),
                Ok(answer) => refusal(answer).await,
                Err(error) => error,
            };
            sent = self.stands(&location, error, &mut patience).await?;
        }
        let and = if location.contains('?') { '&' } else { '?' };
        let path = format!("{location}{and}digest={digest}");
        let answer = self.registry.at(Method::PUT, &path, &[BYTES], Bytes::new()).await?;
        created(answer).await
    }

    /// How many bytes an upload has that broke off.
    async fn stands(&self, location: &str, mut error: anyhow::Error, patience: &mut Patience) -> Result<u64, Trouble> {
        loop {
            patience.wait(error).await?;
            error = match self.registry.at(Method::GET, location, &[], Bytes::new()).await {
                Ok(answer) if answer.status == StatusCode::NO_CONTENT => {
                    let last = answer.header(&header::RANGE).and_then(|range| range.split_once('-'));
                    let last = last.and_then(|(_, last)| last.parse::<u64>().ok());
                    // `0-0` is how all registries say that there is nothing.
                    return Ok(last.filter(|last| *last > 0).map_or(0, |last| last + 1));
                }
                // Whatever else it says: it may still have hold of what broke off.
                Ok(answer) if is_final(answer.status) => return Err(refused(answer).await),
                Ok(answer) => refusal(answer).await,
                Err(error) => error,
            };
        }
    }

    async fn manifest(&self, name: &ImageName, digest: &Digest, reference: &str) -> Result<(), Trouble> {
        let Some(node) = self.plan.nodes.get(digest) else {
            return Ok(());
        };
        let Some((manifest, _)) = self.layout.manifest(&node.descriptor)? else {
            return Err(Trouble::Refused(format!("{digest} is not in the file any more")));
        };
        let headers = [(header::CONTENT_TYPE, manifest.media_type.as_str())];
        let path = format!("manifests/{reference}");
        let answer = self
            .registry
            .ask(Method::PUT, name, &path, &headers, manifest.bytes.clone())
            .await?;
        created(answer).await
    }

    /// Lets a tag mean it, unless it means something else and that is to stay.
    async fn tag(&mut self, name: &ImageName, tag: &Tag, digest: &Digest) -> Result<(), Trouble> {
        let now = self.registry.meaning(name, &Reference::Tag(tag.clone())).await;
        let is_here = match now {
            Ok(Some(now)) if now == *digest => true,
            Ok(Some(now)) if !self.replace_tags => {
                return Err(Trouble::Refused(format!(
                    "the tag stays: it means {now} here, and {digest} in the file; `--replace-tags` lets it mean that"
                )));
            }
            Err(error) if !self.replace_tags => {
                return Err(Trouble::Refused(format!(
                    "whether the tag means something here cannot be told ({error:#}); `--replace-tags` sets it even so"
                )));
            }
            Ok(_) | Err(_) => false,
        };
        self.manifest(name, digest, tag.as_str()).await?;
        if is_here {
            self.done.present += 1;
        } else {
            self.done.tags += 1;
        }
        Ok(())
    }
}

const BROKEN: &str = "what has come so far stays; the same command goes on from there";

/// Where an upload goes on that was begun.
async fn begun(answer: Answer) -> Result<String, Trouble> {
    if answer.status != StatusCode::ACCEPTED {
        return Err(refused(answer).await);
    }
    Ok(location_of(&answer)?)
}

async fn refused(answer: Answer) -> Trouble {
    Trouble::Refused(format!("{:#}", refusal(answer).await))
}

/// Whether the same may be taken a little later, from where the upload stands then.
fn may_pass(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::TOO_MANY_REQUESTS
        )
}

/// Whether an upload cannot be gone on with.
fn is_final(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
    )
}

async fn created(answer: Answer) -> Result<(), Trouble> {
    if answer.status == StatusCode::CREATED {
        return Ok(());
    }
    Err(refused(answer).await)
}

/// The path that a server names, whatever it calls itself.
fn location_of(answer: &Answer) -> anyhow::Result<String> {
    let said = answer
        .header(&header::LOCATION)
        .context("the server does not say where an upload goes on")?;
    if said.starts_with('/') {
        return Ok(said.to_owned());
    }
    let url: url::Url = said
        .parse()
        .with_context(|| format!("`{said}` is no place for an upload"))?;
    let query = url.query().map_or_else(String::new, |query| format!("?{query}"));
    Ok(format!("{}{query}", url.path()))
}
