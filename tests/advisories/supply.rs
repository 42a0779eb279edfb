//! What we are made of: versions below which something was wrong, and crates that are not to come in. `cargo deny` asks
//! the whole database where it can be had; this holds everywhere.

use std::collections::BTreeMap;

/// The versions of every crate that is compiled in, from the lockfile.
fn locked() -> BTreeMap<String, Vec<(u64, u64, u64)>> {
    let text = include_str!("../../Cargo.lock");
    let mut versions: BTreeMap<String, Vec<_>> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        let value = |key: &str| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"');
        if let Some(found) = value("name") {
            found.clone_into(&mut name);
        } else if let Some(version) = value("version") {
            versions.entry(name.clone()).or_default().push(parse(version));
        }
    }
    assert!(versions.len() > 100, "the lockfile was read");
    versions
}

fn parse(version: &str) -> (u64, u64, u64) {
    let plain = version.split(['-', '+']).next().unwrap_or_default();
    let mut parts = plain.split('.').map(|part| part.parse().expect(version));
    let mut next = || parts.next().expect(version);
    (next(), next(), next())
}

/// Asserts that no version of a crate is below this one. One that is not there at all is none.
fn assert_at_least(name: &str, floor: &str, required: bool) {
    let locked = locked();
    let found = locked.get(name).cloned().unwrap_or_default();
    assert!(
        !required || !found.is_empty(),
        "{name} is not in the lockfile: take it out of here, too"
    );
    for version in found {
        assert!(version >= parse(floor), "{name} {version:?} is below {floor}");
    }
}

#[test]
fn rustsec_2026_0258_h2_counts_empty_data_frames() {
    assert_at_least("h2", "0.4.16", true);
}

#[test]
fn rustsec_2024_0332_h2_bounds_continuation_frames() {
    assert_at_least("h2", "0.4.4", true);
}

#[test]
fn rustsec_2026_0199_bcrypt_does_not_panic_on_a_short_hash() {
    assert_at_least("bcrypt", "0.19.2", false);
}

#[test]
fn rustsec_2024_0437_prometheus_brings_no_protobuf_that_recurses() {
    assert_at_least("prometheus", "0.14.0", true);
    assert_at_least("protobuf", "3.7.2", false);
}

#[test]
fn floors_of_what_else_had_advisories_hold() {
    for (name, floor, required) in [
        ("bytes", "1.11.1", true),
        ("rustls-webpki", "0.103.13", true),
        ("rustls", "0.23.18", true),
        ("tracing-subscriber", "0.3.20", true),
        ("tokio", "1.44.2", true),
        ("crossbeam-epoch", "0.9.20", true),
        ("time", "0.3.47", false),
        ("lru", "0.18.2", false),
    ] {
        assert_at_least(name, floor, required);
    }
}

#[test]
fn rustsec_2025_0068_crates_that_are_unsound_or_left_alone_are_not_in_the_tree() {
    let locked = locked();
    for name in [
        "serde_yml",
        "libyml",
        "serde_yaml",
        "rustls-pemfile",
        "openssl-sys",
        "native-tls",
        "backoff",
        "paste",
    ] {
        assert!(!locked.contains_key(name), "{name}");
    }
}
