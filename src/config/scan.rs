//! What a text must be before a YAML parser may see it: of characters that YAML allows, and not nested so deeply that
//! the parser, which takes the square of the depth, would be busy for minutes.

use super::locate::Unreadable;
use super::problem::end_of;

/// More nesting than the parser takes in the end, so that nothing useful is refused here.
const DEEPEST: usize = 256;

pub(super) fn scan(text: &str) -> Result<(), Unreadable> {
    let wrong = |offset: usize, message: String| Unreadable {
        message,
        hint: None,
        position: Some(end_of(&text[..offset])),
    };
    if let Some((offset, c)) = text.char_indices().find(|(_, c)| !is_allowed(*c)) {
        let message = format!("the control character U+{:04X} cannot stand in YAML", u32::from(c));
        return Err(wrong(offset, message));
    }
    match too_deep(text) {
        Some(offset) => Err(wrong(offset, "nested too deeply".to_owned())),
        None => Ok(()),
    }
}

/// YAML 1.2, rule 1: c-printable.
fn is_allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{fffd}' | '\u{10000}'..)
}

/// Where the brackets that are open become too many. Brackets in comments and in quotes are passed over; that is all
/// of YAML that has to be known for this.
fn too_deep(text: &str) -> Option<usize> {
    let mut depth: usize = 0;
    let mut quote = None;
    let mut before = '\n';
    let mut characters = text.char_indices();
    while let Some((offset, c)) = characters.next() {
        let begins_word = before.is_whitespace() || matches!(before, '[' | '{' | ',' | ':');
        match (quote, c) {
            (Some('"'), '\\') => {
                characters.next();
            }
            (Some(open), c) if c == open => quote = None,
            // A quote twice is one quote that is meant.
            (None, '"' | '\'') if begins_word || before == c => quote = Some(c),
            (None, '#') if before.is_whitespace() => {
                characters.find(|(_, c)| matches!(c, '\n' | '\r'));
                before = '\n';
                continue;
            }
            (None, '[' | '{') if depth == DEEPEST => return Some(offset),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        before = c;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_that_are_closed_do_not_add_up() {
        for line in [
            "a: [1, {b: 2}]\n",
            "# it's [\n",
            "a: 'it''s ['\n",
            "a: \"[\\\"[\" # [\n",
            "a: don't\n",
            "- {a: '['}\n",
            "a: https://x#[]\n",
        ] {
            assert_eq!(too_deep(&line.repeat(2000)), None, "{line}");
        }
    }

    #[test]
    fn brackets_that_are_not_closed_do() {
        for line in ["[", "{a: ", "[ # ]\n", "[ ']', ", "a: [", "[\"]\","] {
            assert!(too_deep(&line.repeat(2000)).is_some(), "{line}");
        }
        assert!(too_deep(&"[".repeat(DEEPEST)).is_none());
    }
}
