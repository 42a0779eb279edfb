//! The files of the configuration, and whether they have changed since they were read.

use std::path::PathBuf;
use std::time::Duration;

use super::Source;
use crate::config::{Loaded, Problem};
use crate::oci::{Algorithm, Digest};

/// How often they are looked at. Their content is: watching misses the symbolic link that a Kubernetes `ConfigMap`
/// swaps, and times of change lie.
pub(super) const LOOK: Duration = Duration::from_millis(250);
/// How often a configuration is read again that names other files than the one before.
const AGAIN: usize = 3;

/// What the files held.
pub(super) struct Watched {
    /// Those that the configuration names.
    files: Vec<PathBuf>,
    /// A digest of all of them before they were read last.
    read: Digest,
    /// The same at the last look.
    seen: Digest,
}

impl Watched {
    /// Of a configuration that was just read.
    pub(super) fn new(source: &Source, files: Vec<PathBuf>) -> Self {
        let read = content(source, &files);
        Self {
            files,
            seen: read.clone(),
            read,
        }
    }

    /// Whether there is something new to read. What was not the same at the last look is still being written: half of it
    /// may well be a configuration, too, and would take away what the other half has.
    pub(super) fn have_changed(&mut self, source: &Source) -> bool {
        let seen = content(source, &self.files);
        let settled = seen == self.seen;
        self.seen = seen;
        settled && self.seen != self.read
    }

    /// Reads them. What changes from now on, in the middle of it too, is news again.
    pub(super) fn load(&mut self, source: &Source) -> Result<Loaded, Vec<Problem>> {
        let mut turn = 1;
        loop {
            self.read = content(source, &self.files);
            let loaded = source.load()?;
            if turn == AGAIN || loaded.files == self.files {
                return Ok(loaded);
            }
            self.files.clone_from(&loaded.files);
            turn += 1;
        }
    }
}

/// A digest of all the configuration's files as they are now. A file that is missing is a content too.
fn content(source: &Source, files: &[PathBuf]) -> Digest {
    let mut hasher = Algorithm::Sha256.hasher();
    for path in source.path.iter().chain(files) {
        match std::fs::read(path) {
            Ok(bytes) => hasher.update(Digest::of(Algorithm::Sha256, &bytes).as_str().as_bytes()),
            Err(error) => hasher.update(error.kind().to_string().as_bytes()),
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "server: { listen: '127.0.0.1:0' }\nrepositories:\n  one: { type: local }\n";

    #[test]
    fn what_is_still_being_written_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("repositories.yml");
        let source = Source {
            path: Some(path.clone()),
            environment: std::iter::empty::<(String, String)>().collect(),
        };
        let write = |text: &str| std::fs::write(&path, text).expect("written");
        write(GOOD);
        let mut watched = Watched::new(&source, Vec::new());
        assert!(!watched.have_changed(&source));
        // Each of these is a configuration, and only the last is what was meant.
        let mut text = GOOD.to_owned();
        for key in ["two", "three", "four"] {
            text.push_str("  ");
            text.push_str(key);
            text.push_str(": { type: local }\n");
            write(&text);
            assert!(!watched.have_changed(&source), "{text}");
        }
        assert!(watched.have_changed(&source), "it was the same twice");
        assert!(watched.load(&source).is_ok());
        assert!(!watched.have_changed(&source));
        // What was read and refused is not read again and again, and what was there before is news after it.
        write("repositories: {");
        assert!(!watched.have_changed(&source) && watched.have_changed(&source));
        assert!(watched.load(&source).is_err());
        assert!(!watched.have_changed(&source));
        write(&text);
        assert!(!watched.have_changed(&source) && watched.have_changed(&source));
    }

    #[test]
    fn a_file_that_is_named_anew_is_watched_from_when_it_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("repositories.yml");
        let source = Source {
            path: Some(path.clone()),
            environment: std::iter::empty::<(String, String)>().collect(),
        };
        std::fs::write(&path, GOOD).expect("written");
        let mut watched = Watched::new(&source, Vec::new());
        std::fs::write(directory.path().join("users"), "").expect("written");
        let auth = "auth: { htpasswd: users, policies: [{ who: ['*'], may: [pull], on: '**' }] }\n";
        std::fs::write(&path, format!("{GOOD}{auth}")).expect("written");
        let loaded = watched.load(&source).unwrap_or_else(|problems| panic!("{problems:?}"));
        assert_eq!(loaded.files, [directory.path().join("users")]);
        assert!(!watched.have_changed(&source));
        std::fs::write(directory.path().join("users"), "ada:").expect("written");
        assert!(!watched.have_changed(&source) && watched.have_changed(&source));
    }
}
