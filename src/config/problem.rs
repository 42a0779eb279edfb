//! One problem of a configuration, and how it is shown.

use std::fmt;

use super::mask::{is_secret, masked, word_before};

/// How much of a long source line is shown on either side of the column.
const CONTEXT: usize = 80;

/// One thing that is wrong with a configuration, or that deserves a second look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// A warning keeps nothing from starting.
    pub warning: bool,
    /// What is wrong.
    pub message: String,
    /// What was meant, or what to do.
    pub hint: Option<String>,
}

/// Where a problem is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file, or in the want of one.
    File {
        /// The file as the user names it.
        name: String,
    },
    /// In a line of a file.
    Line {
        /// The file as the user names it.
        name: String,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// The line itself; passwords in it are made unreadable.
        source: String,
    },
    /// In an environment variable.
    Variable {
        /// Its name.
        name: String,
    },
}

impl Problem {
    /// A problem with a file as a whole.
    pub(super) fn of_file(name: &str, message: impl Into<String>) -> Self {
        Self {
            place: Place::File { name: name.to_owned() },
            warning: false,
            message: message.into(),
            hint: None,
        }
    }

    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl Problem {
    /// The report in one line, for logs: what is wrong and where, without source line and hint.
    pub fn line(&self) -> String {
        let warning = if self.warning { "warning: " } else { "" };
        let message = &self.message;
        match &self.place {
            Place::File { name } | Place::Variable { name } => format!("{name}: {warning}{message}"),
            Place::Line { name, line, column, .. } => format!("{name}:{line}:{column}: {warning}{message}"),
        }
    }
}

/// The whole report: the line of [`Problem::line`], the source with a caret, and the hint.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line())?;
        if let Place::Line { column, source, .. } = &self.place {
            let (shown, before) = window(source, *column);
            let padding: String = before.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            write!(f, "\n    {shown}\n    {padding}^")?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

/// The part of a line around a column, and what of it comes before the column.
fn window(source: &str, column: usize) -> (String, String) {
    let before = column.saturating_sub(1);
    let skipped = if before > CONTEXT + CONTEXT / 2 {
        before - CONTEXT
    } else {
        0
    };
    let mark = if skipped > 0 { "…" } else { "" };
    let mut shown: String = mark.chars().chain(source.chars().skip(skipped)).collect();
    if let Some((end, _)) = shown.char_indices().nth(before - skipped + CONTEXT) {
        shown.truncate(end);
        shown.push('…');
    }
    let until_column = mark.chars().count() + before - skipped;
    let before = shown.chars().take(until_column).collect();
    (shown, before)
}

/// A text that problems are found in.
pub(super) struct Source<'a> {
    name: &'a str,
    text: &'a str,
}

impl<'a> Source<'a> {
    pub(super) fn new(name: &'a str, text: &'a str) -> Self {
        Self { name, text }
    }

    pub(super) fn name(&self) -> &'a str {
        self.name
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// The line with this number, from 1, without its end. What ends a line is what YAML says ends one.
    pub(super) fn line(&self, number: usize) -> &'a str {
        lines(self.text).nth(number.saturating_sub(1)).unwrap_or_default()
    }

    /// The place of a line and column of this text.
    pub(super) fn place(&self, line: usize, column: usize) -> Place {
        Place::Line {
            name: self.name.to_owned(),
            line,
            column,
            source: if self.is_in_secret(line) {
                self.line(line).replace(|c: char| !c.is_whitespace(), "*")
            } else {
                masked(self.line(line))
            },
        }
    }

    /// Whether a line belongs to a key of an earlier line whose value is secret.
    fn is_in_secret(&self, number: usize) -> bool {
        let indentation = |line: &str| line.len() - line.trim_start().len();
        let before: Vec<&str> = lines(self.text).take(number.saturating_sub(1)).collect();
        let line = self.line(number);
        // The elements of a list may be indented no more than its key.
        let mut limit = indentation(line) + usize::from(line.trim_start().starts_with("- "));
        for line in before.into_iter().rev().filter(|line| !line.trim().is_empty()) {
            if limit == 0 {
                return false;
            }
            if indentation(line) < limit {
                limit = indentation(line);
                let key: Vec<char> = line.split(':').next().unwrap_or_default().chars().collect();
                if line.contains(':') && is_secret(&word_before(&key)) {
                    return true;
                }
            }
        }
        false
    }
}

/// Line and column, from 1, of what follows this text.
pub(super) fn end_of(text: &str) -> (usize, usize) {
    let last = lines(text).last().unwrap_or_default();
    (lines(text).count(), last.chars().count() + 1)
}

/// The lines of a text as YAML counts them; one more, empty, after a last line end.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text.strip_prefix('\u{feff}').unwrap_or(text));
    std::iter::from_fn(move || {
        let text = rest?;
        let end = text.find(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']);
        let Some(end) = end else {
            rest = None;
            return Some(text);
        };
        let (line, after) = text.split_at(end);
        let mut skipped = after.chars();
        if skipped.next() == Some('\r') && after.starts_with("\r\n") {
            skipped.next();
        }
        rest = Some(skipped.as_str());
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str, column: usize) -> String {
        let problem = Problem {
            place: Source::new("r.yml", line).place(1, column),
            warning: false,
            message: "wrong".to_owned(),
            hint: None,
        };
        problem.to_string()
    }

    #[test]
    fn a_problem_shows_the_line_and_a_caret() {
        assert_eq!(shown("a: b", 4), "r.yml:1:4: wrong\n    a: b\n       ^");
        assert_eq!(shown("\ta: é b", 7), "r.yml:1:7: wrong\n    \ta: é b\n    \t     ^");
    }

    #[test]
    fn a_long_line_is_cut_around_the_column() {
        let line = "x".repeat(5000) + "HERE" + &"y".repeat(5000);
        let text = shown(&line, 5001);
        let mut lines = text.lines().skip(1);
        let (source, caret) = (lines.next().unwrap(), lines.next().unwrap());
        assert!(source.chars().count() < 200, "{source}");
        let column = caret.chars().position(|c| c == '^').unwrap();
        assert_eq!(source.chars().nth(column), Some('H'));
    }

    #[test]
    fn a_secret_is_covered_in_the_lines_below_its_key_too() {
        let text = "a:\n  password: |\n\n    hunter2: x\n  b: c\n";
        let source = Source::new("r.yml", text);
        let shown = |line| match source.place(line, 1) {
            Place::Line { source, .. } => source,
            _ => String::new(),
        };
        assert_eq!(shown(4), "    ******** *");
        assert_eq!(shown(5), "  b: c");
    }

    #[test]
    fn lines_end_where_yaml_ends_them() {
        let all: Vec<_> = lines("\u{feff}a\r\nb\rc\nd\u{85}e\u{2028}f\n").collect();
        assert_eq!(all, ["a", "b", "c", "d", "e", "f", ""]);
    }
}
