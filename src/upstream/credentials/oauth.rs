//! Access tokens as OAuth 2.0 gives them, Google's and Microsoft's alike.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};
use serde::Deserialize;
use serde_json::Value;
use url::Url;
use url::form_urlencoded::Serializer;

use super::super::Error;
use super::calls::{Answer, Call, Way};
use super::missing;
use crate::config::Secret;

/// What a token is good for that does not say so.
const USUAL_LIFE: f64 = 3600.0;
const SHORTEST_LIFE: f64 = 60.0;
const LONGEST_LIFE: f64 = 24.0 * 3600.0;

/// What lets us in at a cloud's services for a while.
pub(super) struct Access {
    pub(super) token: Secret,
    pub(super) life: Duration,
}

#[derive(Deserialize)]
struct Written {
    access_token: String,
    expires_in: Option<Value>,
}

/// A form that is posted somewhere out there.
pub(super) fn form<'a>(whom: &'static str, url: Url, fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Call {
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    Call {
        whom,
        way: Way::Outside,
        method: Method::POST,
        url,
        headers: vec![(CONTENT_TYPE, kind)],
        body: Serializer::new(String::new()).extend_pairs(fields).finish(),
    }
}

/// The token in an answer.
pub(super) fn access(whom: &str, answer: &Answer) -> Result<Access, Error> {
    if answer.status != 200 {
        return Err(missing(format!("{whom} answers {}", mistake(answer))));
    }
    let written: Option<Written> = serde_json::from_slice(&answer.body).ok();
    let written = written.filter(|written| is_token(&written.access_token));
    let written = written.ok_or_else(|| missing(format!("{whom} gives no token")))?;
    // Some write the number as a text.
    let life = match &written.expires_in {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    let life = life.filter(|life| !life.is_nan()).unwrap_or(USUAL_LIFE);
    Ok(Access {
        token: Secret::new(written.access_token),
        life: Duration::from_secs_f64(life.clamp(SHORTEST_LIFE, LONGEST_LIFE)),
    })
}

/// Whether this can be sent anywhere.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What an answer calls its mistake: the word, not the description, which may hold more than belongs in a log.
pub(super) fn mistake(answer: &Answer) -> String {
    let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let kind = body.as_ref().and_then(|body| match &body["error"] {
        Value::String(kind) => Some(kind.as_str()),
        // Microsoft's metadata service, and the distribution API.
        other => other["code"].as_str().or_else(|| body["errors"][0]["code"].as_str()),
    });
    let is_name = |kind: &&str| {
        (1..=60).contains(&kind.len()) && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    match kind.filter(is_name) {
        Some(kind) => format!("{} ({kind})", answer.status),
        None => answer.status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status,
            body: body.as_bytes().to_vec(),
        }
    }

    #[test]
    fn a_token_and_its_life_are_read_within_reason() {
        for (body, expected) in [
            (r#"{"access_token":"a","expires_in":1800}"#, Some(1800)),
            (r#"{"access_token":"a","expires_in":"1800"}"#, Some(1800)),
            (r#"{"access_token":"a"}"#, Some(3600)),
            (r#"{"access_token":"a","expires_in":"soon"}"#, Some(3600)),
            (r#"{"access_token":"a","expires_in":"NaN"}"#, Some(3600)),
            (r#"{"access_token":"a","expires_in":-5}"#, Some(60)),
            (r#"{"access_token":"a","expires_in":1e300}"#, Some(86_400)),
            (r#"{"access_token":""}"#, None),
            (r#"{"access_token":"a\r\nb"}"#, None),
            (r#"{"access_token":7}"#, None),
            ("<html>", None),
        ] {
            let found = access("it", &answer(200, body)).ok();
            assert_eq!(found.map(|found| found.life.as_secs()), expected, "{body}");
        }
    }

    #[test]
    fn a_mistake_is_told_by_its_word_alone() {
        for (body, expected) in [
            (
                r#"{"error":"invalid_grant","error_description":"canary"}"#,
                "400 (invalid_grant)",
            ),
            (
                r#"{"error":{"code":"no_managed_identity","message":"canary"}}"#,
                "400 (no_managed_identity)",
            ),
            (
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"canary"}]}"#,
                "400 (UNAUTHORIZED)",
            ),
            (r#"{"error":"a canary with blanks"}"#, "400"),
            ("canary", "400"),
        ] {
            assert_eq!(mistake(&answer(400, body)), expected);
        }
    }
}
