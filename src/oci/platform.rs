//! Platforms: `os/architecture[/variant]`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longer than any word that names an operating system or a processor.
const LONGEST: usize = 64;

/// What an image is made for; image-spec `image-index.md`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// The operating system, as Go calls it.
    #[serde(default)]
    pub os: String,
    /// The processor, as Go calls it.
    #[serde(default)]
    pub architecture: String,
    /// The variant of the processor, when it matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Why a text is no platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a platform is written `os/architecture` or `os/architecture/variant`, as in `linux/amd64`")]
pub struct PlatformError;

impl Platform {
    /// Whether an image for `other` is one for this. A variant that is not given is any.
    pub fn takes(&self, other: &Self) -> bool {
        self.os == other.os
            && self.architecture == other.architecture
            && (self.variant.is_none() || self.variant == other.variant)
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let is_word = |word: &&str| {
            !word.is_empty()
                && word.len() <= LONGEST
                && word
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'.' || byte == b'-')
        };
        let words: Vec<&str> = text.split('/').filter(is_word).collect();
        if words.len() != text.split('/').count() {
            return Err(PlatformError);
        }
        match words[..] {
            [os, architecture] => Ok(Self {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
                variant: None,
            }),
            [os, architecture, variant] => Ok(Self {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
                variant: Some(variant.to_owned()),
            }),
            _ => Err(PlatformError),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_is_two_or_three_words() {
        for text in ["linux/amd64", "linux/arm/v7", "windows/amd64"] {
            assert_eq!(text.parse::<Platform>().expect(text).to_string(), text);
        }
        for text in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "linux/arm/v7/x",
            "Linux/amd64",
            "linux//amd64",
            "a b/c",
        ] {
            assert_eq!(text.parse::<Platform>(), Err(PlatformError), "{text}");
        }
    }

    #[test]
    fn without_a_variant_any_is_taken() {
        let platform = |text: &str| text.parse::<Platform>().expect(text);
        assert!(platform("linux/arm64").takes(&platform("linux/arm64/v8")));
        assert!(!platform("linux/arm/v6").takes(&platform("linux/arm/v7")));
        assert!(!platform("linux/arm").takes(&platform("linux/arm64")));
    }
}
