//! Whole documents: what an administrator, or our own process, has written to the disk.

use std::path::PathBuf;
use std::sync::OnceLock;

use entrepot::access;
use entrepot::config::{Environment, load_text};

fn directory() -> &'static PathBuf {
    static DIRECTORY: OnceLock<tempfile::TempDir> = OnceLock::new();
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let made = DIRECTORY.get_or_init(|| tempfile::tempdir().expect("a temporary directory"));
        made.path().to_owned()
    })
}

/// `repositories.yml`. Problems are told with the lines that they are about, which must exist.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let environment: Environment = [("NAME".to_owned(), "value".to_owned())].into_iter().collect();
    match load_text("repositories.yml", text, directory(), &environment) {
        Ok(loaded) => assert!(!loaded.config.repositories.is_empty()),
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                assert!(!problem.to_string().is_empty());
            }
        }
    }
}

/// The file of passwords.
pub fn htpasswd(bytes: &[u8]) {
    std::fs::write(directory().join("htpasswd"), bytes).expect("written");
    let text = "auth: { htpasswd: htpasswd, policies: [{ who: '*', may: pull, on: '**' }] }\nrepositories: { a: { type: local } }\n";
    let environment: Environment = std::iter::empty::<(String, String)>().collect();
    let Ok(loaded) = load_text("repositories.yml", text, directory(), &environment) else {
        return;
    };
    for (user, hash) in &loaded.config.auth.htpasswd {
        assert!(!user.is_empty() && !user.contains([':', '\n']) && !user.chars().any(char::is_control));
        assert!(hash.reveal().starts_with("$2"));
    }
}

/// The document in which robots are kept.
pub fn robots(bytes: &[u8]) {
    if let Ok(robots) = access::Robots::from_document(bytes) {
        let written = robots.table().to_document();
        assert!(
            access::Robots::from_document(&written).is_ok(),
            "what was read can be written and read again"
        );
    }
}
