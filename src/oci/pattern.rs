//! Patterns of names, as operators write them: `library/**`, `team/*`, `v*`.

use std::fmt;
use std::str::FromStr;

use globset::{GlobBuilder, GlobMatcher};

/// Longer than any name that it could match.
const LONGEST: usize = 512;

/// A pattern: `*` is anything within one component, `**` any number of components, `?` one character, `[ab]` one of
/// these, `{a,b}` either.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    matcher: GlobMatcher,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(String);

impl Pattern {
    /// Whether a name is one of those meant.
    pub fn matches(&self, name: &str) -> bool {
        self.matcher.is_match(name)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() || text.len() > LONGEST || text.contains(char::is_control) {
            return Err(PatternError(
                "it is empty, too long, or holds control characters".to_owned(),
            ));
        }
        let glob = GlobBuilder::new(text)
            .literal_separator(true)
            .build()
            .map_err(|error| PatternError(error.kind().to_string()))?;
        Ok(Self {
            text: text.to_owned(),
            matcher: glob.compile_matcher(),
        })
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_within_a_component_and_two_do_not() {
        for (pattern, name, matches) in [
            ("library/**", "library/alpine", true),
            ("library/**", "library/a/b", true),
            ("library/**", "library", false),
            ("library/**", "librarys/a", false),
            ("library/*", "library/alpine", true),
            ("library/*", "library/a/b", false),
            ("library/*-nightly", "library/x-nightly", true),
            ("**", "a/b/c", true),
            ("**/app", "app", true),
            ("**/app", "a/b/app", true),
            ("{a,b}/x", "b/x", true),
            ("3.*", "3.20", true),
            ("3.*", "3", false),
            ("v[0-9]*", "v1.2.3", true),
            ("a.b", "axb", false),
        ] {
            let parsed: Pattern = pattern.parse().expect(pattern);
            assert_eq!(parsed.matches(name), matches, "{pattern} on {name}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "a[", "a\nb", "{a", &"x".repeat(513)] {
            assert!(text.parse::<Pattern>().is_err(), "{text:?}");
        }
    }
}
