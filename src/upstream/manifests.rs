//! Manifests, and what a HEAD tells about one.

use http::Method;
use http::header::CONTENT_TYPE;
use tokio::time::Instant;

use super::ask::{Ask, Given, Tour};
use super::send::Response;
use super::{Error, TOTAL, Upstream, accept};
use crate::oci::manifest::{Contents, ManifestError};
use crate::oci::media_type::{self, MediaType};
use crate::oci::{Algorithm, Answer, Digest, ImageName, Manifest, Reference};
use crate::telemetry::metrics::Kind;

/// What registries say about the digest of what they send. A hint: many are wrong, some leave it out.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// What a HEAD tells about a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its digest, as the upstream says.
    pub digest: Option<Digest>,
    /// Its length in bytes.
    pub size: Option<u64>,
    /// Its type.
    pub media_type: Option<MediaType>,
}

impl Upstream {
    /// Asks whether a manifest is there, and under which digest. Docker Hub counts a GET as a pull, a HEAD not. Asked
    /// once only: who asks this has a copy, or asks for the manifest next.
    pub async fn head_manifest(&self, image: &ImageName, reference: &Reference) -> Answer<Head, Error> {
        let Some(mut ask) = self.manifest_question(Method::HEAD, image, reference) else {
            return Ok(None);
        };
        ask.is_patient = false;
        let Some(given) = self.0.registry.ask(&ask).await? else {
            return Ok(None);
        };
        let response = &given.response;
        Ok(Some(Head {
            digest: announced_digest(response),
            size: response.length(),
            media_type: response.header(CONTENT_TYPE.as_str()).and_then(MediaType::parse),
        }))
    }

    /// Fetches a manifest. By digest, its bytes have that digest; by tag, they have the one that the upstream
    /// announces, and if it announces none, theirs counts.
    pub async fn manifest(&self, image: &ImageName, reference: &Reference) -> Answer<(Manifest, Contents), Error> {
        let Some(ask) = self.manifest_question(Method::GET, image, reference) else {
            return Ok(None);
        };
        let mut tour = Tour::default();
        loop {
            let Some(given) = self.0.registry.ask_next(&ask, &mut tour).await? else {
                return Ok(None);
            };
            let witness = given.witness.clone();
            match self.read_manifest(given, reference).await {
                Err(error) if !tour.is_over() => {
                    tracing::warn!(
                        repository = %self.0.repository,
                        %image,
                        %reference,
                        mirror = witness.host(),
                        %error,
                        "a mirror's manifest is no use; the next one is asked"
                    );
                    witness.failed(0, &error);
                }
                Err(error) => {
                    witness.failed(0, &error);
                    return Err(error);
                }
                Ok(read) => return Ok(Some(read)),
            }
        }
    }

    /// The body of an answer, if it is the manifest that was asked for.
    async fn read_manifest(&self, given: Given, reference: &Reference) -> Result<(Manifest, Contents), Error> {
        let announced = announced_digest(&given.response);
        let content_type = given.response.header(CONTENT_TYPE.as_str()).map(str::to_owned);
        let end = Instant::now() + TOTAL;
        let bytes = given.response.collect(self.0.manifest_limit, end).await?;
        drop(given.permit);
        self.0
            .metrics
            .fetched(self.0.repository.as_str(), Kind::Manifest, bytes.len() as u64);
        let algorithm = match (reference, &announced) {
            (Reference::Digest(digest), _) | (Reference::Tag(_), Some(digest)) => digest.algorithm(),
            (Reference::Tag(_), None) => Algorithm::Sha256,
        };
        // What it is comes first: the digest of schema 1 is not one of these bytes, and no lie for that.
        let read = Manifest::from_elsewhere(bytes.clone(), content_type.as_deref(), algorithm);
        if read != Err(ManifestError::SchemaOne)
            && let Some(announced) = &announced
            && Digest::of(announced.algorithm(), &bytes) != *announced
        {
            return Err(Error::Lies(format!(
                "it says that the digest of its manifest {reference} is {announced}, but it is not"
            )));
        }
        let (manifest, contents) =
            read.map_err(|error| Error::Lies(format!("what it sends as {reference} is none that is kept: {error}")))?;
        if let Reference::Digest(digest) = reference
            && manifest.digest != *digest
        {
            return Err(Error::Lies(format!(
                "the manifest that it sends for {digest} has another digest"
            )));
        }
        Ok((manifest, contents))
    }

    fn manifest_question(&self, method: Method, image: &ImageName, reference: &Reference) -> Option<Ask> {
        let mut ask = self.question(method, image, &format!("manifests/{reference}"))?;
        ask.accept = accept(&media_type::MANIFEST_TYPES);
        Some(ask)
    }
}

/// The announced digest, if it is one that we can compute.
fn announced_digest(response: &Response) -> Option<Digest> {
    response.header(CONTENT_DIGEST)?.trim().parse().ok()
}
