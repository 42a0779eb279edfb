//! What images are called in a layout, and what they are called here.
//!
//! `org.opencontainers.image.ref.name` is a name for some (we, podman) and only a tag for others (docker, BuildKit, whoever
//! copies with skopeo or oras); `io.containerd.image.name` is a name with its registry in front.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::{IMAGE_NAME, REF_NAME};
use crate::oci::{Digest, ImageName, Tag};

/// What an entry of a layout is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Called {
    /// Without its registry; empty if the layout has only a tag.
    name: String,
    /// None for what is only named by its digest.
    tag: Option<String>,
}

impl Called {
    /// By the annotations of an entry; none if they do not say.
    pub(super) fn by(annotations: Option<&BTreeMap<String, String>>) -> Option<Self> {
        let said = |key: &str| {
            annotations?
                .get(key)
                .map(String::as_str)
                .filter(|text| !text.is_empty())
        };
        match (said(REF_NAME), said(IMAGE_NAME)) {
            // Without its registry it is said too, so what is before the first slash is none.
            (Some(name), Some(whole)) if whole.split_once('/').is_some_and(|(_, rest)| rest == name) => {
                Some(Self::read(name))
            }
            (Some(name), _) if name.contains(['/', ':']) => Some(Self::read(without_registry(name))),
            (Some(tag), None) => Some(Self {
                name: String::new(),
                tag: Some(tag.to_owned()),
            }),
            (_, Some(whole)) => Some(Self::read(without_registry(whole))),
            (None, None) => None,
        }
    }

    fn read(text: &str) -> Self {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        let tag = tag.or_else(|| digest.is_none().then_some("latest"));
        Self {
            name: name.to_owned(),
            tag: tag.map(str::to_owned),
        }
    }
}

/// A name without the registry in front, told as docker tells it.
fn without_registry(text: &str) -> &str {
    match text.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => rest,
        _ => text,
    }
}

/// Where an entry goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) name: ImageName,
    /// None for what only has a digest.
    pub(super) tag: Option<Tag>,
}

/// One `--into`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Placing {
    /// `local/hub`: this comes before every name.
    Under(String),
    /// `docker=local`: names that begin with the one begin with the other.
    Instead(String, String),
    /// `local/app:v1`: this is what the only image is called.
    Only(ImageName, Tag),
}

impl FromStr for Placing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = |text: &str| {
            text.parse::<ImageName>()
                .map_err(|error| format!("`--into {text}`: {error}"))
        };
        if let Some((old, new)) = text.split_once('=') {
            name(new)?;
            let old = old.trim_end_matches('/');
            if old.is_empty() {
                return Err(format!("`--into {text}`: before the `=` is what names begin with"));
            }
            return Ok(Self::Instead(old.to_owned(), new.to_owned()));
        }
        match text.rsplit_once(':') {
            Some((only, tag)) => {
                let tag = tag.parse().map_err(|error| format!("`--into {text}`: {error}"))?;
                Ok(Self::Only(name(only)?, tag))
            }
            None => name(text).map(|name| Self::Under(name.to_string())),
        }
    }
}

/// Where an entry with this name goes, or why it cannot.
pub(super) fn target(called: Option<&Called>, digest: &Digest, into: &[Placing]) -> Result<Target, String> {
    if let Some(Placing::Only(name, tag)) = into.iter().find(|into| matches!(into, Placing::Only(..))) {
        return Ok(Target {
            name: name.clone(),
            tag: Some(tag.clone()),
        });
    }
    let Some(called) = called else {
        return Err(format!(
            "{digest} has no name in the file: say what it is called, `--into REPOSITORY/IMAGE:TAG`"
        ));
    };
    let Called { name, tag } = called;
    let instead = |into: &Placing| match into {
        Placing::Under(prefix) if name.is_empty() => Some(prefix.clone()),
        Placing::Under(prefix) => Some(format!("{prefix}/{name}")),
        Placing::Instead(old, new) => {
            let rest = name.strip_prefix(old.as_str())?;
            (rest.is_empty() || rest.starts_with('/')).then(|| format!("{new}{rest}"))
        }
        Placing::Only(..) => None,
    };
    let whole = into.iter().find_map(instead).unwrap_or_else(|| name.clone());
    let shown = printable(tag.as_deref().unwrap_or_default());
    if whole.is_empty() {
        return Err(format!(
            "{digest} is only called `{shown}` in the file: say of what, `--into REPOSITORY/IMAGE`"
        ));
    }
    let cannot = |why: String| {
        format!(
            "`{}:{shown}` cannot be a name here: {why}; `--into OLD=NEW` gives it another",
            printable(&whole)
        )
    };
    Ok(Target {
        name: whole.parse().map_err(|error| cannot(format!("{error}")))?,
        tag: match tag {
            Some(tag) => Some(tag.parse().map_err(|error| cannot(format!("{error}")))?),
            None => None,
        },
    })
}

/// What somebody else has written, for a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(256).collect()
}

