//! AWS's Signature Version 4, of requests to the root of an API.

use std::fmt::Write as _;
use std::time::SystemTime;

use ring::{digest, hmac};

use super::Keys;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What a signature is good for.
pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    /// As [`moment`] writes it.
    pub(super) moment: &'a str,
}

/// `20150830T123600Z`.
pub(super) fn moment(time: SystemTime) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    // `Sun, 30 Aug 2015 12:36:00 GMT`
    let text = httpdate::fmt_http_date(time);
    let parts: Vec<&str> = text.split(' ').collect();
    let part = |index: usize| parts.get(index).copied().unwrap_or_default();
    let month = 1 + MONTHS.iter().position(|month| *month == part(2)).unwrap_or_default();
    format!("{}{month:02}{}T{}Z", part(3), part(1), part(4).replace(':', ""))
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().fold(String::new(), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The SHA-256 of a body, in hex.
pub(super) fn hash(body: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, body))
}

/// The `Authorization` of a request for `/` without a query, with these headers, all of which it vouches for: `host` and
/// `x-amz-date` must be among them.
pub(super) fn authorization(
    keys: &Keys,
    scope: &Scope<'_>,
    method: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> String {
    let mut signed: Vec<(String, String)> = Vec::new();
    for (name, value) in headers {
        let name = name.to_ascii_lowercase();
        let words: Vec<&str> = value.split_ascii_whitespace().collect();
        let value = words.join(" ");
        match signed.iter_mut().find(|(known, _)| *known == name) {
            Some((_, all)) => {
                all.push(',');
                all.push_str(&value);
            }
            None => signed.push((name, value)),
        }
    }
    signed.sort();
    let names: Vec<&str> = signed.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(";");
    let lines = signed
        .iter()
        .fold(String::new(), |lines, (name, value)| lines + name + ":" + value + "\n");
    let request = format!("{method}\n/\n\n{lines}\n{names}\n{}", hash(body));

    let day = scope.moment.split('T').next().unwrap_or_default();
    let place = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let text = format!("{ALGORITHM}\n{}\n{place}\n{}", scope.moment, hash(request.as_bytes()));

    let mut key = format!("AWS4{}", keys.secret.reveal()).into_bytes();
    for part in [day, scope.region, scope.service, "aws4_request"] {
        key = mac(&key, part).as_ref().to_vec();
    }
    let signature = hex(mac(&key, &text));
    format!(
        "{ALGORITHM} Credential={}/{place}, SignedHeaders={names}, Signature={signature}",
        keys.id
    )
}

fn mac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Secret;

    const MOMENT: &str = "20150830T123600Z";
    const FORM: &str = "Param1=value1";
    const FORM_HASH: &str = "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e";
    const TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";

    /// Name, method, headers, body, signature.
    type Vector = (
        &'static str,
        &'static str,
        &'static [(&'static str, &'static str)],
        &'static str,
        &'static str,
    );

    /// Those of AWS's published test vectors (the test suite for Signature Version 4, in awslabs/aws-c-auth under
    /// `tests/aws-signing-test-suite/v4`) whose requests are for `/` without a query.
    /// `Host` and `X-Amz-Date` belong to each.
    const VECTORS: [Vector; 14] = [
        (
            "get-vanilla",
            "GET",
            &[],
            "",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (
            "get-vanilla-with-session-token",
            "GET",
            &[(
                "X-Amz-Security-Token",
                "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267",
            )],
            "",
            "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8",
        ),
        (
            "get-header-key-duplicate",
            "GET",
            &[
                ("My-Header1", "value2"),
                ("My-Header1", "value2"),
                ("My-Header1", "value1"),
            ],
            "",
            "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
        ),
        (
            "get-header-value-multiline",
            "GET",
            &[("My-Header1", "value1\n  value2\n     value3")],
            "",
            "cfd34249e4b1c8d6b91ef74165d41a32e5fab3306300901bb65a51a73575eefd",
        ),
        (
            "get-header-value-order",
            "GET",
            &[
                ("My-Header1", "value4"),
                ("My-Header1", "value1"),
                ("My-Header1", "value3"),
                ("My-Header1", "value2"),
            ],
            "",
            "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01",
        ),
        (
            "get-header-value-trim",
            "GET",
            &[("My-Header1", " value1"), ("My-Header2", " \"a   b   c\"")],
            "",
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        ),
        (
            "post-vanilla",
            "POST",
            &[],
            "",
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        ),
        (
            "post-header-key-case",
            "POST",
            &[],
            "",
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        ),
        (
            "post-header-key-sort",
            "POST",
            &[("My-Header1", "value1")],
            "",
            "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
        ),
        (
            "post-header-value-case",
            "POST",
            &[("My-Header1", "VALUE1")],
            "",
            "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d",
        ),
        (
            "post-sts-header-after",
            "POST",
            &[],
            "",
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        ),
        (
            "post-sts-header-before",
            "POST",
            &[("X-Amz-Security-Token", TOKEN)],
            "",
            "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
        ),
        (
            "post-x-www-form-urlencoded",
            "POST",
            &[
                ("Content-Type", "application/x-www-form-urlencoded"),
                ("Content-Length", "13"),
                ("x-amz-content-sha256", FORM_HASH),
            ],
            FORM,
            "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b",
        ),
        (
            "post-x-www-form-urlencoded-parameters",
            "POST",
            &[
                ("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"),
                ("Content-Length", "13"),
                ("x-amz-content-sha256", FORM_HASH),
            ],
            FORM,
            "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422",
        ),
    ];

    #[test]
    fn signatures_are_those_that_aws_has_published() {
        let keys = Keys {
            id: "AKIDEXAMPLE".to_owned(),
            secret: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            token: None,
        };
        let scope = Scope {
            region: "us-east-1",
            service: "service",
            moment: MOMENT,
        };
        for (name, method, headers, body, expected) in VECTORS {
            let host = [("Host", "example.amazonaws.com")];
            let date = [("X-Amz-Date", MOMENT)];
            let all = [&host[..], headers, &date[..]].concat();
            let signed = authorization(&keys, &scope, method, &all, body.as_bytes());
            let (begin, signature) = signed.split_once("Signature=").expect("a signature");
            assert_eq!(signature, expected, "{name}");
            assert!(
                begin.starts_with(
                    "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders="
                ),
                "{begin}"
            );
        }
    }

    #[test]
    fn a_moment_is_written_without_marks() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_440_938_160);
        assert_eq!(moment(time), MOMENT);
        assert_eq!(moment(SystemTime::UNIX_EPOCH), "19700101T000000Z");
    }
}
