//! Tags that have moved upstream: which of them should not have, and who is told.

use super::Inner;
use crate::oci::{Digest, ImageName, Tag};

impl Inner {
    /// Tells of a tag that was seen to have moved upstream.
    pub(super) fn tell_moved(&self, image: &ImageName, tag: &Tag, from: &Digest, to: &Digest) {
        let is_version = looks_like_version(tag.as_str());
        self.metrics.tag_moved(self.key.as_str(), is_version);
        if is_version {
            tracing::warn!(
                repository = %self.key, %image, %tag, %from, %to, upstream = &*self.host,
                "a tag that looks like a version has moved upstream"
            );
        } else {
            tracing::info!(
                repository = %self.key, %image, %tag, %from, %to, upstream = &*self.host,
                "a tag has moved upstream"
            );
        }
    }
}

/// Whether a tag looks like the name of one release, `1.2`, `v1.2.3-alpine`, `2024-05-01`, which is not expected to
/// move, and not like that of a line of them, `latest`, `1`, `stable`.
fn looks_like_version(tag: &str) -> bool {
    let digits = tag.strip_prefix(['v', 'V']).unwrap_or(tag);
    let (first, rest) = split_digits(digits);
    match first.len() {
        0 => false,
        // 20240501, alone or with a time behind it.
        8 if first.starts_with("19") || first.starts_with("20") => !rest.starts_with(|c: char| c.is_ascii_alphabetic()),
        length => match rest.split_at_checked(1) {
            Some((".", rest)) => !split_digits(rest).0.is_empty(),
            Some(("-" | "_", rest)) if length == 4 => {
                let (month, rest) = split_digits(rest);
                let day = rest.strip_prefix(['-', '_']).map(split_digits);
                month.len() == 2 && day.is_some_and(|(day, _)| day.len() == 2)
            }
            _ => false,
        },
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_told_from_a_line_of_them() {
        for tag in [
            "1.2",
            "v1.2",
            "v1.2.3",
            "1.2.3",
            "1.2.3-alpine",
            "3.20",
            "0.0.1_rc1",
            "V2.0",
            "20240501",
            "20240501-1",
            "2024-05-01",
            "2024_05_01",
            "2024.05.01",
            "2024-05-01-slim",
            "22.04",
            "v1.28.3-k3s1",
        ] {
            assert!(looks_like_version(tag), "{tag}");
        }
        for tag in [
            "latest",
            "stable",
            "1",
            "v1",
            "12",
            "1-alpine",
            "v",
            "alpine",
            "alpine3.20",
            "edge",
            "1.",
            "1.x",
            "nightly",
            "main",
            "sha-20240501",
            "2024",
            "2024-05",
            "2024-slim",
            "12345678",
            "20240501abc",
        ] {
            assert!(!looks_like_version(tag), "{tag}");
        }
    }
}
