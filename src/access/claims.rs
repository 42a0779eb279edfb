//! What a token of an issuer must say. Pure, with the time as an argument; whether it was signed is not asked here.

use serde_json::{Map, Value};

use crate::config::OidcConfig;

/// How far the clocks of an issuer and ours may be apart, in seconds.
const LEEWAY: u64 = 60;
/// The first second of the year 10000: what is not before it is no time.
const END_OF_TIME: u64 = 253_402_300_800;
/// The longest name of a workload. Kubernetes' have up to 345 bytes.
const LONGEST_NAME: usize = 512;

/// Why a token that was signed is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its time is over.
    Expired,
    /// What it says, or does not.
    Wrong(String),
}

/// Who the token is about, and until when, in seconds since 1970.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) name: String,
    pub(super) until: u64,
}

/// Reads who a token is about, if it is valid `now`.
pub(super) fn subject(claims: &Map<String, Value>, now: u64) -> Result<Subject, Refused> {
    let until = time(claims, "exp")?.ok_or_else(|| missing("exp"))?;
    let issued = time(claims, "iat")?.ok_or_else(|| missing("iat"))?;
    if now >= until.saturating_add(LEEWAY) {
        return Err(Refused::Expired);
    }
    for (name, from) in [("iat", Some(issued)), ("nbf", time(claims, "nbf")?)] {
        if from.is_some_and(|from| from > now.saturating_add(LEEWAY)) {
            return Err(Refused::Wrong(format!("`{name}` is in the future: is a clock wrong?")));
        }
    }
    let name = claims
        .get("sub")
        .and_then(Value::as_str)
        .ok_or_else(|| missing("sub"))?;
    if name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
        return Err(Refused::Wrong("`sub` is no name".to_owned()));
    }
    Ok(Subject {
        name: name.to_owned(),
        until,
    })
}

/// Whether a token of this issuer is one of those that a rule takes.
pub(super) fn check(claims: &Map<String, Value>, rule: &OidcConfig) -> Result<(), Refused> {
    if claims.get("iss").and_then(Value::as_str) != Some(&rule.issuer) {
        return Err(Refused::Wrong("`iss` is another issuer".to_owned()));
    }
    let audience = claims.get("aud").ok_or_else(|| missing("aud"))?;
    if !any(audience, |found| rule.audience.contains(&found)) {
        return Err(Refused::Wrong(format!(
            "`aud` is not `{}`: the token was made for somebody else",
            rule.audience.join("` or `")
        )));
    }
    for (name, wanted) in &rule.claims {
        let found = claims.get(name).ok_or_else(|| missing(name))?;
        if !any(found, |found| wanted.iter().any(|pattern| matches(pattern, &found))) {
            return Err(Refused::Wrong(format!("`{name}` is not `{}`", wanted.join("` or `"))));
        }
    }
    Ok(())
}

fn missing(name: &str) -> Refused {
    Refused::Wrong(format!("there is no `{name}` in it"))
}

/// A time in seconds since 1970; some issuers give fractions.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, Refused> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is asked before whether it is a number of that size"
    )]
    let seconds = match (value.as_u64(), value.as_f64()) {
        (Some(seconds), _) => Some(seconds),
        (None, Some(seconds)) if (0.0..1e15).contains(&seconds) => Some(seconds as u64),
        _ => None,
    };
    match seconds {
        Some(seconds) if seconds < END_OF_TIME => Ok(Some(seconds)),
        _ => Err(Refused::Wrong(format!("`{name}` is no time"))),
    }
}

/// Whether a value, or one of a list's, is one of those. Numbers and truths are compared as they are written.
fn any(value: &Value, is_one: impl Fn(String) -> bool) -> bool {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    match value {
        Value::Array(all) => all.iter().filter_map(text).any(is_one),
        one => text(one).is_some_and(is_one),
    }
}

