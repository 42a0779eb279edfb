//! Images as people write them: `docker-hub/library/alpine:3.20`, with or without this server in front.

use crate::oci::{Digest, ErrorCode, ImageName, Reference, Refusal, Tag};

/// An image that somebody has named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageText {
    /// With the repository's key in front, or without.
    pub(crate) name: ImageName,
    /// The tag or digest; `latest` when there is none.
    pub(crate) reference: Reference,
}

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
        if let Some((first, _)) = name.split_once('/')
            && first.contains(':')
        {
            return Err(Refusal::new(
                ErrorCode::NameInvalid,
                "the image is on another server: leave the server out, or ask it",
            ));
        }
        let name = name
            .parse()
            .map_err(|error: crate::oci::name::NameError| Refusal::new(ErrorCode::NameInvalid, error.to_string()))?;
        let reference = match (digest, tag) {
            (Some(digest), _) => Reference::Digest(digest_of(digest)?),
            (None, tag) => Reference::Tag(tag_of(tag.unwrap_or("latest"))?),
        };
        Ok(Self { name, reference })
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
        for text in [
            "",
            "other:5000/app:v1",
            "App",
            "app:",
            "app@sha256:1",
            "a//b",
            "app:ä",
            "127.0.0.1:5000/",
        ] {
            assert!(ImageText::parse(text, Some("127.0.0.1:5000")).is_err(), "{text}");
        }
        let by_digest = ImageText::parse(&format!("app@{digest}"), None).expect("an image");
        assert!(by_digest.tag().is_err());
    }
}
