//! Ways in to what this room reads, for `fuzz/`, which is a crate of its own. Compiled for that alone.

use super::{history, records, rows, uploads};

/// A link on the disk.
pub fn link(contents: &[u8]) {
    if let Some(digest) = records::parse(contents) {
        assert_eq!(records::parse(digest.as_str().as_bytes()), Some(digest));
    }
}

/// The history of a tag.
pub fn history(text: &[u8]) {
    if let Ok(story) = history::parse(text) {
        let again = serde_json::to_vec(&story).unwrap_or_default();
        assert!(
            history::parse(&again).is_ok(),
            "what was read can be written and read again"
        );
    }
}

/// Rows of the index, which may hold anything.
pub fn rows(bytes: &[u8]) {
    let _ = rows::blob_of(bytes);
    let _ = rows::read_tag(bytes);
}

/// The note on an upload.
pub fn upload(text: &[u8]) {
    if let Some((place, owner, algorithm)) = uploads::read_note(text) {
        let again = uploads::note(&place, &owner, algorithm);
        let read = uploads::read_note(&again);
        assert!(
            read.is_some_and(|read| read == (place, owner, algorithm)),
            "what was read can be written and read again"
        );
    }
}
