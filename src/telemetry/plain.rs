//! Text that ends no line and moves no cursor: what clients and upstreams send ends up in logs and audits, which people
//! read on terminals (RUSTSEC-2025-0055).

use std::borrow::Cow;
use std::fmt::Write as _;

/// JSON that means the same, in which every such character is written by its number. Only what stands in a string can
/// be one: JSON itself has none.
pub(super) fn json(text: &str) -> Cow<'_, str> {
    written_out(text, is_hidden)
}

/// Text for people, in which colours and ends of lines stay: what writes it has taken both out of what it was given.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    written_out(text, |letter| is_hidden(letter) && letter > '\u{1f}')
}

fn written_out(text: &str, is_hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 32);
    for letter in text.chars() {
        if is_hidden(letter) {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                // Writing to a string cannot fail.
                let _ = write!(plain, "\\u{unit:04x}");
            }
        } else {
            plain.push(letter);
        }
    }
    Cow::Owned(plain)
}

/// Whether a character is none that is seen: controls, separators of lines, and what turns the direction of text.
const fn is_hidden(letter: char) -> bool {
    matches!(letter,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        | '\u{ad}' | '\u{61c}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s07_what_is_hidden_is_written_by_its_number_and_means_the_same() {
        let hostile = "a\r\n\u{1b}[31m\u{7f}\u{9b}2J\u{202e}txt.\u{2066}\u{2028}\u{feff}\u{e0041}ä€\"\\";
        let raw = serde_json::to_string(hostile).expect("JSON");
        let plain = json(&raw);
        assert!(!plain.chars().any(is_hidden), "{plain:?}");
        assert!(plain.contains("ä€"));
        assert_eq!(serde_json::from_str::<String>(&plain).expect("JSON still"), hostile);
        assert!(matches!(json("{\"a\":\"ä\"}"), Cow::Borrowed(_)));
        assert_eq!(text("\u{1b}[1ma\u{202e}\u{9b}b\n"), "\u{1b}[1ma\\u202e\\u009bb\n");
    }
}
