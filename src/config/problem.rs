//! One problem of a configuration, and how it is shown.

use std::fmt;

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
            source: masked(self.line(line)),
        }
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

/// A line with what looks like a secret covered, and every column where it was.
///
/// Problems are logged: a line such as `credentials: { username: a, pasword: hunter2 }` must not take the password along.
fn masked(line: &str) -> String {
    let clean: Vec<char> = line
        .chars()
        .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
        .collect();
    let mut shown = clean.clone();
    for colon in (0..clean.len()).filter(|index| clean[*index] == ':') {
        let word = word_before(&clean[..colon]);
        let value = &clean[colon + 1..];
        if is_secret(&word) && !is_variable(value) {
            cover(&mut shown[colon + 1..]);
        }
        // `https://user:password@host`
        if value.starts_with(&['/', '/']) {
            let end = value[2..].iter().position(|c| "/?# \t\"'".contains(*c));
            let authority = &mut shown[colon + 3..colon + 3 + end.unwrap_or(value.len() - 2)];
            if let Some(at) = authority.iter().rposition(|c| *c == '@') {
                cover(&mut authority[..at]);
            }
        }
    }
    shown.into_iter().collect()
}

fn cover(text: &mut [char]) {
    for c in text.iter_mut().filter(|c| !c.is_whitespace()) {
        *c = '*';
    }
}

/// The key that ends here, without quotes, in lower case.
fn word_before(text: &[char]) -> String {
    let word = text
        .iter()
        .rev()
        .skip_while(|c| c.is_whitespace() || matches!(c, '"' | '\''));
    let mut word: Vec<char> = word
        .take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))
        .copied()
        .collect();
    word.reverse();
    word.into_iter().collect::<String>().to_lowercase()
}

fn is_secret(key: &str) -> bool {
    const SIGNS: [&str; 5] = ["pass", "pasw", "secret", "token", "pwd"];
    const NOT: [&str; 2] = ["_file", "_realms"];
    !NOT.iter().any(|end| key.ends_with(end))
        && (SIGNS.iter().any(|sign| key.contains(sign)) || nearest(key, ["password"]).is_some())
}

/// Whether a value is nothing but `${…}`, which gives nothing away.
fn is_variable(value: &[char]) -> bool {
    let value: String = value.iter().collect();
    let value = value.trim_start().trim_start_matches(['"', '\'']);
    match value.strip_prefix("${").and_then(|rest| rest.split_once('}')) {
        Some((name, after)) => {
            let after = after.trim_start_matches(['"', '\'']).trim_start();
            !name.contains(":-") && (after.is_empty() || after.starts_with([',', '}', ']', '#']))
        }
        None => false,
    }
}

/// What a misspelt word was probably meant to be.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |word: &str| word.to_lowercase().replace(['-', '_', '.'], "");
    let written = plain(word);
    // Nobody misspells so long a word so little; and comparing costs the product of the lengths.
    if written.is_empty() || written.len() > 80 {
        return None;
    }
    let allowed = (written.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&written, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters to insert, delete, replace or swap with their neighbour.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before_last = vec![0; to.len() + 1];
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1; to.len() + 1];
        for (j, b) in to.iter().enumerate() {
            let replaced = last[j] + usize::from(a != b);
            row[j + 1] = replaced.min(row[j] + 1).min(last[j + 1] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                row[j + 1] = row[j + 1].min(before_last[j - 1] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[to.len()]
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
    fn secrets_are_covered_and_columns_stay() {
        for (line, shown) in [
            ("password: hunter2", "password: *******"),
            ("{ username: a, pasword: \"x y\" }", "{ username: a, pasword: ** ** *"),
            ("secret: s", "secret: *"),
            ("password: ${TOKEN}", "password: ${TOKEN}"),
            ("{ password: \"${TOKEN}\" }", "{ password: \"${TOKEN}\" }"),
            ("password: ${TOKEN:-abc}", "password: *************"),
            ("password: ${A}-b", "password: ******"),
            ("password_file: hub.password", "password_file: hub.password"),
            ("token_realms: [a.b]", "token_realms: [a.b]"),
            ("url: https://me:pw@host/a", "url: https://*****@host/a"),
            ("url: https://host/a@b", "url: https://host/a@b"),
        ] {
            assert_eq!(masked(line), shown);
        }
    }

    #[test]
    fn lines_end_where_yaml_ends_them() {
        let all: Vec<_> = lines("\u{feff}a\r\nb\rc\nd\u{85}e\u{2028}f\n").collect();
        assert_eq!(all, ["a", "b", "c", "d", "e", "f", ""]);
    }

    #[test]
    fn misspelt_words_are_recognised() {
        let keys = ["push_to", "members", "tag_ttl", "type"];
        for (word, meant) in [
            ("pushto", Some("push_to")),
            ("push-to", Some("push_to")),
            ("pushTo", Some("push_to")),
            ("mebmers", Some("members")),
            ("member", Some("members")),
            ("tpye", Some("type")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, keys), meant, "{word}");
        }
        assert_eq!(nearest(&"push_to".repeat(100_000), keys), None);
    }
}
