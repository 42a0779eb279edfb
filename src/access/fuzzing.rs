//! Ways in to what this room reads, for `fuzz/`, which is a crate of its own. Compiled for that alone.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Map, Value, json};

use super::jws::{Keys, Token, Verdict};
use super::signer::{Purpose, Reading, Signer, SigningKey};
use super::{claims, directory};
use crate::config::OidcConfig;

const NOW: u64 = 1_800_000_000;
const OURS: [u8; SigningKey::LENGTH] = [7; SigningKey::LENGTH];

/// A token that nobody has signed who may.
pub fn token(text: &str) {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    static SIGNER: OnceLock<Signer> = OnceLock::new();
    let keys = KEYS.get_or_init(|| {
        let keys = json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
            {"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
             "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
        ]});
        Keys::read(keys.to_string().as_bytes()).expect("keys")
    });
    if let Some(token) = Token::read(text) {
        assert_ne!(keys.verify(&token), Verdict::Signed);
        let _ = token.issuer();
        said(&token.claims);
    }
    let signer = SIGNER.get_or_init(|| Signer::new(&SigningKey::generate().expect("randomness")));
    for purpose in [Purpose::Access, Purpose::Refresh] {
        assert_eq!(signer.read(purpose, text, now()), Reading::NotOurs);
    }
}

/// What a token says, signed by whoever may.
pub fn claims(document: &[u8]) {
    if let Ok(claims) = serde_json::from_slice(document) {
        said(&claims);
    }
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#),
        URL_SAFE_NO_PAD.encode(document)
    );
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &OURS), signed.as_bytes());
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    let signer = Signer::new(&SigningKey::from_bytes(&OURS).expect("a key"));
    let taken = [Purpose::Access, Purpose::Refresh].map(|purpose| signer.read(purpose, &token, now()));
    assert!(taken.contains(&Reading::NotOurs), "a token is for one thing");
}

/// What an issuer's token says.
fn said(claims: &Map<String, Value>) {
    if let Ok(subject) = claims::subject(claims, NOW) {
        assert!(subject.until + 60 > NOW && subject.until < 253_402_300_800);
        assert!(!subject.name.is_empty() && !subject.name.chars().any(char::is_control));
    }
    let rule = OidcConfig {
        issuer: "https://issuer.example".to_owned(),
        audience: vec!["us".to_owned()],
        claims: [("ref".to_owned(), vec!["refs/heads/*".to_owned(), "*a*b*".to_owned()])].into(),
        groups: Vec::new(),
        keys: None,
        ca: None,
    };
    if claims::check(claims, &rule).is_ok() {
        assert_eq!(claims["iss"], "https://issuer.example");
        assert!(claims.contains_key("aud") && claims.contains_key("ref"));
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

/// The name of a user of a directory: whoever reads entry and filter as the standards say gets it back, and nothing else.
pub fn directory(user: &str) {
    let entry = directory::entry("uid={user},ou=people,dc=acme", user);
    let pair = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let read = [pair("uid", user), pair("ou", "people"), pair("dc", "acme")];
    assert_eq!(names(entry.as_bytes()).as_deref(), Some(&read[..]), "{entry:?}");
    let template = "(&(objectClass=group)(|(member={dn})(memberUid={user})))";
    let filter = directory::filter(template, user, &entry);
    let is = |name: &str, value: &str| Filter::Is(name.to_owned(), value.as_bytes().to_vec());
    let either = Filter::Any(vec![is("member", &entry), is("memberUid", user)]);
    let read = Filter::All(vec![is("objectClass", "group"), either]);
    assert_eq!(read_filter(filter.as_bytes()), Some((read, &b""[..])), "{filter:?}");
}

/// A name of RFC 4514, of one pair a level.
fn names(mut rest: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    loop {
        let (name, after) = word(rest)?;
        let (value, after) = value(after)?;
        all.push((name, value));
        match after.split_first() {
            None => return Some(all),
            Some((b',', after)) => rest = after,
            Some(_) => return None,
        }
    }
}

/// What stands before a `=`, and after it.
fn word(text: &[u8]) -> Option<(String, &[u8])> {
    let end = text.iter().position(|byte| !byte.is_ascii_alphanumeric())?;
    let name = String::from_utf8(text[..end].to_vec()).ok()?;
    (text[end] == b'=' && end > 0).then(|| (name, &text[end + 1..]))
}

/// RFC 4514, 3: `string`.
fn value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (mut value, mut rest, mut ends_bare) = (Vec::new(), text, false);
    while let Some((byte, after)) = rest.split_first() {
        match byte {
            b',' | b'+' => break,
            b'"' | b';' | b'<' | b'>' | 0 => return None,
            b' ' | b'#' if value.is_empty() => return None,
            b'\\' => {
                let (first, plain) = after.split_first()?;
                let (byte, after) = if b" \"#+,;<=>\\".contains(first) {
                    (*first, plain)
                } else {
                    pair(after)?
                };
                value.push(byte);
                (rest, ends_bare) = (after, false);
                continue;
            }
            byte => value.push(*byte),
        }
        (rest, ends_bare) = (after, *byte == b' ');
    }
    (!ends_bare).then_some((value, rest))
}

/// Two hexadecimal digits.
fn pair(text: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, rest) = text.split_first_chunk::<2>()?;
    let digits = std::str::from_utf8(digits).ok()?;
    let is_plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_plain.then_some((u8::from_str_radix(digits, 16).ok()?, rest))
}

#[derive(Debug, PartialEq)]
enum Filter {
    All(Vec<Self>),
    Any(Vec<Self>),
    Is(String, Vec<u8>),
}

/// RFC 4515, 3: `filter`, as far as templates of ours go.
fn read_filter(text: &[u8]) -> Option<(Filter, &[u8])> {
    let mut rest = text.strip_prefix(b"(")?;
    let kind = *rest.first()?;
    if !matches!(kind, b'&' | b'|') {
        let (name, mut rest) = word(rest)?;
        let mut value = Vec::new();
        loop {
            let (byte, after) = rest.split_first()?;
            rest = match byte {
                b')' => return Some((Filter::Is(name, value), after)),
                0 | b'(' | b'*' => return None,
                b'\\' => {
                    let (byte, after) = pair(after)?;
                    value.push(byte);
                    after
                }
                byte => {
                    value.push(*byte);
                    after
                }
            };
        }
    }
    rest = &rest[1..];
    let mut all = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix(b")") {
            let made = if kind == b'&' {
                Filter::All(all)
            } else {
                Filter::Any(all)
            };
            return Some((made, after));
        }
        let (one, after) = read_filter(rest)?;
        all.push(one);
        rest = after;
    }
}
