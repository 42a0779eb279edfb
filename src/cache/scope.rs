//! Which images a remote is for: what is outside is never asked for, so its name never leaves.

use crate::config::RemoteConfig;
use crate::oci::{ImageName, Pattern};

/// The images that a remote is for.
#[derive(Debug)]
pub(super) struct Scope {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

impl Scope {
    pub(super) fn new(config: &RemoteConfig) -> Self {
        Self {
            include: config.include.clone(),
            exclude: config.exclude.clone(),
        }
    }

    /// Whether an image, by its canonical name, is one of them.
    pub(super) fn admits(&self, image: &ImageName) -> bool {
        let matches = |pattern: &Pattern| pattern.matches(image.as_str());
        (self.include.is_empty() || self.include.iter().any(matches)) && !self.exclude.iter().any(matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_excluded_is_out_even_if_it_is_included() {
        let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a pattern")).collect();
        let admits = |include: &[&str], exclude: &[&str], image: &str| {
            let scope = Scope {
                include: patterns(include),
                exclude: patterns(exclude),
            };
            scope.admits(&image.parse().expect("a name"))
        };
        assert!(admits(&[], &[], "a/b"));
        assert!(admits(&["library/**"], &[], "library/alpine"));
        assert!(!admits(&["library/**"], &[], "other/alpine"));
        assert!(!admits(&["library/**"], &["library/*-nightly"], "library/x-nightly"));
        assert!(admits(&["library/**"], &["library/*-nightly"], "library/x"));
        assert!(!admits(&[], &["team/**"], "team/app"));
        assert!(admits(&["a/*", "b/*"], &[], "b/x"));
    }
}
