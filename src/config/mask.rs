//! Makes secrets in a reported line unreadable: reports are logged.

use super::spelling::nearest;

/// A line with what looks like a secret covered, and every column where it was.
///
/// Problems are logged: a line such as `credentials: { username: a, pasword: hunter2 }` must not take the password along.
pub(super) fn masked(line: &str) -> String {
    let clean: Vec<char> = line
        .chars()
        .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
        .collect();
    let mut shown = clean.clone();
    for colon in (0..clean.len()).filter(|index| clean[*index] == ':') {
        let word = word_before(&clean[..colon]);
        let value = &clean[colon + 1..];
        let is_text = !matches!(value.iter().find(|c| !c.is_whitespace()), None | Some('{'));
        if (is_secret(&word) || (word == "credentials" && is_text)) && !is_variable(value) {
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
pub(super) fn word_before(text: &[char]) -> String {
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

pub(super) fn is_secret(key: &str) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_covered_and_columns_stay() {
        for (line, shown) in [
            ("password: hunter2", "password: *******"),
            ("{ username: a, pasword: \"x y\" }", "{ username: a, pasword: ** ** *"),
            ("secret: s", "secret: *"),
            ("credentials: hunter2", "credentials: *******"),
            ("credentials: { username: a }", "credentials: { username: a }"),
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
}
