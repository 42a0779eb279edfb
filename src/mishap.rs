//! Panics on command, for the tests that show what becomes of one (row A10 of `docs/guarantees.md`).
//!
//! Only where debug assertions are on. A release has neither the command nor the places: `.ci/run` looks for the variable's name
//! in it.

#[cfg(debug_assertions)]
use std::{fs, path::PathBuf, sync::LazyLock};

/// The file that names the places where to panic, if somebody wants to see that at all.
#[cfg(debug_assertions)]
static FILE: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os("ENTREPOT_MISHAPS").map(PathBuf::from));

/// Does nothing, unless a test wants a panic here.
///
/// # Panics
///
/// If the file that `ENTREPOT_MISHAPS` names has the name of this place in it.
#[cfg(debug_assertions)]
pub fn at(place: &str) {
    let Some(file) = &*FILE else { return };
    let named = fs::read_to_string(file).unwrap_or_default();
    assert!(
        !named.split_whitespace().any(|named| named == place),
        "a mishap in {place}, as told"
    );
}

/// Does nothing.
#[cfg(not(debug_assertions))]
pub const fn at(_place: &str) {}
