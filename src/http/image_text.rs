//! Images as people write them: `docker-hub/library/alpine:3.20`, with or without this server in front, or with the registry that
//! it comes from: `docker.io/library/alpine:3.20`.

use crate::oci::{Digest, ErrorCode, ImageName, Reference, Refusal, Tag};
use crate::upstream;

/// An image that somebody has named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageText {
    /// With the repository's key in front, or without.
    pub(crate) name: ImageName,
    /// The tag or digest; `latest` when there is none.
    pub(crate) reference: Reference,
    /// Another registry that it was written with: `docker.io`.
    pub(crate) registry: Option<String>,
}

/// What Docker Hub is called in names, and in `?ns=`.
const HUB: &str = "docker.io";

impl ImageText {
    /// Reads one. `host` is what the request was sent to: it may stand in front, as in what is given to `docker pull`.
    pub(crate) fn parse(text: &str, host: Option<&str>) -> Result<Self, Refusal> {
        let rest = match (text.split_once('/'), host) {
            (Some((first, rest)), Some(host)) if first.eq_ignore_ascii_case(host) => rest,
            _ => text,
        };
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        let (registry, name) = match name.split_once('/') {
            Some((first, name)) if is_registry(first) => (Some(known_as(first)), name),
            _ => (None, name),
        };
        let name = name.parse().map_err(invalid)?;
        let reference = match (digest, tag) {
            (Some(digest), _) => Reference::Digest(digest_of(digest)?),
            (None, tag) => Reference::Tag(tag_of(tag.unwrap_or("latest"))?),
        };
        Ok(Self {
            name,
            reference,
            registry,
        })
    }

    /// The same where the registry that it was written with is the key of a repository, as `is_key` says: keys come first, as in
    /// every name. An image of Docker Hub gets the name that clients ask for, `library/alpine`.
    pub(crate) fn settled(mut self, is_key: impl Fn(&str) -> bool) -> Result<Self, Refusal> {
        let Some(registry) = &self.registry else {
            return Ok(self);
        };
        let prefix = match registry.as_str() {
            key if is_key(key) => key,
            HUB if self.name.split_first().is_none() => "library",
            _ => return Ok(self),
        };
        let is_repository = prefix == registry.as_str();
        self.name = self.name.under(prefix).map_err(invalid)?;
        if is_repository {
            self.registry = None;
        }
        Ok(self)
    }

    /// For who speaks to a server by its distribution API alone: this server, and no other, is meant.
    pub(crate) fn of_this_server(self) -> Result<Self, Refusal> {
        match &self.registry {
            Some(registry) if registry.contains(':') => Err(Refusal::new(
                ErrorCode::NameInvalid,
                "the image is on another server: leave the server out, or ask it",
            )),
            Some(registry) => Ok(Self {
                name: self.name.under(registry).map_err(invalid)?,
                registry: None,
                ..self
            }),
            None => Ok(self),
        }
    }

    /// The tag, where only a tag will do.
    pub(super) fn tag(&self) -> Result<&Tag, Refusal> {
        match &self.reference {
            Reference::Tag(tag) => Ok(tag),
            Reference::Digest(_) => Err(Refusal::new(
                ErrorCode::TagInvalid,
                "a digest always means the same: name a tag, as in `team/app:v1`",
            )),
        }
    }
}

/// Whether the first part of a name is a registry, told as clients tell it.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

fn known_as(registry: &str) -> String {
    upstream::known_as(&registry.to_ascii_lowercase()).to_owned()
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` hands it over")]
fn invalid(error: crate::oci::name::NameError) -> Refusal {
    Refusal::new(ErrorCode::NameInvalid, error.to_string())
}

/// A digest that somebody has written.
pub(super) fn digest_of(text: &str) -> Result<Digest, Refusal> {
    text.parse()
        .map_err(|error: crate::oci::digest::DigestError| Refusal::new(ErrorCode::DigestInvalid, error.to_string()))
}

fn tag_of(text: &str) -> Result<Tag, Refusal> {
    text.parse()
        .map_err(|error: crate::oci::reference::TagError| Refusal::new(ErrorCode::TagInvalid, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_read_as_clients_take_them() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let read = |text: &str| {
            let image = ImageText::parse(text, Some("127.0.0.1:5000")).expect(text);
            (image.name.to_string(), image.reference.to_string())
        };
        for (text, name, reference) in [
            ("docker-hub/library/alpine:3.20", "docker-hub/library/alpine", "3.20"),
            ("alpine", "alpine", "latest"),
            ("127.0.0.1:5000/docker/team/app:v1", "docker/team/app", "v1"),
            ("127.0.0.1:5000/app", "app", "latest"),
            (&format!("app@{digest}"), "app", &*digest),
            (&format!("team/app:v1@{digest}"), "team/app", &*digest),
        ] {
            assert_eq!(read(text), (name.to_owned(), reference.to_owned()), "{text}");
        }
        for text in ["", "App", "app:", "app@sha256:1", "a//b", "app:ä", "127.0.0.1:5000/"] {
            assert!(ImageText::parse(text, Some("127.0.0.1:5000")).is_err(), "{text}");
        }
        let hub = |text: &str, key: &str| {
            let image = ImageText::parse(text, None).and_then(|image| image.settled(|text| text == key));
            let image = image.expect(text);
            (image.registry, image.name.to_string())
        };
        let of = |registry: &str, name: &str| (Some(registry.to_owned()), name.to_owned());
        assert_eq!(hub("docker.io/alpine", ""), of("docker.io", "library/alpine"));
        assert_eq!(hub("Index.docker.io/a/b:v1", ""), of("docker.io", "a/b"));
        assert_eq!(hub("localhost/app", ""), of("localhost", "app"));
        assert_eq!(hub("other:5000/app:v1", ""), of("other:5000", "app"));
        assert_eq!(
            hub("my.images/app", "my.images"),
            (None, "my.images/app".to_owned()),
            "a key comes first"
        );
        let plain = |text| ImageText::parse(text, None).and_then(ImageText::of_this_server);
        assert!(plain("other:5000/app:v1").is_err());
        assert_eq!(plain("ghcr.io/app").expect("a name").name.to_string(), "ghcr.io/app");
        let by_digest = ImageText::parse(&format!("app@{digest}"), None).expect("an image");
        assert!(by_digest.tag().is_err());
    }
}
