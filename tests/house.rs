//! The architecture as a test: a room of `src` may use only rooms of a lower rank, and some crates belong to one room.
//! ARCHITECTURE.md draws what this enforces.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test that meets the unexpected should stop there"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// Every room and its rank. Siblings of one rank do not know each other.
const RANKS: &[(&str, u8)] = &[
    ("oci", 0),
    ("clock", 0),
    ("mishap", 0),
    ("telemetry", 0),
    ("config", 1),
    ("store", 2),
    ("upstream", 2),
    ("access", 2),
    ("cache", 3),
    ("repository", 4),
    ("http", 5),
    ("app", 6),
    ("cli", 7),
    ("main", 8),
];

/// A crate, and the only files that may name it.
const FENCED: &[(&str, &[&str])] = &[
    ("axum", &["http/"]),
    ("hyper", &["http/"]),
    ("hyper_util", &["http/"]),
    // An issuer's keys are no registry's business: docs/decisions/0007.
    ("reqwest", &["upstream/", "access/issuer_keys.rs"]),
    ("ldap3", &["access/directory.rs"]),
    ("bcrypt", &["access/", "cli/"]),
    ("jsonwebtoken", &["access/"]),
    ("psl", &["upstream/credentials.rs"]),
    ("sled", &["store/index.rs"]),
    ("serde_yaml", &["config/"]),
    ("clap", &["cli.rs"]),
    ("tar", &["cli/layout/"]),
    ("prometheus", &["telemetry/"]),
];

struct Source {
    /// The path below `src`.
    path: String,
    room: String,
    /// The code without comments.
    code: Vec<String>,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files
        .into_iter()
        .map(|file| {
            let path = file
                .strip_prefix(&root)
                .expect("below src")
                .to_string_lossy()
                .into_owned();
            let first = path.split(['/', '.']).next().expect("a first component").to_owned();
            let text = fs::read_to_string(&file).expect("readable source");
            let code = text
                .lines()
                .map(|line| line.split("//").next().unwrap_or_default().to_owned())
                .collect();
            Source {
                path,
                room: first,
                code,
            }
        })
        .collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn rank(room: &str) -> Option<u8> {
    RANKS.iter().find(|(name, _)| *name == room).map(|(_, rank)| *rank)
}

/// The rooms that a line of code names: `crate::x`, and in the binary `entrepot::x`.
fn rooms_named(line: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for prefix in ["crate::", "entrepot::"] {
        for (position, _) in line.match_indices(prefix) {
            let rest = &line[position + prefix.len()..];
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if rest.starts_with('{') {
                let inside = rest.trim_start_matches('{').split('}').next().unwrap_or_default();
                rooms.extend(
                    inside
                        .split(',')
                        .map(|part| part.split("::").next().unwrap_or_default().trim().to_owned()),
                );
            } else {
                rooms.push(name);
            }
        }
    }
    rooms
}

#[test]
fn every_file_belongs_to_a_known_room() {
    for source in sources() {
        assert!(
            source.path == "lib.rs" || rank(&source.room).is_some(),
            "src/{} is in no room: give it a rank in tests/house.rs and a place in ARCHITECTURE.md",
            source.path
        );
    }
}

#[test]
fn a_room_uses_only_rooms_below_it() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.path != "lib.rs") {
        let own = rank(&source.room).expect("checked above");
        for (index, line) in source.code.iter().enumerate() {
            for used in rooms_named(line) {
                if used == source.room {
                    continue;
                }
                if rank(&used).is_some_and(|rank| rank >= own) {
                    wrong.push(format!(
                        "src/{}:{}: `{}` (rank {own}) uses `{used}`, which is not below it",
                        source.path,
                        index + 1,
                        source.room
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_fenced_crate_stays_in_its_room() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (index, line) in source.code.iter().enumerate() {
            for (name, homes) in FENCED {
                let named = line.match_indices(&format!("{name}::")).any(|(position, _)| {
                    !line[..position].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
                });
                // A test may put damage into what only one file uses.
                let is_test = source.path.contains("/tests/") || source.path.ends_with("/tests.rs");
                if named && !is_test && !homes.iter().any(|home| source.path.starts_with(home)) {
                    wrong.push(format!(
                        "src/{}:{}: `{name}` belongs to {}",
                        source.path,
                        index + 1,
                        homes.join(", ")
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Ages are counted by `clock::now`, which does not jump. Only what is about times that others name reads the wall clock.
#[test]
fn only_who_tells_or_is_told_a_time_reads_the_wall_clock() {
    const READERS: &[&str] = &[
        "clock.rs",
        // Tokens and robots run out by it.
        "access/",
        "http/tokens.rs",
        "http/credentials.rs",
        // Upstreams say when to come again.
        "upstream/",
        // What people read has its date.
        "http/audit.rs",
        "telemetry/audit",
        "store/history.rs",
        "store/stamp.rs",
        "store/uploads.rs",
    ];
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.path.contains("/tests")) {
        for (index, line) in source.code.iter().enumerate() {
            if line.contains("SystemTime::now()") && !READERS.iter().any(|reader| source.path.starts_with(reader)) {
                wrong.push(format!("src/{}:{}: {}", source.path, index + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Who may is decided in one place. A handler that reached a repository past it would decide for itself.
#[test]
fn only_the_gate_reaches_the_repositories() {
    const WAYS: &[&str] = &[
        ".repositories.get(",
        ".repositories.route(",
        ".repositories.surface(",
        "push_target()",
    ];
    let mut wrong = Vec::new();
    let here = |source: &&Source| source.room == "http" && source.path != "http/gate.rs";
    for source in sources().iter().filter(here) {
        for (index, line) in source.code.iter().enumerate() {
            // What an audit calls a repository is no way to it.
            let is_audit = source.path == "http/dispatch.rs" && line.contains("let route = name.and_then(");
            if WAYS.iter().any(|way| line.contains(way)) && !is_audit {
                wrong.push(format!("src/{}:{}: {}", source.path, index + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