/// Whether a text is as a pattern says, in which `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        // The first place is as good as any: what follows has the most room then.
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn claims(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(claims) => claims,
            _ => panic!("claims are an object"),
        }
    }

    fn rule(wanted: &[(&str, &[&str])]) -> OidcConfig {
        OidcConfig {
            issuer: "https://issuer.test".to_owned(),
            audience: vec!["entrepot".to_owned(), "registry".to_owned()],
            claims: wanted
                .iter()
                .map(|(name, all)| ((*name).to_owned(), all.iter().map(ToString::to_string).collect()))
                .collect(),
            groups: Vec::new(),
            keys: None,
            ca: None,
        }
    }

    fn good() -> Value {
        json!({"iss": "https://issuer.test", "aud": "entrepot", "sub": "repo:acme/app", "iat": NOW, "exp": NOW + 300})
    }

    fn with(name: &str, value: Value) -> Map<String, Value> {
        let mut all = good();
        all[name] = value;
        claims(all)
    }

    fn without(name: &str) -> Map<String, Value> {
        let mut all = claims(good());
        all.remove(name);
        all
    }

    #[test]
    fn a_token_is_valid_for_its_time() {
        let name = |claims: &Map<String, Value>| subject(claims, NOW).map(|subject| subject.name);
        assert_eq!(name(&claims(good())).as_deref(), Ok("repo:acme/app"));
        assert_eq!(
            subject(&with("exp", json!(1.8e9 + 9.5)), NOW).map(|it| it.until),
            Ok(NOW + 9)
        );
        for (field, value) in [
            ("exp", json!(NOW - 59)),
            ("iat", json!(NOW + 60)),
            ("nbf", json!(NOW + 60)),
            ("nbf", json!(0)),
        ] {
            assert!(name(&with(field, value.clone())).is_ok(), "{field} {value}");
        }
        assert_eq!(name(&with("exp", json!(NOW - 60))), Err(Refused::Expired));
        assert_eq!(name(&with("exp", json!(0))), Err(Refused::Expired));
        for (field, value) in [
            ("iat", json!(NOW + 61)),
            ("nbf", json!(NOW + 61)),
            ("exp", json!(u64::MAX)),
            ("exp", json!(i64::MAX)),
            ("exp", json!(1e300)),
            ("exp", json!(END_OF_TIME)),
            ("exp", json!(-1)),
            ("exp", json!("1900000000")),
            ("exp", json!(null)),
            ("iat", json!([NOW])),
            ("nbf", json!(true)),
            ("sub", json!("")),
            ("sub", json!("a\nb")),
            ("sub", json!(7)),
            ("sub", json!("a".repeat(LONGEST_NAME + 1))),
        ] {
            let said = name(&with(field, value.clone()));
            assert!(matches!(said, Err(Refused::Wrong(_))), "{field} {value} {said:?}");
        }
        for field in ["exp", "iat", "sub"] {
            assert_eq!(name(&without(field)), Err(missing(field)));
        }
    }

    #[test]
    fn a_rule_takes_what_says_all_that_it_wants() {
        let takes = |claims: &Map<String, Value>, wanted: &[(&str, &[&str])]| check(claims, &rule(wanted)).is_ok();
        assert!(takes(&claims(good()), &[]));
        assert!(takes(&with("aud", json!(["other", "registry"])), &[]));
        for (field, value) in [
            ("aud", json!("other")),
            ("aud", json!([])),
            ("aud", json!(["Entrepot"])),
            ("aud", json!({"entrepot": true})),
            ("iss", json!("https://issuer.test/")),
            ("iss", json!("https://ISSUER.test")),
            ("iss", json!(["https://issuer.test"])),
        ] {
            assert!(!takes(&with(field, value.clone()), &[]), "{field} {value}");
        }
        for field in ["aud", "iss"] {
            assert!(!takes(&without(field), &[]), "{field}");
        }
        let owner: (&str, &[&str]) = ("owner", &["acme", "umbrella"]);
        let branch: (&str, &[&str]) = ("ref", &["refs/heads/release-*", "refs/tags/v*"]);
        let mut said = with("owner", json!("acme"));
        assert!(takes(&said, &[owner]));
        assert!(!takes(&said, &[owner, branch]));
        said.insert("ref".to_owned(), json!("refs/tags/v1"));
        assert!(takes(&said, &[owner, branch]));
        said.insert("ref".to_owned(), json!("refs/heads/main"));
        assert!(!takes(&said, &[owner, branch]));
        assert!(takes(&with("groups", json!(["a", "b"])), &[("groups", &["b"])]));
        assert!(!takes(&with("groups", json!([["b"]])), &[("groups", &["b"])]));
        assert!(takes(&with("protected", json!(true)), &[("protected", &["true"])]));
        assert!(takes(&with("id", json!(42)), &[("id", &["42"])]));
        assert!(!takes(&with("id", json!(null)), &[("id", &["*"])]));
        // Nothing that is wanted cannot be had: a list of none takes nobody.
        assert!(!takes(&with("owner", json!("acme")), &[("owner", &[])]));
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, is_match) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a", "", false),
            ("", "", true),
            ("*", "", true),
            ("*", "any/thing", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("*a", "ba", true),
            ("*a", "ab", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXcYb", false),
            ("a**c", "ac", true),
            ("repo:acme/*:ref:*", "repo:acme/app:ref:refs/heads/main", true),
            ("repo:acme/*", "repo:acme2/app", false),
            ("*ab*ab", "abab", true),
            ("*ab*ab", "ab", false),
        ] {
            assert_eq!(matches(pattern, text), is_match, "{pattern} {text}");
        }
    }
}
