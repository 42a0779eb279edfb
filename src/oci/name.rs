//! Names: of images, and of the repositories of `repositories.yml` that hold them.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest `<name>` taken, in bytes: clients limit host and name together to 255.
pub const MAX_NAME: usize = 255;

/// An image name: the specification's `<name>`, or what is left of it after a repository key.
///
/// Components of `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` joined by `/`; distribution-spec, "Pulling manifests".
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageName(Arc<str>);

impl ImageName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its components, at least one.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The first component and the rest, when there is more than one.
    pub fn split_first(&self) -> Option<(&str, Self)> {
        let (first, rest) = self.0.split_once('/')?;
        Some((first, Self(rest.into())))
    }

    /// The name below a prefix: `library` and `alpine` make `library/alpine`.
    pub fn under(&self, prefix: &str) -> Result<Self, NameError> {
        format!("{prefix}/{}", self.0).parse()
    }
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > MAX_NAME {
            return Err(NameError::Length);
        }
        match text.split('/').find(|component| !is_component(component)) {
            Some(component) => Err(NameError::Component(excerpt(component))),
            None => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The key of a repository in `repositories.yml`: one component of a name.
///
/// `v2` and `library` are never keys: they stand where a key could in `/v2/…` and `/v2/library/alpine/…`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryKey(Arc<str>);

impl RepositoryKey {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryKey {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > 64 {
            return Err(NameError::Length);
        }
        if matches!(text, "v2" | "library") {
            return Err(NameError::Reserved(text.to_owned()));
        }
        if !is_component(text) {
            return Err(NameError::Component(excerpt(text)));
        }
        Ok(Self(text.into()))
    }
}

impl Borrow<str> for RepositoryKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RepositoryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepositoryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Too long: 255 bytes for an image, 64 for a key.
    #[error("the name is too long")]
    Length,
    /// A component outside the grammar.
    #[error(
        "`{0}` is not a name component: lower-case letters and digits, separated by one `.`, one or two `_`, or any number of `-`"
    )]
    Component(String),
    /// A key that would stand in the way of the API's own paths.
    #[error("`{0}` cannot be a repository key: it has a meaning of its own in image paths")]
    Reserved(String),
}

/// As much of a bad text as an error may repeat: hostile input is cut and cleaned.
fn excerpt(text: &str) -> String {
    text.chars()
        .take(40)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().copied().is_some_and(is_word) || !bytes.last().copied().is_some_and(is_word) {
        return false;
    }
    let mut separators = bytes.split(|b| is_word(*b)).filter(|run| !run.is_empty());
    separators.all(|run| matches!(run, b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_grammar_are_taken() {
        for name in ["a", "library/alpine", "a.b_c__d---e/0", "team/app/x.y"] {
            assert!(name.parse::<ImageName>().is_ok(), "{name}");
        }
    }

    #[test]
    fn names_outside_the_grammar_are_refused() {
        let long = "a".repeat(256);
        for name in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "a._b", "-a", "a-", ".", "..", "a/../b", "a\0b", "ü",
            "a b", &long,
        ] {
            assert!(name.parse::<ImageName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn keys_are_one_component_and_not_reserved() {
        assert!("docker-hub".parse::<RepositoryKey>().is_ok());
        for key in ["v2", "library", "a/b", "", "_catalog", "UP"] {
            assert!(key.parse::<RepositoryKey>().is_err(), "{key}");
        }
    }
}