/// Whether a tag is one that only says what is about an image: a signature, an attestation, a list of what refers to it.
pub(super) fn is_about(tag: &Tag) -> bool {
    tag.as_str().split_once('-').is_some_and(|(algorithm, rest)| {
        matches!(algorithm, "sha256" | "sha512")
            && rest.len() >= 64
            && rest.as_bytes()[..64].iter().all(u8::is_ascii_hexdigit)
    })
}

/// The tags under which what is about a manifest is kept where there is no list of referrers: the specification's own, and
/// cosign's.
pub(super) fn tags_about(digest: &Digest) -> Vec<Tag> {
    let hex = digest.hex();
    let list = format!("{}-{}", digest.algorithm(), &hex[..hex.len().min(64)]);
    let cosign = [".sig", ".att", ".sbom"].map(|what| format!("{}-{hex}{what}", digest.algorithm()));
    let all = std::iter::once(list).chain(cosign);
    // The longest are none.
    all.filter_map(|tag| tag.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn goes(name: &str, whole: &str, into: &[&str]) -> Result<String, String> {
        let annotations =
            [(REF_NAME, name), (IMAGE_NAME, whole)].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let called = Called::by(Some(&annotations.into_iter().collect()));
        let into: Vec<Placing> = into.iter().map(|text| text.parse().expect(text)).collect();
        let digest = DIGEST.parse().expect("a digest");
        target(called.as_ref(), &digest, &into).map(|target| {
            let tag = target.tag.map_or_else(String::new, |tag| format!(":{tag}"));
            format!("{}{tag}", target.name)
        })
    }

    #[test]
    fn a_name_is_found_in_whatever_way_it_is_written() {
        for (name, whole, expected) in [
            // Ours, with a repository that is called like a host.
            (
                "docker/team/app:1",
                "127.0.0.1:5000/docker/team/app:1",
                "docker/team/app:1",
            ),
            (
                "ghcr.io/team/app:1",
                "registry.example/ghcr.io/team/app:1",
                "ghcr.io/team/app:1",
            ),
            (
                &format!("docker/app@{DIGEST}"),
                &format!("127.0.0.1:5000/docker/app@{DIGEST}"),
                "docker/app",
            ),
            // docker's and BuildKit's.
            ("3.20", "docker.io/library/alpine:3.20", "library/alpine:3.20"),
            ("", "docker.io/library/alpine:3.20", "library/alpine:3.20"),
            // podman's.
            ("localhost/app:1", "", "app:1"),
            ("quay.io/team/app", "", "team/app:latest"),
            ("quay.io:443/team/app:1", "", "team/app:1"),
            // skopeo's, by who wrote one.
            ("app:1", "", "app:1"),
            ("team/app:1", "", "team/app:1"),
        ] {
            assert_eq!(goes(name, whole, &[]).as_deref(), Ok(expected), "{name} {whole}");
        }
        for (name, whole) in [
            ("latest", ""),
            ("", ""),
            ("Team/App:1", ""),
            ("team/app:ü", ""),
            ("a//b:1", ""),
        ] {
            let refused = goes(name, whole, &[]).expect_err(name);
            assert!(refused.contains("--into"), "{refused}");
        }
    }

    #[test]
    fn a_name_goes_where_it_is_said_to() {
        for (name, into, expected) in [
            ("docker/team/app:1", &["local"][..], "local/docker/team/app:1"),
            ("docker/team/app:1", &["docker=local"], "local/team/app:1"),
            ("docker/team/app:1", &["docker/=local/x"], "local/x/team/app:1"),
            ("docker/team/app:1", &["docker/team/app=local/other"], "local/other:1"),
            ("docker/team/app:1", &["dock=local"], "docker/team/app:1"),
            ("docker/team/app:1", &["docker/team=a", "docker=b"], "a/app:1"),
            ("1", &["local/app"], "local/app:1"),
            ("", &["local/app:2"], "local/app:2"),
            ("docker/team/app:1", &["local/app:2"], "local/app:2"),
            ("Team/App:1", &["Team/App=local/app"], "local/app:1"),
        ] {
            assert_eq!(goes(name, "", into).as_deref(), Ok(expected), "{name} {into:?}");
        }
        for wrong in ["", "=local", "docker=", "docker=Local", "Local", "local:ü", "a:b:c"] {
            assert!(wrong.parse::<Placing>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_about_an_image_is_told_by_its_tag() {
        let digest: Digest = DIGEST.parse().expect("a digest");
        let tags = tags_about(&digest);
        assert_eq!(tags.len(), 4);
        assert!(tags.iter().all(is_about), "{tags:?}");
        let long = Digest::of(crate::oci::Algorithm::Sha512, b"");
        assert_eq!(tags_about(&long).len(), 1);
        for tag in [
            "v1",
            "latest",
            "sha256-1",
            "sha256",
            "sha1-0000000000000000000000000000000000000000",
        ] {
            assert!(!is_about(&tag.parse().expect(tag)), "{tag}");
        }
    }
}
